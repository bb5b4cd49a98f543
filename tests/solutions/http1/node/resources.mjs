// Files with conditions and ranges, and an echo: what a complete request gets, whoever has read it.

import { createHash } from 'node:crypto';

export const REASONS = {
  200: 'OK', 201: 'Created', 204: 'No Content', 206: 'Partial Content', 304: 'Not Modified', 400: 'Bad Request',
  404: 'Not Found', 405: 'Method Not Allowed', 408: 'Request Timeout', 412: 'Precondition Failed',
  413: 'Content Too Large', 414: 'URI Too Long', 416: 'Range Not Satisfiable', 417: 'Expectation Failed',
  431: 'Request Header Fields Too Large', 501: 'Not Implemented', 505: 'HTTP Version Not Supported',
};

export class Request {
  constructor(method, target, minor) {
    Object.assign(this, { method, target, minor, fields: [], host: '', body: Buffer.alloc(0), ambiguous: false });
  }

  lines(name) {
    return this.fields.filter(([key]) => key === name).map(([, value]) => value);
  }

  joined(name) {
    const lines = this.lines(name);
    return lines.length ? lines.join(', ') : undefined;
  }

  elements(name) {
    return this.lines(name).flatMap((line) => line.split(',')).map((each) => each.trim().toLowerCase());
  }

  get last() {
    const options = this.elements('connection');
    return this.ambiguous || options.includes('close') || (this.minor === 0 && !options.includes('keep-alive'));
  }
}

const files = new Map();
let versions = 0;

export const text = (status, headers = {}) => ({ status, body: Buffer.from(`${REASONS[status]}\n`), headers });

function dated(value) {
  const forms = /^[A-Z][a-z]{2,8},? [A-Za-z0-9 -]+ ?[0-9:]{8}( GMT| [0-9]{4})$/;
  const date = value && forms.test(value) ? Date.parse(value.endsWith('GMT') ? value : `${value} GMT`) : NaN;
  return Number.isNaN(date) ? undefined : date;
}

function listed(value, file, weakly) {
  if (!file) return false;
  if (value.trim() === '*') return true;
  const tags = [...value.matchAll(/(W\/)?("[^"]*")/g)];
  return tags.some(([, weak, tag]) => tag === file.etag && (weakly || !weak));
}

function precondition(request, file) {
  const reading = request.method === 'GET' || request.method === 'HEAD';
  const match = request.joined('if-match');
  const since = dated(request.joined('if-unmodified-since'));
  if (match !== undefined) {
    if (!listed(match, file, false)) return 412;
  } else if (since !== undefined && file && file.modified > since) return 412;
  const none = request.joined('if-none-match');
  const modified = dated(request.joined('if-modified-since'));
  if (none !== undefined) {
    if (listed(none, file, true)) return reading ? 304 : 412;
  } else if (reading && modified !== undefined && file && file.modified <= modified) return 304;
  return 0;
}

function ranges(request, size) {
  const value = request.joined('range') ?? '';
  if (!/^bytes=/i.test(value)) return undefined;
  const found = [];
  for (const piece of value.slice(6).split(',')) {
    const [, first, last] = /^[\t ]*([0-9]*)-([0-9]*)[\t ]*$/.exec(piece) ?? [];
    if (first === undefined || (first === '' && last === '')) return undefined;
    if (first !== '' && last !== '' && BigInt(first) > BigInt(last)) return undefined;
    const begin = first === '' ? Math.max(size - Number(last), 0) : Number(first);
    const end = first === '' || last === '' ? size : Math.min(Number(last) + 1, size);
    if (begin < size && begin < end) found.push([begin, end]);
  }
  return found;
}

function partial(request, file, headers) {
  if (request.method !== 'GET') return undefined;
  const condition = request.joined('if-range');
  if (condition !== undefined && condition !== file.etag) return undefined;
  const size = file.body.length;
  const wanted = ranges(request, size);
  if (wanted === undefined) return undefined;
  if (!wanted.length) return text(416, { 'Content-Range': `bytes */${size}` });
  const place = ([begin, end]) => `bytes ${begin}-${end - 1}/${size}`;
  if (wanted.length === 1) {
    return { status: 206, body: file.body.subarray(...wanted[0]), headers: { ...headers, 'Content-Range': place(wanted[0]) } };
  }
  const boundary = createHash('sha256').update(`${Math.random()}`).digest('hex');
  const parts = wanted.flatMap((each) => [
    Buffer.from(`\r\n--${boundary}\r\nContent-Type: ${file.type}\r\nContent-Range: ${place(each)}\r\n\r\n`, 'latin1'),
    file.body.subarray(...each),
  ]);
  const body = Buffer.concat([...parts, Buffer.from(`\r\n--${boundary}--\r\n`)]);
  return { status: 206, body, headers: { ...headers, 'Content-Type': `multipart/byteranges; boundary=${boundary}` } };
}

function echo(request) {
  const { method, target, host, fields } = request;
  const told = { method, target, host, fields, body: request.body.toString('latin1') };
  return { status: 200, body: Buffer.from(JSON.stringify(told)), headers: { 'Content-Type': 'application/json' } };
}

export function answer(request) {
  const path = request.target.split('?')[0];
  const known = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE'];
  if (!known.includes(request.method)) return text(501);
  if (path === '/echo') return request.method === 'DELETE' ? text(405, { Allow: 'GET, HEAD, POST, PUT' }) : echo(request);
  const [, name] = /^\/files\/([A-Za-z0-9_-]{1,64})$/.exec(path) ?? [];
  if (!name) return text(404);
  if (request.method === 'POST') return text(405, { Allow: 'GET, HEAD, PUT, DELETE' });
  const file = files.get(name);
  if (!file && request.method !== 'PUT') return text(404);
  const failed = precondition(request, file);
  if (failed === 304) return { status: 304, headers: { ETag: file.etag } };
  if (failed) return text(failed);
  if (request.method === 'PUT') {
    const type = request.joined('content-type') || 'application/octet-stream';
    files.set(name, { body: request.body, type, etag: `"v${++versions}"`, modified: Math.floor(Date.now() / 1000) * 1000 });
    return { status: file ? 204 : 201, headers: {} };
  }
  if (request.method === 'DELETE') {
    files.delete(name);
    return { status: 204, headers: {} };
  }
  const modified = new Date(file.modified).toUTCString();
  const headers = { ETag: file.etag, 'Last-Modified': modified, 'Content-Type': file.type, 'Accept-Ranges': 'bytes' };
  return partial(request, file, headers) ?? { status: 200, body: file.body, headers };
}
