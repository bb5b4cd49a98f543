// One TCP listener reads the ClientHello, puts it back, and hands the connection to the https server of its site, which
// does all of TLS and HTTP. A reload makes new https servers; the old ones serve who is connected.

import { readFileSync } from "node:fs";
import https from "node:https";
import net from "node:net";
import path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

const HANDSHAKE = Number(process.env.HANDSHAKE_MS ?? 60000);
const SHUTDOWN = Number(process.env.SHUTDOWN_MS ?? 2000);
const SITES = process.env.SITES;
const LONGEST_HELLO = 65536;
const LARGEST_NOTE = 1 << 20;
const MOST_BYTES = 1 << 26;
const PIECE = Buffer.alloc(1 << 16, "x");

const notes = new Map();
const connections = new Map(); // "address:port" of a client -> { raw, tls, busy, deadline }
const states = new WeakMap(); // the same, by the TLS socket
let stopping = false;

class NoHello extends Error {}

// -- sites ----------------------------------------------------------------------------------------------------------

function load() {
  const folder = path.dirname(SITES);
  const read = (name) => readFileSync(path.join(folder, name));
  const listed = JSON.parse(readFileSync(SITES, "utf8"));
  if (!Array.isArray(listed) || !listed.length) throw new Error("there is no site");
  const sites = listed.map((entry) => {
    const site = { names: entry.names.map((name) => name.toLowerCase()) };
    const options = {
      cert: read(entry.chain),
      key: read(entry.key),
      minVersion: "TLSv1.2",
      ciphers: "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:ECDHE+AESGCM:ECDHE+CHACHA20",
      ALPNProtocols: ["http/1.1"],
      handshakeTimeout: HANDSHAKE,
    };
    if (entry.client_ca) {
      const ca = read(entry.client_ca);
      if (!ca.includes("BEGIN CERTIFICATE")) throw new Error(`${entry.client_ca} holds no certificate`);
      Object.assign(options, { ca, requestCert: true, rejectUnauthorized: true });
    }
    site.server = https.createServer(options, (request, response) => answer(site, sites, request, response));
    site.server.on("secureConnection", secured);
    site.server.on("tlsClientError", (_, socket) => socket.destroy());
    site.server.keepAliveTimeout = 0;
    return site;
  });
  return sites;
}

function find(sites, name) {
  const dot = name.indexOf(".");
  const wildcard = dot < 0 ? "" : "*" + name.slice(dot);
  return (
    sites.find((site) => site.names.includes(name)) ??
    sites.find((site) => wildcard && site.names.includes(wildcard)) ??
    sites[0]
  );
}

let current = load();

process.on("SIGHUP", () => {
  try {
    current = load();
  } catch (error) {
    console.log(`not reloaded: ${error.code ?? error.name}`);
  }
});

// -- the hello ------------------------------------------------------------------------------------------------------

// The body of the ClientHello at the front of `data`, null while it is not complete.
function clientHello(data) {
  const pieces = [];
  let size = 0;
  for (let at = 0; at < data.length; ) {
    if (data[at] !== 22) throw new NoHello();
    if (data.length < at + 5) return null;
    const length = data.readUInt16BE(at + 3);
    if (length === 0 || length > 16384) throw new NoHello();
    pieces.push(data.subarray(at + 5, Math.min(at + 5 + length, data.length)));
    size += pieces.at(-1).length;
    if (size >= 4) {
      const message = Buffer.concat(pieces);
      const wanted = message.readUIntBE(1, 3);
      if (message[0] !== 1 || wanted > LONGEST_HELLO) throw new NoHello();
      if (size >= 4 + wanted) return message.subarray(4, 4 + wanted);
    }
    at += 5 + length;
  }
  return null;
}

function serverName(hello) {
  let at = 34;
  const skip = (size) => {
    const length = hello.readUIntBE(at, size);
    at += size + length;
  };
  skip(1);
  skip(2);
  skip(1);
  at += 2;
  while (at + 4 <= hello.length) {
    const kind = hello.readUInt16BE(at);
    const length = hello.readUInt16BE(at + 2);
    if (kind === 0 && length > 5) {
      const size = hello.readUInt16BE(at + 7);
      return hello.subarray(at + 9, at + 9 + size).toString("latin1").toLowerCase();
    }
    at += 4 + length;
  }
  return "";
}

