// Payments on Node's event loop, with an append-only journal instead of a database.
//
// All state is the sum of the journal's lines, each written by one synchronous write before anybody hears of it:
// "claim" binds a key to its payload and its provider key, "done" carries the answer and what it did to the payments.
// What is running is known to this process only, so that it ends with it. A duplicate of it gets 409.
import { createHash, randomUUID } from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";

const HOST = process.env.HOST ?? "127.0.0.1";
const PORT = Number(process.env.PORT ?? 8000);
const PROVIDER = process.env.PROVIDER_URL ?? "http://127.0.0.1:9000";
const TIMEOUT = Number(process.env.PROVIDER_TIMEOUT_MS ?? 20000);
const TTL = Number(process.env.KEY_TTL_MS ?? 86400000);

class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// --- state

const keys = new Map(); // identity -> { fingerprint, providerKey, born, answer }, oldest first
const payments = new Map(); // id -> payment, oldest first
const running = new Set(); // identities

const apply = {
  claim({ identity, fingerprint, providerKey, born }) {
    keys.delete(identity); // a key that is used anew goes to the end
    keys.set(identity, { fingerprint, providerKey, born });
  },
  done({ identity, answer, payment, refunded }) {
    keys.get(identity).answer = answer;
    if (payment) payments.set(payment.id, payment);
    if (refunded) payments.get(refunded).status = "refunded";
  },
};

function openJournal(file) {
  const text = fs.existsSync(file) ? fs.readFileSync(file) : Buffer.alloc(0);
  const whole = text.subarray(0, text.lastIndexOf(10) + 1); // a last line that was cut off was never acted upon
  for (const line of whole.toString().split("\n")) {
    if (!line) continue;
    const entry = JSON.parse(line);
    apply[entry.kind](entry);
  }
  const journal = fs.openSync(file, "a");
  fs.ftruncateSync(journal, whole.length);
  return journal;
}

const journal = openJournal(path.join(process.env.STATE_DIR ?? ".", "journal"));

function commit(entry) {
  const line = Buffer.from(JSON.stringify(entry) + "\n");
  for (let at = 0; at < line.length; ) at += fs.writeSync(journal, line, at);
  apply[entry.kind](entry);
}

const isOver = (entry) => entry.answer !== undefined && Date.now() >= entry.born + TTL;

function forgetOldKeys() {
  for (const [identity, entry] of keys) {
    if (Date.now() < entry.born + TTL) break;
    if (entry.answer) keys.delete(identity);
  }
}

// --- requests

function accountOf(request) {
  const [, account] = /^Bearer +([A-Za-z0-9_]{1,64})$/i.exec(request.headers.authorization ?? "") ?? [];
  if (!account) throw new Refused(401, "Authorization: Bearer <account> is required");
  return account;
}

const STRING = '"((?:[ !#-\\[\\]-~]|\\\\["\\\\])*)"';
const BARE_ITEM = `(?:${STRING.replace("((", "(?:(")}|-?[0-9]+(?:\\.[0-9]+)?|@-?[0-9]+|[?][01]|:[A-Za-z0-9+/=]*:|[A-Za-z*][!#$%&'*+.^_\`|~0-9A-Za-z:/-]*|%"[^"]*")`;
const PARAMETER = `; *[a-z*][a-z0-9_.*-]*(?:=${BARE_ITEM})?`;
const KEY = new RegExp(`^ *${STRING}(?:${PARAMETER})* *$`);

function keyOf(request) {
  const raw = request.rawHeaders;
  const lines = raw.filter((_, at) => at % 2 === 1 && raw[at - 1].toLowerCase() === "idempotency-key");
  if (lines.length !== 1) throw new Refused(400, "one Idempotency-Key line is required");
  const quoted = KEY.exec(lines[0]);
  const key = quoted?.[1].replace(/\\(.)/g, "$1");
  if (!key || key.length > 255) throw new Refused(400, "Idempotency-Key must be a String of 1 to 255 characters");
  return key;
}

