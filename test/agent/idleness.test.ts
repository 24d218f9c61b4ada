/** Since when a workload is idle, by what its runtime says it has done. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { IdleWatch } from "../../src/agent/idleness.js";
import type { NodeContext } from "../../src/agent/operations/node-context.js";
import { FerryError } from "../../src/model/failure.js";

function watched(state = "OWNER") {
  const seen = { packets: 10, cpuMs: 0 };
  const time = { now: 1_000_000 };
  const context = {
    config: { node: "node-a" },
    book: { hold: (_: string, epoch: number) => (epoch === 1 ? { state } : undefined) },
    runtime: { activity: () => Promise.resolve({ ...seen }) },
    log: () => undefined,
  } as unknown as NodeContext;
  const watch = new IdleWatch(context, () => time.now);
  const ask = (cpuPercent = 1, epoch = 1) => watch.ask({ schema: 1, workload: "web", epoch, cpuPercent });
  return { seen, time, watch, ask };
}

test("idle from the first question on; a packet begins it anew, also one between two looks", async () => {
  const { seen, time, ask, watch } = watched();
  assert.deepEqual(await ask(), { packetsMs: 0, cpuMs: 0 });
  time.now += 60_000;
  assert.deepEqual(await ask(), { packetsMs: 60_000, cpuMs: 60_000 });
  time.now += 5_000;
  seen.packets += 1;
  assert.deepEqual(await ask(), { packetsMs: 0, cpuMs: 65_000 });
  time.now += 7_000;
  assert.equal((await ask()).packetsMs, 7_000);
  // Another namespace counts from nothing.
  seen.packets = 0;
  assert.equal((await ask()).packetsMs, 0);
  watch.close();
});

test("the processor: more than the share, on average over some seconds; a short tick is none", async () => {
  const { seen, time, ask, watch } = watched();
  await ask();
  time.now += 10_000;
  seen.cpuMs += 90;
  assert.equal((await ask()).cpuMs, 10_000, "0.9% is under 1%");
  time.now += 10_000;
  seen.cpuMs += 110;
  assert.equal((await ask()).cpuMs, 0, "1.1% is not");
  time.now += 10_000;
  assert.equal((await ask()).cpuMs, 10_000);
  time.now += 1_000;
  seen.cpuMs += 40;
  assert.equal((await ask()).cpuMs, 11_000, "4% of a second is not 1% of five");
  assert.equal((await ask(0.5)).cpuMs, 0, "another share begins anew");
  watch.close();
});

test("what does not run here under that epoch is said, and not looked at", async () => {
  for (const [{ ask }, epoch] of [
    [watched("FROZEN"), 1],
    [watched(), 2],
  ] as const) {
    await assert.rejects(ask(1, epoch), (error: unknown) => error instanceof FerryError && error.code === "E_STATE");
  }
});
