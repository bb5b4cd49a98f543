// The bot API on node:http. One process, one thread: everything is in memory, and each change is a line of a journal
// that is written before anybody is answered. Ids are of the whole server, and so is the number that they rise from.
import http from "node:http";
import fs from "node:fs";
import path from "node:path";

const { HOST = "127.0.0.1", PORT = "8000", STATE_DIR = ".", SECOND_MS = "1000" } = process.env;
const SECOND = Number(SECOND_MS);
const TOKEN = "(\\d{1,20}:[\\w-]{1,64})";
const CALL = new RegExp(`^/bot${TOKEN}/(\\w+)$`);
const INGEST = new RegExp(`^/ingest/${TOKEN}$`);
const JOURNAL = path.join(STATE_DIR, "journal.jsonl");

const bots = new Map();
let last = 0; // the last id that was given
let stopping = false;

class Refused extends Error {
  constructor(code, description) {
    super(description);
    this.code = code;
  }
}

class Bot {
  updates = []; // [id, content], the oldest first
  allowed = [];
  waiting = null; // the function that ends the call that waits

  forget(upTo) {
    const left = this.updates.findIndex(([id]) => id > upTo);
    this.updates.splice(0, left < 0 ? this.updates.length : left);
  }
}

function named(token) {
  if (!bots.has(token)) bots.set(token, new Bot());
  return bots.get(token);
}

// --- the journal

const apply = {
  last: (id) => (last = id),
  allowed: (token, types) => (named(token).allowed = types),
  forgotten: (token, upTo) => named(token).forget(upTo),
  update: (token, id, content) => {
    last = Math.max(last, id);
    named(token).updates.push([id, content]);
  },
};

function load() {
  const text = fs.existsSync(JOURNAL) ? fs.readFileSync(JOURNAL, "utf8") : "";
  for (const line of text.split("\n").slice(0, -1)) {
    const [kind, ...values] = JSON.parse(line);
    apply[kind](...values);
  }
  const lines = [["last", last]];
  for (const [token, bot] of bots) {
    lines.push(["allowed", token, bot.allowed], ...bot.updates.map((update) => ["update", token, ...update]));
  }
  fs.writeFileSync(`${JOURNAL}.new`, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  fs.renameSync(`${JOURNAL}.new`, JOURNAL);
  return fs.openSync(JOURNAL, "a");
}

const journal = load();

function change(kind, ...values) {
  fs.writeFileSync(journal, `${JSON.stringify([kind, ...values])}\n`);
  return apply[kind](...values);
}

// --- parameters

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Refused(400, "this is no JSON");
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function decoded(body) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(body);
  } catch {
    throw new Refused(400, "this is no UTF-8");
  }
}

function parameters(request, query, body) {
  const given = new Map(new URLSearchParams(query));
  const kind = (request.headers["content-type"] ?? "").split(";")[0].trim().toLowerCase();
  if (kind === "application/json" && body.length) {
    const document = parsed(decoded(body));
    if (!isObject(document)) throw new Refused(400, "an object is wanted");
    for (const [name, value] of Object.entries(document)) given.set(name, value);
  } else if (kind === "application/x-www-form-urlencoded") {
    for (const [name, value] of new URLSearchParams(decoded(body))) given.set(name, value);
  }
  for (const [name, value] of given) if (value === null || value === "") given.delete(name);
  return given;
}

function whole(given, name, otherwise, least, most) {
  const value = given.get(name) ?? otherwise;
  const number = typeof value === "string" && /^-?\d+$/.test(value) ? Number(value) : value;
  if (typeof number !== "number" || !Number.isInteger(number)) throw new Refused(400, `${name} is no whole number`);
  return Math.min(Math.max(number, least), most);
}

function types(given) {
  let value = given.get("allowed_updates");
  if (typeof value === "string") value = parsed(value);
  if (value !== undefined && !(Array.isArray(value) && value.every((each) => typeof each === "string"))) {
    throw new Refused(400, "allowed_updates is no list of strings");
  }
  return value;
}

// --- the methods

