/**
 * The worker of a node: unprivileged, may die and restart at any time.
 *
 * Two Temporal workers in one process: activities of this node (queue `node:<name>`, they ask the agent), and workflow
 * tasks (queue `ferry`, shared by all nodes). It waits for a server that is down, registers its node, and on SIGTERM
 * detaches from long steps and leaves the agent working.
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Client } from "@temporalio/client";
import { NativeConnection, Runtime, Worker, makeTelemetryFilterString, type WorkerOptions } from "@temporalio/worker";
import type { Logger as Pino } from "pino";
import { createNodeActivities } from "../activities/index.js";
import { createAgentClient } from "../agent/client.js";
import { dataConverterOf } from "../keys/data-converter.js";
import { accessOptions } from "../keys/temporal-access.js";
import type { NodeAgent } from "../model/contract.js";
import { FerryError } from "../model/failure.js";
import { WORKFLOW_TASK_QUEUE, nodeTaskQueue } from "../model/names.js";
import { parseWorkerConfig, type WorkerConfig, type WorkerConfigInput } from "./config.js";
import { tellEndings } from "./endings.js";
import { logFields } from "./interceptor.js";
import { SdkLogger, openLog } from "./log.js";
import { tellStates } from "./metrics.js";
import { ensureSearchAttributes, registerNode, registryOf, signOff } from "./register.js";
import { scheduleSteps } from "./schedule-steps.js";
import { sleep } from "./sleep.js";
import { versioned } from "./versioning.js";
import { wakeSleepers } from "./waking.js";

export { parseWorkerConfig, type WorkerConfig, type WorkerConfigInput } from "./config.js";

/** A cancel reaches an activity with a heartbeat, and heartbeats are throttled to this. */
const HEARTBEAT_THROTTLE_MS = 200;
/** When a worker dies, its cached workflows wait this long for it before another worker takes them. */
const STICKY_MS = 2_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;

export interface RunWorkerOptions {
  /** Ends the worker like SIGTERM. */
  signal?: AbortSignal;
  /** Instead of the agent behind `agentSocket`: tests. */
  agent?: NodeAgent;
  /** Do not touch the process's signal handlers. */
  embedded?: boolean;
}

/**
 * Runs until SIGTERM, SIGINT or `signal`. Waits for Temporal when it is down, at boot and later.
 * @throws FerryError E_REQUEST for a wrong configuration.
 */
export async function runWorker(input: WorkerConfigInput, options: RunWorkerOptions = {}): Promise<void> {
  const config = parseWorkerConfig(input);
  const log = openLog(config);
  const agent = options.agent ?? createAgentClient(config.agentSocket);
  const stop = stopSignal(options);
  installRuntime(config, log);
  log.info({ address: config.address, namespace: config.namespace, pid: process.pid }, "worker starts");
  let pause = FIRST_PAUSE_MS;
  while (!stop.aborted) {
    const began = Date.now();
    try {
      await serve(config, agent, log, stop);
    } catch (error) {
      if (error instanceof FerryError) throw error;
      if (stop.aborted) break;
      if (Date.now() - began > LONGEST_PAUSE_MS) pause = FIRST_PAUSE_MS;
      log.warn(
        { error: error instanceof Error ? error.message : String(error), address: config.address, retryInMs: pause },
        "no connection to Temporal: trying again",
      );
      await sleep(pause, stop);
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    }
  }
  log.info("worker has stopped");
}

