/**
 * How fast pages go from one node to another, stage by stage. Run as root:
 *
 *   node dist/bench/link.js                        # all of it, about a minute
 *   node dist/bench/link.js stages sockets         # only these: stages, sockets, movers
 *   node dist/bench/link.js movers --mb 512 --repeat 5 --json
 *
 * stages   what one thread does per frame of 1 MiB, each stage with those before it: reading the memory of a stopped
 *          process, looking for zero pages, checksum and head of the frame; then parsing, and storing into a fresh file
 * sockets  two processes on loopback that only send and drop: plain TCP, TLS by cipher, by size of the writes, by number
 *          of connections; and the link's own sessions
 * movers   two movers as the agents start them, from the first image to the last page in the destination's store
 *
 * GB/s is by the clock. The CPU columns are seconds of CPU per GB: the lower bound of what a busy or small machine can
 * do. Both ends share this machine. Times are measurements; what is asserted is that every page arrived.
 */
import assert from "node:assert/strict";
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { closeSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { writeFileSync } from "node:fs";
import { connect as connectTcp, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { connect as connectTls, createServer as createTlsServer, type SecureContextOptions } from "node:tls";
import { parseArgs } from "node:util";
import { createAuthority, issueNodeCertificate, type NodeCertificate } from "../src/host/pki.js";
import type { DestinationMoverStatus, MoverConfig, SourceMoverStatus } from "../src/model/mover.js";
import { readImageSet } from "../src/transfer/images/areas.js";
import { encodeHead, FrameParser, KIND } from "../src/transfer/link/frame.js";
import { dialLink, listenLink, type LinkIdentity } from "../src/transfer/link/index.js";
import { connectMover, killMover, startMover, type MoverClient } from "../src/transfer/mover/client.js";
import { openTree, zeroRuns } from "../src/transfer/pages/source.js";
import { imageProcess } from "../test/support/criu-images.js";
import { startMemoryTarget } from "../test/support/memory-target.js";
import { median } from "./stats.js";

const MIB = 1 << 20;
const PAGES = 256;
const SECTIONS = ["stages", "sockets", "movers"] as const;
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    mb: { type: "string", default: "256" },
    repeat: { type: "string", default: "3" },
    json: { type: "boolean", default: false },
  },
});
const megabytes = Number(values.mb);
const repeat = Number(values.repeat);

interface Result {
  section: string;
  name: string;
  gbPerSecond: number;
  /** Seconds of CPU per GB: of the sender, or of everything in this process; of the receiver. */
  cpu: number;
  peerCpu?: number;
}

const cpuSeconds = (since?: NodeJS.CpuUsage): number => {
  const { user, system } = process.cpuUsage(since);
  return (user + system) / 1e6;
};

async function timed(bytes: number, work: () => Promise<void> | void): Promise<{ gbPerSecond: number; cpu: number }> {
  const [from, cpu] = [performance.now(), process.cpuUsage()];
  await work();
  return { gbPerSecond: bytes / 1e6 / (performance.now() - from), cpu: cpuSeconds(cpu) / (bytes / 1e9) };
}

