// A WebSocket server on Node's event loop: a parser that bytes are pushed into, which keeps what is incomplete.
import crypto from "node:crypto";
import net from "node:net";

const setting = (name, value) => Number(process.env[name] ?? value);
const list = (name) => (process.env[name] ?? "").split(",").filter((item) => item !== "");
const MAX_MESSAGE = setting("MAX_MESSAGE", 1 << 20);
const MAX_PENDING = setting("MAX_PENDING", 16 << 20);
const HANDSHAKE_TIMEOUT = setting("HANDSHAKE_TIMEOUT_MS", 10000);
const PING_INTERVAL = setting("PING_INTERVAL_MS", 60000);
const PONG_TIMEOUT = setting("PONG_TIMEOUT_MS", 60000);
const CLOSE_TIMEOUT = setting("CLOSE_TIMEOUT_MS", 5000);
const ORIGINS = list("ORIGINS");
const SUBPROTOCOLS = list("SUBPROTOCOLS");

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG] = [0, 1, 2, 8, 9, 10];
const HIGH_WATER = 1 << 16;
const EMPTY = Buffer.alloc(0);

class Refusal extends Error {
  constructor(status, why, fields = []) {
    super(why);
    this.status = status;
    this.fields = fields;
  }
}

class ProtocolError extends Error {
  constructor(code, why) {
    super(why);
    this.code = code;
  }
}

// --- the opening handshake

function parseRequest(text) {
  const [first, ...lines] = text.split("\r\n");
  const words = first.split(" ");
  const fields = new Map();
  for (const line of lines) {
    const found = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*$/.exec(line);
    if (!found) throw new Refusal(400, "no HTTP");
    const name = found[1].toLowerCase();
    fields.set(name, [...(fields.get(name) ?? []), found[2]]);
  }
  if (words.length !== 3) throw new Refusal(400, "no HTTP");
  const lists = (name) => (fields.get(name) ?? []).flatMap((line) => line.split(",").map((item) => item.trim()));
  return { method: words[0], target: words[1], version: words[2], values: (name) => fields.get(name) ?? [], lists };
}

function handshake(request) {
  const path = request.target.split("?")[0];
  const room = /^\/rooms\/([A-Za-z0-9_-]{1,64})$/.exec(path)?.[1];
  if (path !== "/echo" && room === undefined) throw new Refusal(404, "nothing here");
  if (request.method !== "GET" || request.version !== "HTTP/1.1") throw new Refusal(400, "GET and HTTP/1.1");
  const has = (name, word) => request.lists(name).some((item) => item.toLowerCase() === word);
  if (!has("upgrade", "websocket") || !has("connection", "upgrade")) {
    throw new Refusal(426, "an upgrade is needed", ["Upgrade: websocket"]);
  }
  if (request.values("sec-websocket-version").join() !== "13") {
    throw new Refusal(426, "version 13", ["Sec-WebSocket-Version: 13", "Upgrade: websocket"]);
  }
  const [key, ...more] = request.values("sec-websocket-key");
  if (more.length || !/^[A-Za-z0-9+/]{22}==$/.test(key ?? "")) throw new Refusal(400, "one key of 16 bytes");
  const [origin] = request.values("origin");
  if (ORIGINS.length && origin !== undefined && !ORIGINS.includes(origin)) throw new Refusal(403, "not from there");
  const accept = crypto.createHash("sha1").update(key + GUID).digest("base64");
  const lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"];
  lines.push(`Sec-WebSocket-Accept: ${accept}`);
  const chosen = request.lists("sec-websocket-protocol").find((name) => SUBPROTOCOLS.includes(name));
  if (chosen !== undefined) lines.push(`Sec-WebSocket-Protocol: ${chosen}`);
  return { response: lines.join("\r\n") + "\r\n\r\n", room };
}

// --- frames

function encode(opcode, payload) {
  const size = payload.length;
  const head = Buffer.alloc(size < 126 ? 2 : size < 65536 ? 4 : 10);
  head[0] = 0x80 | opcode;
  if (size < 126) {
    head[1] = size;
  } else if (size < 65536) {
    head[1] = 126;
    head.writeUInt16BE(size, 2);
  } else {
    head[1] = 127;
    head.writeBigUInt64BE(BigInt(size), 2);
  }
  return Buffer.concat([head, payload]);
}

