// gRPC written out on Node's http2: five bytes before each message, a status in the trailers. A call is an object that
// reads, writes and knows when it is over; its handler is an async function.
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import http2 from "node:http2";
import { METHODS, decode, descriptor, encode } from "./schema.mjs";

const { env } = process;
const setting = (name, usual) => Number(env[name] ?? usual);
const MAX_MESSAGE = setting("MAX_MESSAGE", 4 << 20);
const CARRIER_TIMEOUT = setting("CARRIER_TIMEOUT_MS", 10_000);
const RETRY = setting("RETRY_MS", 100);
const [KEEPALIVE, KEEPALIVE_TIMEOUT] = [setting("KEEPALIVE_MS", 60_000), setting("KEEPALIVE_TIMEOUT_MS", 20_000)];
const SHUTDOWN = setting("SHUTDOWN_MS", 5000);
const [DEPOT, HEALTH] = ["depot.v1.Depot", "grpc.health.v1.Health"];
const REFLECTION = "grpc.reflection.v1.ServerReflection";
const UNITS = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 };
const BEGIN = { ":status": 200, "content-type": "application/grpc" };
const Code = {
  ...{ OK: 0, CANCELLED: 1, INVALID_ARGUMENT: 3, DEADLINE_EXCEEDED: 4, NOT_FOUND: 5, ALREADY_EXISTS: 6 },
  ...{ RESOURCE_EXHAUSTED: 8, FAILED_PRECONDITION: 9, UNIMPLEMENTED: 12, INTERNAL: 13, UNAVAILABLE: 14 },
};

class Refused extends Error {
  constructor(code, message, type, value) {
    super(message);
    const details = type ? [{ type_url: `type.googleapis.com/google.rpc.${type}`, value: encode(type, value) }] : [];
    this.code = code;
    this.details = encode("Status", { code, message, details });
  }
}

class Ended extends Error {}