async function stages(pid: number, root: string): Promise<Result[]> {
  const dir = join(root, "stages");
  imageProcess(pid, dir);
  const { table } = readImageSet(dir);
  const reader = openTree(table, { [String(pid)]: pid });
  const buffer = Buffer.allocUnsafeSlow(PAGES * 4096);
  const each = async (work: (slot: number, pages: number) => Promise<void> | void): Promise<void> => {
    for (let slot = 0; slot < table.slots; slot += PAGES) await work(slot, Math.min(PAGES, table.slots - slot));
  };
  const bytes = table.slots * 4096;
  const results: Result[] = [];
  const measure = async (name: string, work: (slot: number, pages: number) => Promise<void> | void): Promise<void> => {
    results.push({ section: "stages", name, ...(await timed(bytes, () => each(work))) });
  };
  const read = (slot: number, pages: number): Promise<void> => reader.read(slot, pages, buffer);
  const frame = (pages: number): Buffer =>
    encodeHead(KIND.data, 0, "pages", { slot: 1, runs: [pages] }, [buffer.subarray(0, pages * 4096)]).head;
  await each(read);
  await measure("read", read);
  await measure("+ zero check", async (slot, pages) => {
    await read(slot, pages);
    zeroRuns(buffer, pages);
  });
  await measure("+ frame (checksum)", async (slot, pages) => {
    await read(slot, pages);
    zeroRuns(buffer, pages);
    frame(pages);
  });
  await measure("parse in pieces of 16 KiB (alone)", (_slot, pages) => {
    const head = frame(pages);
    const parser = new FrameParser({ meta: MIB, payload: 4 * MIB });
    parser.push(head, () => undefined);
    for (let at = 0; at < pages * 4096; at += 16_384) {
      parser.push(buffer.subarray(at, Math.min(pages * 4096, at + 16_384)), () => undefined);
    }
  });
  const file = openSync(join(root, "store"), "w");
  ftruncateSync(file, bytes);
  for (const name of ["store, fresh file (alone)", "store, file that has memory (alone)"]) {
    await measure(name, (slot, pages) => {
      writeSync(file, buffer, 0, pages * 4096, slot * 4096);
    });
  }
  closeSync(file);
  rmSync(join(root, "store"));
  reader.close();
  return results;
}

// --- sockets: this program once more as the receiving process

interface SocketTask {
  kind: "tcp" | "tls" | "link";
  cipher: string;
  bytes: number;
  identity: LinkIdentity;
}

const secure = (files: NodeCertificate, cipher: string): SecureContextOptions => ({
  key: readFileSync(files.keyFile),
  cert: readFileSync(files.certFile),
  ca: readFileSync(files.caFile),
  minVersion: "TLSv1.3",
  ...(cipher === "" ? {} : { ciphers: cipher }),
});

async function receive({ kind, cipher, bytes, identity }: SocketTask): Promise<void> {
  let got = 0;
  let from: NodeJS.CpuUsage | undefined;
  const took = (count: number): void => {
    from ??= process.cpuUsage();
    got += count;
    if (got >= bytes) process.send?.({ cpu: cpuSeconds(from) }, () => process.exit(0));
  };
  const onSocket = (socket: Socket): void => {
    socket.on("data", (chunk: Buffer) => took(chunk.length));
  };
  if (kind === "link") {
    const listener = await listenLink({
      identity,
      host: "127.0.0.1",
      port: 0,
      lendPayloads: true,
      accept: () => undefined,
      onSession: (session) => session.onFrame(({ payload }) => took(payload.length)),
    });
    process.send?.({ port: listener.port });
    return;
  }
  const server: Server = kind === "tls" ? createTlsServer(secure(identity, cipher), onSocket) : createServer(onSocket);
  server.listen(0, "127.0.0.1", () => process.send?.({ port: (server.address() as AddressInfo).port }));
}

interface Shape {
  name: string;
  kind: SocketTask["kind"];
  cipher?: string;
  writeBytes?: number;
  connections?: number;
}
const SHAPES: readonly Shape[] = [
  { name: "plain TCP", kind: "tcp" },
  { name: "TLS AES-128-GCM", kind: "tls", cipher: "TLS_AES_128_GCM_SHA256" },
  { name: "TLS AES-256-GCM", kind: "tls", cipher: "TLS_AES_256_GCM_SHA384" },
  { name: "TLS ChaCha20", kind: "tls", cipher: "TLS_CHACHA20_POLY1305_SHA256" },
  { name: "TLS, writes of 128 KiB", kind: "tls", writeBytes: 131_072 },
  { name: "TLS, writes of 4 MiB", kind: "tls", writeBytes: 4 * MIB },
  { name: "TLS, 2 connections", kind: "tls", connections: 2 },
  { name: "TLS, 4 connections", kind: "tls", connections: 4 },
  { name: "link session", kind: "link" },
];

