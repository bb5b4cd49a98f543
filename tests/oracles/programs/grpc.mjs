// The depot on @grpc/grpc-js: one thread, callbacks made promises, streams that are written to when they drain.
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const { env } = process;
const require = createRequire(`${env.PACKAGES}/`);
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");
const { ReflectionService } = require("@grpc/reflection");
const { HealthImplementation, protoPath } = require("grpc-health-check");
const { parse } = createRequire(require.resolve("@grpc/proto-loader"))("protobufjs");

const { status: Code, Metadata } = grpc;
const [CARRIER_TIMEOUT, RETRY, SHUTDOWN] = ["CARRIER_TIMEOUT_MS", "RETRY_MS", "SHUTDOWN_MS"].map((name) => +env[name]);
const protos = ["depot.proto", "carrier.proto", protoPath];
const includeDirs = [fileURLToPath(new URL("../../../katas/grpc", import.meta.url))];
const definition = loadSync(protos, { includeDirs, keepCase: true, longs: Number, defaults: true });
const { depot, carrier } = grpc.loadPackageDefinition(definition);
const NAME = "depot.v1.Depot";

const source = `
  syntax = "proto3";
  package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message Violation { string field = 1; string description = 2; }
  message BadRequest { repeated Violation field_violations = 1; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
`;
const errors = parse(source, { keepCase: true }).root;
const encoded = (type, value) => errors.lookupType(type).encode(value).finish();

function refused(code, message, type, value) {
  const details = type ? [{ type_url: `type.googleapis.com/google.rpc.${type}`, value: encoded(type, value) }] : [];
  const metadata = new Metadata();
  metadata.set("grpc-status-details-bin", Buffer.from(encoded("Status", { code, message, details })));
  return Object.assign(new Error(message), { code, details: message, metadata });
}

const ENDED = Symbol("the call has ended");

function check(request) {
  const text = (value) => [...value].length >= 1 && [...value].length <= 64;
  const rules = { sku: text, request_id: text, quantity: (value) => value >= 1 && value <= 1000 };
  const wrong = Object.keys(rules).filter((name) => name in request && !rules[name](request[name]));
  if (wrong.length === 0) return;
  const field_violations = wrong.map((field) => ({ field, description: "is out of its bounds" }));
  throw refused(Code.INVALID_ARGUMENT, `${wrong} is wrong`, "BadRequest", { field_violations });
}

const items = new Map();
const reservations = new Map(); // by request_id: what it is for, and a promise of it
let stopping = false;

function find(sku) {
  if (!items.has(sku)) throw refused(Code.NOT_FOUND, `${sku} is unknown`);
  return items.get(sku);
}

function change(item, by) {
  item.quantity += by;
  item.changed.resolve();
  item.changed = promise();
}

function promise() {
  let resolve;
  const made = new Promise((yes) => (resolve = yes));
  return Object.assign(made, { resolve });
}

// -- calls

function begin(call) {
  const [given] = call.metadata.get("x-trace-id");
  call.trace = given || randomUUID();
  const metadata = new Metadata();
  metadata.set("x-trace-id", call.trace);
  call.sendMetadata(metadata);
  call.ended = promise();
  call.over = call.cancelled;
  call.on("cancelled", () => {
    call.over = true;
    call.ended.resolve(ENDED);
  });
}

const unary = (work) => async (call, callback) => {
  begin(call);
  try {
    callback(null, await work(call));
  } catch (why) {
    if (why === ENDED) callback({ code: Code.CANCELLED });
    else callback(known(why));
  }
};

const streaming = (work) => async (call) => {
  begin(call);
  try {
    await work(call);
    call.end();
  } catch (why) {
    if (why !== ENDED && !call.over) call.emit("error", known(why));
  }
};

function known(why) {
  if (!why.code) console.error(why);
  return why.code ? why : { code: Code.INTERNAL };
}

async function write(call, reply) {
  if (call.over) throw ENDED;
  if (!call.write(reply)) await Promise.race([once(call, "drain"), call.ended]);
}

// The end of the reading is not the end of the call.
const requests = (call) => call.iterator({ destroyOnReturn: false });

// -- methods

