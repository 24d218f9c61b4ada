/**
 * What tracking costs the workload: redis-benchmark's requests per second while a tracker looks for changes at the pace of a
 * migration that is held, beside the same without, in turn. Then in a held migration: with page traffic limited, and at full
 * speed.
 */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { cgroupPath, cgroupPids } from "../deploy/lab/cgroups.js";
import type { Place } from "../deploy/demo/clients.js";
import { HELD_PAUSE_MS } from "../src/agent/operations/rounds.js";
import { chooseTracker } from "../src/transfer/trackers/choose.js";
import type { Cell, Tracking } from "./model.js";
import { programOf } from "./program.js";
import { warmMemory, type Stage } from "./stage.js";

const MIB = 512;
/** The rounds that send all of the memory are no longer under way by then. */
const SETTLE_MS = 1000;
/** Little enough that the processors are not busy with sending. */
const LIMITED_BYTES_PER_SEC = 20e6;
const HELD_WITHIN_MS = 60_000;
const WARM_UP_REQUESTS = 100_000;

/** A time would be better than a number of requests, but this redis-benchmark has none. */
async function requestsPerSec(stage: Stage, place: Place, requests: number): Promise<number> {
  const { stdout } = await stage.on(
    "client",
    [
      ["redis-benchmark", "-h", place.host, "-p", String(place.port), "-c", "8", "--csv"],
      ["-t", "set", "-d", "1024", "-r", String(MIB * 200), "-n", String(requests)],
    ].flat(),
    { timeoutMs: 120_000 },
  );
  const rate = /^"SET","(\d+(?:\.\d+)?)"/m.exec(stdout)?.[1];
  if (rate === undefined) throw new Error(`redis-benchmark said ${stdout.slice(0, 200)}`);
  return Number(rate);
}

/** Processes of the node that are called so, as this process sees them. */
async function pidsOf(stage: Stage, comm: string): Promise<Record<string, number>> {
  const pids = await cgroupPids(cgroupPath(stage.lab, "node-a"));
  const found = pids.filter((pid) => readFileSync(`/proc/${pid}/comm`, "utf8").trim() === comm);
  return Object.fromEntries(found.map((pid, index) => [String(index + 1), pid]));
}

/** What `measure` finds while a tracker looks for changes. */
async function whileTracked(pids: Record<string, number>, measure: () => Promise<number>): Promise<Looked> {
  const { tracker } = await chooseTracker("auto");
  const over = new AbortController();
  let looks = 0;
  try {
    // The first look arms it, and finds everything.
    await tracker.scan(pids);
    const looking = (async () => {
      for (;;) {
        await sleep(HELD_PAUSE_MS, undefined, { signal: over.signal });
        await tracker.scan(pids);
        looks += 1;
      }
    })().catch((error: unknown) => {
      if (!over.signal.aborted) throw error;
    });
    const perSec = await Promise.race([measure(), looking.then(() => Promise.reject(new Error("it looks no more")))]);
    over.abort();
    await looking;
    return { perSec, looks, tracker: tracker.kind };
  } finally {
    over.abort();
    await tracker.end();
  }
}
interface Looked {
  perSec: number;
  looks: number;
  tracker: string;
}

export async function measureTracking(stage: Stage, repeats: number, seconds: number): Promise<Tracking> {
  const cell: Cell = { workload: "redis", mib: MIB, dirtyMBPerSec: 0, link: "unlimited" };
  const program = programOf(cell);
  await warmMemory(MIB * 2);
  const workload = await stage.client.workloads.run({ name: "tracked", node: "node-a", command: program.command });
  const result: Tracking = {
    withoutPerSec: [],
    whilePerSec: [],
    limitedPerSec: [],
    sendingPerSec: [],
    looks: 0,
    rounds: 0,
    tracker: "",
  };
  try {
    const { spec } = await workload.status();
    const place = { pid: stage.clientPid, host: spec.network.ip.replace(/\/.*$/, ""), port: program.port };
    await program.populate(place, stage);
    const requests = Math.round(seconds * (await requestsPerSec(stage, place, WARM_UP_REQUESTS)));
    for (let repeat = 0; repeat < repeats; repeat += 1) {
      result.withoutPerSec.push(await requestsPerSec(stage, place, requests));
      const pids = await pidsOf(stage, "redis-server");
      const tracked = await whileTracked(pids, () => requestsPerSec(stage, place, requests));
      result.whilePerSec.push(tracked.perSec);
      result.looks += tracked.looks;
      const migration = await workload.migrate({ to: "node-b", mode: "precopy", hold: true });
      const end = performance.now() + HELD_WITHIN_MS;
      for await (const { precopy } of migration.progress({ everyMs: 100 })) {
        if ((precopy?.round ?? 0) >= 2 && precopy?.held === true) break;
        if (performance.now() > end) throw new Error("the rounds did not get to where they are held");
      }
      await migration.steer({ do: "bandwidth", bytesPerSec: LIMITED_BYTES_PER_SEC });
      await sleep(SETTLE_MS);
      result.limitedPerSec.push(await requestsPerSec(stage, place, requests));
      await migration.steer({ do: "bandwidth", bytesPerSec: null });
      await sleep(SETTLE_MS);
      result.sendingPerSec.push(await requestsPerSec(stage, place, requests));
      await migration.cancel();
      const report = await migration.result();
      result.rounds += report.precopy?.rounds.length ?? 0;
      result.tracker = report.precopy?.tracker ?? "";
    }
    return result;
  } finally {
    await workload.remove({ force: true });
  }
}
