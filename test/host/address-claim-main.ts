/**
 * Program of address-claim.test.ts, in network and mount namespaces of its own: a switch and two nodes with a bridge each.
 * Prints what they came to as one line of JSON. With arguments it is one of the nodes, and does what its lines say.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { AddressClaim } from "../../src/host/address-claim.js";
import { run } from "../../src/host/exec.js";
import { ETH_P_ARP, gratuitousArp } from "../../src/host/frames.js";
import { PacketSocket } from "../../src/host/packet.js";

type Taken = string | null;
export interface Seen {
  macs: [string, string];
  atOnce: [Taken, Taken][];
  held: { first: Taken; second: Taken; firstThen: Taken };
  free: { second: Taken };
  forced: { before: Taken; after: Taken };
  own: { first: Taken };
}
const [role] = process.argv.slice(2);

function node(): void {
  let claim: AddressClaim | undefined;
  const does: Record<string, (ip: string) => Promise<Taken> | Taken> = {
    take: async (ip) => {
      claim = await AddressClaim.take("br0", ip);
      return claim.takenBy ?? null;
    },
    look: () => claim?.takenBy ?? null,
    close: () => {
      claim?.close();
      claim?.close();
      return null;
    },
    force: (ip) => {
      const socket = new PacketSocket("br0", ETH_P_ARP);
      for (const frame of gratuitousArp("02:fe:00:00:00:99", ip)) socket.send(frame);
      socket.close();
      return null;
    },
  };
  createInterface({ input: process.stdin }).on("line", (line) => {
    const [verb = "", ip = ""] = line.split(" ");
    void Promise.resolve(does[verb]?.(ip)).then((taken) => process.stdout.write(`${JSON.stringify(taken ?? null)}\n`));
  });
}

function start(name: string): (line: string) => Promise<Taken> {
  // `ip netns exec` and not nsenter: /sys has to show the links of that namespace.
  const child = spawn("ip", ["netns", "exec", name, process.execPath, process.argv[1] ?? "", name], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const waiting: ((taken: Taken) => void)[] = [];
  createInterface({ input: child.stdout }).on("line", (line) => waiting.shift()?.(JSON.parse(line) as Taken));
  return (line) =>
    new Promise((resolve) => {
      waiting.push(resolve);
      child.stdin.write(`${line}\n`);
    });
}

async function all(): Promise<Seen> {
  // of its own: a machine that has never had a named network namespace has no /run/netns
  await run("mount", ["-t", "tmpfs", "none", "/run"]);
  const ip = (input: string, netns: string[] = []): Promise<unknown> => run("ip", [...netns, "-batch", "-"], { input });
  await ip("link set lo up\nlink add sw type bridge stp_state 0 forward_delay 0\nlink set sw up\n");
  const macs = await Promise.all(
    ["a", "b"].map(async (name, i) => {
      await ip(`netns add ${name}\nlink add up-${name} type veth peer name eth0 netns ${name}\n`);
      await ip(`link set up-${name} master sw up\n`);
      await ip(
        `link add br0 type bridge stp_state 0 forward_delay 0\nlink set eth0 master br0 up\nlink set br0 up\naddr add 10.9.0.${i + 1}/24 dev br0\n`,
        ["-n", name],
      );
      const { stdout } = await run("ip", ["-n", name, "-j", "link", "show", "br0"]);
      return (JSON.parse(stdout) as { address: string }[])[0]?.address ?? "";
    }),
  );
  const [a, b] = [start("a"), start("b")];
  const both = (line: string) => Promise.all([a(line), b(line)]);
  // They are up, and have loaded what they need.
  await both("look");

  const atOnce: [Taken, Taken][] = [];
  for (const octet of [10, 11, 12]) {
    atOnce.push(await both(`take 10.9.0.${octet}`));
    await both("close");
  }
  const first = await a("take 10.9.0.20");
  const second = await b("take 10.9.0.20");
  const held = { first, second, firstThen: await a("look") };
  await both("close");
  const free = { second: await b("take 10.9.0.20") };
  await both("close");
  const before = await a("take 10.9.0.30");
  await b("force 10.9.0.30");
  const deadline = Date.now() + 10_000;
  let after = await a("look");
  while (after === null && Date.now() < deadline) after = await a("look");
  await a("close");
  const own = { first: await a("take 10.9.0.1") };
  return { macs: [macs[0] ?? "", macs[1] ?? ""], atOnce, held, free, forced: { before, after }, own };
}

if (role === undefined) {
  console.log(JSON.stringify(await all()));
  process.exit(0);
} else node();
