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
import { Client, Connection } from "@temporalio/client";
import { temporalDown } from "./failures.js";
import { nodesOf } from "./nodes.js";
import { retries } from "./retries.js";
import type { ConnectOptions, FerryClient } from "./types.js";
import { workloadsOf } from "./workloads.js";

export type * from "./types.js";
export { FerryError, describeFailure, type FailureCode, type FailureData } from "../model/failure.js";
export type { MigrationReport, PhaseTime, Progress } from "../model/report.js";
export type { AskedMode, AskedOptions, MigrateOptions, MigratePlan, Finding, Mode } from "../model/plan.js";
export type { WorkloadSpec, WorkloadState, WorkloadStatus } from "../model/workload.js";

const CONNECT_TIMEOUT_MS = 5_000;

/** @throws FerryError E_TEMPORAL_DOWN when the server does not answer within 5 s. */
export async function connect(options: ConnectOptions): Promise<FerryClient> {
  const { address, namespace = "default", tls, apiKey } = options;
  let connection: Connection;
  const trying = retries();
  try {
    connection = await Connection.connect({
      address,
      connectTimeout: CONNECT_TIMEOUT_MS,
      interceptors: trying.interceptors,
      ...(apiKey === undefined ? {} : { apiKey }),
      ...(tls === undefined
        ? {}
        : {
            tls: {
              ...(tls.ca === undefined ? {} : { serverRootCACertificate: tls.ca }),
              ...(tls.cert === undefined || tls.key === undefined
                ? {}
                : { clientCertPair: { crt: tls.cert, key: tls.key } }),
            },
          }),
    });
  } catch (error) {
    throw temporalDown(address, "connect", error);
  }
  // A closed entity is no workload any more: its last state is not an answer.
  const client = new Client({ connection, namespace, workflow: { queryRejectCondition: "NOT_OPEN" } });
  const context = { client, address };
  const nodes = nodesOf(context);
  const close = async (): Promise<void> => {
    await trying.end();
    await connection.close();
  };
  return { workloads: workloadsOf(context), nodes, close };
}
