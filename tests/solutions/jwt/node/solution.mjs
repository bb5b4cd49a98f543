// The API on node:http and node:crypto. Keys live in one object that is replaced as a whole; a fetch is one promise that
// everybody shares who needs it.
import http from "node:http";
import crypto from "node:crypto";

const env = process.env;
const ms = (name) => Number(env[name]);
const LARGEST = 1 << 20;
const ORDER = BigInt("0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");

class Refused extends Error {
  constructor(status) {
    super();
    this.status = status;
  }
}

// -- keys -------------------------------------------------------------------------------------------------------------

let set = { keys: new Map(), kids: new Set(), loaded: -Infinity };
let flight = null;
let begun = -Infinity;

function download() {
  return new Promise((resolve, reject) => {
    const request = http.get(env.JWKS_URL, { agent: false }, (response) => {
      const pieces = [];
      let size = 0;
      response.on("data", (piece) => {
        pieces.push(piece);
        if ((size += piece.length) > LARGEST) request.destroy(new Error("too long"));
      });
      response.on("end", () => {
        if (response.statusCode !== 200 || !response.complete) reject(new Error("no complete 200"));
        else resolve(Buffer.concat(pieces));
      });
      response.on("error", reject);
    });
    const timer = setTimeout(() => request.destroy(new Error("too slow")), ms("JWKS_TIMEOUT_MS"));
    request.on("error", reject);
    request.on("close", () => (clearTimeout(timer), reject(new Error("closed"))));
  });
}

function usable(entry) {
  const { kty, crv, alg, use = "sig", key_ops: uses = ["verify"] } = entry;
  const fits = kty === "RSA" ? "RS256" : kty === "EC" && crv === "P-256" ? "ES256" : null;
  if (!fits || (alg !== undefined && alg !== fits) || use !== "sig" || !uses.includes("verify")) return null;
  try {
    const { n, e, x, y } = entry;
    const key = crypto.createPublicKey({ key: { kty, crv, n, e, x, y }, format: "jwk" });
    if (kty === "RSA" && key.asymmetricKeyDetails.modulusLength < 2048) return null;
    return [`${fits} ${entry.kid}`, key];
  } catch {
    return null;
  }
}

async function load() {
  try {
    const { keys } = JSON.parse(await download());
    if (!Array.isArray(keys)) throw new Error("no keys");
    const entries = keys.filter((entry) => typeof entry?.kid === "string");
    const kids = new Set(entries.map((entry) => entry.kid));
    set = { keys: new Map(entries.map(usable).filter(Boolean)), kids, loaded: performance.now() };
  } catch (error) {
    console.log("no key set:", error.message);
  } finally {
    flight = null;
  }
}

function update() {
  if (!flight && performance.now() - begun >= ms("JWKS_COOLDOWN_MS")) {
    begun = performance.now();
    flight = load();
  }
  return flight;
}

async function keyFor(kid, alg) {
  const age = () => performance.now() - set.loaded;
  const dead = ms("JWKS_TTL_MS") + ms("JWKS_STALE_MS");
  if (age() > dead) {
    await update();
    if (age() > dead) throw new Refused(503);
  } else if (age() > ms("JWKS_TTL_MS")) update();
  if (!set.kids.has(kid)) await update();
  return set.keys.get(`${alg} ${kid}`);
}

// -- tokens -----------------------------------------------------------------------------------------------------------

function invalid(condition) {
  if (condition) throw new Refused(401);
}

function bytes(text) {
  invalid(!/^[A-Za-z0-9_-]+$/.test(text) || text.length % 4 === 1);
  return Buffer.from(text, "base64url");
}

function object(text) {
  let value;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes(text)));
  } catch {
    invalid(true);
  }
  invalid(typeof value !== "object" || value === null || Array.isArray(value));
  return value;
}

function signed(key, alg, message, signature) {
  if (alg === "RS256") return crypto.verify("sha256", message, key, signature);
  const [r, s] = [signature.subarray(0, 32), signature.subarray(32)].map((half) => BigInt(`0x0${half.toString("hex")}`));
  if (signature.length !== 64 || !r || !s || r >= ORDER || s >= ORDER) return false;
  return crypto.verify("sha256", message, { key, dsaEncoding: "ieee-p1363" }, signature);
}

function check(claims) {
  const now = Date.now() / 1000;
  const leeway = ms("LEEWAY_MS") / 1000;
  invalid(!("exp" in claims));
  for (const name of ["exp", "nbf", "iat"]) invalid(name in claims && typeof claims[name] !== "number");
  for (const name of ["client_id", "jti"]) invalid(name in claims && typeof claims[name] !== "string");
  invalid(now >= claims.exp + leeway || now < (claims.nbf ?? now) - leeway);
  const { aud } = claims;
  invalid(aud !== env.AUDIENCE && !(Array.isArray(aud) && aud.includes(env.AUDIENCE)));
  invalid(claims.iss !== env.ISSUER || typeof claims.sub !== "string" || !claims.sub);
}

async function verify(token) {
  const parts = token.split(".");
  invalid(token.length > ms("MAX_TOKEN_BYTES") || parts.length !== 3);
  const [header, claims, signature] = [object(parts[0]), object(parts[1]), bytes(parts[2])];
  const { alg, kid, typ } = header;
  invalid(!["RS256", "ES256"].includes(alg) || typeof kid !== "string");
  invalid(!["at+jwt", "application/at+jwt"].includes(typ) || "crit" in header);
  const key = await keyFor(kid, alg);
  invalid(!key || !signed(key, alg, Buffer.from(`${parts[0]}.${parts[1]}`), signature));
  check(claims);
  return claims;
}

const scopes = ({ scope }) => (typeof scope === "string" && /^[!-~]+( [!-~]+)*$/.test(scope) ? scope.split(" ") : []);

// -- HTTP -------------------------------------------------------------------------------------------------------------

function deny(status, error, more = "") {
  return [status, { error }, error ? `Bearer error="${error}"${more}` : "Bearer"];
}

async function answer(request) {
  const known = { "/me": "GET", "/reports": "POST" };
  const path = request.url.split("?")[0];
  if (known[path] !== request.method) return [404, {}];
  const lines = request.rawHeaders.filter((_, index, all) => index % 2 && /^authorization$/i.test(all[index - 1]));
  if (lines.length > 1) return deny(400, "invalid_request");
  const [, scheme, token] = /^(\S+) *(.*)$/.exec(lines[0] ?? "") ?? [];
  if (scheme?.toLowerCase() !== "bearer") return deny(401);
  if (!/^[A-Za-z0-9._~+/-]+=*$/.test(token)) return deny(400, "invalid_request");
  const claims = await verify(token);
  const granted = scopes(claims);
  if (path === "/me") return [200, { sub: claims.sub, client_id: claims.client_id ?? null, scope: granted }];
  if (!granted.includes("reports:write")) return deny(403, "insufficient_scope", ', scope="reports:write"');
  return [201, { owner: claims.sub }];
}

const server = http.createServer({ noDelay: true }, async (request, response) => {
  let status, document, challenge;
  try {
    [status, document, challenge] = await answer(request);
  } catch (error) {
    [status, document, challenge] = error.status === 503 ? [503, {}] : deny(401, "invalid_token");
  }
  if (challenge) response.setHeader("WWW-Authenticate", challenge);
  response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(document));
});
server.listen({ host: env.HOST, port: Number(env.PORT), backlog: 512 });
