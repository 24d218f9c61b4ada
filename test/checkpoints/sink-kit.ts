/** A sink as a real process where a destination's mover would be, and what a source's mover gives it. */
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { CheckpointSaid, SinkStatus } from "../../src/model/mover.js";
import type { WorkloadSpec } from "../../src/model/workload.js";
import { connectMover, startMover, type MoverClient } from "../../src/transfer/mover/client.js";
import type { Pair } from "../transfer/mover-kit.js";

const MAIN = fileURLToPath(new URL("../../src/checkpoints/sink/main.js", import.meta.url));

export const facts: CheckpointSaid = {
  workload: "app",
  epoch: 1,
  runtime: "process",
  node: "node-a",
  criuVersion: "4.2.1",
  kernel: "6.18.0",
  cpu: "a cpu",
  arch: "x64",
  reason: "test",
  requestedBy: "tests",
  labels: { tier: "one" },
  takenAt: 1_790_000_000_000,
};
export const spec: WorkloadSpec = {
  name: "app",
  runtime: "process",
  command: ["sleep", "1"],
  env: {},
  dir: "/",
  user: "0:0",
  limits: {},
  network: { ip: "10.0.0.5/24", mac: "02:00:00:00:00:05" },
};
/** The pair's destination is a sink. */
export async function startSink(
  { destination }: Pair,
  storeFile: string,
  env: Record<string, string> = {},
): Promise<MoverClient<SinkStatus>> {
  const config = { ...destination.config, storeFile };
  writeFileSync(destination.file, JSON.stringify(config), { mode: 0o600 });
  await startMover(config, destination.file, { main: MAIN, env });
  return connectMover<SinkStatus>(config.controlSocket);
}

/** Everything of this stopped process, whose images are there. */
export async function gather(both: Pair, sink: MoverClient<SinkStatus>, pid: number): Promise<void> {
  const source = await both.source.start();
  await source.request({ verb: "connect", host: "127.0.0.1", port: sink.status().port });
  await source.request({ verb: "finalSync", pids: [] });
  await source.request({ verb: "sendImages", pids: { [String(pid)]: pid } });
  await sink.wait((status) => status.complete, 30_000);
  await source.request({ verb: "exit" });
}
