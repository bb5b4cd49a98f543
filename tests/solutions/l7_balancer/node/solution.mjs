// A balancer on Node's own HTTP client and server: streams that are piped, an agent for each upstream.
//
// Freer than the reference where the brief allows: 100 Continue is its own, absolute targets are passed on as they are,
// of equally loaded upstreams a random one is chosen, the rest of a request that was answered early is read and dropped.

import http from 'node:http';
import process from 'node:process';

const number = (name, otherwise) => Number(process.env[name] ?? otherwise);
const ROBIN = process.env.BALANCE === 'round_robin';
const COOKIE = process.env.STICKY_COOKIE ?? '';
const REQUEST = number('REQUEST_TIMEOUT_MS', 20000);
const CONNECT = number('CONNECT_TIMEOUT_MS', 20000);
const RESPONSE = number('RESPONSE_TIMEOUT_MS', 20000);
const STALL = number('STALL_TIMEOUT_MS', 20000);
const MAX_FAILS = number('MAX_FAILS', 0);
const EJECT = number('EJECT_MS', 20000);
const INTERVAL = number('CHECK_INTERVAL_MS', 0);
const CHECK = number('CHECK_TIMEOUT_MS', 60000);
const SHUTDOWN = number('SHUTDOWN_MS', 5000);

const HOPS = ['connection', 'keep-alive', 'proxy-connection', 'te', 'transfer-encoding', 'upgrade'];
const ADDED = { via: () => '1.1 node', 'x-forwarded-for': (peer) => peer, forwarded: (peer) => `for=${peer};proto=http` };
const REPEATABLE = new Set(['GET', 'HEAD', 'OPTIONS', 'PUT', 'DELETE']);

// An idle connection that says anything, or ends, is not used again.
class Agent extends http.Agent {
  keepSocketAlive(socket) {
    if (!super.keepSocketAlive(socket)) return false;
    socket.stray = () => socket.destroy();
    socket.on('data', socket.stray);
    socket.on('end', socket.stray);
    socket.resume();
    return true;
  }

  reuseSocket(socket, request) {
    socket.off('data', socket.stray);
    socket.off('end', socket.stray);
    super.reuseSocket(socket, request);
  }
}

class Upstream {
  active = 0;
  failures = 0;
  backAt = 0;
  healthy = true;
  against = 0;
  agent = new Agent({ keepAlive: true, maxFreeSockets: 1000 });
  cookie = Math.random().toString(36).slice(2);

  constructor(address) {
    const [host, port] = address.split(':');
    this.at = { host, port: Number(port) };
  }

  get out() {
    return !this.healthy || performance.now() < this.backAt;
  }

  failed() {
    this.failures += 1;
    if (!MAX_FAILS || this.failures < MAX_FAILS) return;
    this.failures = 0;
    this.backAt = performance.now() + EJECT;
  }

  check() {
    let done = false;
    const judge = (passed) => {
      if (done) return;
      done = true;
      clearTimeout(timer);
      request.destroy();
      this.against = passed === this.healthy ? 0 : this.against + 1;
      if (this.against === 2) [this.healthy, this.against] = [passed, 0];
      setTimeout(() => this.check(), INTERVAL);
    };
    const request = http.get({ ...this.at, path: '/healthz', agent: false });
    const timer = setTimeout(judge, CHECK, false);
    request.on('response', (response) => judge(response.statusCode >= 200 && response.statusCode < 300));
    request.on('error', () => judge(false));
  }
}

const upstreams = (process.env.UPSTREAMS ?? '127.0.0.1:9000').split(',').map((address) => new Upstream(address));
let turn = 0;
let stopping = false;

function choose(tried, cookie) {
  const there = upstreams.filter((each) => !each.out && !tried.includes(each));
  const wanted = there.find((each) => COOKIE && each.cookie === cookie);
  if (wanted || !there.length) return wanted;
  if (ROBIN) {
    while (!there.includes(upstreams[turn])) turn = (turn + 1) % upstreams.length;
    const chosen = upstreams[turn];
    turn = (turn + 1) % upstreams.length;
    return chosen;
  }
  const least = Math.min(...there.map((each) => each.active));
  const equals = there.filter((each) => each.active === least);
  return equals[Math.floor(Math.random() * equals.length)];
}

// The fields of a message as {name: [line, ...]}, without those of its connection.
function passed(raw) {
  const fields = new Map();
  for (let at = 0; at < raw.length; at += 2) {
    const name = raw[at].toLowerCase();
    fields.set(name, [...(fields.get(name) ?? []), raw[at + 1]]);
  }
  const named = (fields.get('connection') ?? []).join(',').toLowerCase().split(',').map((word) => word.trim());
  for (const name of [...HOPS, ...named]) if (name !== 'host' && name !== 'content-length') fields.delete(name);
  return fields;
}

function fieldsOf(request) {
  const fields = passed(request.rawHeaders);
  fields.delete('expect');
  for (const [name, make] of Object.entries(ADDED)) {
    fields.set(name, [[...(fields.get(name) ?? []), make(request.socket.remoteAddress)].join(', ')]);
  }
  if (request.headers['transfer-encoding']) fields.set('transfer-encoding', ['chunked']);
  return Object.fromEntries([...fields].map(([name, lines]) => [name, lines.length === 1 ? lines[0] : lines]));
}

const cookieOf = (request) =>
  (request.headers.cookie ?? '').split(';').map((pair) => pair.trim().split('=')).find(([name]) => name === COOKIE)?.[1];

// One request of a client, at one upstream after the other.
class Exchange {
  tried = [];
  status = 503;

