/**
 * A Temporal dev server for tests, and workers of simulated nodes on it.
 * The binary: FERRY_TEMPORAL_BIN, then PATH, then the cache of the set-up. None: tests skip, visibly.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { createServer } from "node:net";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Client, Connection } from "@temporalio/client";
import {
  NativeConnection,
  Runtime,
  Worker,
  DefaultLogger,
  bundleWorkflowCode,
  type RuntimeOptions,
  type WorkflowBundle,
} from "@temporalio/worker";
import { createNodeActivities } from "../../src/activities/index.js";
import type { NodeAgent } from "../../src/model/contract.js";
import { SEARCH_ATTRIBUTES, WORKFLOW_TASK_QUEUE, nodeTaskQueue } from "../../src/model/names.js";
import { registryOf } from "../../src/workers/register.js";
import { scheduleSteps } from "../../src/workers/schedule-steps.js";
import { versioned } from "../../src/workers/versioning.js";

export function temporalBinary(): string | undefined {
  const cache = process.env["FERRY_CACHE"];
  const candidates = [
    process.env["FERRY_TEMPORAL_BIN"],
    ...(process.env["PATH"] ?? "").split(delimiter).map((dir) => join(dir, "temporal")),
    ...(cache === undefined ? [] : [join(cache, "bin/temporal")]),
    "/var/cache/ferry/bin/temporal",
    join(homedir(), ".cache/ferry/bin/temporal"),
  ];
  return candidates.find((file) => {
    if (file === undefined || file === "") return false;
    try {
      accessSync(file, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** For `test({ skip })`: why there is nothing to test with, or false. */
export const skipWithoutTemporal: string | false =
  temporalBinary() === undefined
    ? "no Temporal server: set FERRY_TEMPORAL_BIN, put `temporal` on PATH, or run the set-up"
    : false;

export interface TestServer {
  address: string;
  stop(): Promise<void>;
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() =>
        typeof address === "object" && address !== null ? resolve(address.port) : reject(new Error("no port")),
      );
    });
  });
}

export async function startTemporal(): Promise<TestServer> {
  const binary = temporalBinary();
  if (binary === undefined) throw new Error("no Temporal server");
  const port = await freePort();
  const args = [
    "server",
    "start-dev",
    "--headless",
    "--ip",
    "127.0.0.1",
    "--port",
    String(port),
    "--log-level",
    "never",
  ];
  args.push("--dynamic-config-value", "history.transferProcessorMaxPollRPS=2000");
  // By default a timer fires up to a second late.
  args.push("--dynamic-config-value", 'history.timerProcessorMaxTimeShift="10ms"');
  for (const name of SEARCH_ATTRIBUTES) args.push("--search-attribute", `${name}=Keyword`);
  const child = spawn(binary, args, { stdio: "ignore" });
  const address = `127.0.0.1:${port}`;
  await untilUp(address, child);
  return {
    address,
    stop: () =>
      new Promise((resolve) => {
        if (child.exitCode !== null || child.signalCode !== null) return resolve();
        child.once("exit", () => resolve());
        child.kill("SIGTERM");
        setTimeout(() => child.kill("SIGKILL"), 3_000).unref();
      }),
  };
}

async function untilUp(address: string, child: ChildProcess): Promise<void> {
  const deadline = Date.now() + 30_000;
  for (;;) {
    if (child.exitCode !== null) throw new Error(`the Temporal server ended with ${child.exitCode}`);
    try {
      const connection = await Connection.connect({ address, connectTimeout: 1_000 });
      const client = new Client({ connection });
      await client.workflow.count();
      await connection.close();
      return;
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/** Workflow code as a worker takes it; `path` from `base`. */
export const bundleOf = (path: string, base: string): Promise<WorkflowBundle> =>
  bundleWorkflowCode({ workflowsPath: fileURLToPath(new URL(path, base)), logger: new DefaultLogger("ERROR") });

let bundle: Promise<WorkflowBundle> | undefined;
export const workflowBundle = (): Promise<WorkflowBundle> =>
  (bundle ??= bundleOf("../../src/workflows/index.js", import.meta.url));

export interface TestWorkers {
  client: Client;
  address: string;
  /** Activity worker of one node; `stopNode` ends it, so that the node is out of reach. */
  startNode(node: string, agent: NodeAgent): Promise<void>;
  stopNode(node: string): Promise<void>;
  /**
   * Ends the workflow worker, and starts another: what is asked in between reaches workflows in one task. `code`: of
   * another version.
   */
  stopWorkflows(): Promise<void>;
  startWorkflows(code?: WorkflowBundle): Promise<void>;
  stop(): Promise<void>;
}

let installed = false;
/** One for the process, however many stages it has: whoever wants more of it says so first. */
export function installRuntime(options: RuntimeOptions = {}): void {
  if (installed) return;
  Runtime.install({ logger: new DefaultLogger("ERROR"), shutdownSignals: [], ...options });
  installed = true;
}

/** A workflow worker on queue `ferry`, and node workers to start and stop. */
export async function startWorkers(address: string, code?: WorkflowBundle, buildId?: string): Promise<TestWorkers> {
  installRuntime();
  const connection = await NativeConnection.connect({ address });
  const client = new Client({ connection, identity: "test" });
  const running = new Map<string, { worker: Worker; done: Promise<void> }>();
  const start = async (name: string, worker: Worker): Promise<void> => {
    running.set(name, { worker, done: worker.run() });
    await Promise.resolve();
  };
  const end = async (name: string): Promise<void> => {
    const entry = running.get(name);
    if (entry === undefined) return;
    running.delete(name);
    entry.worker.shutdown();
    await entry.done;
  };
  const startWorkflows = async (code?: WorkflowBundle): Promise<void> =>
    start(
      "",
      await Worker.create({
        connection,
        taskQueue: WORKFLOW_TASK_QUEUE,
        activities: { ...scheduleSteps(client) },
        workflowBundle: code ?? (await workflowBundle()),
        ...versioned(buildId),
        workflowThreadPoolSize: 1,
        identity: "test",
        shutdownForceTime: 3_000,
        stickyQueueScheduleToStartTimeout: 1_000,
      }),
    );
  await startWorkflows(code);
  return {
    startWorkflows,
    stopWorkflows: () => end(""),
    client,
    address,
    startNode: async (node, agent) =>
      start(
        node,
        await Worker.create({
          connection,
          taskQueue: nodeTaskQueue(node),
          activities: {
            ...createNodeActivities({
              agent,
              node,
              ...registryOf(client),
              pollMs: 50,
              agentAwayMs: 1_000,
            }),
          },
          identity: "test",
          maxHeartbeatThrottleInterval: 100,
          shutdownGraceTime: 100,
          shutdownForceTime: 3_000,
        }),
      ),
    stopNode: end,
    stop: async () => {
      await Promise.all([...running.keys()].map(end));
      await connection.close();
    },
  };
}