function confirm(token, upTo) {
  const bot = named(token);
  if (bot.updates.length && bot.updates[0][0] <= upTo) change("forgotten", token, Math.min(upTo, last));
}

function getUpdates(token, given, response) {
  const offset = whole(given, "offset", 0, -Infinity, Infinity);
  const limit = whole(given, "limit", 100, 1, 100);
  const seconds = whole(given, "timeout", 0, 0, 50);
  const allowed = types(given);
  const bot = named(token);
  if (allowed) change("allowed", token, allowed);
  if (offset > 0) confirm(token, offset - 1);
  else if (offset < 0 && bot.updates.length > -offset) confirm(token, bot.updates.at(offset - 1)[0]);
  const found = () => bot.updates.slice(0, limit).map(([id, content]) => ({ ...content, update_id: id }));
  if (bot.updates.length || !seconds || stopping) return found();
  bot.waiting?.(new Refused(409, "Conflict: another call of this bot has come"));
  return new Promise((resolve, reject) => {
    const end = (refusal) => {
      clearTimeout(timer);
      if (bot.waiting === end) bot.waiting = null;
      if (refusal) reject(refusal);
      else resolve(found());
    };
    const timer = setTimeout(end, seconds * SECOND);
    bot.waiting = end;
    response.once("close", end);
  });
}

function deleteWebhook(token, given) {
  if (String(given.get("drop_pending_updates")).toLowerCase() === "true") confirm(token, last);
  return true;
}

function getMe(token) {
  return { id: Number(token.split(":")[0]), is_bot: true, first_name: "Node", username: "node_bot" };
}

// JSON.parse reads 1e999, which becomes null when it is written, and deeper nesting than JSON.stringify can write.
function isSane(value, levels = 200) {
  if (typeof value === "number") return Number.isFinite(value);
  if (typeof value !== "object" || value === null) return true;
  return levels > 0 && Object.values(value).every((each) => isSane(each, levels - 1));
}

function ingest(token, body) {
  if (body.length > 65536) throw new Refused(413, "too long");
  const content = parsed(decoded(body));
  const [kind, ...more] = isObject(content) ? Object.keys(content) : [];
  if (!/^[a-z_]{1,64}$/.test(kind ?? "") || kind === "update_id" || more.length || !isObject(content[kind])) {
    throw new Refused(400, "this is no update");
  }
  if (!isSane(content)) throw new Refused(400, "a number is too large, or the nesting too deep");
  const bot = named(token);
  if (bot.allowed.length && !bot.allowed.includes(kind)) return null;
  change("update", token, last + 1, content);
  const id = last;
  bot.waiting?.();
  return { update_id: id };
}

const METHODS = { getUpdates, deleteWebhook, getMe };

// --- HTTP

async function result(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const [place, query] = request.url.split("?", 2);
  const [, receiver] = INGEST.exec(place) ?? [];
  if (receiver && request.method === "POST") return ingest(receiver, body);
  const [, token, name] = CALL.exec(place) ?? [];
  if (!Object.hasOwn(METHODS, name ?? "")) throw new Refused(404, "Not Found");
  return METHODS[name](token, parameters(request, query ?? "", body), response);
}

function answer(response, status, document) {
  const body = JSON.stringify(document);
  const headers = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) };
  response.writeHead(status, stopping ? { ...headers, Connection: "close" } : headers).end(body);
}

const server = http.createServer({ noDelay: true, keepAliveTimeout: 60000 }, async (request, response) => {
  try {
    answer(response, 200, { ok: true, result: await result(request, response) });
  } catch (error) {
    if (request.destroyed && !request.complete) return; // its body never came completely
    if (!(error instanceof Refused)) throw error;
    answer(response, error.code, { ok: false, error_code: error.code, description: error.message });
  }
});
process.on("SIGTERM", () => {
  stopping = true;
  server.close(() => process.exit(0));
  for (const bot of bots.values()) bot.waiting?.();
  server.closeIdleConnections();
  setInterval(() => server.closeIdleConnections(), 20);
  setTimeout(() => process.exit(0), 2000);
});
server.listen({ host: HOST, port: Number(PORT), backlog: 512 });