  constructor(request, response) {
    this.request = request;
    this.response = response;
    this.bodiless = !request.headers['transfer-encoding'] && !Number(request.headers['content-length'] ?? 0);
    this.cookie = cookieOf(request);
    response.on('close', () => this.left());
    response.on('finish', () => stopping && request.socket.end());
    request.on('error', () => {});
    response.on('error', () => {});
    this.next();
  }

  next() {
    const upstream = choose(this.tried, this.cookie);
    if (!upstream) return this.answer(this.status);
    this.tried.push(upstream);
    this.attempt(upstream);
  }

  attempt(upstream) {
    this.upstream = upstream;
    upstream.active += 1;
    this.sent = false;
    const { request } = this;
    const options = { ...upstream.at, agent: upstream.agent, method: request.method, path: request.url, headers: fieldsOf(request) };
    const out = (this.out = http.request({ ...options, setHost: false }));
    out.on('socket', (socket) => (socket.connecting ? this.connecting(out, socket) : this.send(out)));
    out.on('information', ({ statusCode, rawHeaders }) => this.interim(statusCode, rawHeaders));
    out.on('response', (answer) => out === this.out && this.answered(answer));
    out.on('error', () => out === this.out && this.failed(502));
    out.flushHeaders();
  }

  connecting(out, socket) {
    this.wait(CONNECT, () => this.failed(502));
    socket.once('connect', () => out === this.out && this.send(out));
  }

  send(out) {
    this.sent = true;
    clearTimeout(this.timer);
    out.on('finish', () => out === this.out && !this.head && this.wait(RESPONSE, () => this.failed(504)));
    if (this.bodiless) return out.end();
    const { request } = this;
    if (request.expects) this.response.writeContinue();
    const moves = () => {
      clearTimeout(this.uploading);
      if (!request.complete && out === this.out) this.uploading = setTimeout(() => this.stalled(), STALL);
    };
    request.on('data', moves);
    request.on('end', moves);
    request.pipe(out);
    moves();
  }

  stalled() {
    if (this.head) return this.breakOff();
    this.give();
    this.answer(408);
  }

  interim(status, raw) {
    if (status === 101) return;
    const lines = [...passed(raw)].flatMap(([name, values]) => values.map((value) => `${name}: ${value}`));
    const head = [`HTTP/1.1 ${status} ${http.STATUS_CODES[status] ?? ''}`, ...lines, '', ''].join('\r\n');
    this.request.socket.write(head, 'latin1');
  }

  answered(answer) {
    clearTimeout(this.timer);
    this.head = answer;
    const fields = passed(answer.rawHeaders);
    if (answer.headers['transfer-encoding'] || answer.statusCode === 204) fields.delete('content-length');
    if (COOKIE && this.cookie !== this.upstream.cookie) {
      fields.set('set-cookie', [...(fields.get('set-cookie') ?? []), `${COOKIE}=${this.upstream.cookie}`]);
    }
    if (stopping) fields.set('connection', ['close']);
    const { response } = this;
    for (const [name, lines] of fields) response.setHeader(name, lines.length === 1 ? lines[0] : lines);
    response.writeHead(answer.statusCode, answer.statusMessage);
    response.flushHeaders();
    const moves = () => this.wait(STALL, () => this.breakOff());
    answer.on('data', moves);
    answer.on('aborted', () => this.breakOff());
    answer.on('error', () => this.breakOff());
    answer.on('end', () => answer.complete && this.ended());
    answer.pipe(response);
    moves();
  }

  ended() {
    this.upstream.failures = 0;
    clearTimeout(this.timer);
    if (this.request.complete) return this.give(false);
    this.request.unpipe(this.out);
    this.give();
    this.request.resume();
  }

  failed(status) {
    if (this.head) return this.breakOff();
    this.upstream.failed();
    const again = !this.sent || (status !== 504 && this.bodiless && REPEATABLE.has(this.request.method));
    this.status = status;
    this.give();
    if (again) this.next();
    else this.answer(status);
  }

  answer(status) {
    if (this.response.headersSent || this.response.destroyed) return;
    const { request } = this;
    if (stopping || (status === 408 && !request.complete)) this.response.setHeader('connection', 'close');
    this.response.writeHead(status, { 'content-length': 0 }).end();
    request.unpipe();
    request.resume();
  }

  breakOff() {
    this.give();
    this.response.destroy();
    this.request.socket.destroy();
  }

  left() {
    if (!this.response.writableFinished) this.give();
  }

  // The upstream has no more to do with it; its connection is closed, unless all has gone well.
  give(close = true) {
    const { out } = this;
    if (!out) return;
    this.out = undefined;
    this.upstream.active -= 1;
    clearTimeout(this.timer);
    clearTimeout(this.uploading);
    if (close) out.destroy();
  }

  wait(milliseconds, then) {
    clearTimeout(this.timer);
    this.timer = setTimeout(then, milliseconds);
  }
}

const pace = REQUEST < 2000 ? { connectionsCheckingInterval: REQUEST / 4 } : {};
const server = http.createServer({ headersTimeout: REQUEST, requestTimeout: 0, keepAliveTimeout: 0, noDelay: true, ...pace });
server.on('request', (request, response) => new Exchange(request, response));
server.on('checkContinue', (request, response) => {
  request.expects = true;
  new Exchange(request, response);
});
server.on('connect', (request, socket) => socket.end('HTTP/1.1 501 Not Implemented\r\nConnection: close\r\n\r\n'));
server.listen({ port: number('PORT', 8000), host: process.env.HOST ?? '127.0.0.1', backlog: 512 });
if (INTERVAL) for (const each of upstreams) each.check();

process.on('SIGTERM', () => {
  stopping = true;
  server.close(() => process.exit(0));
  server.closeIdleConnections();
  setTimeout(() => process.exit(0), SHUTDOWN);
});
