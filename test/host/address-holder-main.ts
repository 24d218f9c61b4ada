/**
 * Program of address-holder.test.ts, in network and mount namespaces of its own: a bridge with a client, and nobody who has the
 * address that is held. Prints what was seen as one line of JSON.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import { whoHas } from "../../src/host/address-claim.js";
import { AddressHolder } from "../../src/host/address-holder.js";
import { FrameSocket } from "../../src/host/frame-socket.js";
import { run } from "../../src/host/exec.js";

const MAC = "02:fe:00:00:00:07";
const address = { mac: MAC, ip: "10.9.0.7" };

/** Connects, sends a line, and says what it hears. */
const CLIENT = `
const began = Date.now();
const s = require("node:net").connect(7000, "${address.ip}", () => s.write("hello"));
s.on("data", (d) => console.log(JSON.stringify({ heard: String(d), ms: Date.now() - began })));
s.on("error", (e) => console.log(JSON.stringify({ error: e.code })));`;
const SERVER = `
require("node:net").createServer((s) => s.on("data", (d) => s.write("you said " + d)))
  .listen(7000, () => console.log("{}"));`;

function inside(netns: string, code: string, line: (text: string) => void): ChildProcess {
  const child = spawn("nsenter", [`--net=/run/netns/${netns}`, process.execPath, "-e", code], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  createInterface({ input: child.stdout }).on("line", line);
  return child;
}
async function until(what: string, holds: () => boolean): Promise<void> {
  for (const end = performance.now() + 20_000; !holds(); await new Promise((resolve) => setTimeout(resolve, 20))) {
    if (performance.now() > end) throw new Error(`${what}: not within 20 s`);
  }
}

await run("mount", ["-t", "tmpfs", "none", "/run"]);
// What it says of links is that of the namespace in which it was mounted.
await run("mount", ["-t", "sysfs", "none", "/sys"]);
const ip = (input: string): Promise<unknown> => run("ip", ["-batch", "-"], { input });
await ip("netns add w\nnetns add c\nlink set lo up\nlink add br0 type bridge stp_state 0 forward_delay 0\n");
await ip("link add cl0 type veth peer name eth0 netns c\naddr add 10.9.0.254/24 dev br0\nlink set br0 up\n");
await ip("link set cl0 master br0 up\n");
await run("ip", ["-n", "c", "-batch", "-"], { input: "addr add 10.9.0.1/24 dev eth0\nlink set eth0 up\n" });

const free = await whoHas("br0", address.ip);
const holder = new AddressHolder("br0", address);
// Its own node asks before it gives the address to the workload: the holder is not in the way.
const [ownProbe] = await Promise.all([
  whoHas("br0", address.ip),
  (async () => {
    for (let i = 0; i < 20; i += 1) {
      holder.pass();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  })(),
]);
let wanted = holder.pass();
const before = wanted;
const said: unknown[] = [];
const client = inside("c", CLIENT, (text) => said.push(JSON.parse(text)));
const passing = setInterval(() => (wanted = holder.pass()), 20);
await until("what the client sends is kept", () => wanted);
// Nobody answers for its ports: no refusal comes, however long the client tries.
await new Promise((resolve) => setTimeout(resolve, 500));
const quiet = said.length === 0;
const neighbours = (await run("ip", ["-n", "c", "neigh", "show", address.ip])).stdout;

// It is restored: link, program, then what was kept.
await ip(`link add fv0 type veth peer name eth0 address ${MAC} netns w\nlink set fv0 master br0\n`);
await run("ip", ["-n", "w", "-batch", "-"], { input: `addr add ${address.ip}/24 dev eth0\nlink set eth0 up\n` });
const server = await new Promise<ChildProcess>((resolve) => {
  const child = inside("w", SERVER, () => resolve(child));
});
await ip("link set fv0 up\n");
clearInterval(passing);
const kept = holder.release();
const claimedBefore = holder.claimed;
const door = new FrameSocket("fv0");
const deliveredAt = performance.now();
for (const frame of kept) door.put(frame);
door.close();
await until("the client is answered", () => said.length > 0);
const answeredMs = Math.round(performance.now() - deliveredAt);
// Another holder, as of an agent that does not know: it hears the workload announce itself, and is silent from then on.
const late = new AddressHolder("br0", address);
const announcing = spawn("nsenter", ["--net=/run/netns/w", "arping", "-c", "1", "-A", "-I", "eth0", address.ip]);
await until("it hears that it is elsewhere", () => (late.pass(), late.claimed));
announcing.kill();
late.close();
const seen = {
  claimedBefore,
  free: free ?? null,
  ownProbe: ownProbe ?? null,
  before,
  quiet,
  neighbours,
  said,
  kept: kept.length,
};
console.log(JSON.stringify({ ...seen, answeredMs }));
client.kill("SIGKILL");
server.kill("SIGKILL");
process.exit(0);
