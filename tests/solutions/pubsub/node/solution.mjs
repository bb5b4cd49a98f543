// A message broker on Node's event loop. Bytes stay Buffers; subjects and sids become latin1
// strings, which keep every byte and can be keys of a Map.
import net from "node:net";

const setting = (name, value) => Number(process.env[name] ?? value);
const HOST = process.env.HOST ?? "127.0.0.1";
const PORT = setting("PORT", 4222);
const MAX_PAYLOAD = setting("MAX_PAYLOAD", 1048576);
const MAX_PENDING = setting("MAX_PENDING", 67108864);
const WRITE_DEADLINE = setting("WRITE_DEADLINE_MS", 10000);
const PING_INTERVAL = setting("PING_INTERVAL_MS", 120000);
const PING_MAX_OUT = setting("PING_MAX_OUT", 2);
const MAX_LINE = 4096 + "CONNECT ".length;
const CRLF = Buffer.from("\r\n");

class Refused extends Error {}

// --- subscriptions: a trie, in which a wildcard is a symbol and so never equals a token

const ONE = Symbol("*");
const REST = Symbol(">");
const newNode = () => ({ next: new Map(), subs: new Set() });
const root = newNode();
const keys = (pattern) => pattern.split(".").map((t) => (t === "*" ? ONE : t === ">" ? REST : t));
const isValid = (pattern) => {
  const tokens = pattern.split(".");
  return !tokens.includes("") && !tokens.slice(0, -1).includes(">");
};

function insert(sub) {
  let node = root;
  for (const key of keys(sub.pattern)) {
    if (!node.next.has(key)) node.next.set(key, newNode());
    node = node.next.get(key);
  }
  node.subs.add(sub);
}

function remove(sub) {
  const path = keys(sub.pattern);
  const nodes = [root];
  for (const key of path) nodes.push(nodes.at(-1).next.get(key));
  nodes.at(-1).subs.delete(sub);
  for (let depth = path.length; depth > 0; depth--) {
    if (nodes[depth].subs.size || nodes[depth].next.size) break;
    nodes[depth - 1].next.delete(path[depth - 1]);
  }
}

function match(subject) {
  const tokens = subject.split(".");
  const found = [];
  if (tokens.includes("")) return found;
  let nodes = [root];
  for (const token of tokens) {
    const deeper = [];
    for (const { next } of nodes) {
      for (const sub of next.get(REST)?.subs ?? []) found.push(sub);
      for (const key of [token, ONE]) if (next.has(key)) deeper.push(next.get(key));
    }
    nodes = deeper;
  }
  for (const node of nodes) for (const sub of node.subs) found.push(sub);
  return found;
}

// --- delivery

function publish(sender, { subject, reply }, payload) {
  const receivers = [];
  const groups = new Map();
  for (const sub of match(subject)) {
    if (sub.client === sender && !sender.echo) continue;
    if (sub.queue === undefined) receivers.push(sub);
    else if (groups.has(sub.queue)) groups.get(sub.queue).push(sub);
    else groups.set(sub.queue, [sub]);
  }
  for (const members of groups.values()) {
    receivers.push(members[Math.floor(Math.random() * members.length)]);
  }
  const tail = `${reply === undefined ? "" : reply + " "}${payload.length}\r\n`;
  for (const sub of receivers) {
    if (sub.client.over) continue;
    sub.delivered += 1;
    if (sub.delivered === sub.max) sub.client.drop(sub);
    const head = Buffer.from(`MSG ${subject} ${sub.sid} ${tail}`, "latin1");
    sub.client.send(Buffer.concat([head, payload, CRLF]));
  }
}

// --- one client

const clients = new Set();

