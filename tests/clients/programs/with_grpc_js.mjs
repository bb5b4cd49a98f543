// The client of @grpc/grpc-js. Its packages are where the command is that came with them.
import { execFileSync } from "node:child_process";
import { realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const command = realpathSync(execFileSync("which", ["proto-loader-gen-types"], { encoding: "utf8" }).trim());
const require = createRequire(`${command.slice(0, command.lastIndexOf("/node_modules/"))}/node_modules/`);
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");
const { protoPath } = require("grpc-health-check");

const options = { includeDirs: [process.env.PROTOS], keepCase: true, longs: Number, enums: String, defaults: true };
const packages = grpc.loadPackageDefinition(loadSync(["depot.proto", protoPath], options));
const channel = [process.env.TARGET, grpc.credentials.createInsecure()];
const depot = new packages.depot.v1.Depot(...channel);
const checks = new packages.grpc.health.v1.Health(...channel);

const answered = (begin) =>
  new Promise((resolve, reject) => {
    begin((error, reply) => (error ? reject(error) : resolve(reply)));
  });

const methods = {
  async deliver(...lines) {
    const { lines: number, items } = await answered((callback) => {
      const call = depot.Deliver(callback);
      for (const line of lines) call.write({ sku: line[0], quantity: line[1], last: line === lines.at(-1) });
      call.end();
    });
    return [number, items];
  },

  async pick(...lines) {
    const call = depot.Pick();
    for (const [sku, quantity] of lines) call.write({ sku, quantity });
    call.end();
    const answers = [];
    for await (const { quantity, left } of call) answers.push([quantity, left]);
    return answers;
  },

  watch: (sku) =>
    new Promise((resolve, reject) => {
      const call = depot.Watch({ sku });
      call.on("data", ({ quantity }) => {
        call.cancel();
        resolve(quantity);
      });
      call.on("error", reject);
    }),

  async reserve(request_id, sku, quantity, timeout, trace = "t") {
    const metadata = new grpc.Metadata();
    metadata.set("x-trace-id", trace);
    const within = timeout ? { deadline: Date.now() + timeout * 1000 } : {};
    let began;
    const { tracking, id } = await answered((callback) => {
      depot.Reserve({ request_id, sku, quantity }, metadata, within, callback).on("metadata", (given) => (began = given));
    });
    return { tracking, id, trace: began.get("x-trace-id")[0] };
  },

  async health(service) {
    return (await answered((callback) => checks.Check({ service }, callback))).status;
  },
};

function refused({ code, details, metadata }) {
  const told = { code: grpc.status[code], message: details };
  const [status] = metadata.get("grpc-status-details-bin");
  const available = status && /available\x12.(\d+)/s.exec(status.toString("latin1"));
  return available ? { ...told, available: available[1] } : told;
}

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...given] = JSON.parse(line);
  const told = await methods[name](...given).catch(refused);
  console.log(JSON.stringify(told));
}
process.exit(0);
