// An HTTP/1.1 origin server on plain sockets: a parser that is pushed bytes and keeps a state, where the reference pulls.
//
// Lenient where the reference is strict, as far as the brief allows: a bare LF ends a line, folds become blanks, equal
// lengths are one, chunks win over a length, several ranges are parts, and trailing input of refused bodies is drained.

import net from 'node:net';
import process from 'node:process';

import { REASONS, Request, answer, text } from './resources.mjs';

const number = (name, otherwise) => Number(process.env[name] ?? otherwise);
const MAX_TARGET = number('MAX_TARGET', 8000);
const MAX_FIELDS = number('MAX_FIELDS', 16384);
const MAX_BODY = number('MAX_BODY', 1048576);
const REQUEST_TIMEOUT = number('REQUEST_TIMEOUT_MS', 10000);
const KEEP_ALIVE = number('KEEP_ALIVE_MS', 60000);
const SHUTDOWN = number('SHUTDOWN_MS', 2000);
const LINGER = 2500;

const TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
const REQUEST_LINE = new RegExp(`^(${TOKEN}) ([!-~]+) HTTP/([0-9])\\.([0-9])$`);
const FIELD_LINE = new RegExp(`^(${TOKEN}):[\\t ]*([\\t -~\\x80-\\xff]*?)[\\t ]*$`);
const CHUNK_LINE = /^([0-9A-Fa-f]{1,12})[\t ]*(;.*)?$/;
const HOST = /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?$/;

class Refused extends Error {
  constructor(status) {
    super(REASONS[status]);
    this.status = status;
  }
}

// -- the parser: bytes in, requests out -------------------------------------------------------------------------

class Parser {
  state = 'start';
  buffered = [];
  length = 0;

  push(data) {
    this.buffered.push(data);
    this.length += data.length;
  }

  get begun() {
    return this.state !== 'start' || this.length > 0;
  }

  get headless() {
    return this.state === 'start' || this.state === 'fields';
  }

  take(size) {
    const whole = this.buffered.length === 1 ? this.buffered[0] : Buffer.concat(this.buffered);
    this.buffered = whole.length > size ? [whole.subarray(size)] : [];
    this.length = whole.length - Math.min(size, whole.length);
    return whole.subarray(0, size);
  }

  line(most, status) {
    const whole = this.buffered.length === 1 ? this.buffered[0] : Buffer.concat(this.buffered);
    this.buffered = whole.length ? [whole] : [];
    const end = whole.indexOf(10);
    if (end > most || (end < 0 && whole.length > most)) throw new Refused(status);
    if (end < 0) return undefined;
    const line = this.take(end + 1).toString('latin1').slice(0, -1);
    return line.endsWith('\r') ? line.slice(0, -1) : line;
  }

  // The next complete request, undefined while there is none; "continue" when the client waits for a 100.
  next() {
    for (;;) {
      const came = this[this.state]();
      if (came !== true) return came;
    }
  }

  start() {
    const line = this.line(MAX_TARGET + 40, 414);
    if (line === undefined) return undefined;
    if (line === '' && !this.skipped) {
      this.skipped = true;
      return true;
    }
    const [, method, target, major, minor] = REQUEST_LINE.exec(line) ?? [];
    if (!method) throw new Refused(400);
    if (target.length > MAX_TARGET) throw new Refused(414);
    if (major !== '1') throw new Refused(505);
    this.request = new Request(method, target, Math.min(Number(minor), 1));
    this.left = MAX_FIELDS;
    this.into = this.request.fields;
    this.skipped = false;
    this.state = 'fields';
    return true;
  }

  fields() {
    const line = this.line(this.left + 2, 431);
    if (line === undefined) return undefined;
    if (line === '') return this.ended();
    this.left -= line.length + 2;
    const previous = this.into.at(-1);
    if (/^[ \t]/.test(line) && previous) {
      if (!/^[\t -~\x80-\xff]*$/.test(line)) throw new Refused(400);
      previous[1] = `${previous[1]} ${line.trim()}`;
      return true;
    }
    const [, name, value] = FIELD_LINE.exec(line) ?? [];
    if (!name) throw new Refused(400);
    this.into.push([name.toLowerCase(), value]);
    return true;
  }

  ended() {
    if (this.into !== this.request.fields) return this.complete(); // those were trailers
    this.locate();
    return this.frame();
  }

  locate() {
    const { request } = this;
    const hosts = request.lines('host');
    if (hosts.length > 1 || (request.minor && !hosts.length) || !hosts.every((host) => HOST.test(host))) throw new Refused(400);
    const [, authority, rest] = /^https?:\/\/([^/?]*)(.*)$/i.exec(request.target) ?? [];
    request.host = authority ?? hosts[0] ?? '';
    if (authority !== undefined) request.target = rest.startsWith('/') ? rest : `/${rest}`;
    if (!request.target.startsWith('/')) throw new Refused(400);
  }

  frame() {
    const { request } = this;
    const codings = request.elements('transfer-encoding');
    const lengths = request.elements('content-length');
    this.pieces = [];
    this.size = 0;
    if (codings.length) {
      if (codings.length > 1 || codings[0] !== 'chunked') throw new Refused(codings.at(-1) === 'chunked' ? 501 : 400);
      request.ambiguous = lengths.length > 0 || request.minor === 0;
      this.state = 'chunk';
    } else {
      const length = lengths[0] ?? '0';
      if (!lengths.every((each) => each === length) || !/^[0-9]+$/.test(length)) throw new Refused(400);
      if (Number(length) > MAX_BODY) throw new Refused(413);
      this.missing = Number(length);
      this.state = 'body';
      if (this.missing === 0) return this.complete();
    }
    const waits = request.minor && request.elements('expect').includes('100-continue');
    return waits && !this.length ? 'continue' : true;
  }

