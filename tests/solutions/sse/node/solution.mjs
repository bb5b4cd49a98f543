// The channel on node:http, pushing instead of pulling: a publication writes to every response that can take it. A
// response that can't remembers the number where it stopped, and goes on from the kept events when it drains.
import http from "node:http";
import { randomBytes } from "node:crypto";

const number = (name, otherwise) => Number(process.env[name] ?? otherwise);
const { HOST = "127.0.0.1", PORT = "8000" } = process.env;
const HEARTBEAT = number("HEARTBEAT_MS", 15000);
const REPLAY_EVENTS = number("REPLAY_EVENTS", 100);
const RETRY = number("RETRY_MS", 1000);
const SHUTDOWN = number("SHUTDOWN_MS", 2000);
const LIFE = randomBytes(6).toString("base64url");
const LONGEST = 65536;

const streams = new Map();
let stopping = false;

function block(data, type, id) {
  const lines = data.split(/\r\n|\n|\r/).map((line) => `data: ${line}\n`);
  return (type ? `event: ${type}\n` : "") + lines.join("") + (id ? `id: ${id}\n` : "") + "\n";
}

class Stream {
  kept = []; // the last events, as they are written
  next = 0; // the number of the next event
  closed = false;
  subscriptions = new Set();

  get oldest() {
    return this.next - this.kept.length;
  }

  publish(data, type) {
    const id = `${this.next}.${LIFE}`;
    this.kept.push(block(data, type, id));
    this.next++;
    if (this.kept.length > REPLAY_EVENTS) this.kept.shift();
    for (const subscription of [...this.subscriptions]) subscription.push();
    return id;
  }

  /** [where to begin, whether to say reset] */
  resume(lastId) {
    if (!lastId) return [this.next, false];
    const [, digits, life] = /^(\d{1,15})\.([\w-]+)$/.exec(lastId) ?? [];
    const cursor = Number(digits) + 1;
    const known = life === LIFE && cursor >= this.oldest && cursor <= this.next;
    return known ? [cursor, false] : [this.oldest, true];
  }
}

class Subscription {
  constructor(stream, response, cursor, reset) {
    this.stream = stream;
    this.response = response;
    this.cursor = cursor;
    stream.subscriptions.add(this);
    response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache" });
    response.on("drain", () => this.push());
    response.on("close", () => this.leave());
    this.write(`retry: ${RETRY}\n\n` + (reset ? block("some events are gone", "stream-reset") : ""));
    this.push();
  }

  get full() {
    return this.response.writableNeedDrain;
  }

  write(text) {
    this.response.write(text);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.beat(), HEARTBEAT);
  }

  beat() {
    if (this.full) this.timer = setTimeout(() => this.beat(), HEARTBEAT);
    else this.write(":\n\n");
  }

  /** Write what is due, as far as the client takes it. */
  push() {
    const { stream } = this;
    while (!this.full && this.cursor < stream.next) {
      if (this.cursor < stream.oldest) return this.end();
      this.write(stream.kept[this.cursor++ - stream.oldest]);
    }
    if (this.cursor === stream.next && (stream.closed || stopping)) this.end();
  }

  end() {
    this.leave();
    this.response.end();
  }

  leave() {
    clearTimeout(this.timer);
    this.stream.subscriptions.delete(this);
    if (!this.stream.next && !this.stream.closed && !this.stream.subscriptions.size) streams.delete(this.stream.name);
  }
}

function named(name) {
  if (!streams.has(name)) streams.set(name, Object.assign(new Stream(), { name }));
  return streams.get(name);
}

function subscribe(name, request, response) {
  const stream = named(name);
  const lastId = request.headers["last-event-id"];
  const [cursor, reset] = stream.resume(lastId);
  if (stream.closed && cursor === stream.next) return response.writeHead(204).end();
  new Subscription(stream, response, cursor, reset);
}

function checked(body) {
  const { data, event = "" } = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body)) ?? {};
  if (typeof data !== "string" || typeof event !== "string") throw new Error("data and event are strings");
  if (event.length > 64 || event === "stream-reset" || /[\r\n]/.test(event)) throw new Error("this is no type");
  if (!data.isWellFormed() || !event.isWellFormed()) throw new Error("this text has no UTF-8 form");
  return [data, event];
}

async function publish(name, request, response) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const stream = named(name);
  if (stream.closed) return answer(response, 410, { title: "the stream is closed" });
  let data, type;
  try {
    [data, type] = checked(Buffer.concat(pieces));
  } catch (error) {
    return answer(response, 400, { title: error.message });
  }
  if (Buffer.byteLength(data) > LONGEST) return answer(response, 413, { title: "too long" });
  const id = stream.publish(data, type);
  answer(response, 201, { id, subscribers: stream.subscriptions.size });
}

function answer(response, status, document, headers = {}) {
  const body = JSON.stringify(document);
  response.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body), ...headers });
  response.end(body);
}

function handle(request, response) {
  const [, name] = /^\/streams\/([A-Za-z0-9_-]{1,64})$/.exec(request.url) ?? [];
  if (!name) return answer(response, 404, { title: "there is no such stream" });
  if (request.method === "GET") return subscribe(name, request, response);
  if (request.method === "POST") return publish(name, request, response).catch(() => response.destroy());
  if (request.method !== "DELETE") {
    return answer(response, 405, { title: "not here" }, { Allow: "DELETE, GET, POST" });
  }
  const stream = named(name);
  stream.closed = true;
  for (const subscription of [...stream.subscriptions]) subscription.push();
  response.writeHead(204).end();
}

const server = http.createServer({ noDelay: true, keepAliveTimeout: 60000 }, handle);
process.on("SIGTERM", () => {
  stopping = true;
  server.close(() => process.exit(0));
  for (const stream of streams.values()) for (const each of [...stream.subscriptions]) each.push();
  server.closeIdleConnections();
  setInterval(() => server.closeIdleConnections(), 20);
  setTimeout(() => process.exit(0), SHUTDOWN);
});
server.listen({ host: HOST, port: Number(PORT), backlog: 512 });