class Client {
  constructor(socket) {
    this.socket = socket;
    this.subs = new Map();
    this.verbose = false;
    this.echo = true;
    this.over = false;
    this.chunks = []; // input that is not yet parsed, in the pieces in which it came
    this.size = 0;
    this.payload = undefined; // the PUB whose payload comes next
    this.heard = Date.now();
    this.unanswered = 0;
    this.sent = 0;
    this.outbox = []; // frames of this turn of the loop and of a peer that does not keep up
    this.queued = 0;
    clients.add(this);
    socket.setNoDelay(true);
    socket.on("data", (data) => this.receive(data));
    socket.on("end", () => this.close());
    socket.on("error", () => {}); // "close" follows
    socket.on("close", () => this.gone());
    socket.on("drain", () => this.flush());
    const info = { server_id: "node", version: "0.1.0", proto: 1, host: HOST, port: PORT };
    this.send(Buffer.from(`INFO ${JSON.stringify({ ...info, max_payload: MAX_PAYLOAD })}\r\n`));
    this.heartbeat = setTimeout(() => this.beat(), PING_INTERVAL);
  }

  // input: a piece is joined with what was left only when it can complete something

  receive(data) {
    this.heard = Date.now();
    this.chunks.push(data);
    this.size += data.length;
    if (this.payload && this.size < this.payload.size + 2) return;
    const buffer = this.chunks.length === 1 ? data : Buffer.concat(this.chunks, this.size);
    let at = 0;
    try {
      while (!this.over) {
        const end = this.payload ? this.takePayload(buffer, at) : this.takeLine(buffer, at);
        if (end === at) break;
        at = end;
      }
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.fail(error.message);
    }
    this.chunks = at < buffer.length ? [buffer.subarray(at)] : [];
    this.size = buffer.length - at;
  }

  takeLine(buffer, at) {
    const end = buffer.subarray(at, at + MAX_LINE + 2).indexOf(CRLF);
    if (end < 0) {
      if (buffer.length - at > MAX_LINE) throw new Refused("Maximum Control Line Exceeded");
      return at;
    }
    this.command(buffer.latin1Slice(at, at + end));
    return at + end + 2;
  }

  takePayload(buffer, at) {
    const end = at + this.payload.size;
    if (buffer.length < end + 2) return at;
    if (buffer[end] !== 13 || buffer[end + 1] !== 10) {
      throw new Refused("Unknown Protocol Operation");
    }
    const pub = this.payload;
    this.payload = undefined;
    publish(this, pub, buffer.subarray(at, end));
    this.ok();
    return end + 2;
  }

  command(line) {
    const [verb, ...args] = line.split(/[ \t]+/).filter((word) => word !== "");
    const between = (low, high) => {
      if (args.length < low || args.length > high) throw new Refused("Wrong Number Of Fields");
    };
    switch (verb?.toUpperCase()) {
      case "PUB":
        between(2, 3);
        return this.pub(args[0], args.length === 3 ? args[1] : undefined, args.at(-1));
      case "SUB":
        between(2, 3);
        return this.sub(args[0], args.length === 3 ? args[1] : undefined, args.at(-1));
      case "UNSUB":
        between(1, 2);
        return this.unsub(args[0], args[1] ?? "0");
      case "PING":
        return this.send(Buffer.from("PONG\r\n"));
      case "PONG":
        this.unanswered = 0;
        return;
      case "CONNECT":
        return this.connect(line.replace(/^[ \t]*[A-Za-z]+/, ""));
      default:
        throw new Refused("Unknown Protocol Operation");
    }
  }

  connect(text) {
    let options;
    try {
      options = JSON.parse(Buffer.from(text, "latin1").toString());
    } catch {
      throw new Refused("Invalid CONNECT");
    }
    if (typeof options !== "object" || options === null) throw new Refused("Invalid CONNECT");
    this.verbose = options.verbose === true;
    this.echo = options.echo !== false;
    this.ok();
  }

  pub(subject, reply, size) {
    if (!/^[0-9]{1,9}$/.test(size)) throw new Refused("Bad Payload Size");
    if (Number(size) > MAX_PAYLOAD) throw new Refused("Maximum Payload Violation");
    this.payload = { subject, reply, size: Number(size) };
  }

