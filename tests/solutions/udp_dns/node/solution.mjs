// An authoritative name server on Node's dgram and net. Names are kept as hex of their lower-cased wire form, the zone
// is a tree of labels, answers are written without compression, and datagrams that are too long lose whole sections.
import dgram from "node:dgram";
import fs from "node:fs";
import net from "node:net";

const { HOST, PORT, ZONE, ZONE_FILE } = process.env;
const TYPE = { A: 1, NS: 2, CNAME: 5, SOA: 6, MX: 15, TXT: 16, AAAA: 28 };
const OPT = 41, IN = 1;
const FORMERR = 1, NXDOMAIN = 3, NOTIMP = 4, REFUSED = 5, BADVERS = 16;
const MOST_UNSENT = 1 << 18;

// --- names: arrays of Buffers

const labelsOf = (text) => text.split(".").filter(Boolean).map((label) => Buffer.from(label, "latin1"));
const toWire = (labels) => Buffer.concat([...labels.flatMap((l) => [Buffer.from([l.length]), l]), Buffer.from([0])]);
const folded = (label) => Buffer.from(label.map((byte) => (byte >= 65 && byte <= 90 ? byte + 32 : byte))).toString("hex");
const STAR = folded(Buffer.from("*"));

// --- the zone: a tree from the origin downwards

class Node {
  children = new Map();
  records = new Map(); // type -> [{ ttl, data }]
}

const origin = labelsOf(ZONE);
const apex = new Node();

function u16(...numbers) {
  const buffer = Buffer.alloc(2 * numbers.length);
  numbers.forEach((number, at) => buffer.writeUInt16BE(number, 2 * at));
  return buffer;
}

function u32(...numbers) {
  const buffer = Buffer.alloc(4 * numbers.length);
  numbers.forEach((number, at) => buffer.writeUInt32BE(number, 4 * at));
  return buffer;
}

function encode(kind, text) {
  const words = text.split(/\s+/);
  switch (kind) {
    case "A":
      return Buffer.from(text.split(".").map(Number));
    case "AAAA":
      return u16(...text.split(":").map((group) => parseInt(group, 16)));
    case "MX":
      return Buffer.concat([u16(Number(words[0])), toWire(labelsOf(words[1]))]);
    case "TXT":
      return Buffer.concat(
        [...text.matchAll(/"([^"]*)"/g)].map(([, part]) => Buffer.concat([Buffer.from([part.length]), Buffer.from(part)])),
      );
    case "SOA":
      return Buffer.concat([toWire(labelsOf(words[0])), toWire(labelsOf(words[1])), u32(...words.slice(2).map(Number))]);
    default:
      return toWire(labelsOf(text));
  }
}

for (const line of fs.readFileSync(ZONE_FILE, "latin1").split("\n")) {
  const found = /^(\S+)\s+(\d+)\s+IN\s+(\S+)\s+(.*)$/.exec(line);
  if (!found) continue;
  const [, owner, ttl, kind, text] = found;
  let node = apex;
  for (const label of labelsOf(owner).slice(0, -origin.length || undefined).reverse()) {
    const key = folded(label);
    if (!node.children.has(key)) node.children.set(key, new Node());
    node = node.children.get(key);
  }
  const type = TYPE[kind];
  if (!node.records.has(type)) node.records.set(type, []);
  node.records.get(type).push({ ttl: Number(ttl), data: encode(kind, text.trim()) });
}

const [soa] = apex.records.get(TYPE.SOA);
const denial = { owner: origin, type: TYPE.SOA, ttl: Math.min(soa.ttl, soa.data.readUInt32BE(soa.data.length - 4)), data: soa.data };

const inZone = (labels) =>
  labels.length >= origin.length &&
  origin.every((label, at) => folded(label) === folded(labels[labels.length - origin.length + at]));

const rrs = (owner, node, type) => (node.records.get(type) ?? []).map((record) => ({ owner, type, ...record }));

/** { node } that answers for the name, { cut, node } of a delegation, or {} when there is no such name. */
function locate(labels) {
  let node = apex;
  for (let depth = labels.length - origin.length - 1; depth >= 0; depth--) {
    const next = node.children.get(folded(labels[depth]));
    if (!next) return { node: node.children.get(STAR) };
    if (next.records.has(TYPE.NS)) return { cut: labels.slice(depth), node: next };
    node = next;
  }
  return { node };
}

function unwire(data) {
  const labels = [];
  for (let at = 0; data[at]; at += 1 + data[at]) labels.push(data.subarray(at + 1, at + 1 + data[at]));
  return labels;
}

function addresses(data) {
  const name = unwire(data);
  if (!inZone(name)) return [];
  let node = apex;
  for (const label of name.slice(0, name.length - origin.length).reverse()) node = node?.children.get(folded(label));
  return node ? [...rrs(name, node, TYPE.A), ...rrs(name, node, TYPE.AAAA)] : [];
}

