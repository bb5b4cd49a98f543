// Node's own fetch.
import { createInterface } from "node:readline";

async function send({ method, url, headers, body, timeout }) {
  const content = method === "GET" ? undefined : body;
  try {
    const signal = AbortSignal.timeout(timeout * 1000);
    const response = await fetch(url, { method, headers, body: content, signal });
    return { status: response.status, headers: Object.fromEntries(response.headers), body: await response.text() };
  } catch (error) {
    return { error: `${error.name}: ${error.cause?.code ?? error.message}` };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const outcomes = [];
  for (const request of JSON.parse(line)) outcomes.push(await send(request));
  console.log(JSON.stringify(outcomes));
}
