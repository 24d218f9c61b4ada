/**
 * The fault matrix: every phase x every fault, for real. After each: exactly one live copy, the client's connection and
 * sequence, the keyspace, and the entity at rest. `npm run test:faults` runs it and writes docs/faults.md.
 *
 * FERRY_MATRIX=WORD runs the cells whose "point, fault" contain the word, and writes nothing.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import type { MigrationReport } from "../../src/client/index.js";
import { packageRoot } from "../../src/host/package-root.js";
import type { Side } from "../../src/model/failure.js";
import type { Mode } from "../../src/model/plan.js";
import { settled, withRedis } from "../e2e/scene.js";
import { describeReport as why } from "../e2e/support.js";
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

const scene = withRedis(20);
const cells: Cell[] = [];
after(() => {
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
      const side: Side = point.startsWith("source") ? "source" : "destination";
      // Pages must still be missing when the source hears that it runs there: else nothing is drained.
      const slowly = point.endsWith(".drain") ? { bandwidthBytesPerSec: 10 * 2 ** 20 } : {};
      const { source, destination, handle, go } = await scene.pausedAt(point, { mode: modeOf(point), ...slowly });
      let heal: Heal | undefined;
      let report: MigrationReport;
      try {
        const struck = performance.now();
        heal = await injection.strike({ e2e: scene.e2e, source, destination, side });
        // A machine without power has no failpoints either.
        await go().catch(() => undefined);
        if (injection.forEver !== true) {
          await heal?.();
          heal = undefined;
        }
        report = await settled(handle);
        cell.ms = performance.now() - struck;
      } finally {
        await heal?.();
      }
      assert.ok(report.outcome === "moved" || report.outcome === "rolled-back", why(report));
      assert.equal(report.node, report.outcome === "moved" ? destination : source);
      await scene.assertOneCopy(report.node);
      cell.outcome = report.outcome;
    });
  }
}

test("through all of it the client saw one connection, every number once", async () => {
  await scene.witness.assertIntact();
});