function consult(labels, type) {
  const reply = { rcode: 0, aa: true, answer: [], authority: [], additional: [] };
  if (!inZone(labels)) return { ...reply, rcode: REFUSED, aa: false };
  for (let steps = 0; steps < 12 && inZone(labels); steps++) {
    const { cut, node } = locate(labels);
    if (cut) {
      reply.aa = reply.answer.length > 0;
      reply.authority = rrs(cut, node, TYPE.NS);
      reply.additional = reply.authority.flatMap((record) => addresses(record.data));
      return reply;
    }
    if (!node) return { ...reply, rcode: NXDOMAIN, authority: [denial] };
    const alias = type === TYPE.CNAME ? [] : rrs(labels, node, TYPE.CNAME);
    if (alias.length) {
      reply.answer.push(...alias);
      labels = unwire(alias[0].data);
      continue;
    }
    const found = type === 255 ? [...node.records.keys()].flatMap((kind) => rrs(labels, node, kind)) : rrs(labels, node, type);
    reply.answer.push(...found);
    if (!found.length) reply.authority = [denial];
    return reply;
  }
  return reply;
}

// --- messages

const record = ({ owner, type, ttl, data }) =>
  Buffer.concat([toWire(owner), u16(type, IN), u32(ttl), u16(data.length), data]);

/** The query in a message; throws on whatever is wrong with it. */
function parse(message) {
  if (message.readUInt16BE(4) !== 1) throw new Error("one question");
  let at = 12;
  const labels = [];
  for (let size; (size = message.readUInt8(at)); at += 1 + size) {
    if (size > 63 || at + size >= message.length || at - 12 + size > 253) throw new Error("bad name");
    labels.push(message.subarray(at + 1, at + 1 + size));
  }
  const query = { labels, type: message.readUInt16BE(at + 1), class_: message.readUInt16BE(at + 3) };
  at += 5;
  query.question = message.subarray(12, at);
  let more = message.readUInt16BE(6) + message.readUInt16BE(8) + message.readUInt16BE(10);
  for (; more > 0; more--) {
    const owner = message.readUInt8(at);
    let size;
    while ((size = message.readUInt8(at)) && size < 192) at += 1 + size;
    at += size ? 2 : 1;
    if (message.readUInt16BE(at) === OPT) {
      if (query.edns || owner) throw new Error("bad OPT");
      query.edns = { size: message.readUInt16BE(at + 2), version: message.readUInt8(at + 5) };
    }
    at += 10 + message.readUInt16BE(at + 8);
    if (at > message.length) throw new Error("cut off");
  }
  return query;
}

function respond(message, tcp) {
  if (message.length < 12 || message[2] & 0x80) return null;
  const flags = message.readUInt16BE(2);
  const head = (bits, ...counts) => Buffer.concat([message.subarray(0, 2), u16(0x8000 | (flags & 0x7900) | bits, ...counts)]);
  if (flags & 0x7800) return head(NOTIMP, 0, 0, 0, 0);
  let query;
  try {
    query = parse(message);
  } catch {
    return head(FORMERR, 0, 0, 0, 0);
  }
  const nothing = { aa: false, answer: [], authority: [], additional: [] };
  let reply;
  if (query.edns?.version) reply = { ...nothing, rcode: BADVERS };
  else if (query.class_ !== IN || query.type === 252 || query.type === 251) reply = { ...nothing, rcode: REFUSED };
  else reply = consult(query.labels, query.type);
  const limit = tcp ? 65535 : Math.min(Math.max(query.edns?.size ?? 512, 512), 1400);
  const opt = query.edns ? [Buffer.concat([Buffer.from([0]), u16(OPT, 1400), Buffer.from([reply.rcode >> 4, 0, 0, 0, 0, 0])])] : [];
  const write = (tc, { answer, authority, additional }) =>
    Buffer.concat([
      head((reply.aa ? 0x400 : 0) | tc | (reply.rcode & 15), 1, answer.length, authority.length, additional.length + opt.length),
      query.question,
      ...[...answer, ...authority, ...additional].map(record),
      ...opt,
    ]);
  const whole = write(0, reply);
  if (whole.length <= limit) return whole;
  const fitting = [];
  let room = limit - query.question.length - 12 - 11;
  for (const each of reply.answer) if ((room -= record(each).length) >= 0) fitting.push(each);
  return write(0x200, { ...nothing, answer: fitting });
}

// --- transports

const datagrams = dgram.createSocket("udp4");
datagrams.on("message", (message, source) => {
  const reply = respond(message, false);
  if (reply) datagrams.send(reply, source.port, source.address);
});
datagrams.bind(Number(PORT), HOST);

const server = net.createServer({ allowHalfOpen: true }, (socket) => {
  let pending = Buffer.alloc(0);
  let ended = false;
  const work = () => {
    let at = 0;
    while (socket.writableLength < MOST_UNSENT && pending.length - at >= 2) {
      const end = at + 2 + pending.readUInt16BE(at);
      if (pending.length < end) break;
      const reply = respond(pending.subarray(at + 2, end), true);
      if (reply) socket.write(Buffer.concat([u16(reply.length), reply]));
      at = end;
    }
    pending = pending.subarray(at);
    if (socket.writableLength >= MOST_UNSENT) socket.pause();
    else if (ended) socket.end();
    else socket.resume();
  };
  socket.on("data", (data) => {
    pending = Buffer.concat([pending, data]);
    work();
  });
  socket.on("drain", work);
  socket.on("end", () => {
    ended = true;
    work();
  });
  socket.on("error", () => socket.destroy());
});
server.listen(Number(PORT), HOST);

process.on("SIGTERM", () => process.exit(0));