async function reserve(call) {
  const { request } = call;
  check(request);
  const content = JSON.stringify([request.sku, request.quantity]);
  for (let mine; (mine = reservations.get(request.request_id)); ) {
    if (mine.content !== content) throw refused(Code.ALREADY_EXISTS, "this request_id is taken");
    const made = await Promise.race([mine.done, call.ended]);
    if (made === ENDED) throw ENDED;
    if (made) return made;
  }
  const item = find(request.sku);
  if (item.quantity < request.quantity) {
    const metadata = { sku: request.sku, available: `${item.quantity}` };
    const info = { reason: "OUT_OF_STOCK", domain: NAME, metadata };
    throw refused(Code.FAILED_PRECONDITION, "not enough", "ErrorInfo", info);
  }
  const mine = { content, done: promise() };
  reservations.set(request.request_id, mine);
  change(item, -request.quantity);
  try {
    const { tracking } = await book(call);
    const made = { id: randomUUID(), tracking };
    mine.done.resolve(made);
    return made;
  } catch (why) {
    change(item, request.quantity);
    reservations.delete(request.request_id);
    mine.done.resolve(null);
    throw why;
  }
}

const client = new carrier.v1.Carrier(env.CARRIER, grpc.credentials.createInsecure());

async function book(call) {
  const ours = Date.now() + CARRIER_TIMEOUT;
  const theirs = +call.getDeadline();
  const deadline = Math.min(ours, theirs);
  const metadata = new Metadata();
  metadata.set("x-trace-id", call.trace);
  for (const context of call.metadata.get("context-bin")) metadata.add("context-bin", context);
  for (let attempt = 1; ; attempt += 1) {
    const [error, booking] = await attemptOf(call, metadata, deadline);
    if (!error) return booking;
    if (call.over) throw ENDED;
    const again = error.code === Code.UNAVAILABLE && attempt < 3 && Date.now() + RETRY < deadline;
    if (!again) throw refusal(error, theirs < ours);
    if ((await Promise.race([pause(RETRY), call.ended])) === ENDED) throw ENDED;
  }
}

function attemptOf(call, metadata, deadline) {
  return new Promise((resolve) => {
    const booking = client.Book(call.request, metadata, { deadline }, (...outcome) => resolve(outcome));
    call.ended.then(() => booking.cancel());
  });
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function refusal(error, theirs) {
  if (error.code === Code.DEADLINE_EXCEEDED && theirs) return refused(Code.DEADLINE_EXCEEDED, "too late");
  const silent = [Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE].includes(error.code);
  return silent ? refused(Code.UNAVAILABLE, "the carrier is silent") : refused(Code.INTERNAL, "the carrier refuses");
}

async function watch(call) {
  check(call.request);
  const item = find(call.request.sku);
  while (!stopping) {
    const { changed, quantity, note } = item;
    await write(call, { quantity, note });
    if ((await Promise.race([changed, call.ended])) === ENDED) throw ENDED;
  }
  throw refused(Code.UNAVAILABLE, "the server stops");
}

async function deliver(call) {
  const lines = [];
  const incomplete = () => {
    const field_violations = [{ field: "last", description: "stands in the last line, and only there" }];
    return refused(Code.INVALID_ARGUMENT, "no whole delivery", "BadRequest", { field_violations });
  };
  for await (const line of requests(call)) {
    check(line);
    if (lines.at(-1)?.last) throw incomplete();
    lines.push(line);
  }
  if (!lines.at(-1)?.last) throw incomplete();
  for (const { sku, quantity, note } of lines) {
    if (!items.has(sku)) items.set(sku, { quantity: 0, changed: promise() });
    const item = items.get(sku);
    item.note = note;
    change(item, quantity);
  }
  return { lines: lines.length, items: lines.reduce((sum, line) => sum + line.quantity, 0) };
}

async function pick(call) {
  for await (const request of requests(call)) {
    check(request);
    const item = find(request.sku);
    const quantity = Math.min(item.quantity, request.quantity);
    change(item, -quantity);
    await write(call, { sku: request.sku, quantity, left: item.quantity });
  }
  if (call.over) throw ENDED;
}

// -- the server

const server = new grpc.Server({
  "grpc.max_receive_message_length": +env.MAX_MESSAGE,
  "grpc.keepalive_time_ms": +env.KEEPALIVE_MS,
  "grpc.keepalive_timeout_ms": +env.KEEPALIVE_TIMEOUT_MS,
});
server.addService(depot.v1.Depot.service, {
  Reserve: unary(reserve),
  Watch: streaming(watch),
  Deliver: unary(deliver),
  Pick: streaming(pick),
});
const health = new HealthImplementation({ "": "SERVING", [NAME]: "SERVING" });
health.addToServer(server);
new ReflectionService(definition).addToServer(server);
server.bindAsync(`${env.HOST}:${env.PORT}`, grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
});
process.once("SIGTERM", () => {
  health.setStatus("", "NOT_SERVING");
  health.setStatus(NAME, "NOT_SERVING");
  stopping = true;
  for (const item of items.values()) change(item, 0);
  const force = setTimeout(() => server.forceShutdown(), SHUTDOWN);
  server.tryShutdown(() => {
    clearTimeout(force);
    client.close();
    setImmediate(() => process.exit(0));
  });
});
