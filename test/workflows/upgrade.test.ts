/**
 * Workers are replaced by those of another version in the middle of a migration. The later versions are bundles of their
 * own (versions/), the server is the real one; the new worker has nothing cached, so it replays what the old one did.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { WorkflowBundle } from "@temporalio/worker";
import type { OperationStarted } from "../../src/model/messages.js";
import type { MigrationReport } from "../../src/model/report.js";
import type { Point } from "../../src/runtimes/simulated/world.js";
import { DEPLOYMENT } from "../../src/workers/versioning.js";
import { bundleOf, skipWithoutTemporal, startWorkers } from "../support/temporal.js";
import { Stage, runsOf, until, type Run, type Subject } from "./support.js";

const POINTS: readonly Point[] = ["source:precopy", "source:frozen", "source:released"];
const MODE = { mode: "precopy", maxBlackoutMs: 30_000 } as const;

describe("an upgrade in the middle of a migration", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  let next: WorkflowBundle;
  before(async () => {
    next = await bundleOf("versions/next.js", import.meta.url);
    stage = await Stage.up();
  });
  after(() => stage.down());

  const replaceWorkflows = async (code?: WorkflowBundle): Promise<void> => {
    await stage.workers.stopWorkflows();
    await stage.workers.startWorkflows(code);
  };
  /** The workers of all nodes: their agents go on. */
  const replaceNodes = async (): Promise<void> => {
    for (const node of stage.agents.keys()) {
      await stage.workers.stopNode(node);
      await stage.startNode(node);
    }
  };
  const word = (report: MigrationReport): string[] => report.reasons.filter((reason) => reason.startsWith("next:"));
  const looks = (run: Run | undefined): number =>
    run?.activities.filter((activity) => activity === "observeWorkload").length ?? 0;

  async function ended(subject: Subject, started: OperationStarted) {
    const report = (await subject.operation(started).result()) as MigrationReport;
    const { node } = await subject.settled();
    assert.equal(report.outcome, "moved", JSON.stringify(report.failure));
    assert.equal(report.node, node);
    assert.deepEqual(stage.world.running(subject.name), [node]);
    assert.deepEqual(stage.world.violations, []);
    const [run] = await runsOf(stage.client, started.workflowId);
    return { report, run };
  }

  /** As `temporal worker deployment set-current-version` does; "" for workers without a build id. */
  const makeCurrent = async (buildId: string): Promise<void> => {
    const { workflowService } = stage.client;
    await until(
      () =>
        workflowService
          .setWorkerDeploymentCurrentVersion({
            namespace: "default",
            deploymentName: DEPLOYMENT,
            buildId,
            identity: "test",
          })
          .catch((error: unknown) => error),
      // Refused until a worker of that version has been seen.
      (answer) => !(answer instanceof Error),
      15_000,
    );
  };

  for (const point of POINTS) {
    test(`all workers at ${point}: it ends by the new code, and the next one begins by it`, async () => {
      await replaceWorkflows();
      const subject = await stage.run();
      stage.world.at(
        point,
        async () => {
          await Promise.all([replaceWorkflows(next), replaceNodes()]);
        },
        subject.name,
      );
      const inFlight = await ended(subject, await subject.migrate("node-b", MODE));
      // Past the new step already, not yet past the new end.
      assert.deepEqual(word(inFlight.report), ["next: 1 on node-b"]);
      assert.equal(inFlight.run?.failedTasks, 0);

      const after = await ended(subject, await subject.migrate("node-a", MODE));
      assert.deepEqual(word(after.report), ["next: looked once more", "next: 1 on node-a"]);
      assert.equal(after.run?.failedTasks, 0);
      assert.equal(looks(after.run), looks(inFlight.run) + 1);
    });
  }

  test("back to the old code, which does not know what the new one has begun: it waits until a new worker is there", async () => {
    await replaceWorkflows(next);
    const subject = await stage.run();
    stage.world.at("source:precopy", () => replaceWorkflows(), subject.name);
    const begun = await subject.migrate("node-b", MODE);
    const { workflowId } = begun;
    // The agents need nobody for what they were asked.
    await until(
      () => stage.world.node("node-b").hold(subject.name, 2)?.state,
      (state) => state === "OWNER",
    );
    await until(
      () => runsOf(stage.client, workflowId),
      ([run]) => (run?.failedTasks ?? 0) > 0,
    );
    await replaceWorkflows(next);
    const { report } = await ended(subject, begun);
    assert.deepEqual(word(report), ["next: looked once more", "next: 1 on node-b"]);
  });

  test("with build ids: versions side by side, open migrations go over to the one that becomes current, and never back", async () => {
    await stage.workers.stopWorkflows();
    const older = await startWorkers(stage.server.address, undefined, "1.0");
    const newer = await startWorkers(stage.server.address, next, "2.0");
    try {
      await makeCurrent("1.0");
      const subject = await stage.run();
      stage.world.at("source:precopy", () => makeCurrent("2.0"), subject.name);
      const inFlight = await ended(subject, await subject.migrate("node-b", MODE));
      assert.deepEqual(word(inFlight.report), ["next: 1 on node-b"]);
      const after = await ended(subject, await subject.migrate("node-a", MODE));
      assert.deepEqual(word(after.report), ["next: looked once more", "next: 1 on node-a"]);
      for (const { run } of [inFlight, after]) assert.equal(run?.failedTasks, 0);
    } finally {
      await makeCurrent("");
      await Promise.all([older.stop(), newer.stop()]);
      await stage.workers.startWorkflows();
    }
  });
});
