// Node's own HTTP server with the resources of the Node solution; limits and Host are looked at as an application would.

import http from 'node:http';
import process from 'node:process';

import { Request, answer, text } from '../../solutions/http1/node/resources.mjs';

const number = (name) => Number(process.env[name]);
const [MAX_TARGET, MAX_FIELDS, MAX_BODY] = ['MAX_TARGET', 'MAX_FIELDS', 'MAX_BODY'].map(number);
const HOST = /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?$/;

function understood(message) {
  const request = new Request(message.method, message.url, message.httpVersionMinor);
  const raw = message.rawHeaders;
  for (let at = 0; at < raw.length; at += 2) request.fields.push([raw[at].toLowerCase(), raw[at + 1]]);
  const [, authority, rest] = /^https?:\/\/([^/?]*)(.*)$/i.exec(request.target) ?? [];
  request.host = authority ?? request.joined('host') ?? '';
  if (authority !== undefined) request.target = rest.startsWith('/') ? rest : `/${rest}`;
  return request;
}

function refusal(request) {
  const hosts = request.lines('host');
  const size = request.fields.reduce((sum, [name, value]) => sum + name.length + value.length + 4, 0);
  if (request.target.length > MAX_TARGET) return text(414);
  if (size > MAX_FIELDS) return text(431);
  if (hosts.length > 1 || !hosts.every((host) => HOST.test(host)) || !request.target.startsWith('/')) return text(400);
  if (Number(request.joined('content-length') ?? 0) > MAX_BODY) return text(413);
  if ((request.joined('transfer-encoding') ?? 'chunked').toLowerCase() !== 'chunked') return text(501);
  return undefined;
}

function reply(response, { status, body, headers }, last) {
  if (last) response.setHeader('Connection', 'close');
  if (status !== 204 && status !== 304) response.setHeader('Content-Length', body?.length ?? 0);
  response.writeHead(status, headers);
  response.end(body);
}

function serve(message, response, accept) {
  const request = understood(message);
  const refused = refusal(request);
  if (refused) return reply(response, refused, true);
  accept();
  const pieces = [];
  let size = 0;
  message.on('data', (piece) => {
    size += piece.length;
    if (size <= MAX_BODY) pieces.push(piece);
    else if (!response.headersSent) reply(response, text(413), true);
  });
  message.on('end', () => {
    if (response.headersSent) return;
    request.body = Buffer.concat(pieces);
    reply(response, answer(request), !server.listening);
  });
}

const [, socket] = process.argv.slice(1); // behind a proxy; without one it listens on HOST:PORT
const server = http.createServer({
  requireHostHeader: !socket,
  connectionsCheckingInterval: 20,
  headersTimeout: number('REQUEST_TIMEOUT_MS'),
  requestTimeout: number('REQUEST_TIMEOUT_MS'),
  keepAliveTimeout: number('KEEP_ALIVE_MS'),
  maxHeaderSize: 4 * (MAX_TARGET + MAX_FIELDS),
});
server.maxHeadersCount = 0;
server.httpAllowHalfOpen = true;
server.on('request', (message, response) => serve(message, response, () => {}));
server.on('checkContinue', (message, response) => serve(message, response, () => response.writeContinue()));
const place = socket ? { path: socket } : { port: number('PORT'), host: process.env.HOST, backlog: 512 };
server.listen(place, () => console.log('listening'));
process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  setTimeout(() => process.exit(0), number('SHUTDOWN_MS'));
});
