// The gateway on node:http and node:net. One thread runs to the next await, so the pool needs no lock: what must not be
// torn apart stands between two awaits. A client that leaves aborts its request's signal, and everything that waits for
// something listens to that signal.
import http from "node:http";
import net from "node:net";

const number = (name, otherwise) => Number(process.env[name] ?? otherwise);
const { HOST = "127.0.0.1", PORT = "8000", UPSTREAM_HOST = "127.0.0.1", UPSTREAM_PASSWORD = "" } = process.env;
const UPSTREAM_PORT = number("UPSTREAM_PORT", 6379);
const POOL_MAX = number("POOL_MAX", 4);
const ACQUIRE = number("ACQUIRE_TIMEOUT_MS", 20000);
const CONNECT = number("CONNECT_TIMEOUT_MS", 20000);
const COMMAND = number("COMMAND_TIMEOUT_MS", 20000);
const IDLE = number("IDLE_TIMEOUT_MS", 0);
const LIFETIME = number("MAX_LIFETIME_MS", 0);
const DRAIN = number("DRAIN_TIMEOUT_MS", 5000);

class Failure extends Error {
  constructor(status, message, lost = false) {
    super(message);
    this.status = status;
    this.lost = lost; // the connection was closed before the first byte of a reply
  }
}
class ErrorReply extends Error {}

// -- RESP2 ------------------------------------------------------------------------------------------------------------

const CRLF = Buffer.from("\r\n");

function encode(words) {
  const parts = words.map((word) => Buffer.from(word));
  return Buffer.concat([
    Buffer.from(`*${parts.length}\r\n`),
    ...parts.flatMap((part) => [Buffer.from(`$${part.length}\r\n`), part, CRLF]),
  ]);
}

/** [reply, bytes used], or null while it is incomplete. */
function parse(data, at = 0) {
  if (at >= data.length) return null;
  const kind = String.fromCharCode(data[at]);
  if (!"+-:$*".includes(kind)) throw new Failure(502, "this is no RESP");
  const end = data.indexOf(CRLF, at);
  if (end < 0) return null;
  const rest = data.toString("utf8", at + 1, end);
  if (kind === "+") return [rest, end + 2];
  if (kind === "-") return [new ErrorReply(rest), end + 2];
  if (!/^-?\d+$/.test(rest)) throw new Failure(502, "this is no RESP");
  const value = Number(rest);
  let next = end + 2;
  if (kind === ":") return [value, next];
  if (value < 0) return [null, next];
  if (kind === "$") {
    if (data.length < next + value + 2) return null;
    return [data.subarray(next, next + value), next + value + 2];
  }
  const replies = [];
  for (let index = 0; index < value; index++) {
    const found = parse(data, next);
    if (!found) return null;
    replies.push(found[0]);
    next = found[1];
  }
  return [replies, next];
}

class Connection {
  constructor() {
    this.buffer = Buffer.alloc(0);
    this.ended = this.inMulti = this.used = this.busy = false;
    this.openedAt = this.idleSince = performance.now();
    this.wake = () => {};
    this.socket = net.connect({ host: UPSTREAM_HOST, port: UPSTREAM_PORT, noDelay: true });
    this.socket.on("data", (data) => {
      this.buffer = Buffer.concat([this.buffer, data]);
      this.wake();
    });
    for (const event of ["end", "error", "close"]) {
      this.socket.on(event, () => {
        this.ended = true;
        this.wake();
      });
    }
  }

  /** Wait until `ready()` is not undefined; give up after `limit`, or when the signal aborts. */
  until(ready, limit, status, signal) {
    return new Promise((resolve, reject) => {
      const finish = (settle, value) => {
        clearTimeout(timer);
        signal.removeEventListener("abort", gone);
        this.wake = () => {};
        settle(value);
      };
      const gone = () => finish(reject, new Failure(499, "the client has left"));
      const timer = setTimeout(() => finish(reject, new Failure(status, "redis takes too long")), limit);
      this.wake = () => {
        try {
          const value = ready();
          if (value !== undefined) finish(resolve, value);
        } catch (error) {
          finish(reject, error);
        }
      };
      signal.addEventListener("abort", gone);
      if (signal.aborted) gone();
      else this.wake();
    });
  }

  async open(signal) {
    const connected = () => {
      if (this.ended) throw new Failure(502, "redis refuses the connection");
      return this.socket.readyState === "open" ? true : undefined;
    };
    this.socket.once("connect", () => this.wake());
    await this.until(connected, CONNECT, 504, signal);
    if (UPSTREAM_PASSWORD) await this.call(["AUTH", UPSTREAM_PASSWORD], signal, Math.min(CONNECT, COMMAND));
  }

  async call(words, signal, limit = COMMAND) {
    if (this.ended) throw new Failure(502, "the connection is closed", true);
    this.busy = true; // until the reply is there: whatever goes wrong on the way, it stays so
    this.socket.write(encode(words));
    const reply = await this.until(
      () => {
        const found = parse(this.buffer);
        if (found) {
          this.buffer = this.buffer.subarray(found[1]);
          return { value: found[0] };
        }
        if (this.ended) throw new Failure(502, "redis closed the connection", this.buffer.length === 0);
      },
      limit,
      504,
      signal,
    );
    this.busy = false;
    if (reply.value instanceof ErrorReply) throw reply.value;
    if (words[0] === "MULTI") this.inMulti = true;
    if (words[0] === "EXEC") this.inMulti = false;
    return reply.value;
  }

