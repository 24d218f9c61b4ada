/**
 * The Ferry SDK.
 *
 *     const ferry = await connect({ address: "127.0.0.1:7233" });
 *     const redis = await ferry.workloads.run({ name: "redis", node: "node-a", command: ["redis-server"] });
 *     const migration = await redis.migrate({ to: "node-b", mode: "cold" });
 *     for await (const seen of migration.progress()) console.log(seen.phase, seen.bytesSent);
 *     const report = await migration.result();
 *
 * Everything that it throws is a FerryError with a code, a sentence and what to do next.
 */
import { Client, Connection, type ConnectionOptions } from "@temporalio/client";
import { dataConverterOf } from "../keys/data-converter.js";
import { accessOptions } from "../keys/temporal-access.js";
import { checkpointsOf } from "./checkpoints.js";
import { notConnected } from "./failures.js";
import { nodesOf } from "./nodes.js";
import { retries } from "./retries.js";
import { schedulesOf } from "./schedules.js";
import type { ConnectOptions, FerryClient } from "./types.js";
import { workloadsOf } from "./workloads.js";

export type * from "./types.js";
export { signSpec, type SignOptions } from "../keys/spec-signing.js";
export { FerryError, describeFailure, type FailureCode, type FailureData } from "../model/failure.js";
export type { CheckpointReport } from "../model/checkpoint-report.js";
export type { CheckpointDiff, FileDiff, FilesDiff, ProcessDiff, SocketDiff } from "../model/checkpoints.js";
export type { ListedCheckpoint, StoredCheckpoint } from "../model/checkpoints.js";
export { prunable, type Pruned, type Retention } from "../model/retention.js";
export type { Restored } from "../model/messages.js";
export type { MigrationReport, PhaseTime, Progress } from "../model/report.js";
export type { AskedMode, AskedOptions, MigrateOptions, MigratePlan, Finding, Mode } from "../model/plan.js";
export type { WorkloadSpec, WorkloadState, WorkloadStatus } from "../model/workload.js";

const CONNECT_TIMEOUT_MS = 5_000;

/** @throws FerryError E_TEMPORAL_DOWN when the server does not answer within 5 s, E_TEMPORAL_DENIED, E_REQUEST for keys that are none. */
export async function connect(options: ConnectOptions): Promise<FerryClient> {
  const { address, namespace = "default" } = options;
  const converter = dataConverterOf(options.payloadKeys);
  const trying = retries();
  const connection = await openConnection(options, { interceptors: trying.interceptors });
  // A closed entity is no workload any more: its last state is not an answer.
  const client = new Client({
    connection,
    namespace,
    workflow: { queryRejectCondition: "NOT_OPEN" },
    ...converter,
  });
  const context = { client, address };
  const nodes = nodesOf(context);
  const close = async (): Promise<void> => {
    await trying.end();
    await connection.close();
  };
  return {
    workloads: workloadsOf(context),
    checkpoints: checkpointsOf(context),
    schedules: schedulesOf(context),
    nodes,
    close,
  };
}

/** What the server at this address says of itself: asked, not only reached. @throws FerryError E_TEMPORAL_DOWN, E_TEMPORAL_DENIED */
export async function serverVersion(options: ConnectOptions): Promise<string> {
  const connection = await openConnection(options);
  try {
    const info = await connection.withDeadline(Date.now() + CONNECT_TIMEOUT_MS, () =>
      connection.workflowService.getSystemInfo({}),
    );
    return info.serverVersion ?? "";
  } catch (error) {
    throw notConnected(options.address, "ask for its version", error);
  } finally {
    await connection.close();
  }
}

async function openConnection(
  { address, ...options }: ConnectOptions,
  more: Pick<ConnectionOptions, "interceptors"> = {},
): Promise<Connection> {
  const connection = Connection.lazy({
    address,
    connectTimeout: CONNECT_TIMEOUT_MS,
    ...more,
    ...accessOptions(options),
  });
  try {
    await connection.ensureConnected();
    return connection;
  } catch (error) {
    // It would go on trying, and keep the process.
    await connection.close();
    throw notConnected(address, "connect", error);
  }
}
