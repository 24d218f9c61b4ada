/** Pre-copy by both movers as real processes, of a real process that changes its memory meanwhile. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync, statSync } from "node:fs";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { packageRoot } from "../../src/host/package-root.js";
import type { DestinationMoverStatus, SourceMoverStatus, TrackerKind } from "../../src/model/mover.js";
import { killMover, type MoverClient } from "../../src/transfer/mover/client.js";
import { imageProcesses } from "../support/criu-images.js";
import { MUST, skipWithout } from "./trackers/kit.js";
import { cleanUp, compareStore, isRoot, makeIdentities, pair, type Pair } from "./mover-kit.js";

const skip = isRoot ? false : "needs root: reads another process's memory";
/** An emulated guest takes a minute for each of these: there only those that are about soft-dirty bits are made. */
const inGuest = process.env["FERRY_VM"] === "1";
const others = inGuest ? "not about soft-dirty bits, and slow in a guest" : skip;
const LIMIT_MS = inGuest ? 300_000 : 60_000;
const MIB = Number(process.env["FERRY_TEST_MIB"] ?? 24);

before(async () => {
  if (isRoot) await makeIdentities();
});
after(cleanUp);

/** One bit for a huge page: with soft-dirty bits a few writes would make everything dirty. */
const SMALL = inGuest ? ["small"] : [];

class Tree {
  readonly child: ChildProcess;
  readonly #lines: Interface;
  readonly pids: Record<string, number>;

  private constructor(child: ChildProcess) {
    this.child = child;
    this.#lines = createInterface({ input: child.stdout! });
    this.pids = { [String(child.pid)]: child.pid! };
  }

  static async start(mib = MIB): Promise<Tree> {
    const script = join(packageRoot(), "test/transfer/precopy-target.py");
    const tree = new Tree(spawn("python3", [script, String(mib), ...SMALL], { stdio: ["pipe", "pipe", "inherit"] }));
    await once(tree.#lines, "line");
    return tree;
  }

  async do(line: string): Promise<string> {
    const answer = once(this.#lines, "line") as Promise<[string]>;
    this.child.stdin!.write(`${line}\n`);
    return (await answer)[0];
  }

  async fork(): Promise<void> {
    const pid = Number(await this.do("fork"));
    this.pids[String(pid)] = pid;
  }

  async freeze(): Promise<void> {
    for (const pid of Object.values(this.pids)) {
      process.kill(pid, "SIGSTOP");
      while (!/^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))) await sleep(1);
    }
  }

  async end(): Promise<void> {
    const ended = once(this.child, "exit");
    for (const pid of Object.values(this.pids).toReversed()) process.kill(pid, "SIGKILL");
    await ended;
  }
}

interface Scene extends Pair {
  tree: Tree;
  s: MoverClient<SourceMoverStatus>;
  d: MoverClient<DestinationMoverStatus>;
  /** Scan and send. */
  round(): Promise<SourceMoverStatus>;
  connect(): Promise<void>;
  link: { cut(): void };
  /** Stops the tree, and writes what criu would. */
  freeze(): Promise<void>;
  /** Images and table; what the destination said first. */
  sendImages(): Promise<DestinationMoverStatus>;
  /** The same and everything that is missing; then all memory is compared. */
  finish(): Promise<{ first: DestinationMoverStatus; pages: number }>;
  restartSource(): Promise<void>;
  restartDestination(): Promise<void>;
}

/** Between the movers: connections go through it until they are cut. */
async function relay(to: () => number): Promise<{ port: number; cut(): void; close(): void }> {
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(to(), "127.0.0.1");
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one);
      one.on("error", () => undefined);
      one.on("close", () => {
        sockets.delete(one);
        other.destroy();
      });
      one.pipe(other);
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const cut = (): void => sockets.forEach((socket) => socket.destroy());
  return {
    port: (server.address() as AddressInfo).port,
    cut,
    close() {
      server.close();
      cut();
    },
  };
}

