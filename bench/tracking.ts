/**
 * What tracking costs the workload: redis-benchmark's requests per second while rounds of pre-copy look for changes (held
 * before the freeze, page traffic limited), beside the same without, in turn; and with page traffic at full speed.
 */
import type { Place } from "../deploy/demo/clients.js";
import type { Cell, Tracking } from "./model.js";
import { programOf } from "./program.js";
import { warmMemory, type Stage } from "./stage.js";

const MIB = 512;
/** The rounds that send all of the memory are no longer under way by then. */
const SETTLE_MS = 1000;
/** Little enough that the processors are not busy with sending. */
const LIMITED_BYTES_PER_SEC = 20e6;
const HELD_WITHIN_MS = 60_000;
const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

async function requestsPerSec(stage: Stage, place: Place, seconds: number): Promise<number> {
  // A time would be better than a number of requests, but this redis-benchmark has none: about so many fit.
  const requests = String(Math.round(seconds * 25_000));
  const { stdout } = await stage.on(
    "client",
    [
      ["redis-benchmark", "-h", place.host, "-p", String(place.port), "-c", "8", "--csv"],
      ["-t", "set", "-d", "1024", "-r", String(MIB * 200), "-n", requests],
    ].flat(),
    { timeoutMs: 120_000 },
  );
  const rate = /^"SET","(\d+(?:\.\d+)?)"/m.exec(stdout)?.[1];
  if (rate === undefined) throw new Error(`redis-benchmark said ${stdout.slice(0, 200)}`);
  return Number(rate);
}

export async function measureTracking(stage: Stage, repeats: number, seconds: number): Promise<Tracking> {
  const cell: Cell = { workload: "redis", mib: MIB, dirtyMBPerSec: 0, link: "unlimited" };
  const program = programOf(cell);
  await warmMemory(MIB * 2);
  const workload = await stage.client.workloads.run({ name: "tracked", node: "node-a", command: program.command });
  const result: Tracking = { withoutPerSec: [], whilePerSec: [], sendingPerSec: [], rounds: 0, tracker: "" };
  try {
    const { spec } = await workload.status();
    const place = { pid: stage.clientPid, host: spec.network.ip.replace(/\/.*$/, ""), port: program.port };
    await program.populate(place, stage);
    await requestsPerSec(stage, place, seconds);
    for (let repeat = 0; repeat < repeats; repeat += 1) {
      result.withoutPerSec.push(await requestsPerSec(stage, place, seconds));
      const migration = await workload.migrate({ to: "node-b", mode: "precopy", hold: true });
      const end = performance.now() + HELD_WITHIN_MS;
      for await (const { precopy } of migration.progress({ everyMs: 100 })) {
        if ((precopy?.round ?? 0) >= 2 && precopy?.held === true) break;
        if (performance.now() > end) throw new Error("the rounds did not get to where they are held");
      }
      await migration.steer({ do: "bandwidth", bytesPerSec: LIMITED_BYTES_PER_SEC });
      await pause(SETTLE_MS);
      result.whilePerSec.push(await requestsPerSec(stage, place, seconds));
      await migration.steer({ do: "bandwidth", bytesPerSec: null });
      await pause(SETTLE_MS);
      result.sendingPerSec.push(await requestsPerSec(stage, place, seconds));
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
