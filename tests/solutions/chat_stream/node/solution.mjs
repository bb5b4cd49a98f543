// Chat completions on node:http. Each completion is an AsyncIterable of the engine's lines; whoever iterates pulls, and
// pulls no more while its client has not taken what was written. A client that goes destroys the request to the engine.
import http from "node:http";
import { once } from "node:events";
import { randomUUID, timingSafeEqual } from "node:crypto";

const number = (name, otherwise) => Number(process.env[name] ?? otherwise);
const { HOST = "127.0.0.1", PORT = "8000", ENGINE_URL = "http://127.0.0.1:9000", API_KEY = "" } = process.env;
const MAX_GENERATIONS = number("MAX_GENERATIONS", 200);
const KEEPALIVE = number("KEEPALIVE_MS", 60000);
const DRAIN = number("DRAIN_MS", 5000);
const PATH = "/v1/chat/completions";
const BAD = "invalid_request_error";
const running = new Set();

class Failure extends Error {
  constructor(status, type, message, { param = null, code = null, headers = {} } = {}) {
    super(message);
    this.status = status;
    this.headers = headers;
    this.document = { error: { message, type, param, code } };
  }
}

const upstream = (message) => new Failure(502, "server_error", message, { code: "upstream_error" });
const busy = (after) =>
  new Failure(429, "rate_limit_error", "too much to do", { code: "rate_limit_exceeded", headers: { "Retry-After": after } });

// -- the request ------------------------------------------------------------------------------------------------------

function hasKey(request) {
  const given = Buffer.from(request.headers.authorization ?? "");
  const wanted = Buffer.from(`Bearer ${API_KEY}`);
  return given.length === wanted.length && timingSafeEqual(given, wanted);
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isMessage = (value) => isObject(value) && typeof value.role === "string";
const absent = (value) => value === undefined || value === null;
const CHECKS = {
  model: (value) => typeof value === "string" && value !== "",
  messages: (value) => Array.isArray(value) && value.length > 0 && value.every(isMessage),
  stream: (value) => absent(value) || typeof value === "boolean",
  stream_options: (value, { stream }) =>
    absent(value) || (stream === true && isObject(value) && (absent(value.include_usage) || typeof value.include_usage === "boolean")),
  max_tokens: (value) => absent(value) || (Number.isInteger(value) && value >= 1),
  n: (value) => absent(value) || value === 1,
};

function wanted(body) {
  let chat;
  try {
    chat = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch {
    throw new Failure(400, BAD, "this is no JSON");
  }
  if (!isObject(chat)) throw new Failure(400, BAD, "an object is wanted");
  for (const [param, isRight] of Object.entries(CHECKS)) {
    if (!isRight(chat[param], chat)) throw new Failure(400, BAD, `${param} is missing or wrong`, { param });
  }
  return chat;
}

// -- the engine -------------------------------------------------------------------------------------------------------

class Generation {
  constructor(chat) {
    const asked = {};
    for (const name of ["model", "messages", "max_tokens", "temperature", "stop", "tools"]) {
      if (!absent(chat[name])) asked[name] = chat[name];
    }
    const headers = { "Content-Type": "application/json" };
    this.request = http.request(`${ENGINE_URL}/generate`, { method: "POST", agent: false, headers });
    this.request.on("error", () => {}); // told by `lines`, or nobody listens any more
    this.request.end(JSON.stringify(asked));
    running.add(this);
  }

  end(failure) {
    this.failure ??= failure;
    running.delete(this);
    this.request.destroy();
  }

  async *lines() {
    try {
      yield* this.read();
    } catch (error) {
      throw this.failure ?? (error instanceof Failure ? error : upstream(`the engine broke off: ${error.message}`));
    }
    throw this.failure ?? upstream("the engine stopped in the middle");
  }

  async *read() {
    const [reply] = await once(this.request, "response");
    if (reply.statusCode !== 200) throw refusal(reply);
    let rest = Buffer.alloc(0);
    for await (const piece of reply) {
      rest = rest.length ? Buffer.concat([rest, piece]) : piece;
      for (let end; (end = rest.indexOf(10)) >= 0; rest = rest.subarray(end + 1)) {
        yield understood(rest.subarray(0, end).toString());
      }
    }
  }
}

function refusal(reply) {
  if (reply.statusCode === 404) return new Failure(404, BAD, "no such model", { param: "model", code: "model_not_found" });
  if (reply.statusCode === 429) return busy(reply.headers["retry-after"] ?? "1");
  return upstream(`the engine refuses with ${reply.statusCode}`);
}

function understood(text) {
  let line;
  try {
    line = JSON.parse(text);
  } catch {
    throw upstream("the engine's line is no JSON");
  }
  if (line?.error) throw upstream(String(line.error.message));
  if (!line?.token && !line?.tool_call && !line?.done) throw upstream("the engine's line is of no kind");
  return line;
}

/** Deltas of the engine's lines; every text has a decoder. */
class Deltas {
  decoders = new Map();

  of({ token, tool_call: call }) {
    if (token !== undefined) return this.text(-1, token);
    if (call.arguments !== undefined) return this.text(call.index, call.arguments);
    return [{ tool_calls: [{ index: call.index, id: call.id, type: "function", function: { name: call.name, arguments: "" } }] }];
  }

  text(index, data) {
    if (!this.decoders.has(index)) this.decoders.set(index, new TextDecoder("utf-8", { ignoreBOM: true }));
    const text = this.decoders.get(index).decode(Buffer.from(data ?? "", "base64"), { stream: data !== undefined });
    if (!text) return [];
    return [index < 0 ? { content: text } : { tool_calls: [{ index, function: { arguments: text } }] }];
  }

  rest() {
    return [...this.decoders.keys()].flatMap((index) => this.text(index));
  }
}

// -- the answer -------------------------------------------------------------------------------------------------------

const envelope = (object, { model }) => ({ id: `chatcmpl-${randomUUID()}`, object, created: Math.floor(Date.now() / 1000), model });
const usage = ({ prompt_tokens, completion_tokens }) => ({
  prompt_tokens,
  completion_tokens,
  total_tokens: prompt_tokens + completion_tokens,
});

class EventStream {
  constructor(response) {
    this.response = response;
    this.rest();
  }

  rest() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.response.writableNeedDrain ? this.rest() : this.write(":\n\n")), KEEPALIVE);
  }

  write(text) {
    const { response } = this;
    if (!response.headersSent) response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
    response.write(text);
    this.rest();
  }

  async send(document) {
    this.write(`data: ${JSON.stringify(document)}\n\n`);
    if (this.response.writableNeedDrain) await once(this.response, "drain");
  }

  close() {
    clearTimeout(this.timer);
  }
}