async function socketRun(shape: Shape, near: LinkIdentity, far: LinkIdentity): Promise<Result> {
  const { kind, cipher = "TLS_AES_128_GCM_SHA256", writeBytes = MIB, connections = 1 } = shape;
  const bytes = Math.max(megabytes, 256) * MIB;
  const task: SocketTask = { kind, cipher, bytes, identity: far };
  const child = fork(new URL(import.meta.url).pathname, [], {
    env: { ...process.env, FERRY_BENCH: JSON.stringify(task) },
  });
  try {
    const [{ port }] = (await once(child, "message")) as [{ port: number }];
    const data = Buffer.allocUnsafeSlow(writeBytes);
    for (let at = 0; at < writeBytes; at += 8) data.writeDoubleLE(Math.random(), at);
    const senders: ((data: Buffer) => Promise<void>)[] = [];
    for (let index = 0; index < connections; index += 1) {
      if (kind === "link") {
        const hello = { purpose: "bulk" as const, operation: "app.migrate.1", workload: "app", to: 2 };
        const session = await dialLink({ identity: near, host: "127.0.0.1", port, peer: far.node, hello });
        session.onClose(() => undefined);
        senders.push((piece) => session.send("pages", { slot: 0, runs: [PAGES] }, piece));
      } else {
        const options = { host: "127.0.0.1", port, rejectUnauthorized: true, checkServerIdentity: () => undefined };
        const socket = kind === "tls" ? connectTls({ ...secure(near, cipher), ...options }) : connectTcp(options);
        socket.on("error", () => undefined);
        await once(socket, kind === "tls" ? "secureConnect" : "connect");
        senders.push((piece) => new Promise((resolve) => socket.write(piece, () => resolve())));
      }
    }
    const told = once(child, "message");
    let left = bytes;
    const { gbPerSecond, cpu } = await timed(bytes, async () => {
      const pump = async (send: (data: Buffer) => Promise<void>): Promise<void> => {
        // two writes under way: one in the kernel's hands, one being encrypted
        const under: Promise<unknown>[] = [];
        for (; left > 0; left -= writeBytes) {
          under.push(send(data).catch(() => undefined));
          if (under.length > 1) await under.shift();
        }
      };
      await Promise.all(senders.map((send) => pump(send)));
      await told;
    });
    const [{ cpu: far_ }] = (await told) as [{ cpu: number }];
    return { section: "sockets", name: shape.name, gbPerSecond, cpu, peerCpu: far_ / (bytes / 1e9) };
  } finally {
    child.kill("SIGKILL");
  }
}

// --- movers

const cpuOf = (pid: number): number => {
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) / 100;
};

