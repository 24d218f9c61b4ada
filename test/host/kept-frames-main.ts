/**
 * Program of kept-frames.test.ts, in network and mount namespaces of its own: a bridge with a workload's link and a
 * client's. Prints what was kept and what arrived as one line of JSON.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import { FrameKeeper } from "../../src/host/kept-frames.js";
import { FrameSocket, VNET_BYTES } from "../../src/host/frame-socket.js";
import { run } from "../../src/host/exec.js";
import { setLinkFlag } from "../../src/host/link-flags.js";

const MAC = "02:fe:00:00:00:07";
const address = { mac: MAC, ip: "10.9.0.7" };
const CONNECTION = 100_000;

const RECEIVER = `
const say = (o) => console.log(JSON.stringify(o));
const u = require("node:dgram").createSocket("udp4"); u.on("message", (m) => say({ udp: String(m) }));
u.bind(7000, () => require("node:net").createServer((s) => s.on("data", (d) => say({ tcp: d.length })))
  .listen(7000, () => say({ ready: 1 })));`;
const SENDER = `
const u = require("node:dgram").createSocket("udp4");
const s = require("node:net").connect(7000, "${address.ip}", () => console.log("{}"));
s.on("error", () => undefined);
require("node:readline").createInterface({ input: process.stdin }).on("line", (l) =>
  l === "much" ? s.write(Buffer.alloc(${CONNECTION})) : u.send(l, 7000, "${address.ip}"));`;

const heard: { udp?: string; tcp?: number }[] = [];
async function start(netns: string, code: string): Promise<ChildProcess> {
  const child = spawn("nsenter", [`--net=/run/netns/${netns}`, process.execPath, "-e", code], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  await new Promise<void>((resolve) => {
    createInterface({ input: child.stdout }).on("line", (line) => {
      heard.push(JSON.parse(line) as { udp?: string; tcp?: number });
      resolve();
    });
  });
  return child;
}
async function until(what: string, holds: () => boolean): Promise<void> {
  for (const end = performance.now() + 10_000; !holds(); await new Promise((resolve) => setTimeout(resolve, 5))) {
    if (performance.now() > end) throw new Error(`${what}: not within 10 s; heard ${JSON.stringify(heard)}`);
  }
}
const words = (): string[] => heard.flatMap(({ udp }) => (udp === undefined ? [] : [udp]));
const bytes = (): number => heard.reduce((sum, { tcp = 0 }) => sum + tcp, 0);

// of its own: a machine that has never had a named network namespace has no /run/netns
await run("mount", ["-t", "tmpfs", "none", "/run"]);
const ip = (input: string): Promise<unknown> => run("ip", ["-batch", "-"], { input });
await ip("netns add w\nnetns add c\nlink set lo up\nlink add br0 type bridge stp_state 0 forward_delay 0\n");
await ip(
  `link add fv0 type veth peer name eth0 address ${MAC} netns w\nlink add cl0 type veth peer name eth0 netns c\n`,
);
await ip("link set br0 up\nlink set fv0 master br0 up\nlink set cl0 master br0 up\n");
for (const [netns, at] of [
  ["w", address.ip],
  ["c", "10.9.0.1"],
] as const) {
  await run("ip", ["-n", netns, "-batch", "-"], { input: `addr add ${at}/24 dev eth0\nlink set eth0 up\n` });
}
const receiver = await start("w", RECEIVER);
const sender = await start("c", SENDER);
const send = (...lines: string[]): void => void sender.stdin?.write(lines.map((line) => `${line}\n`).join(""));

const keeper = new FrameKeeper("br0", "fv0", address);
send("a1", "a2");
await until("what is sent while the link is up arrives", () => words().length === 2);
const early = keeper.take(false).length;
send("a3");
await until("and is seen", () => words().length === 3);
setLinkFlag("fv0", "down");
send("b1", "b2", "much");
const kept: Buffer[] = [];
const payloads = (): string => Buffer.concat(kept).toString("latin1");
await until("what is sent while it is down is kept", () => {
  kept.push(...keeper.take(true));
  return payloads().includes("b2") && kept.some((frame) => frame.length > 1514 + VNET_BYTES);
});
keeper.close();
// From here on the sender is silent: whatever arrives was kept.
setLinkFlag("cl0", "down");
setLinkFlag("fv0", "up");
const door = new FrameSocket("fv0");
const put = kept.filter((frame) => door.put(frame)).length;
door.close();
await until("what was kept arrives", () => words().length === 5 && bytes() > 1514);
console.log(
  JSON.stringify({ early, words: words(), bytes: bytes(), put: put === kept.length, all: payloads().length }),
);
receiver.kill("SIGKILL");
sender.kill("SIGKILL");
process.exit(0);
