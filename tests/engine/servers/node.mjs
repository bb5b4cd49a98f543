// Node's http server, listening on all addresses, so on a dual-stack socket: GET /MODE/N.
import { createServer } from "node:http";

function spin(milliseconds) {
  const end = process.cpuUsage().user + milliseconds * 1000;
  while (process.cpuUsage().user < end);
}

const server = createServer((request, response) => {
  const [, mode, number] = request.url.split("/");
  const answer = () => {
    const padding = mode === "big" ? ".".repeat(Number(number)) : "";
    response.end(`${padding}done ${mode} ${number}\n`);
  };
  if (mode === "work") spin(Number(number));
  if (mode === "later") setTimeout(answer, Number(number));
  else answer();
});
server.listen(Number(process.env.PORT));