/** One life of the two workers: from a connection until they are told to stop, or fail. */
async function serve(config: WorkerConfig, agent: NodeAgent, log: Pino, stop: AbortSignal): Promise<void> {
  const connection = await NativeConnection.connect({ address: config.address, ...accessOptions(config) });
  try {
    const { node, namespace } = config;
    const { payloadKeys } = config;
    const client = new Client({ connection, namespace, ...dataConverterOf(payloadKeys) });
    await ensureSearchAttributes(connection, namespace, log);
    const over = new AbortController();
    const common = {
      connection,
      namespace,
      shutdownGraceTime: config.shutdownGraceMs,
      shutdownForceTime: config.shutdownForceMs,
      // Else it is up to four fifths of the time-out: a beat that is late by the rest would look like a death.
      maxHeartbeatThrottleInterval: HEARTBEAT_THROTTLE_MS,
      defaultHeartbeatThrottleInterval: HEARTBEAT_THROTTLE_MS,
    };
    const activities = await Worker.create({
      ...common,
      ...dataConverterOf(payloadKeys),
      taskQueue: nodeTaskQueue(node),
      activities: { ...createNodeActivities({ agent, node, stopping: over.signal, ...registryOf(client) }) },
      maxConcurrentActivityTaskExecutions: 100,
      interceptors: { activity: [logFields(node)] },
      identity: `${process.pid}@${node}`,
    });
    const workflows = await Worker.create({
      ...common,
      ...dataConverterOf(payloadKeys, "mark"),
      ...workflowSource(payloadKeys !== undefined),
      ...versioned(config.buildId),
      taskQueue: WORKFLOW_TASK_QUEUE,
      // What ticks of schedules do: any node's worker may.
      activities: { ...scheduleSteps(client) },
      stickyQueueScheduleToStartTimeout: STICKY_MS,
      maxCachedWorkflows: 200,
      workflowThreadPoolSize: 1,
      identity: `${process.pid}@${node}`,
    });
    const workers = [activities, workflows];
    const shutdown = (): void => {
      over.abort();
      for (const worker of workers) if (worker.getState() === "RUNNING") worker.shutdown();
    };
    stop.addEventListener("abort", shutdown);
    try {
      // Each one that ends takes the other along: half a worker is worse than none.
      const running = workers.map((worker) => worker.run().finally(shutdown));
      if (stop.aborted) shutdown();
      else {
        registerNode(client, agent, config, stop, log);
        void tellEndings(client, agent, node, over.signal, log);
        void wakeSleepers(client, agent, node, over.signal, log);
        if (config.metrics !== undefined) void tellStates(client, over.signal, log);
      }
      const ended = await Promise.allSettled(running);
      const failed = ended.find((end) => end.status === "rejected");
      if (failed?.status === "rejected") throw failed.reason;
    } finally {
      stop.removeEventListener("abort", shutdown);
    }
    if (stop.aborted) await signOff(client, node, log);
  } finally {
    await connection.close().catch(() => undefined);
  }
}

/**
 * A bundle that `npm run build` made; in a tree that was not bundled, the compiled sources. How failures are converted is
 * part of a bundle, so there is one with encoded failures.
 */
function workflowSource(encodesFailures: boolean): Pick<WorkerOptions, "workflowBundle" | "workflowsPath"> {
  const name = encodesFailures ? "workflows.encoded.bundle.js" : "workflows.bundle.js";
  for (const dir of ["../..", "../../../dist"]) {
    const codePath = fileURLToPath(new URL(`${dir}/${name}`, import.meta.url));
    if (existsSync(codePath)) return { workflowBundle: { codePath } };
  }
  return { workflowsPath: fileURLToPath(new URL("../workflows/index.js", import.meta.url)) };
}

let installed = false;
function installRuntime(config: WorkerConfig, log: Pino): void {
  if (installed) return;
  installed = true;
  Runtime.install({
    logger: new SdkLogger(log),
    // Signals are ours: SIGTERM must detach from the agent's work, in our order.
    shutdownSignals: [],
    telemetryOptions: {
      logging: {
        forward: {},
        filter: makeTelemetryFilterString({ core: config.logLevel === "trace" ? "DEBUG" : "WARN", other: "ERROR" }),
      },
      ...(config.metrics === undefined ? {} : { metrics: { prometheus: { bindAddress: config.metrics } } }),
    },
  });
}

function stopSignal(options: RunWorkerOptions): AbortSignal {
  const stop = new AbortController();
  options.signal?.addEventListener("abort", () => stop.abort());
  if (options.signal?.aborted === true) stop.abort();
  if (options.embedded !== true) {
    for (const name of ["SIGTERM", "SIGINT"] as const) process.once(name, () => stop.abort());
  }
  return stop.signal;
}