/** `rate`: bytes per second, so that things take their time. */
async function scene(
  name: string,
  work: (scene: Scene) => Promise<void>,
  rate?: number,
  tracker: TrackerKind | "auto" = "auto",
): Promise<void> {
  const { source, destination } = pair(name, rate === undefined ? {} : { bandwidthBytesPerSec: rate });
  const [tree, s, d] = await Promise.all([Tree.start(), source.start(), destination.start()]);
  const port = d.status().port;
  const link = await relay(() => port);
  const it: Scene = {
    tree,
    source,
    destination,
    s,
    d,
    link,
    async connect() {
      await it.s.request({ verb: "connect", host: "127.0.0.1", port: link.port });
    },
    async round() {
      await it.s.request({ verb: "scan", pids: tree.pids, tracker });
      return it.s.request({ verb: "sendUnsent" });
    },
    async freeze() {
      await tree.freeze();
      imageProcesses(tree.pids, source.config.imagesDir);
    },
    async sendImages() {
      await it.s.request({ verb: "sendImages", pids: tree.pids });
      return it.d.wait((status) => status.images.received, 10_000);
    },
    async finish() {
      const first = await it.sendImages();
      await it.s.request({ verb: "limit", bandwidthBytesPerSec: null });
      await it.d.wait((status) => status.pages.allReceived, 20_000);
      const acked = await it.s.wait((status) => status.pages.allAcked, 5000);
      assert.equal(acked.pages.sent, acked.pages.total);
      return { first, pages: compareStore(destination.config.storeDir, tree.pids) };
    },
    async restartSource() {
      await killMover(source.dir);
      it.s = await source.start();
      await it.connect();
    },
    async restartDestination() {
      await killMover(destination.dir);
      it.d = await destination.start();
    },
  };
  try {
    await it.connect();
    await work(it);
    await it.s.request({ verb: "untrack" });
    await Promise.all([it.s.request({ verb: "exit" }), it.d.request({ verb: "exit" })]);
  } finally {
    link.close();
    await tree.end();
  }
}

test("rounds while it writes; the rest when it is frozen", { skip, timeout: LIMIT_MS }, () =>
  scene("rounds", async (it) => {
    const first = await it.round();
    assert.equal(first.precopy?.unsentPages, 0);
    assert.ok(first.precopy.sentPages >= MIB * 256);
    await it.tree.do("work 400");
    for (let round = 0; round < 4; round += 1) await it.round();
    await it.tree.do("write 300");
    await it.freeze();
    const { first: at, pages } = await it.finish();
    assert.ok(at.pages.received > pages / 2, `${at.pages.received} of ${pages} pages were there already`);
    const { precopy } = it.s.status();
    assert.equal(precopy?.scans, 6);
    if (MUST !== undefined) assert.equal(precopy.tracker, MUST);
    const whole = first.precopy.round;
    console.log(
      `first round: ${(whole.sentBytes / 1e3 / whole.durationMs).toFixed(0)} MB/s; ${precopy.tracker}: ${JSON.stringify(precopy)}; ${at.pages.total - at.pages.received} of ${pages} pages left`,
    );
  }),
);

for (const tracker of ["auto", "soft-dirty", "compare"] as const) {
  test(
    `areas come, grow, vanish, are discarded and zeroed; a child is forked (${tracker})`,
    { skip: tracker === "soft-dirty" ? await skipWithout(tracker) : others, timeout: LIMIT_MS },
    () =>
      scene(
        `changes-${tracker}`,
        async (it) => {
          await it.tree.do("work 3000");
          for (const change of ["grow 6", "discard", "zero", "grow 3", "unmap", "fork", "write 500", "grow 2"]) {
            await it.round();
            if (change === "fork") await it.tree.fork();
            else await it.tree.do(change);
          }
          await it.round();
          await it.freeze();
          const { first, pages } = await it.finish();
          assert.ok(first.pages.received > pages / 2);
          if (tracker !== "auto") assert.equal(it.s.status().precopy?.tracker, tracker);
        },
        undefined,
        tracker,
      ),
  );
}

test("pages that vanish before they are read are no failure", { skip: others, timeout: LIMIT_MS }, () =>
  scene("vanish", async (it) => {
    await it.tree.do("grow 8");
    await it.s.request({ verb: "scan", pids: it.tree.pids });
    await it.tree.do("unmap");
    const sent = await it.s.request({ verb: "sendUnsent" });
    assert.equal(sent.precopy?.unsentPages, 0);
    await it.tree.do("grow 8");
    await it.freeze();
    await it.finish();
  }),
);

