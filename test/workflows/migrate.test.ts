import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { skipWithoutTemporal } from "../support/temporal.js";
import { QUERY, UPDATE, type MigrationView, type OperationStarted } from "../../src/model/messages.js";
import type { MigrationReport } from "../../src/model/report.js";
import type { Steered } from "../../src/model/steering.js";
import { Stage, until } from "./support.js";

describe("migrate", { skip: skipWithoutTemporal, concurrency: true }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up();
  });
  after(() => stage.down());

  for (const mode of ["cold", "postcopy"] as const) {
    test(`${mode}: the workload moves there and back, with new epochs and nothing left`, async () => {
      const subject = await stage.run();
      const there = await subject.moveTo("node-b", { mode });
      assert.equal(there.outcome, "moved", JSON.stringify(there.failure));
      assert.equal(there.epoch, 2);
      assert.equal(there.node, "node-b");
      assert.ok((there.blackoutMs ?? 0) > 0);
      assert.equal((there.residualMs ?? 0) > 0, mode === "postcopy");
      assert.ok(there.phases.some((p) => p.side === "source") && there.phases.some((p) => p.side === "destination"));
      const back = await subject.moveTo("node-a", { mode });
      assert.equal(back.outcome, "moved");
      assert.equal(back.epoch, 3);
      assert.deepEqual(stage.world.running(subject.name), ["node-a"]);
      assert.deepEqual(stage.world.violations, []);
      const status = await subject.status();
      assert.equal(status.state, "running");
      assert.equal(status.node, "node-a");
      assert.equal(stage.world.node("node-b").litter.has(back.operation), false);
    });
  }

  test("it can be steered while it is under way, and every word is in its history", async () => {
    const subject = await stage.run();
    let steered: Promise<void> | undefined;
    const early = new Promise<void>((resolve) => {
      stage.world.at(
        "source:precopy",
        async () => {
          const { handle } = subject;
          const last = await until(
            () => handle.query<OperationStarted | null>(QUERY.lastMigration),
            (seen) => seen !== null,
          );
          assert.ok(last !== null);
          const operation = subject.operation(last);
          const say = (command: unknown) =>
            operation.executeUpdate<Steered, [unknown]>(UPDATE.steer, { args: [command] });
          steered = (async () => {
            assert.match((await say({ do: "pause" })).message, /pause/);
            assert.equal((await say({ do: "max-downtime", ms: 250 })).maxDowntimeMs, 250);
            for (const bad of [{ do: "fly" }, { do: "bandwidth" }, { do: "pause", now: true }, null, "go"]) {
              await assert.rejects(say(bad), (error: Error) => /command/.test((error.cause as Error).message));
            }
            const view = await operation.query<MigrationView>(QUERY.view);
            assert.deepEqual(
              view.steering.map((entry) => entry.command.do),
              ["pause", "max-downtime"],
            );
          })();
          await steered;
          resolve();
          // Not when another test's workload comes by: this one might not be under way yet.
        },
        subject.name,
      );
    });
    const started = await subject.migrate("node-b", { mode: "precopy", maxBlackoutMs: 20_000 });
    await early;
    await steered;
    const report = (await subject.operation(started).result()) as MigrationReport;
    assert.equal(report.outcome, "moved", JSON.stringify(report.failure));
    const late = subject.operation(started).executeUpdate<Steered, [unknown]>(UPDATE.steer, { args: [{ do: "go" }] });
    await assert.rejects(late);
  });

  test("auto: what preflight measures chooses, the plan and the report say why, and hold predicted beside measured", async () => {
    try {
      const subject = await stage.run();
      const mib = 2 ** 20;
      const auto = { mode: "auto", maxDowntimeMs: 500 } as const;
      const dirty = (rate: number) => {
        for (const node of ["node-a", "node-b"])
          stage.agent(node).facts = {
            memoryBytes: 1000 * mib,
            fixedBlackoutMs: 200,
            bandwidthBytesPerSec: 500 * mib,
            dirty: { tracker: "pagemap-scan", rateBytesPerSec: rate * mib, windowMs: 260 },
          };
      };
      const none = await subject.moveTo("node-b", auto);
      assert.deepEqual([none.outcome, none.mode, none.forecast], ["moved", "precopy", undefined]);
      assert.match(none.reasons.join("\n"), /mode precopy: how fast the memory changes could not be looked at/);
      dirty(50);
      const calm = await subject.moveTo("node-a", { ...auto, onStall: "hybrid" });
      assert.equal(calm.mode, "precopy");
      assert.match(
        calm.reasons.join("\n"),
        /mode precopy: in a look of 260 ms 50 MiB\/s changed and 500 MiB\/s can be sent.*within the limit of 500 ms/,
      );
      for (const { predicted, measured } of Object.values(calm.forecast ?? {}))
        assert.ok(predicted > 0 && measured > 0);
      assert.deepEqual(Object.keys(calm.forecast ?? {}), ["downtimeMs", "totalMs", "bytes"]);
      dirty(900);
      const wild = await subject.moveTo("node-b", { ...auto, onStall: "hybrid" });
      assert.equal(wild.mode, "hybrid");
      assert.match(
        wild.reasons.join("\n"),
        /mode hybrid: .*900 MiB\/s changed.*above the limit of 500 ms, and --on-stall hybrid allows/,
      );
      const forbidden = await subject.moveTo("node-a", { ...auto, dryRun: true });
      assert.equal(forbidden.plan?.mode, "precopy");
      assert.match(
        forbidden.reasons.join("\n"),
        /above the limit of 500 ms; hybrid would resume first, and needs --on-stall hybrid/,
      );
      assert.equal(forbidden.plan?.prediction?.converges, false);
      const seen = await subject.handle.describe();
      assert.deepEqual(seen.searchAttributes["FerryMode"], ["precopy"]);
    } finally {
      for (const node of ["node-a", "node-b"]) stage.agent(node).facts = {};
    }
  });

  test("a dry run stops after preflight with the plan", async () => {
    const subject = await stage.run();
    const report = await subject.moveTo("node-b", { dryRun: true });
    assert.equal(report.outcome, "planned");
    assert.equal(report.plan?.epoch, 2);
    assert.deepEqual(stage.world.running(subject.name), ["node-a"]);
    assert.deepEqual(stage.world.node("node-b").hold(subject.name, 2), undefined);
  });
});
