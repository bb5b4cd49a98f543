// The poller on Node, without packages: kept connections, one deadline a poll, and a timer a feed.

import http from 'node:http'

const { HOST = '127.0.0.1', PORT = '8000', SECOND_MS = '1000', MAX_BODY_BYTES = '1048576', MAX_REDIRECTS = '5' } = process.env
const DAY = 86_400_000 // ms; a timer of Node has 31 bits
const DEFAULTS = { interval_ms: 60_000, backoff_base_ms: 1000, backoff_cap_ms: 300_000, timeout_ms: 30_000 }
const REDIRECTS = new Set([301, 302, 303, 307, 308])
const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']
const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity })

class Failure extends Error {
  constructor(why, least = 0) {
    super(why)
    this.least = least
  }
}

class Feed {
  constructor(url, settings) {
    Object.assign(this, { url, settings, status: 'new', version: 0, failures: 0 })
    this.turn()
  }

  async turn() {
    let wait
    // Not AbortSignal.timeout() in AbortSignal.any(): nobody holds them, and a collected signal never fires.
    this.current = new AbortController()
    const deadline = setTimeout(() => this.current.abort(), this.settings.timeout_ms)
    try {
      await this.poll(this.current.signal)
      this.status = this.gone ? 'gone' : 'ok'
      this.failures = 0
      wait = this.settings.interval_ms
    } catch (error) {
      this.status = 'failing'
      this.failures += 1
      const d = Math.min(this.settings.backoff_cap_ms, this.settings.backoff_base_ms * 2 ** (this.failures - 1))
      wait = Math.max(error.least ?? 0, d / 2 + (Math.random() * d) / 2)
    } finally {
      clearTimeout(deadline)
    }
    if (this.gone || this.stopped) return
    this.timer = setTimeout(() => this.turn(), Math.ceil(wait))
  }

  async poll(signal) {
    let url = this.url
    let home = url
    let permanent = true
    for (let hops = 0; hops <= Number(MAX_REDIRECTS); hops++) {
      const conditions = this.conditions(url)
      const response = await get(url, conditions, signal)
      const { statusCode: status, headers } = response
      if (!REDIRECTS.has(status)) return this.take(response, url, home, Object.keys(conditions).length > 0)
      response.resume()
      if (headers.location === undefined) throw new Failure('to nowhere')
      const target = new URL(headers.location, url) // throws
      if (target.protocol !== 'http:') throw new Failure('another scheme')
      target.hash = ''
      url = target.href
      permanent &&= status === 301 || status === 308
      if (permanent) home = url
    }
    throw new Failure('too many redirects')
  }

  conditions(url) {
    if (this.from !== url) return {}
    return {
      ...(this.etag !== undefined && { 'If-None-Match': this.etag }),
      ...(this.modified !== undefined && { 'If-Modified-Since': this.modified }),
    }
  }

  async take(response, url, home, conditional) {
    const { statusCode: status, headers } = response
    if (status === 200) {
      const body = await whole(response)
      this.document = { body, type: headers['content-type'] ?? 'application/octet-stream' }
      Object.assign(this, { from: url, etag: headers.etag, modified: headers['last-modified'] })
      this.version += 1
    } else if (status === 304 && conditional) {
      response.resume()
      this.etag = headers.etag ?? this.etag
      this.modified = headers['last-modified'] ?? this.modified
    } else {
      response.destroy()
      if (status === 410) {
        this.gone = true
        return
      }
      throw new Failure(`answered with ${status}`, status === 429 || status === 503 ? pause(headers['retry-after'] ?? '') : 0)
    }
    this.url = home
  }

  stop() {
    clearTimeout(this.timer)
    this.stopped = true
    this.current.abort()
  }
}

function get(url, headers, signal) {
  return new Promise((resolve, reject) => {
    http.get(url, { agent, headers: { 'User-Agent': 'node-poller/1', ...headers }, signal }, resolve).on('error', reject)
  })
}

async function whole(response) {
  const pieces = []
  let size = 0
  for await (const piece of response) {
    size += piece.length
    if (size > Number(MAX_BODY_BYTES)) throw new Failure('too long') // leaving the loop destroys the response
    pieces.push(piece)
  }
  if (!response.complete) throw new Failure('broken off')
  return Buffer.concat(pieces)
}

function pause(text) {
  const seconds = /^[0-9]+$/.test(text) ? Number(text) : (date(text) - Date.now()) / 1000
  return Number.isNaN(seconds) ? 0 : Math.min(Math.max(seconds, 0) * Number(SECOND_MS), DAY)
}

function date(text) {
  const time = String.raw`(?<hour>\d\d):(?<minute>\d\d):(?<second>\d\d)`
  for (const form of [
    String.raw`^\w{3}, (?<day>\d\d) (?<month>\w{3}) (?<year>\d{4}) ${time} GMT$`,
    String.raw`^\w{6,9}, (?<day>\d\d)-(?<month>\w{3})-(?<year>\d\d) ${time} GMT$`,
    String.raw`^\w{3} (?<month>\w{3}) (?<day>[ \d]\d) ${time} (?<year>\d{4})$`,
  ]) {
    const found = new RegExp(form).exec(text)?.groups
    if (!found || !MONTHS.includes(found.month)) continue
    let year = Number(found.year)
    if (year < 100) year += year + 2000 > new Date().getUTCFullYear() + 50 ? 1900 : 2000
    return Date.UTC(year, MONTHS.indexOf(found.month), Number(found.day), Number(found.hour), Number(found.minute), Number(found.second))
  }
  return NaN
}

// -- the surface ---------------------------------------------------------------------------------------------------

const feeds = new Map()

function wanted(body) {
  try {
    const document = JSON.parse(body)
    if (typeof document.url !== 'string' || !/^http:\/\/[^/?#]/i.test(document.url)) return null
    const url = new URL(document.url)
    url.hash = ''
    const settings = { ...DEFAULTS }
    for (const name of Object.keys(DEFAULTS)) {
      if (name in document) settings[name] = document[name]
      if (!Number.isInteger(settings[name]) || settings[name] < 1 || settings[name] > DAY) return null
    }
    return [url.href, settings]
  } catch {
    return null
  }
}

function answer(method, path, body) {
  if (path === '/healthz') return [200, 'ok']
  const [, name, what] = /^\/feeds\/([A-Za-z0-9_-]{1,64})(\/document)?$/.exec(path) ?? []
  if (!name) return [404]
  if (method === 'PUT' && !what) {
    if (feeds.has(name)) return [409]
    const feed = wanted(body)
    if (!feed) return [400]
    feeds.set(name, new Feed(...feed))
    return [201]
  }
  const feed = feeds.get(name)
  if (!feed || (what && !feed.document)) return [404]
  if (method === 'DELETE' && !what) {
    feeds.delete(name)
    feed.stop()
    return [204]
  }
  if (method !== 'GET') return [405]
  if (what) return [200, feed.document.body, feed.document.type]
  const { url, status, version, failures } = feed
  return [200, JSON.stringify({ url, status, version, failures }), 'application/json']
}

const server = http.createServer(async (request, response) => {
  const pieces = []
  for await (const piece of request) pieces.push(piece)
  const [status, body = '', type = 'text/plain'] = answer(request.method, request.url, Buffer.concat(pieces).toString())
  response.writeHead(status, status === 204 ? {} : { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) })
  response.end(status === 204 ? undefined : body)
})
server.listen(Number(PORT), HOST, 512)
process.on('SIGTERM', () => process.exit(0))
process.setMaxListeners(0)