async function moverRun(
  target: number,
  root: string,
  tls: Record<"node-a" | "node-b", NodeCertificate>,
): Promise<Result> {
  const dir = mkdtempSync(join(root, "movers-"));
  const start = async <Status extends SourceMoverStatus | DestinationMoverStatus>(
    which: "source" | "destination",
  ): Promise<{ mover: MoverClient<Status>; config: MoverConfig }> => {
    const [node, peer] = which === "source" ? (["node-a", "node-b"] as const) : (["node-b", "node-a"] as const);
    const own = join(dir, which);
    mkdirSync(join(own, "volume"), { recursive: true });
    const config: MoverConfig = {
      operation: "app.migrate.1",
      workload: "app",
      node,
      peer,
      side: which,
      controlSocket: join(own, "mover.sock"),
      imagesDir: join(own, "images"),
      storeDir: join(own, "store"),
      volumeDir: join(own, "volume"),
      tls: tls[node],
      logFile: join(own, "mover.log"),
      ...(which === "destination" ? { listenHost: "127.0.0.1" } : {}),
    };
    const file = join(own, "mover.json");
    writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
    await startMover(config, file);
    return { mover: await connectMover<Status>(config.controlSocket), config };
  };
  try {
    const [source, destination] = await Promise.all([
      start<SourceMoverStatus>("source"),
      start<DestinationMoverStatus>("destination"),
    ]);
    imageProcess(target, source.config.imagesDir);
    const [s, d] = [source.mover, destination.mover];
    await s.request({ verb: "connect", host: "127.0.0.1", port: d.status().port });
    const pids = [s.status().pid, d.status().pid] as const;
    const before = pids.map(cpuOf);
    const from = performance.now();
    await s.request({ verb: "sendImages", pids: { [String(target)]: target } });
    const got = await d.wait((status) => status.pages.allReceived, 60_000);
    const ms = performance.now() - from;
    const [near = 0, far = 0] = pids.map((pid, index) => cpuOf(pid) - (before[index] ?? 0));
    assert.equal(got.pages.received, got.pages.total);
    const gigabytes = (got.pages.total * 4096) / 1e9;
    await Promise.all([s.request({ verb: "exit" }), d.request({ verb: "exit" })]);
    return {
      section: "movers",
      name: `${megabytes} MB, images and pages`,
      gbPerSecond: (gigabytes * 1000) / ms,
      cpu: near / gigabytes,
      peerCpu: far / gigabytes,
    };
  } finally {
    for (const side of ["source", "destination"]) await killMover(join(dir, side));
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Medians of what was run several times. */
function summary(results: readonly Result[]): Result[] {
  const names = [...new Set(results.map(({ section, name }) => `${section}\t${name}`))];
  return names.map((key) => {
    const group = results.filter(({ section, name }) => `${section}\t${name}` === key);
    const [section = "", name = ""] = key.split("\t");
    const peers = group.flatMap(({ peerCpu }) => (peerCpu === undefined ? [] : [peerCpu]));
    return {
      section,
      name,
      gbPerSecond: median(group.map((one) => one.gbPerSecond)),
      cpu: median(group.map((one) => one.cpu)),
      ...(peers.length === 0 ? {} : { peerCpu: median(peers) }),
    };
  });
}

async function main(): Promise<void> {
  const wanted = positionals.length === 0 ? SECTIONS : SECTIONS.filter((name) => positionals.includes(name));
  assert.ok(
    wanted.length > 0 && positionals.every((name) => SECTIONS.some((known) => known === name)),
    `sections: ${SECTIONS.join(", ")}`,
  );
  assert.ok(
    megabytes > 0 && megabytes <= 65_536 && repeat > 0 && repeat <= 100,
    "--mb and --repeat: numbers above zero",
  );
  const root = mkdtempSync("/dev/shm/ferry-bench-link-");
  let target: (ChildProcess & { pid: number }) | undefined;
  try {
    const authorityDir = join(root, "ca");
    await createAuthority(authorityDir);
    const issue = (node: string): Promise<NodeCertificate> =>
      issueNodeCertificate({ authorityDir, node, outDir: join(root, node) });
    const tls = { "node-a": await issue("node-a"), "node-b": await issue("node-b") };
    const results: Result[] = [];
    if (wanted.some((name) => name !== "sockets")) target = await startMemoryTarget(megabytes);
    for (let round = 0; round < repeat; round += 1) {
      if (wanted.includes("stages") && target !== undefined) results.push(...(await stages(target.pid, root)));
      for (const shape of wanted.includes("sockets") ? SHAPES : []) {
        results.push(
          await socketRun(shape, { node: "node-a", ...tls["node-a"] }, { node: "node-b", ...tls["node-b"] }),
        );
      }
      if (wanted.includes("movers") && target !== undefined) results.push(await moverRun(target.pid, root, tls));
    }
    const rows = summary(results);
    if (values.json) process.stdout.write(`${JSON.stringify({ summary: rows, results })}\n`);
    else {
      process.stdout.write(`${"".padEnd(46)}  GB/s   best   CPU s/GB   receiver's\n`);
      for (const { section, name, gbPerSecond, cpu, peerCpu } of rows) {
        const best = Math.max(
          ...results.filter((one) => one.section === section && one.name === name).map((one) => one.gbPerSecond),
        );
        process.stdout.write(
          `${`${section}: ${name}`.padEnd(46)}  ${gbPerSecond.toFixed(2)}   ${best.toFixed(2)}   ${cpu.toFixed(2)}       ${peerCpu?.toFixed(2) ?? ""}\n`,
        );
      }
    }
  } finally {
    target?.kill("SIGKILL");
    rmSync(root, { recursive: true, force: true });
  }
}

const task = process.env["FERRY_BENCH"];
if (task === undefined) await main();
else await receive(JSON.parse(task) as SocketTask);
