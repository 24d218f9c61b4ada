/** Simulated nodes with workers on a dev server, and the entity of a workload driven by its messages. */
import assert from "node:assert/strict";
import type { Client, WorkflowHandle } from "@temporalio/client";
import { WithStartWorkflowOperation, WorkflowNotFoundError, WorkflowUpdateFailedError } from "@temporalio/client";
import { ApplicationFailure } from "@temporalio/common";
import proto from "@temporalio/proto";
import type { FailureData } from "../../src/model/failure.js";
import { createSimulatedAgent, type SimulatedAgent } from "../../src/runtimes/simulated/agent.js";
import { SimulatedWorld, type Point, type Verb } from "../../src/runtimes/simulated/world.js";
import {
  DEFAULT_TUNING,
  QUERY,
  UPDATE,
  WORKFLOW,
  type MigrateRequest,
  type OperationStarted,
  type StartRequest,
  type Tuning,
  type WorkloadInput,
} from "../../src/model/messages.js";
import { WORKFLOW_TASK_QUEUE, nodeWorkflowId, workloadWorkflowId } from "../../src/model/names.js";
import type { AskedOptions } from "../../src/model/plan.js";
import type { Watch } from "../../src/model/presence.js";
import type { MigrationReport } from "../../src/model/report.js";
import type { WorkloadSpec, WorkloadStatus } from "../../src/model/workload.js";
import { startTemporal, startWorkers, type TestServer, type TestWorkers } from "../support/temporal.js";

export const QUICK: Tuning = {
  ...DEFAULT_TUNING,
  scheduleToStartMs: 1_500,
  longScheduleToStartMs: 2_000,
  startToCloseMs: 1_500,
  heartbeatMs: 1_000,
  backoffMs: 50,
  maxBackoffMs: 300,
  patienceMs: 1_000,
  watchMs: 400,
  maxWatchMs: 800,
};

export const specOf = (name: string): WorkloadSpec => ({
  name,
  runtime: "simulated",
  command: ["true"],
  env: {},
  dir: "/data",
  user: "root",
  limits: {},
  network: { ip: `${addressOf(name)}/8`, mac: "02:fe:0a:4d:00:64" },
});

/** Its own: of two workloads with one address the second is refused. */
function addressOf(name: string): string {
  let sum = 0x811c9dc5;
  for (const char of name) sum = Math.imul(sum ^ (char.codePointAt(0) ?? 0), 0x01000193) >>> 0;
  return ["10", sum >>> 24, (sum >>> 16) % 256, 1 + ((sum >>> 8) % 254)].join(".");
}

export class Stage {
  readonly world: SimulatedWorld;
  readonly agents = new Map<string, SimulatedAgent>();
  readonly server: TestServer;
  readonly workers: TestWorkers;
  private count = 0;

  private constructor(server: TestServer, workers: TestWorkers, world: SimulatedWorld) {
    this.server = server;
    this.workers = workers;
    this.world = world;
  }

  static async up(nodes: string[] = ["node-a", "node-b"], watch: Partial<Watch> = {}): Promise<Stage> {
    const server = await startTemporal();
    const workers = await startWorkers(server.address);
    const stage = new Stage(server, workers, new SimulatedWorld({ nodes }));
    for (const node of nodes) {
      stage.agents.set(node, createSimulatedAgent(stage.world, node));
      await stage.startNode(node);
      await workers.client.workflow.start(WORKFLOW.node, {
        workflowId: nodeWorkflowId(node),
        taskQueue: WORKFLOW_TASK_QUEUE,
        args: [{ node, watch }],
      });
    }
    return stage;
  }

  async down(): Promise<void> {
    this.world.close();
    await this.workers.stop();
    await this.server.stop();
  }

  get client(): Client {
    return this.workers.client;
  }

  agent(node: string): SimulatedAgent {
    const agent = this.agents.get(node);
    if (agent === undefined) throw new Error(`no agent ${node}`);
    return agent;
  }

  /** The hand-over of `workload` waits there until what is returned is called. */
  hold(point: Point, workload: string): () => void {
    let go = (): void => undefined;
    const held = new Promise<void>((resolve) => (go = resolve));
    this.world.at(point, () => held, workload);
    return () => go();
  }

  /** What `verb` of that workload answers there is lost, until what is returned is called: it was done all the same. */
  loseAnswers(node: string, verb: Verb, workload: string): () => void {
    return this.world.order({ node, verb, when: "after", times: Infinity, workload });
  }

  /** The node is gone: its agent and its worker. */
  async lose(node: string): Promise<void> {
    this.world.crash(node);
    void this.workers.stopNode(node);
    await Promise.resolve();
  }

  startNode(node: string): Promise<void> {
    return this.workers.startNode(node, this.agent(node));
  }

  /** A new workload that runs on node-a. */
  async run(name = `w${++this.count}`, node = "node-a", tuning: Partial<Tuning> = QUICK): Promise<Subject> {
    const subject = new Subject(this, name);
    // An agent that an earlier test has killed may still be on its way back: a start asks every node.
    await until(
      () => [...this.agents.keys()].every((other) => this.world.node(other).up),
      (up) => up,
    );
    // Nor is a worker that a busy machine has kept from its queue for a second and a half what is tested.
    for (let left = 5; ; left -= 1) {
      try {
        await subject.start(node, tuning);
        return subject;
      } catch (error) {
        if (left === 0 || failureOf(error)?.code !== "E_NODE_UNREACHABLE") throw error;
      }
    }
  }
}