const isCode = (code) => (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);

const rooms = new Map();
const clients = new Set();

class Client {
  constructor(socket) {
    this.socket = socket;
    this.read = this.readHead; // what the next bytes are for
    this.chunks = [];
    this.size = 0;
    this.kind = CONTINUATION; // of the message under way
    this.parts = [];
    this.total = 0;
    this.closing = false;
    this.over = false;
    this.heard = Date.now();
    this.timer = setTimeout(() => socket.destroy(), HANDSHAKE_TIMEOUT);
    clients.add(this);
    socket.setNoDelay(true);
    socket.on("data", (data) => this.receive(data));
    socket.on("end", () => this.finish());
    socket.on("drain", () => socket.resume());
    socket.on("error", () => {}); // "close" follows
    socket.on("close", () => this.gone());
  }

  // bytes in: `peek` shows so many, or nothing while they have not come

  receive(data) {
    this.heard = Date.now();
    if (this.over) return;
    this.chunks.push(data);
    this.size += data.length;
    try {
      while (!this.over && this.read());
    } catch (error) {
      if (error instanceof Refusal) this.refuse(error);
      else if (error instanceof ProtocolError) this.fail(error.code, error.message);
      else throw error;
    }
  }

  peek(number) {
    if (this.size < number) return undefined;
    if (this.chunks.length > 1) this.chunks = [Buffer.concat(this.chunks)];
    return (this.chunks[0] ?? EMPTY).subarray(0, number);
  }

  skip(number) {
    this.size -= number;
    this.chunks = this.size ? [this.chunks[0].subarray(number)] : [];
  }

  readHead() {
    const all = this.peek(this.size);
    const end = all.indexOf("\r\n\r\n");
    if (end < 0) {
      if (all.length > 16384) throw new Refusal(431, "too long");
      return false;
    }
    const { response, room } = handshake(parseRequest(all.toString("latin1", 0, end)));
    this.skip(end + 4);
    if (room !== undefined) this.enter(room);
    this.socket.write(response);
    this.read = this.readFrame;
    clearTimeout(this.timer);
    this.beat();
    return true;
  }

  readFrame() {
    let head = this.peek(2);
    if (!head) return false;
    const [first, second] = head;
    const [fin, opcode, short] = [first >> 7 === 1, first & 15, second & 127];
    if (first & 0x70) throw new ProtocolError(1002, "a reserved bit");
    if (![CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG].includes(opcode)) throw new ProtocolError(1002, "no such opcode");
    if (second < 128) throw new ProtocolError(1002, "not masked");
    if (opcode >= CLOSE && (!fin || short > 125)) throw new ProtocolError(1002, "a bad control frame");
    if (opcode < CLOSE && (opcode === CONTINUATION) !== (this.kind !== CONTINUATION)) {
      throw new ProtocolError(1002, "fragments in disorder");
    }
    const wide = short === 126 ? 2 : short === 127 ? 8 : 0;
    head = this.peek(2 + wide + 4);
    if (!head) return false;
    const length = wide === 2 ? BigInt(head.readUInt16BE(2)) : wide === 8 ? head.readBigUInt64BE(2) : BigInt(short);
    if ((wide === 2 && length < 126n) || (wide === 8 && length < 65536n)) throw new ProtocolError(1002, "a long length");
    if (length >> 63n) throw new ProtocolError(1002, "a length of 64 bits");
    if (opcode < CLOSE && length > BigInt(MAX_MESSAGE - this.total)) throw new ProtocolError(1009, "too big");
    this.frame = { fin, opcode, left: Number(length), key: Buffer.from(head.subarray(2 + wide)), at: 0, control: [] };
    this.skip(2 + wide + 4);
    if (opcode === TEXT) this.text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    if (opcode === BINARY) this.text = undefined;
    if (opcode === TEXT || opcode === BINARY) this.kind = opcode;
    this.read = this.readPayload;
    return true;
  }

