/**
 * The fault matrix: every phase x every fault, for real. After each: exactly one live copy, the client's connection and
 * sequence, the keyspace, and the entity at rest. `npm run test:faults` runs it and writes docs/faults.md.
 *
 * FERRY_MATRIX=WORD runs the cells whose "point, fault" contain the word, and writes nothing.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import type { MigrationReport } from "../../src/client/index.js";
import { packageRoot } from "../../src/host/package-root.js";
import type { Side } from "../../src/model/failure.js";
import type { Mode } from "../../src/model/plan.js";
import {
  armFailpoint,
  assertLives,
  clearFailpoints,
  describeReport as why,
  goOn,
  other,
  reached,
  startLab,
  startWitness,
  until,
  type E2eLab,
  type Witness,
} from "../e2e/support.js";
import { INJECTIONS, type Heal } from "./injections.js";
import { renderMatrix, type Cell } from "./table.js";

const POINTS = [
  ...["arm", "presync", "precopy", "freeze", "dump", "transfer", "switch", "release", "drain"].map(
    (p) => `source.${p}`,
  ),
  ...["arm", "restore", "transfer", "switch", "resume", "drain"].map((p) => `destination.${p}`),
];
const modeOf = (point: string): Mode =>
  point.endsWith(".drain") ? "postcopy" : point === "source.precopy" ? "precopy" : "cold";
const wanted = process.env["FERRY_MATRIX"];
const LIMIT = { timeout: 180_000 };

let e2e: E2eLab;
let witness: Witness;
let digest: string;
const cells: Cell[] = [];

before(async () => {
  e2e = await startLab();
  witness = await startWitness(e2e, "redis", "node-a", 20);
  digest = await witness.digest();
});
afterEach(() => clearFailpoints(e2e));
after(async () => {
  witness?.counter.kill();
  await e2e?.down();
  if (wanted !== undefined || cells.length === 0) return;
  writeFileSync(join(packageRoot(), "docs", "faults.md"), renderMatrix(POINTS, INJECTIONS, cells));
});

for (const point of POINTS) {
  for (const injection of INJECTIONS) {
    if (!injection.at(point)) continue;
    const name = `${point}, ${injection.name}`;
    if (wanted !== undefined && !name.includes(wanted)) continue;
    test(name, LIMIT, async () => {
      const cell: Cell = { point, fault: injection.name, mode: modeOf(point), outcome: "failed" };
      cells.push(cell);
      const { node: source } = await witness.workload.status();
      const destination = other(source);
      const side: Side = point.startsWith("source") ? "source" : "destination";
      const at = side === "source" ? source : destination;
      await armFailpoint(e2e, at, point, "pause");
      // Pages must still be missing when the source hears that it runs there: else nothing is drained.
      const slowly = point.endsWith(".drain") ? { bandwidthBytesPerSec: 10 * 2 ** 20 } : {};
      const handle = await witness.workload.migrate({ to: destination, mode: modeOf(point), ...slowly });
      const ended = handle.result();
      ended.catch(() => undefined);
      let heal: Heal | undefined;
      let report: MigrationReport;
      try {
        await reached(e2e, at, point, ended);
        const struck = performance.now();
        heal = await injection.strike({ e2e, source, destination, side });
        // A machine without power has no failpoints either.
        await goOn(e2e, at, point).catch(() => undefined);
        if (injection.forEver !== true) {
          await heal?.();
          heal = undefined;
        }
        report = await ended;
        cell.ms = performance.now() - struck;
      } finally {
        await heal?.();
      }
      assert.ok(report.outcome === "moved" || report.outcome === "rolled-back", why(report));
      assert.equal(report.node, report.outcome === "moved" ? destination : source);
      await until("its entity is at rest", 30_000, async () => {
        const { operation, state } = await witness.workload.status();
        return operation === undefined && state === "running";
      });
      await assertLives(e2e, witness, digest, report.node, 20_000);
      cell.outcome = report.outcome;
    });
  }
}

test("through all of it the client saw one connection, every number once", async () => {
  await witness.assertIntact();
});
