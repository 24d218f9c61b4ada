/**
 * The fault matrix: every phase x every fault, for real. After each: exactly one live copy, the client's connection and
 * sequence, the keyspace, and the entity at rest. `npm run test:faults` runs it and writes docs/faults.md.
 *
 * Each cell runs in one of the modes that have its point, the next cell in the next; FERRY_MATRIX_MODES=all runs it in all of
 * them. FERRY_MATRIX=WORD runs the cells whose "point, fault, mode" contain the word, and writes nothing. Several labs work at
 * once, FERRY_MATRIX_LABS of them (as many as there are processors): most of a cell's time is waiting. FERRY_MATRIX_KEEP=FILE
 * keeps each cell's result there, a line of JSON each; what has passed there is not run again but is in the table, so that a
 * matrix of more than an hour may be run in pieces.
 */
import assert from "node:assert/strict";
import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { availableParallelism } from "node:os";
import { after, before, describe, test } from "node:test";
import { FAILPOINTS } from "../../src/agent/failpoint.js";
import type { MigrationReport } from "../../src/client/index.js";
import { packageRoot } from "../../src/host/package-root.js";
import type { Side } from "../../src/model/failure.js";
import type { Mode } from "../../src/model/plan.js";
import { Scene, settled } from "../e2e/scene.js";
import { clearFailpoints, describeReport as why, withClocks } from "../e2e/support.js";
import { INJECTIONS, type Heal, type Injection } from "./injections.js";
import { CellSchema, renderMatrix, type Cell } from "./table.js";

/** Those of checkpoints are in test/e2e/checkpoint. */
const POINTS: readonly string[] = FAILPOINTS.filter((point) => !point.startsWith("checkpoint."));
/** The modes in which a migration comes by this point. */
function modesOf(point: string): readonly Mode[] {
  // Drained is what the destination lacks when it runs: after the rounds of a hybrid one that is too little to stand there for.
  if (point === "source.drain") return ["postcopy"];
  if (point === "source.precopy") return ["precopy", "hybrid"];
  if (point === "destination.transfer") return ["cold", "precopy"];
  return ["cold", "precopy", "postcopy", "hybrid"];
}
const everyMode = process.env["FERRY_MATRIX_MODES"] === "all";
const wanted = process.env["FERRY_MATRIX"];
const keep = process.env["FERRY_MATRIX_KEEP"];
const LIMIT = { timeout: 180_000 };
/** A migration that has not answered by then hangs. */
const ENDS_MS = 120_000;

async function within<T>(ms: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms / 1000} s`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const MEGABYTES = 20;
const scenes = Array.from(
  { length: Number(process.env["FERRY_MATRIX_LABS"] ?? availableParallelism()) },
  () => new Scene(),
);
/** Those that no cell has now. */
const idle: Scene[] = [];
const cells: Cell[] = [];
/** Those of earlier runs that passed. */
const kept = new Map(
  (keep !== undefined && existsSync(keep) ? readFileSync(keep, "utf8").split("\n") : [])
    .filter((line) => line !== "")
    .map((line) => CellSchema.parse(JSON.parse(line)))
    .filter(({ outcome }) => outcome !== "failed")
    .map((cell) => [nameOf(cell), cell]),
);
function nameOf({ point, fault, mode }: Pick<Cell, "point" | "fault" | "mode">): string {
  return `${point}, ${fault}, ${mode}`;
}
before(async () => {
  withClocks();
  for (const scene of scenes) await scene.up(MEGABYTES);
  idle.push(...scenes);
});
after(async () => {
  for (const scene of scenes) await scene.down();
  if (wanted !== undefined || cells.length === 0) return;
  writeFileSync(join(packageRoot(), "docs", "faults.md"), renderMatrix(POINTS, INJECTIONS, cells));
});

const planned = POINTS.flatMap((point, row) =>
  INJECTIONS.flatMap((injection, column) => {
    if (!injection.at(point)) return [];
    const modes = modesOf(point).filter((mode) => injection.modes?.(mode) ?? true);
    const one = modes[(row + column) % modes.length];
    return (everyMode || one === undefined ? modes : [one]).map((mode) => ({
      point,
      injection,
      mode,
      name: nameOf({ point, fault: injection.name, mode }),
    }));
  }),
);

async function withScene(use: (scene: Scene) => Promise<void>): Promise<void> {
  const scene = idle.pop();
  assert.ok(scene, "as many cells at once as there are labs");
  let next = scene;
  try {
    await use(scene);
  } catch (error) {
    // What a failed cell has left behind is not the next one's.
    next = new Scene();
    scenes.splice(scenes.indexOf(scene), 1, next);
    await scene.down();
    await next.up(MEGABYTES);
    throw error;
  } finally {
    await clearFailpoints(next.e2e);
    idle.push(next);
  }
}

async function runCell(scene: Scene, injection: Injection, cell: Cell): Promise<void> {
  const { point } = cell;
  const side: Side = point.startsWith("source") ? "source" : "destination";
  // Pages must still be missing when the source hears that it runs there: else nothing is drained.
  const slowly = point.endsWith(".drain") ? { bandwidthBytesPerSec: 10 * 2 ** 20 } : {};
  const { source, destination, handle, go } = await scene.pausedAt(point, { mode: cell.mode, ...slowly });
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
    report = await within(ENDS_MS, settled(handle));
    cell.ms = performance.now() - struck;
  } catch (error) {
    // The next cells begin with a workload at rest, whatever became of this one.
    await go().catch(() => undefined);
    await handle.cancel().catch(() => undefined);
    throw error;
  } finally {
    await heal?.();
  }
  assert.ok(report.outcome === "moved" || report.outcome === "rolled-back", why(report));
  assert.equal(report.node, report.outcome === "moved" ? destination : source);
  await scene.assertOneCopy(report.node);
  await scene.assertNothingLeft(report.node);
  cell.outcome = report.outcome;
}

describe("every phase x every fault", { concurrency: scenes.length }, () => {
  for (const { point, injection, mode, name } of planned) {
    if (wanted !== undefined && !name.includes(wanted)) continue;
    const before = kept.get(name);
    if (before !== undefined) {
      cells.push(before);
      continue;
    }
    const missing = injection.missing?.();
    test(name, { ...LIMIT, skip: missing === undefined ? false : `this machine has no ${missing}` }, async () => {
      const cell: Cell = { point, fault: injection.name, mode, outcome: "failed" };
      cells.push(cell);
      try {
        await withScene((scene) => runCell(scene, injection, cell));
      } finally {
        if (keep !== undefined) appendFileSync(keep, `${JSON.stringify(cell)}\n`);
      }
    });
  }
});

test("through all of it each client saw one connection, every number once", async () => {
  for (const { witness } of scenes) await witness.assertIntact();
});