function jsonObject(body) {
  let value;
  try {
    value = JSON.parse(body.toString());
  } catch {
    throw new Refused(400, "the body is no JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Refused(400, "the body is no JSON object");
  }
  return value;
}

const isText = (value, pattern) => typeof value === "string" && pattern.test(value);

function validPayment(account, body) {
  const { amount, currency, source, description } = jsonObject(body);
  if (!Number.isInteger(amount) || amount < 1 || amount > 99999999) throw new Refused(400, "amount: 1 to 99999999");
  if (!isText(currency, /^[a-z]{3}$/)) throw new Refused(400, "currency: three of a-z");
  if (!isText(source, /^[A-Za-z0-9_]{1,64}$/)) throw new Refused(400, "source: 1 to 64 letters, digits, _");
  if (description !== undefined && !(typeof description === "string" && [...description].length <= 500)) {
    throw new Refused(400, "description: a string of at most 500 characters");
  }
  return { amount, currency, source, description }; // JSON leaves undefined out
}

function validRefund(account, body) {
  const { payment_id } = jsonObject(body);
  if (typeof payment_id !== "string") throw new Refused(400, "payment_id: a string");
  paymentOf(account, payment_id);
  return { payment_id };
}

function paymentOf(account, id) {
  const payment = payments.get(id);
  if (payment?.account !== account) throw new Refused(404, "this account has no such payment");
  return payment;
}

const shown = ({ account, ...payment }) => payment;

// --- the two operations: what is asked of the provider, and what is true once it was done

const OPERATIONS = {
  "/payments": {
    validate: validPayment,
    target: "/v1/charges",
    toProvider: (account, payload) => payload,
    done(account, { amount, currency }, chargeId) {
      const id = `pay_${randomUUID()}`;
      const payment = { id, amount, currency, status: "succeeded", charge_id: chargeId };
      return { answer: json(201, payment, { Location: `/payments/${id}` }), payment: { account, ...payment } };
    },
  },
  "/refunds": {
    validate: validRefund,
    target: "/v1/refunds",
    toProvider: (account, { payment_id }) => ({ charge: paymentOf(account, payment_id).charge_id }),
    done(account, { payment_id }) {
      const refund = { id: `ref_${randomUUID()}`, payment_id, status: "succeeded" };
      return { answer: json(201, refund), refunded: payment_id };
    },
  },
};

// --- the provider

function exchange(target, body, providerKey) {
  return new Promise((resolve, reject) => {
    const headers = { "Content-Type": "application/json", "Content-Length": body.length };
    headers["Idempotency-Key"] = `"${providerKey}"`;
    const request = http.request(PROVIDER + target, { method: "POST", agent: false, headers });
    const late = setTimeout(() => request.destroy(new Error("no answer in time")), TIMEOUT);
    request.on("close", () => clearTimeout(late));
    request.on("error", reject);
    request.on("response", (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("error", reject);
      response.on("close", () => {
        if (!response.complete) return reject(new Error("the answer was cut off"));
        resolve({ status: response.statusCode, text: Buffer.concat(chunks).toString() });
      });
    });
    request.end(body);
  });
}

// { id } when it was done, { code } when it was refused for good, {} when there is no knowing yet.
async function ask(target, payload, providerKey) {
  try {
    const { status, text } = await exchange(target, Buffer.from(JSON.stringify(payload)), providerKey);
    const document = JSON.parse(text);
    if (status === 201 && typeof document.id === "string") return { id: document.id };
    if (status === 402 && typeof document.error.code === "string") return { code: document.error.code };
    return {};
  } catch {
    return {};
  }
}

// --- answers

function json(status, document, headers = {}) {
  const body = JSON.stringify(document);
  return { status, headers: { "Content-Type": "application/json; charset=utf-8", ...headers }, body };
}

const problem = (status, title, members) =>
  json(status, { title, status, ...members }, { "Content-Type": "application/problem+json" });

async function idempotent(account, path, key, body) {
  const operation = OPERATIONS[path];
  const payload = operation.validate(account, body);
  const identity = JSON.stringify([account, path, key]);
  const fingerprint = createHash("sha256").update(JSON.stringify(payload)).digest("hex");
  const known = keys.get(identity);
  if (!known || isOver(known)) {
    forgetOldKeys();
    commit({ kind: "claim", identity, fingerprint, providerKey: randomUUID(), born: Date.now() });
  } else {
    if (known.fingerprint !== fingerprint) throw new Refused(422, "this key was used with another payload");
    if (known.answer) return { ...known.answer, headers: { ...known.answer.headers, "Idempotent-Replayed": "true" } };
    if (running.has(identity)) throw new Refused(409, "a request with this key is running");
  }
  running.add(identity);
  try {
    return await execute(operation, account, payload, identity);
  } finally {
    running.delete(identity);
  }
}

async function execute(operation, account, payload, identity) {
  const { providerKey } = keys.get(identity);
  const outcome = await ask(operation.target, operation.toProvider(account, payload), providerKey);
  let end;
  if (outcome.id) end = operation.done(account, payload, outcome.id);
  else if (outcome.code) end = { answer: problem(402, "the provider refused", { code: outcome.code }) };
  else throw new Refused(503, "the outcome is not known yet: ask again with the same key");
  commit({ kind: "done", identity, ...end });
  return end.answer;
}

function read(account, path) {
  if (path === "/payments") {
    const own = [...payments.values()].filter((payment) => payment.account === account);
    return json(200, { data: own.map(shown) });
  }
  if (!path.startsWith("/payments/")) throw new Refused(404, "nothing is here");
  return json(200, shown(paymentOf(account, path.slice("/payments/".length))));
}

async function answerTo(request, body) {
  try {
    const account = accountOf(request);
    const [path] = request.url.split("?");
    if (request.method === "GET") return read(account, path);
    if (request.method !== "POST" || !Object.hasOwn(OPERATIONS, path)) throw new Refused(404, "nothing is here");
    return await idempotent(account, path, keyOf(request), body);
  } catch (error) {
    if (error instanceof Refused) return problem(error.status, error.message);
    console.error(error);
    return problem(500, "a bug");
  }
}

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("error", () => {}); // cut off: it was never made
  request.on("end", async () => {
    const answer = await answerTo(request, Buffer.concat(chunks));
    response.writeHead(answer.status, answer.headers).end(answer.body);
  });
});

server.listen({ host: HOST, port: PORT, backlog: 1024 });
