// A UDP server on Node's event loop.
import dgram from "node:dgram";

const socket = dgram.createSocket("udp4");
socket.on("message", (data, source) => {
  const [mode, number] = data.toString().trim().split(" ");
  const answer = () => socket.send(`done ${mode} ${number}\n`, source.port, source.address);
  if (mode === "later") setTimeout(answer, Number(number));
  else {
    const end = performance.now() + (mode === "work" ? Number(number) : 0);
    while (performance.now() < end);
    if (mode !== "silent") answer();
  }
});
socket.bind(Number(process.env.PORT), process.env.HOST);