  sub(pattern, queue, sid) {
    if (!isValid(pattern)) return this.send(Buffer.from("-ERR 'Invalid Subject'\r\n"));
    if (!this.subs.has(sid)) {
      const sub = { client: this, sid, pattern, queue, delivered: 0, max: undefined };
      this.subs.set(sid, sub);
      insert(sub);
    }
    this.ok();
  }

  unsub(sid, max) {
    if (!/^[0-9]+$/.test(max)) throw new Refused("Bad Maximum");
    const sub = this.subs.get(sid);
    if (sub && Number(max) > sub.delivered) sub.max = Number(max);
    else if (sub) this.drop(sub);
    this.ok();
  }

  drop(sub) {
    this.subs.delete(sub.sid);
    remove(sub);
  }

  ok() {
    if (this.verbose) this.send(Buffer.from("+OK\r\n"));
  }

  // output

  send(data) {
    if (this.over) return;
    this.sent += data.length;
    this.outbox.push(data);
    this.queued += data.length;
    if (this.outbox.length === 1) setImmediate(() => this.flush());
    else if (this.queued > 65536) this.flush();
    if (this.waiting() > MAX_PENDING) return this.cut();
    this.deadline ??= this.expectProgress();
  }

  waiting() {
    return this.queued + this.socket.writableLength;
  }

  flush(closing = false) {
    if (!this.queued || (this.socket.writableNeedDrain && !closing)) return;
    const data = this.outbox.length === 1 ? this.outbox[0] : Buffer.concat(this.outbox);
    this.outbox = [];
    this.queued = 0;
    this.socket.write(data);
  }

  // bytesWritten counts what was handed to the stream; what the kernel took is less by that
  // which still waits in it, known only write by write.
  accepted() {
    const inKernel = this.socket._handle?.bytesWritten ?? 0;
    const request = this.socket._handle?.writeQueueSize ?? 0;
    return inKernel - request;
  }

  expectProgress() {
    const before = this.accepted();
    return setTimeout(() => {
      this.deadline = undefined;
      if (!this.waiting()) return;
      if (this.accepted() === before) this.cut();
      else this.deadline = this.expectProgress();
    }, WRITE_DEADLINE);
  }

  beat() {
    const idle = Date.now() - this.heard;
    if (idle < PING_INTERVAL) {
      this.heartbeat = setTimeout(() => this.beat(), PING_INTERVAL - idle);
    } else if (this.unanswered >= PING_MAX_OUT) {
      this.fail("Stale Connection");
    } else {
      this.unanswered += 1;
      this.heartbeat = setTimeout(() => this.beat(), PING_INTERVAL);
      this.send(Buffer.from("PING\r\n"));
    }
  }

  // the end: subscriptions first, then the socket

  fail(text) {
    this.send(Buffer.from(`-ERR '${text}'\r\n`));
    this.close();
  }

  close() {
    if (this.over) return;
    this.leave();
    this.flush(true);
    this.socket.end(() => this.socket.destroy());
  }

  cut() {
    this.leave();
    this.socket.destroy();
  }

  leave() {
    this.over = true;
    clearTimeout(this.heartbeat);
    for (const sub of this.subs.values()) remove(sub);
    this.subs.clear();
  }

  gone() {
    this.leave();
    clearTimeout(this.deadline);
    clients.delete(this);
  }
}

const server = net.createServer({ allowHalfOpen: true }, (socket) => new Client(socket));

process.on("SIGTERM", () => {
  server.close();
  for (const client of clients) client.close();
  setTimeout(() => process.exit(0), WRITE_DEADLINE).unref();
  const exitWhenEmpty = () => clients.size || process.exit(0);
  for (const client of clients) client.socket.once("close", exitWhenEmpty);
  exitWhenEmpty();
});

server.listen({ host: HOST, port: PORT, backlog: 1024 });