const promise = () => {
  let resolve;
  const made = new Promise((yes) => (resolve = yes));
  return Object.assign(made, { resolve });
};

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const escaped = (text) =>
  Buffer.from(text).reduce((all, byte) => {
    const plain = byte >= 0x20 && byte <= 0x7e && byte !== 0x25;
    return all + (plain ? String.fromCharCode(byte) : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`);
  }, "");

function framed(message) {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

/** The messages of a stream. */
async function* unframed(stream, type, most) {
  let waiting = Buffer.alloc(0);
  for await (const piece of stream.iterator({ destroyOnReturn: false })) {
    waiting = Buffer.concat([waiting, piece]);
    while (waiting.length >= 5) {
      const size = waiting.readUInt32BE(1);
      if (size > most) throw new Refused(Code.RESOURCE_EXHAUSTED, `a message of ${size} bytes`);
      if (waiting.length < 5 + size) break;
      const message = waiting.subarray(5, 5 + size);
      waiting = waiting.subarray(5 + size);
      yield decode(type, message);
    }
  }
}

// -- calls

const open = new Set();

class Call {
  constructor(stream, headers, input, output) {
    Object.assign(this, { stream, headers, output, over: false, ended: promise() });
    this.trace = headers["x-trace-id"] || randomUUID();
    this.requests = unframed(stream, input, MAX_MESSAGE);
    this.deadline = Infinity;
    open.add(this);
    stream.on("error", () => this.end());
    stream.on("aborted", () => this.end());
    stream.on("close", () => this.end());
    const timeout = /^(\d{1,8})([HMSmun])$/.exec(headers["grpc-timeout"] ?? "");
    if (timeout) this.expire(timeout[1] * UNITS[timeout[2]]);
  }

  expire(milliseconds) {
    this.deadline = Date.now() + milliseconds;
    if (milliseconds > 2 ** 31 - 1) return;
    this.timer = setTimeout(() => this.finish(new Refused(Code.DEADLINE_EXCEEDED, "too late")), milliseconds);
  }

  /** Whoever waits for something in the name of this call stops waiting when it is over. */
  async wait(happened) {
    const made = await Promise.race([happened, this.ended]);
    if (this.over) throw new Ended();
    return made;
  }

  end() {
    this.over = true;
    clearTimeout(this.timer);
    open.delete(this);
    this.ended.resolve();
  }

  async request() {
    const { value, done } = await this.requests.next();
    if (done) throw new Refused(Code.INTERNAL, "one request is owed");
    return value;
  }

  begin() {
    if (this.over || this.stream.headersSent) return;
    this.stream.respond({ ...BEGIN, "x-trace-id": this.trace }, { waitForTrailers: true });
    this.stream.on("wantTrailers", () => this.stream.sendTrailers(this.trailers));
  }

  async write(reply) {
    if (this.over) throw new Ended();
    this.begin();
    if (!this.stream.write(framed(encode(this.output, reply)))) await this.wait(once(this.stream, "drain"));
  }

  finish(why) {
    if (this.over) return;
    this.trailers = { "grpc-status": why ? why.code : Code.OK };
    if (why) this.trailers["grpc-message"] = escaped(why.message);
    if (why) this.trailers["grpc-status-details-bin"] = why.details.toString("base64");
    this.begin();
    this.stream.end();
    this.stream.resume();
    this.end();
  }
}

// -- the depot

const items = new Map();
const reservations = new Map();
let stopping = false;

function check(request) {
  const text = (value) => [...value].length >= 1 && [...value].length <= 64;
  const rules = { request_id: text, sku: text, quantity: (value) => value >= 1 && value <= 1000 };
  const wrong = Object.keys(rules).filter((name) => name in request && !rules[name](request[name]));
  if (!wrong.length) return;
  const field_violations = wrong.map((field) => ({ field, description: "is too short, too long, too few or too many" }));
  throw new Refused(Code.INVALID_ARGUMENT, `wrong: ${wrong}`, "BadRequest", { field_violations });
}

function find(sku) {
  const item = items.get(sku);
  if (!item) throw new Refused(Code.NOT_FOUND, `no ${sku} was ever delivered`);
  return item;
}

function change(item, by) {
  item.quantity += by;
  item.changed.resolve();
  item.changed = promise();
}

async function Reserve(call) {
  const request = await call.request();
  check(request);
  const content = `${request.quantity} ${request.sku}`;
  for (let known; (known = reservations.get(request.request_id)); ) {
    if (known.content !== content) throw new Refused(Code.ALREADY_EXISTS, "the request_id is taken");
    const made = await call.wait(known.made);
    if (made) return call.write(made);
  }
  const item = find(request.sku);
  if (item.quantity < request.quantity) {
    const metadata = Object.entries({ sku: request.sku, available: `${item.quantity}` });
    const entries = metadata.map(([key, value]) => ({ key, value }));
    const info = { reason: "OUT_OF_STOCK", domain: DEPOT, metadata: entries };
    throw new Refused(Code.FAILED_PRECONDITION, "too few", "ErrorInfo", info);
  }
  const mine = { content, made: promise() };
  reservations.set(request.request_id, mine);
  change(item, -request.quantity);
  let reservation = null;
  try {
    const { tracking } = await book(call, request);
    reservation = { id: randomUUID(), tracking };
  } finally {
    if (!reservation) {
      change(item, request.quantity);
      reservations.delete(request.request_id);
    }
    mine.made.resolve(reservation);
  }
  await call.write(reservation);
}

async function Watch(call) {
  const request = await call.request();
  check(request);
  const item = find(request.sku);
  while (!stopping) {
    const { changed, quantity, note } = item;
    await call.write({ quantity, note });
    await call.wait(changed);
  }
  throw new Refused(Code.UNAVAILABLE, "the server goes away");
}

async function Deliver(call) {
  const lines = [];
  const whole = (holds) => {
    const field_violations = [{ field: "last", description: "is set in the last line alone" }];
    if (!holds) throw new Refused(Code.INVALID_ARGUMENT, "no whole delivery", "BadRequest", { field_violations });
  };
  for await (const line of call.requests) {
    check(line);
    whole(!lines.at(-1)?.last);
    lines.push(line);
  }
  if (call.over) throw new Ended();
  whole(lines.at(-1)?.last);
  for (const { sku, quantity, note } of lines) {
    const item = items.get(sku) ?? { quantity: 0, changed: promise() };
    items.set(sku, item);
    item.note = note;
    change(item, quantity);
  }
  await call.write({ lines: lines.length, items: lines.reduce((sum, { quantity }) => sum + quantity, 0) });
}

async function Pick(call) {
  for await (const request of call.requests) {
    check(request);
    const item = find(request.sku);
    const quantity = Math.min(item.quantity, request.quantity);
    change(item, -quantity);
    await call.write({ sku: request.sku, quantity, left: item.quantity });
  }
}

// -- the carrier

let carrier = null;

function connected() {
  if (carrier && !carrier.closed && !carrier.destroyed) return carrier;
  carrier = http2.connect(`http://${env.CARRIER}`);
  carrier.on("error", () => {});
  carrier.unref();
  return carrier;
}

async function book(call, request) {
  const ours = Date.now() + CARRIER_TIMEOUT;
  const deadline = Math.min(ours, call.deadline);
  const message = framed(encode("BookRequest", request));
  for (let attempt = 1; ; attempt += 1) {
    const [code, booking] = await call.wait(asked(call, message, deadline));
    if (code === Code.OK) return booking;
    if (code === Code.DEADLINE_EXCEEDED && deadline < ours) throw new Refused(code, "too late");
    const unavailable = code === Code.UNAVAILABLE;
    if (unavailable && attempt < 3 && Date.now() + RETRY < deadline) {
      await call.wait(pause(RETRY));
      continue;
    }
    if (unavailable || code === Code.DEADLINE_EXCEEDED) throw new Refused(Code.UNAVAILABLE, "the carrier is away");
    throw new Refused(Code.INTERNAL, "the carrier refuses");
  }
}

/** One attempt: the code of its status, and the booking. */
async function asked(call, message, deadline) {
  const left = Math.max(1, Math.ceil(deadline - Date.now()));
  const headers = {
    ...{ ":method": "POST", ":path": "/carrier.v1.Carrier/Book", te: "trailers", "content-type": "application/grpc" },
    ...{ "grpc-timeout": `${left}m`, "x-trace-id": call.trace },
  };
  if (call.headers["context-bin"]) headers["context-bin"] = call.headers["context-bin"];
  const stream = connected().request(headers);
  let told = {};
  const over = promise();
  stream.on("response", (fields) => (told = { ...told, ...fields }));
  stream.on("trailers", (fields) => (told = { ...told, ...fields }));
  stream.on("error", () => {});
  stream.on("close", () => over.resolve(Code.UNAVAILABLE));
  const timer = setTimeout(() => over.resolve(Code.DEADLINE_EXCEEDED), left);
  call.ended.then(() => over.resolve(Code.CANCELLED));
  stream.end(message);
  const pieces = [];
  stream.on("data", (piece) => pieces.push(piece));
  const code = await over;
  clearTimeout(timer);
  if (!stream.closed) stream.close(http2.constants.NGHTTP2_CANCEL);
  if (code !== Code.UNAVAILABLE || told["grpc-status"] === undefined) return [code];
  const booking = Buffer.concat(pieces).subarray(5);
  return [Number(told["grpc-status"]), decode("Booking", booking)];
}

// -- health and reflection

const [SERVING, NOT_SERVING, SERVICE_UNKNOWN] = [1, 2, 3];
const known = new Set(["", DEPOT]);
const stopped = promise();

async function Check(call) {
  const { service } = await call.request();
  if (!known.has(service)) throw new Refused(Code.NOT_FOUND, `${service} is unknown`);
  await call.write({ status: stopping ? NOT_SERVING : SERVING });
}

async function WatchHealth(call) {
  const { service } = await call.request();
  await call.write({ status: known.has(service) ? (stopping ? NOT_SERVING : SERVING) : SERVICE_UNKNOWN });
  await call.wait(stopped);
  if (known.has(service)) await call.write({ status: NOT_SERVING });
  await call.wait(new Promise(() => {}));
}

async function ServerReflectionInfo(call) {
  for await (const { file_containing_symbol: symbol } of call.requests) {
    if (!symbol) await call.write({ services: { service: [DEPOT, HEALTH, REFLECTION].map((name) => ({ name })) } });
    else if (symbol === DEPOT) await call.write({ files: { file: [descriptor()] } });
    else await call.write({ error: { code: Code.NOT_FOUND, message: `there is no ${symbol}` } });
  }
}

// -- the server

const handlers = { Reserve, Watch, Deliver, Pick };
const routes = new Map([
  [`/${HEALTH}/Check`, [Check, "HealthRequest", "HealthReply"]],
  [`/${HEALTH}/Watch`, [WatchHealth, "HealthRequest", "HealthReply"]],
  [`/${REFLECTION}/ServerReflectionInfo`, [ServerReflectionInfo, "ReflectionRequest", "ReflectionReply"]],
]);
for (const [name, [input, output]] of Object.entries(METHODS)) {
  routes.set(`/${DEPOT}/${name}`, [handlers[name], input, output]);
}

async function serve(stream, headers) {
  const route = routes.get(headers[":path"]);
  if (!route || stopping) {
    const code = route ? Code.UNAVAILABLE : Code.UNIMPLEMENTED;
    stream.respond({ ...BEGIN, "grpc-status": code }, { endStream: true });
    return;
  }
  const [handler, input, output] = route;
  const call = new Call(stream, headers, input, output);
  try {
    await handler(call);
    call.finish();
  } catch (why) {
    if (why instanceof Refused) call.finish(why);
    else if (!call.over) {
      console.error(why);
      call.finish(new Refused(Code.INTERNAL, "an error of ours"));
    }
  }
}

const sessions = new Set();

function ask(session) {
  if (session.destroyed) return;
  const late = setTimeout(() => session.destroy(), KEEPALIVE_TIMEOUT);
  const sent = session.ping((error) => {
    clearTimeout(late);
    if (!error) session.asking = setTimeout(() => ask(session), KEEPALIVE);
  });
  if (!sent) clearTimeout(late);
}

const server = http2.createServer();
server.on("stream", serve);
server.on("session", (session) => {
  sessions.add(session);
  session.on("error", () => {});
  session.asking = setTimeout(() => ask(session), KEEPALIVE);
  session.on("close", () => {
    clearTimeout(session.asking);
    sessions.delete(session);
  });
});
server.listen(setting("PORT", 50051), env.HOST ?? "127.0.0.1", 512);

process.once("SIGTERM", () => {
  stopping = true;
  stopped.resolve();
  for (const item of items.values()) change(item, 0);
  server.close(() => process.exit(0));
  for (const session of sessions) session.close();
  setTimeout(() => {
    for (const call of open) call.end();
    for (const session of sessions) session.destroy();
    setImmediate(() => setImmediate(() => process.exit(0)));
  }, SHUTDOWN);
});