export class Subject {
  readonly name: string;
  readonly stage: Stage;
  constructor(stage: Stage, name: string) {
    this.stage = stage;
    this.name = name;
  }

  get handle(): WorkflowHandle {
    return this.stage.client.workflow.getHandle(workloadWorkflowId(this.name));
  }

  start(
    node: string,
    tuning: Partial<Tuning> = QUICK,
    spec = specOf(this.name),
    off?: string[],
  ): Promise<WorkloadStatus> {
    const input: WorkloadInput = { name: this.name, tuning };
    return this.stage.client.workflow.executeUpdateWithStart<
      (input: WorkloadInput) => Promise<unknown>,
      WorkloadStatus,
      [StartRequest]
    >(UPDATE.start, {
      args: [{ spec, node, ...(off === undefined ? {} : { off }) }],
      startWorkflowOperation: new WithStartWorkflowOperation(WORKFLOW.workload, {
        workflowId: workloadWorkflowId(this.name),
        taskQueue: WORKFLOW_TASK_QUEUE,
        workflowIdConflictPolicy: "USE_EXISTING",
        args: [input],
      }),
    });
  }

  migrate(to = "node-b", options: Partial<AskedOptions> = {}): Promise<OperationStarted> {
    const request: MigrateRequest = { to, options: { mode: "cold", dryRun: false, maxBlackoutMs: 2_000, ...options } };
    return this.handle.executeUpdate<OperationStarted, [MigrateRequest]>(UPDATE.migrate, { args: [request] });
  }

  operation(started: OperationStarted): WorkflowHandle {
    return this.stage.client.workflow.getHandle(started.workflowId, undefined, { firstExecutionRunId: started.runId });
  }

  /** Migrates and waits for the report, then until the entity has taken it in. */
  async moveTo(to = "node-b", options: Partial<AskedOptions> = {}): Promise<MigrationReport> {
    const started = await this.migrate(to, options);
    const report = (await this.operation(started).result()) as MigrationReport;
    await this.settled();
    return report;
  }

  status(): Promise<WorkloadStatus> {
    return this.handle.query<WorkloadStatus>(QUERY.status);
  }

  /** Until no operation is under way. */
  async settled(timeoutMs = 15_000): Promise<WorkloadStatus> {
    return until(
      () => this.status(),
      (status) => status.operation === undefined,
      timeoutMs,
    );
  }
}

/** Waits for a level, bounded. */
export async function until<Seen>(
  look: () => Seen | Promise<Seen>,
  good: (seen: Seen) => boolean,
  timeoutMs = 40_000,
): Promise<Seen> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const seen = await look();
    if (good(seen)) return seen;
    if (Date.now() > deadline) throw new Error(`not in ${timeoutMs} ms; last seen: ${JSON.stringify(seen)}`);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}

export interface Run {
  runId: string;
  events: number;
  /** Kinds of activity that were asked for, in order. */
  activities: string[];
  /** Activities that nobody took, or answered, in time. */
  timeouts: number;
  /** Workflow tasks that failed by the code: a change that does not fit the history, or a bug. */
  failedTasks: number;
}

/** Something came in while the run was about to end, so it looks again. */
const { WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND: UNHANDLED_COMMAND } =
  proto.temporal.api.enums.v1.WorkflowTaskFailedCause;

/** Every run of a workflow that may have gone on in new runs, in order; none while its parent is about to start it. */
export async function runsOf(client: Client, workflowId: string): Promise<Run[]> {
  const runs: Run[] = [];
  let runId: string;
  try {
    const { raw } = await client.workflow.getHandle(workflowId).describe();
    runId = raw.workflowExecutionInfo?.firstRunId ?? "";
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return runs;
    throw error;
  }
  for (;;) {
    const { events } = await client.workflow.getHandle(workflowId, runId).fetchHistory();
    const all = events ?? [];
    runs.push({
      runId,
      events: all.length,
      activities: all.flatMap((event) => event.activityTaskScheduledEventAttributes?.activityType?.name ?? []),
      timeouts: all.filter((event) => event.activityTaskTimedOutEventAttributes).length,
      failedTasks: all.filter(
        ({ workflowTaskFailedEventAttributes: failed }) => failed && failed.cause !== UNHANDLED_COMMAND,
      ).length,
    });
    const next = all.at(-1)?.workflowExecutionContinuedAsNewEventAttributes?.newExecutionRunId;
    if (next === undefined || next === null) return runs;
    runId = next;
  }
}

/** What an update was refused with. */
export async function refusal(act: () => Promise<unknown>): Promise<FailureData> {
  let caught: unknown;
  try {
    await act();
  } catch (error) {
    caught = error;
  }
  const failure = failureOf(caught);
  assert.ok(failure, String(caught));
  return failure;
}

const failureOf = (caught: unknown): FailureData | undefined =>
  caught instanceof WorkflowUpdateFailedError && caught.cause instanceof ApplicationFailure
    ? (caught.cause.details?.[0] as FailureData | undefined)
    : undefined;