async function stream(chat, generation, out) {
  const wantsUsage = chat.stream_options?.include_usage === true;
  const common = { ...envelope("chat.completion.chunk", chat), ...(wantsUsage && { usage: null }) };
  const deltas = new Deltas();
  const chunk = (delta, finish_reason = null) => out.send({ ...common, choices: [{ index: 0, delta, finish_reason }] });
  let role = { role: "assistant" };
  for await (const line of generation.lines()) {
    const { done } = line;
    for (const delta of done ? deltas.rest() : deltas.of(line)) {
      await chunk({ ...role, ...delta });
      role = undefined;
    }
    if (!done) continue;
    if (role) await chunk({ ...role, content: "" });
    await chunk({}, done.finish_reason);
    if (wantsUsage) await out.send({ ...common, choices: [], usage: usage(done) });
    return out.write("data: [DONE]\n\n");
  }
}

async function whole(chat, generation) {
  const deltas = new Deltas();
  const calls = [];
  let content = "";
  const add = (delta) => {
    content += delta.content ?? "";
    for (const { index, ...call } of delta.tool_calls ?? []) {
      if (call.id) calls[index] = call;
      else calls[index].function.arguments += call.function.arguments;
    }
  };
  for await (const line of generation.lines()) {
    const { done } = line;
    (done ? deltas.rest() : deltas.of(line)).forEach(add);
    if (!done) continue;
    const message = { role: "assistant", content: calls.length ? content || null : content };
    if (calls.length) message.tool_calls = calls;
    const choices = [{ index: 0, message, finish_reason: done.finish_reason }];
    return { ...envelope("chat.completion", chat), choices, usage: usage(done) };
  }
}

function answer(response, status, document, headers = {}) {
  const body = JSON.stringify(document);
  response.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body), ...headers });
  response.end(body);
}

async function complete(request, response) {
  if (request.url !== PATH) throw new Failure(404, BAD, "there is no such path");
  if (request.method !== "POST") throw new Failure(405, BAD, "POST it", { headers: { Allow: "POST" } });
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  if (!hasKey(request)) throw new Failure(401, BAD, "no such key", { code: "invalid_api_key" });
  const chat = wanted(Buffer.concat(pieces));
  if (running.size >= MAX_GENERATIONS) throw busy("1");
  const generation = new Generation(chat);
  const out = chat.stream ? new EventStream(response) : undefined;
  response.on("close", () => {
    out?.close();
    generation.end();
  });
  try {
    if (!out) return answer(response, 200, await whole(chat, generation));
    await stream(chat, generation, out);
    response.end();
  } finally {
    out?.close();
    generation.end();
  }
}

async function handle(request, response) {
  try {
    await complete(request, response);
  } catch (error) {
    if (!(error instanceof Failure)) return response.destroy(error); // the client has gone, as a rule
    if (!response.headersSent) return answer(response, error.status, error.document, error.headers);
    response.end(`data: ${JSON.stringify(error.document)}\n\n`);
  }
}

const server = http.createServer({ noDelay: true, keepAliveTimeout: 60000 }, handle);
server.on("connection", (socket) => socket.on("end", () => socket.destroy())); // a client that closes its side has gone
process.on("SIGTERM", () => {
  server.close(() => process.exit(0));
  setInterval(() => server.closeIdleConnections(), 20);
  setTimeout(() => {
    for (const generation of [...running]) generation.end(new Failure(503, "server_error", "the server stops"));
    setTimeout(() => process.exit(0), 1000);
  }, DRAIN);
});
server.listen({ host: HOST, port: Number(PORT), backlog: 512 });