const listener = net.createServer((socket) => {
  const key = keyOf(socket);
  const state = { raw: socket, tls: null, busy: 0, deadline: setTimeout(() => socket.destroy(), HANDSHAKE) };
  connections.set(key, state);
  socket.on("error", () => socket.destroy());
  socket.on("close", () => {
    clearTimeout(state.deadline);
    connections.delete(key);
  });
  let received = Buffer.alloc(0);
  const gather = (data) => {
    received = Buffer.concat([received, data]);
    let site;
    try {
      const hello = clientHello(received);
      if (hello === null) return;
      site = find(current, serverName(hello));
    } catch {
      return socket.destroySoon();
    }
    socket.off("data", gather);
    socket.pause();
    socket.unshift(received);
    site.server.emit("connection", socket);
  };
  socket.on("data", gather);
});

function keyOf(socket) {
  return `${socket.remoteAddress}:${socket.remotePort}`;
}

function secured(tls) {
  const state = connections.get(keyOf(tls));
  if (!state) return tls.destroy();
  clearTimeout(state.deadline);
  state.tls = tls;
  states.set(tls, state);
  tls.on("error", () => tls.destroy());
}

// -- HTTP -----------------------------------------------------------------------------------------------------------

async function answer(site, sites, request, response) {
  const state = states.get(request.socket);
  if (!state) return; // it has gone already
  state.busy += 1;
  response.on("close", () => {
    state.busy -= 1;
    if (stopping && !state.busy) state.tls.end();
  });
  const pieces = [];
  let size = 0;
  try {
    for await (const piece of request) {
      size += piece.length;
      if (size <= LARGEST_NOTE) pieces.push(piece);
    }
  } catch {
    return; // cut off: nothing is done
  }
  if (stopping) response.shouldKeepAlive = false;
  await respond(site, sites, request, response, size > LARGEST_NOTE ? null : Buffer.concat(pieces));
}

function finish(response, status, body = "") {
  response.writeHead(status, status === 204 ? {} : { "Content-Length": Buffer.byteLength(body) });
  response.end(body);
}

async function respond(site, sites, request, response, body) {
  const host = (request.headers.host ?? "").split(":")[0].toLowerCase();
  if (body === null) return finish(response, 413);
  if (find(sites, host) !== site) return finish(response, 421);
  const { method, url } = request;
  if (method === "GET" && url === "/whoami") {
    const subject = site.server.requestCert ? request.socket.getPeerCertificate().subject : null;
    return finish(response, 200, JSON.stringify({ site: site.names[0], client: subject?.CN ?? null }));
  }
  const note = /^\/notes\/([A-Za-z0-9-]{1,64})$/.exec(url);
  if (note && method === "PUT") {
    notes.set(note[1], body);
    return finish(response, 204);
  }
  if (note && method === "GET" && notes.has(note[1])) return finish(response, 200, notes.get(note[1]));
  const bytes = /^\/bytes\/([0-9]{1,8})$/.exec(url);
  if (bytes && method === "GET" && Number(bytes[1]) <= MOST_BYTES) return stream(response, Number(bytes[1]));
  finish(response, 404);
}

function* pieces(size) {
  for (let left = size; left > 0; left -= PIECE.length) yield PIECE.subarray(0, Math.min(left, PIECE.length));
}

async function stream(response, size) {
  response.writeHead(200, { "Content-Length": size });
  await pipeline(Readable.from(pieces(size)), response).catch(() => response.destroy());
}

// -- the end --------------------------------------------------------------------------------------------------------

process.on("SIGTERM", () => {
  stopping = true;
  listener.close(() => process.exit(0));
  for (const { raw, tls, busy } of connections.values()) {
    if (!tls) raw.destroy();
    else if (!busy) tls.end();
  }
  setTimeout(() => process.exit(0), SHUTDOWN);
});

listener.listen(Number(process.env.PORT ?? 8443), process.env.HOST ?? "127.0.0.1", 511);