  gather() {
    if (!this.length) return false;
    const piece = this.take(Math.min(this.missing, this.length));
    this.pieces.push(piece);
    this.missing -= piece.length;
    return this.missing === 0;
  }

  body() {
    return this.gather() ? this.complete() : undefined;
  }

  chunk() {
    const line = this.line(4096, 400);
    if (line === undefined) return undefined;
    const [, digits] = CHUNK_LINE.exec(line) ?? [];
    if (!digits) throw new Refused(400);
    this.missing = parseInt(digits, 16);
    this.size += this.missing;
    if (this.size > MAX_BODY) throw new Refused(413);
    this.state = this.missing ? 'data' : 'fields';
    if (!this.missing) {
      this.into = [];
      this.left = MAX_FIELDS;
    }
    return true;
  }

  data() {
    if (!this.gather()) return undefined;
    this.state = 'behind';
    return true;
  }

  behind() {
    const line = this.line(2, 400);
    if (line === undefined) return undefined;
    if (line !== '') throw new Refused(400);
    this.state = 'chunk';
    return true;
  }

  complete() {
    const { request } = this;
    request.body = Buffer.concat(this.pieces);
    this.pieces = [];
    this.state = 'start';
    return request;
  }
}

// -- connections ------------------------------------------------------------------------------------------------

const connections = new Set();
let stopping = false;

class Connection {
  parser = new Parser();
  writing = false; // the client has not taken the last response yet
  over = false; // the last response has been written: what comes now is thrown away
  ended = false;

  constructor(socket) {
    this.socket = socket;
    connections.add(this);
    socket.setNoDelay();
    socket.on('data', (data) => this.came(data));
    socket.on('end', () => this.eof());
    socket.on('drain', () => this.drained());
    socket.on('error', () => {});
    socket.on('close', () => this.gone());
    this.wait(KEEP_ALIVE, () => this.finish());
  }

  wait(milliseconds, then) {
    clearTimeout(this.timer);
    this.timer = setTimeout(then, milliseconds);
  }

  came(data) {
    if (this.over) return;
    const { parser } = this;
    if (!parser.begun && !this.writing) this.wait(REQUEST_TIMEOUT, () => this.refuse(408));
    parser.push(data);
    if (!parser.headless) this.wait(REQUEST_TIMEOUT, () => this.refuse(408));
    this.serve();
  }

  eof() {
    this.ended = true;
    if (!this.writing) this.finish();
  }

  drained() {
    this.writing = false;
    if (this.over) return;
    this.socket.resume();
    this.serve();
    if (this.ended && !this.writing) this.finish();
  }

  serve() {
    try {
      while (!this.writing && !this.over) {
        const request = this.parser.next();
        if (request === undefined) return this.pause();
        if (request === 'continue') this.socket.write('HTTP/1.1 100 Continue\r\n\r\n');
        else this.respond(request, answer(request), request.last || stopping);
      }
      if (this.writing) this.socket.pause(); // what the client asks for next can wait until it has read
    } catch (error) {
      this.refuse(error instanceof Refused ? error.status : 500);
    }
  }

  pause() {
    if (!this.parser.begun) {
      if (stopping) this.finish();
      else this.wait(KEEP_ALIVE, () => this.finish());
    } else if (!this.parser.headless) this.wait(REQUEST_TIMEOUT, () => this.refuse(408));
  }

  refuse(status) {
    if (!this.over) this.respond(undefined, text(status), true);
  }

  respond(request, { status, body, headers }, last) {
    clearTimeout(this.timer);
    const lines = [`HTTP/1.1 ${status} ${REASONS[status] ?? 'Error'}`, `Date: ${new Date().toUTCString()}`];
    for (const [name, value] of Object.entries(headers)) lines.push(`${name}: ${value}`);
    if (status !== 204 && status !== 304) lines.push(`Content-Length: ${body?.length ?? 0}`);
    if (last) lines.push('Connection: close');
    else if (request.minor === 0) lines.push('Connection: keep-alive');
    this.socket.cork();
    let taken = this.socket.write(Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'));
    if (body?.length && request?.method !== 'HEAD') taken = this.socket.write(body);
    this.socket.uncork();
    this.writing = !taken && this.socket.writableLength > 0;
    if (last) this.finish();
  }

  // Close in stages: say that nothing more comes, and read on for a while.
  finish() {
    if (this.over) return;
    this.over = true;
    this.socket.end();
    this.socket.resume();
    if (this.ended) return;
    this.socket.once('finish', () => this.wait(stopping ? 0 : LINGER, () => this.socket.destroy()));
    if (this.socket.writableFinished) this.wait(stopping ? 0 : LINGER, () => this.socket.destroy());
  }

  gone() {
    clearTimeout(this.timer);
    connections.delete(this);
    if (stopping && !connections.size) process.exit(0);
  }

  stop() {
    if (this.over && this.socket.writableFinished) this.socket.destroy();
    else if (!this.writing && !this.parser.begun) this.finish();
  }
}

const server = net.createServer({ allowHalfOpen: true, backlog: 512 }, (socket) => new Connection(socket));
server.listen({ port: Number(process.env.PORT ?? 8000), host: process.env.HOST ?? '127.0.0.1', backlog: 512 });
process.on('SIGTERM', () => {
  stopping = true;
  server.close();
  for (const connection of connections) connection.stop();
  if (!connections.size) process.exit(0);
  setTimeout(() => process.exit(0), SHUTDOWN);
});
