/** The sums of the report, and what it says where something is not known. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { SideOutcome } from "../../src/model/contract.js";
import { assembleReport, type ReportParts } from "../../src/workflows/report.js";
import { specOf } from "./support.js";

const transfer = { bytesSent: 40, pagesSent: 4, pagesFaulted: 1, volumeBytes: 9, bandwidthBytesPerSec: 7 };

function made(more: Partial<ReportParts>) {
  return assembleReport({
    handOver: {
      ref: {
        schema: 1,
        operation: "w.migrate.2",
        workload: "w",
        epoch: 1,
        to: 2,
        source: "node-a",
        destination: "node-b",
      },
      options: { mode: "postcopy", dryRun: false, maxBlackoutMs: 1_000 },
      spec: specOf("w"),
    },
    outcome: "moved",
    node: "node-b",
    epoch: 2,
    startedAt: 100,
    endedAt: 900,
    findings: [],
    failures: [],
    reasons: [],
    ...more,
  });
}
const source: SideOutcome = { state: "GONE", phases: [], transfer, frozenAt: 200 };
const destination: SideOutcome = { state: "OWNER", phases: [], transfer, resumedAt: 250, drainedAt: 750 };

test("both sides know: blackout, residual time, and memory and files apart", () => {
  const report = made({ sourceOutcome: source, destinationOutcome: destination });
  assert.equal(report.blackoutMs, 50);
  assert.equal(report.residualMs, 500);
  assert.equal(report.totalMs, 800);
  assert.equal(report.bytesSent, 40);
  assert.equal(report.volumeBytes, 9);
  assert.equal(report.bandwidthBytesPerSec, 7);
});

test("a blackout and a residual time that nobody knows are null, not nothing", () => {
  const { frozenAt: _, ...replaced } = source;
  const report = made({ sourceOutcome: replaced, destinationOutcome: { ...destination, drainedAt: 750 } });
  assert.equal(report.blackoutMs, null);
  assert.equal(report.residualMs, 500);
  assert.ok(report.reasons.some((reason) => reason.startsWith("blackout: not known")));
  const { resumedAt: __, ...late } = destination;
  assert.equal(made({ sourceOutcome: source, destinationOutcome: late }).residualMs, null);
  // A clock that was set says nothing about how long something took.
  const set = made({ sourceOutcome: source, destinationOutcome: { ...destination, clockStepMs: -3_600_000 } });
  assert.deepEqual([set.blackoutMs, set.residualMs, set.frozenAt], [null, null, undefined]);
  assert.ok(set.reasons.some((reason) => reason.includes("the clock of node-b was set back by 3600000 ms")));
  // As JSON it is there, and says so.
  assert.match(JSON.stringify(report), /"blackoutMs":null/);
});

test("not moved: nothing when it was never frozen, not known when it was taken back", () => {
  assert.equal(made({ outcome: "refused" }).blackoutMs, 0);
  const { frozenAt: _, ...early } = source;
  assert.equal(made({ outcome: "rolled-back", sourceOutcome: early }).blackoutMs, 0);
  assert.equal(made({ outcome: "rolled-back", sourceOutcome: source }).blackoutMs, null);
});