test("memory that has vanished does not fill the destination", { skip: others, timeout: LIMIT_MS }, () =>
  scene("swollen", async (it) => {
    let most = 0;
    for (let round = 0; round < 12; round += 1) {
      await it.tree.do("grow 48");
      const { precopy } = await it.round();
      assert.equal(precopy?.unsentPages, 0);
      await it.tree.do("forget");
      await it.s.request({ verb: "scan", pids: it.tree.pids });
      const { blocks } = statSync(join(it.destination.config.storeDir, "pages"));
      most = Math.max(most, (blocks * 512) / 2 ** 20);
    }
    console.log(`at most ${most.toFixed(0)} MiB were staged, of ${12 * 48 + MIB} MiB that were sent`);
    assert.ok(most < 11 * 48, `${most} MiB`);
    await it.freeze();
    await it.finish();
  }),
);

test("a round is cut, and goes on", { skip: others, timeout: LIMIT_MS }, () =>
  scene(
    "cut",
    async (it) => {
      await it.s.request({ verb: "scan", pids: it.tree.pids });
      const sending = it.s.request({ verb: "sendUnsent" });
      await it.s.wait((status) => (status.precopy?.sentPages ?? 0) > 500, 10_000);
      await it.s.request({ verb: "cut" });
      const cut = await sending;
      assert.ok((cut.precopy?.unsentPages ?? 0) > 1000, JSON.stringify(cut.precopy));
      await it.s.request({ verb: "limit", bandwidthBytesPerSec: null });
      const rest = await it.s.request({ verb: "sendUnsent" });
      assert.equal(rest.precopy?.unsentPages, 0);
      assert.equal(rest.precopy.scans, 1);
      await it.freeze();
      await it.finish();
    },
    20e6,
  ),
);

test("most pages are old when it is frozen in the middle of a round", { skip: others, timeout: LIMIT_MS }, () =>
  scene(
    "stale",
    async (it) => {
      await it.s.request({ verb: "limit", bandwidthBytesPerSec: null });
      await it.round();
      await it.tree.do("write 20000");
      await it.s.request({ verb: "limit", bandwidthBytesPerSec: 10e6 });
      await it.s.request({ verb: "scan", pids: it.tree.pids });
      const sending = it.s.request({ verb: "sendUnsent" });
      await it.s.wait((status) => (status.precopy?.round.sentPages ?? 0) > 300, 10_000);
      await it.freeze();
      const { first } = await it.finish();
      await sending;
      assert.ok(first.pages.received < first.pages.total * 0.8);
    },
    10e6,
  ),
);

for (const when of ["in a round", "before the images", "after ready"] as const) {
  for (const what of ["link", "source", "destination"] as const) {
    test(`the ${what} is lost ${when}`, { skip: others, timeout: LIMIT_MS }, () =>
      scene(
        `${what} ${when}`.replaceAll(" ", "-"),
        async (it) => {
          const lose = async (): Promise<void> => {
            if (what === "link") it.link.cut();
            else if (what === "source") await it.restartSource();
            else await it.restartDestination();
          };
          if (when === "in a round") {
            await it.s.request({ verb: "scan", pids: it.tree.pids });
            const sending = it.s.request({ verb: "sendUnsent" }).catch((error: unknown) => {
              if (what !== "source") throw error;
            });
            await it.s.wait((status) => (status.precopy?.sentPages ?? 0) > 500, 10_000);
            await lose();
            await it.s.request({ verb: "limit", bandwidthBytesPerSec: null });
            await sending;
          }
          await it.s.request({ verb: "limit", bandwidthBytesPerSec: null });
          await it.tree.do("write 300");
          const status = await it.round();
          assert.equal(status.precopy?.unsentPages, 0);
          await it.tree.do("write 8000");
          if (when !== "in a round") await it.s.request({ verb: "limit", bandwidthBytesPerSec: 10e6 });
          await it.freeze();
          if (when === "before the images") await lose();
          if (when === "after ready") {
            await it.sendImages();
            await lose();
          }
          const { first, pages } = await it.finish();
          const staged = when !== "before the images" || what === "link";
          if (staged) assert.ok(first.pages.received > pages / 10, `${first.pages.received} of ${pages}`);
        },
        20e6,
      ),
    );
  }
}
