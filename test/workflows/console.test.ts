/**
 * Temporal's UI as a console, read as the UI reads it: search attributes by a list, summary by describe, details by the
 * query that the SDK answers for it; while a migration is under way, and afterwards.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { skipWithoutTemporal } from "../support/temporal.js";
import type { FailureData } from "../../src/model/failure.js";
import { QUERY, type MigrationView, type OperationStarted } from "../../src/model/messages.js";
import type { Point } from "../../src/runtimes/simulated/world.js";
import { Stage, specOf, until, type Subject } from "./support.js";

const MIB = 2 ** 20;
const ENGINE: FailureData = { code: "E_RESTORE", message: "criu said no", node: "node-b" };

interface Metadata {
  currentDetails?: string;
}

describe("the console", { skip: skipWithoutTemporal, concurrency: true }, () => {
  let stage: Stage;
  before(async () => {
    stage = await Stage.up(["node-a", "node-b"]);
  });
  after(() => stage.down());

  const details = async (workflowId: string): Promise<string> => {
    const handle = stage.client.workflow.getHandle(workflowId);
    return (await handle.query<Metadata>("__temporal_workflow_metadata")).currentDetails ?? "";
  };
  const summary = async (workflowId: string): Promise<string | undefined> =>
    (await stage.client.workflow.getHandle(workflowId).describe()).staticSummary();

  /** Attributes as a list shows them; a list is behind by a little. */
  async function listed(workflowId: string, expected: Record<string, string>): Promise<void> {
    const look = async (): Promise<Record<string, unknown>> => {
      for await (const one of stage.client.workflow.list({ query: `WorkflowId = '${workflowId}'` })) {
        return Object.fromEntries(
          one.typedSearchAttributes
            .getAll()
            .filter(({ key }) => key.name.startsWith("Ferry"))
            .map(({ key, value }) => [key.name, value]),
        );
      }
      return {};
    };
    const same = (seen: Record<string, unknown>): boolean =>
      Object.entries(expected).every(([name, value]) => seen[name] === value) &&
      Object.keys(seen).length === Object.keys(expected).length;
    await until(look, same, 15_000).catch(async () => assert.deepEqual(await look(), expected));
  }

  /** A migration that stands still at a point until it is let go. */
  async function standing(point: Point, subject: Subject, options: Parameters<Subject["migrate"]>[1]) {
    let go = (): void => undefined;
    const still = new Promise<void>((resolve) => (go = resolve));
    stage.world.at(point, () => still, subject.name);
    const started = await subject.migrate("node-b", { maxBlackoutMs: 60_000, ...options });
    return { started, go };
  }
  const viewOf = (started: OperationStarted, subject: Subject): Promise<MigrationView> =>
    subject.operation(started).query<MigrationView>(QUERY.view);

  test("in pre-copy: phase, sides, bytes, rate, round, what remains and is expected; the query says the same", async () => {
    const subject = await stage.run();
    const { name } = subject;
    const { started, go } = await standing("source:precopy", subject, { mode: "precopy" });
    try {
      const view = await until(
        () => viewOf(started, subject),
        (seen) => seen.progress !== undefined,
      );
      assert.equal(view.phase, "precopy");
      assert.equal(view.progress?.source?.side, "source");
      assert.equal(view.progress?.source?.bytesSent, 96 * MIB);
      assert.equal(view.precopy?.round, 3);
      const text = await details(started.workflowId);
      for (const words of [
        new RegExp(`### ${name}: node-a → node-b, precopy`),
        /under way since .* UTC, phase \*\*precopy\*\*/,
        /\*\*96\.0 MiB\*\* of 128 MiB, 75 %, ETA \*\*1\.5 s\*\*/,
        /\| source \| precopy \| 96\.0 MiB \| 128 MiB \| 48\.0 MiB\/s \|/,
        /\| round \| \*\*3\*\*: 4\.0 MiB of 16\.0 MiB \|/,
        /\| remaining \| 12\.0 MiB \|/,
        /\| dirty rate \| 5\.0 MiB\/s \|/,
        /\| bandwidth \| 48\.0 MiB\/s \|/,
        /\| expected downtime \| \*\*310 ms\*\* \|/,
        /\| ETA \| 1\.5 s \|/,
      ]) {
        assert.match(text, words);
      }
      await listed(started.workflowId, {
        FerryWorkload: name,
        FerryNode: "node-b",
        FerryRuntime: "simulated",
        FerryState: "working",
        FerryMode: "precopy",
      });
      assert.equal(await summary(started.workflowId), `migrate ${name}: node-a -> node-b, precopy`);
      const about = await subject.operation(started).describe();
      assert.match((await about.staticDetails()) ?? "", /\| mode \| precopy \|\n\| maxBlackoutMs \| 1 min 0 s \|/);
      await listed(`workload/${name}`, {
        FerryWorkload: name,
        FerryNode: "node-a",
        FerryRuntime: "simulated",
        FerryState: "migrating",
        FerryMode: "precopy",
      });
      assert.match(await details(`workload/${name}`), new RegExp(`### ${name}: migrating on node-a`));
    } finally {
      go();
    }
    await subject.operation(started).result();
    await subject.settled();
    await listed(started.workflowId, {
      FerryWorkload: name,
      FerryNode: "node-b",
      FerryRuntime: "simulated",
      FerryState: "moved",
      FerryMode: "precopy",
    });
    const end = await details(started.workflowId);
    assert.match(end, /precopy: moved/);
    assert.match(end, /runs on \*\*node-b\*\*, epoch 2/);
    assert.match(end, /\| phase \| side \| start \| took \|/);
    assert.match(end, /\| blackout \| \*\*[\d.]+ m?s\*\* \|/);
    assert.match(end, /\| memory sent \| 4\.0 KiB, 1 pages, 3\.9 MiB\/s \|/);
    assert.match(end, /\| files sent \| 0 B \|/);
    await listed(`workload/${name}`, {
      FerryWorkload: name,
      FerryNode: "node-b",
      FerryRuntime: "simulated",
      FerryState: "running",
      FerryMode: "precopy",
    });
    const entity = await details(`workload/${name}`);
    assert.match(entity, new RegExp(`### ${name}: running on node-b`));
    const { ip, mac } = specOf(subject.name).network;
    assert.ok(entity.includes(`| address | \`${ip}\` \`${mac}\` |`), entity);
    assert.match(entity, /\| command \| `true` \|/);
  });

  test("the phase goes on while it is handed over: frozen, and post-copy with both sides", async () => {
    const subject = await stage.run();
    const frozen = await standing("source:frozen", subject, { mode: "postcopy" });
    await until(
      () => viewOf(frozen.started, subject),
      (seen) => seen.phase === "transfer",
    );
    let go = (): void => undefined;
    stage.world.at("destination:running", () => new Promise<void>((resolve) => (go = resolve)), subject.name);
    frozen.go();
    await until(
      () => viewOf(frozen.started, subject),
      (seen) => seen.phase === "drain" && seen.progress?.destination !== undefined,
    );
    const text = await details(frozen.started.workflowId);
    assert.match(text, /phase \*\*drain\*\*/);
    assert.match(text, /\| source \| drain \|/);
    assert.match(text, /\| destination \| (switch|drain) \|/);
    go();
    await subject.operation(frozen.started).result();
  });

  test("rolled back: where it runs and why, as attribute and in words", async () => {
    const subject = await stage.run();
    const { name } = subject;
    stage.world.order({ node: "node-b", verb: "takeOver", when: "before", times: 1, workload: name, failure: ENGINE });
    const report = await subject.moveTo("node-b", { mode: "hybrid" });
    assert.equal(report.outcome, "rolled-back");
    const workflowId = `${name}/migrate/${(await subject.status()).sequence}`;
    await listed(workflowId, {
      FerryWorkload: name,
      FerryNode: "node-a",
      FerryRuntime: "simulated",
      FerryState: "rolled-back",
      FerryMode: "hybrid",
    });
    assert.match(await details(workflowId), /\*\*Why:\*\* criu said no \[E_RESTORE\]/);
  });

  test("a sweep says which node it waits for, and that it is over", async () => {
    const subject = await stage.run();
    const { name } = subject;
    stage.world.order({ node: "node-b", verb: "takeOver", when: "before", times: 1, workload: name, failure: ENGINE });
    stage.world.order({ node: "node-b", verb: "cleanup", when: "before", times: 10, workload: name });
    const report = await subject.moveTo("node-b");
    assert.equal(report.outcome, "rolled-back");
    const workflowId = `${name}/migrate/${(await subject.status()).sequence}/sweep`;
    const about = { FerryWorkload: name, FerryNode: "node-b", FerryRuntime: "simulated", FerryMode: "cold" };
    await until(
      () => details(workflowId),
      (text) => /\| node-b \| the agent of node-b does not answer \|/.test(text),
    );
    assert.match(await details(workflowId), new RegExp(`### ${name}: clear up after \`${report.operation}\``));
    assert.match((await summary(workflowId)) ?? "", /clear up after .* on node-b/);
    await stage.client.workflow.getHandle(workflowId).result();
    await listed(workflowId, { ...about, FerryState: "swept" });
    assert.match(await details(workflowId), /nothing is left of it on node-b/);
  });

  test("a hand-over that is settled has the attributes of its workload", async () => {
    const subject = await stage.run();
    const { name } = subject;
    const { started, go } = await standing("source:frozen", subject, { mode: "cold" });
    await until(
      () => stage.world.node("node-a").hold(name, 1)?.state,
      (state) => state === "FROZEN",
    );
    await subject.operation(started).terminate("by a test");
    go();
    const status = await subject.settled();
    await listed(`${name}/settle/${status.sequence}`, {
      FerryWorkload: name,
      FerryNode: status.node,
      FerryRuntime: specOf(name).runtime,
      FerryState: status.node === "node-a" ? "rolled-back" : "moved",
      FerryMode: "cold",
    });
    const text = await details(`${name}/settle/${status.sequence}`);
    assert.doesNotMatch(text, /Problem/);
  });
});