  get fit() {
    const now = performance.now();
    const dirty = this.busy || this.ended || this.inMulti || this.buffer.length > 0 || this.socket.destroyed;
    const expired = (IDLE && now - this.idleSince > IDLE) || (LIFETIME && now - this.openedAt > LIFETIME);
    return !dirty && !expired;
  }

  /** Resolves when the socket is closed, which is when its slot is free. */
  close() {
    return new Promise((resolve) => {
      if (this.socket.closed) return resolve();
      this.socket.once("close", resolve);
      this.socket.destroy();
    });
  }
}

// -- the pool ---------------------------------------------------------------------------------------------------------

const idle = [];
const waiters = []; // each a function that takes a connection, or null for a slot
let slots = POOL_MAX;

function give(connection) {
  const waiter = waiters.shift();
  if (waiter) waiter(connection);
  else if (connection) idle.push(connection);
  else slots++;
}

async function discard(connection) {
  await connection.close();
  give(null);
}

function wait(signal) {
  return new Promise((resolve, reject) => {
    const leave = (error) => {
      const place = waiters.indexOf(turn);
      if (place < 0) return; // it was our turn already: the abort is noticed by whoever goes on
      waiters.splice(place, 1);
      clearTimeout(timer);
      reject(error);
    };
    const turn = (connection) => {
      clearTimeout(timer);
      resolve(connection);
    };
    const timer = setTimeout(() => leave(new Failure(503, "no connection became free")), ACQUIRE);
    signal.addEventListener("abort", () => leave(new Failure(499, "the client has left")));
    waiters.push(turn);
  });
}

async function acquire(signal) {
  let connection = null;
  if (waiters.length) connection = await wait(signal);
  else {
    for (const stale of idle.filter((each) => !each.fit)) {
      idle.splice(idle.indexOf(stale), 1);
      discard(stale);
    }
    if (idle.length) connection = idle.pop();
    else if (slots) slots--;
    else connection = await wait(signal);
  }
  if (signal.aborted) {
    give(connection);
    throw new Failure(499, "the client has left");
  }
  if (connection && !connection.fit) {
    await connection.close();
    connection = null;
  }
  return connection ?? open(signal);
}

async function open(signal) {
  const connection = new Connection();
  try {
    await connection.open(signal);
    return connection;
  } catch (error) {
    await discard(connection);
    throw error;
  }
}

async function lent(signal, work) {
  const connection = await acquire(signal);
  try {
    return await work(connection);
  } finally {
    connection.used = true;
    connection.idleSince = performance.now();
    if (connection.fit) give(connection);
    else await discard(connection);
  }
}

async function execute(signal, words, safe) {
  let reused = false;
  const work = (connection) => {
    reused = connection.used;
    return connection.call(words, signal);
  };
  try {
    return await lent(signal, work);
  } catch (error) {
    if (!safe || !reused || !error.lost) throw error;
    return lent(signal, work);
  }
}

// -- HTTP -------------------------------------------------------------------------------------------------------------

async function answer(method, path, body, signal) {
  if (path === "/healthz") return [200, "ok"];
  const [, kind, key] = /^\/(kv|counter|swap)\/([A-Za-z0-9_.-]{1,128})$/.exec(path) ?? [];
  if (method === "GET" && kind === "kv") {
    const value = await execute(signal, ["GET", key], true);
    return value === null ? [404, "there is no such key"] : [200, value];
  }
  if (method === "PUT" && kind === "kv") {
    await execute(signal, ["SET", key, body], true);
    return [204];
  }
  if (method === "POST" && kind === "counter") return [200, String(await execute(signal, ["INCR", key], false))];
  if (method === "POST" && kind === "swap") {
    const [old] = await lent(signal, async (connection) => {
      for (const words of [["MULTI"], ["GET", key], ["SET", key, body]]) await connection.call(words, signal);
      return connection.call(["EXEC"], signal);
    });
    if (old instanceof ErrorReply) throw old;
    return old === null ? [204] : [200, old];
  }
  return [404, "there is no such endpoint"];
}

const server = http.createServer(async (request, response) => {
  const left = new AbortController();
  response.on("close", () => left.abort());
  const pieces = [];
  let status, body;
  try {
    for await (const piece of request) pieces.push(piece);
    [status, body] = await answer(request.method, request.url, Buffer.concat(pieces), left.signal);
  } catch (error) {
    [status, body] = [error.status ?? 502, error.message];
  }
  if (left.signal.aborted) return;
  if (status === 503) response.setHeader("Retry-After", "1");
  response.writeHead(status, { "Content-Type": "application/octet-stream" }).end(body);
});

process.on("SIGTERM", () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
  setTimeout(() => process.exit(0), DRAIN);
});
server.listen({ host: HOST, port: Number(PORT), backlog: 512 });