  readPayload() {
    const frame = this.frame;
    const piece = Buffer.from(this.peek(Math.min(frame.left, this.size)));
    if (frame.left && !piece.length) return false;
    this.skip(piece.length);
    for (let i = 0; i < piece.length; i++) piece[i] ^= frame.key[(frame.at + i) & 3];
    frame.at += piece.length;
    frame.left -= piece.length;
    if (frame.opcode >= CLOSE) {
      frame.control.push(piece);
    } else {
      if (this.text) this.check(piece, frame.fin && !frame.left);
      if (piece.length) this.parts.push(piece);
      this.total += piece.length;
    }
    if (!frame.left) {
      this.read = this.readFrame;
      if (frame.opcode >= CLOSE) this.control(frame.opcode, Buffer.concat(frame.control));
      else if (frame.fin) this.complete();
    }
    return true;
  }

  check(piece, last) {
    try {
      this.text.decode(piece, { stream: !last });
    } catch {
      throw new ProtocolError(1007, "no UTF-8");
    }
  }

  complete() {
    const frame = encode(this.kind, Buffer.concat(this.parts));
    this.kind = CONTINUATION;
    this.parts = [];
    this.total = 0;
    if (this.room === undefined) {
      this.send(frame);
      if (this.socket.writableLength > HIGH_WATER) this.socket.pause();
    } else {
      for (const member of [...this.room]) if (member !== this) member.send(frame);
    }
  }

  control(opcode, payload) {
    if (opcode === PING) this.send(encode(PONG, payload));
    if (opcode !== CLOSE) return;
    if (payload.length === 1 || (payload.length && !isCode(payload.readUInt16BE(0)))) {
      throw new ProtocolError(1002, "no code");
    }
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(payload.subarray(2));
    } catch {
      throw new ProtocolError(1007, "no UTF-8");
    }
    this.close(payload.subarray(0, 2));
    this.finish();
  }

  // bytes out

  send(frame) {
    if (this.closing) return;
    this.socket.write(frame);
    if (this.socket.writableLength > MAX_PENDING) {
      this.leave();
      this.closing = true;
      this.socket.destroy();
    }
  }

  close(payload) {
    this.send(encode(CLOSE, payload));
    this.closing = true;
    this.leave();
  }

  fail(code, why) {
    const payload = Buffer.alloc(2 + why.length);
    payload.writeUInt16BE(code);
    payload.write(why, 2);
    this.close(payload);
    this.finish();
  }

  refuse({ status, message, fields }) {
    const lines = [`HTTP/1.1 ${status} Refused`, ...fields, "Connection: close", `Content-Length: ${message.length}`];
    this.socket.write(lines.join("\r\n") + "\r\n\r\n" + message);
    this.finish();
  }

  goAway() {
    if (this.read === this.readHead) return this.socket.destroy();
    this.close(Buffer.from([0x03, 0xe9]));
    setTimeout(() => this.socket.destroy(), CLOSE_TIMEOUT);
  }

  finish() {
    this.over = true;
    this.closing = true;
    this.leave();
    clearTimeout(this.timer);
    this.socket.end();
    this.socket.resume();
    this.timer = setTimeout(() => this.socket.destroy(), CLOSE_TIMEOUT);
  }

  // life

  beat() {
    const idle = Date.now() - this.heard;
    if (idle < PING_INTERVAL) {
      this.timer = setTimeout(() => this.beat(), PING_INTERVAL - idle);
      return;
    }
    this.send(encode(PING, EMPTY));
    const asked = Date.now();
    this.timer = setTimeout(() => (this.heard >= asked ? this.beat() : this.socket.destroy()), PONG_TIMEOUT);
  }

  enter(name) {
    if (!rooms.has(name)) rooms.set(name, new Set());
    this.name = name;
    this.room = rooms.get(name);
    this.room.add(this);
  }

  leave() {
    if (this.room === undefined) return;
    this.room.delete(this);
    if (!this.room.size && rooms.get(this.name) === this.room) rooms.delete(this.name);
  }

  gone() {
    clearTimeout(this.timer);
    this.closing = true;
    this.leave();
    clients.delete(this);
    if (stopping && !clients.size) process.exit(0);
  }
}

let stopping = false;
const server = net.createServer({ allowHalfOpen: true }, (socket) => new Client(socket));

process.on("SIGTERM", () => {
  stopping = true;
  server.close();
  if (!clients.size) process.exit(0);
  for (const client of clients) client.goAway();
  setTimeout(() => process.exit(0), CLOSE_TIMEOUT + 500);
});

server.listen({ host: process.env.HOST ?? "127.0.0.1", port: setting("PORT", 8000), backlog: 512 });
