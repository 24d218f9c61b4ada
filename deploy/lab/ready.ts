/** Waiting until the lab's parts answer: always by looking at the thing itself, never by a sleep or a line of a log. */
import { Connection } from "@temporalio/client";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createConnection } from "node:net";
import { join } from "node:path";
import { z } from "zod";
import { ferryError, toFailure } from "../../src/model/failure.js";
import { nodeTaskQueue } from "../../src/model/names.js";
import { logDir, runDir, until, type LabHost, type LabState } from "./state.js";

const ANSWER_MS = 60_000;
/** TASK_QUEUE_TYPE_ACTIVITY of the server's interface. */
const ACTIVITY_QUEUE = 2;

/** Last lines of a service's log, as evidence. */
async function lastLines(lab: LabState, log: string): Promise<string[]> {
  const text = await readFile(join(logDir(lab), log), "utf8").catch(() => "");
  return text
    .trim()
    .split("\n")
    .slice(-6)
    .map((line) => line.slice(0, 400));
}

const portsSchema = z.object({ frontend: z.int(), ui: z.int() });

/** Where Temporal can be reached from this machine, once the relays listen. */
export async function temporalAddresses(lab: LabState): Promise<{ address: string; uiUrl?: string } | undefined> {
  if (lab.temporal.how === "none") return undefined;
  if (lab.temporal.how === "address") return { address: lab.temporal.address };
  const ports = await until(async () => {
    const text = await readFile(join(runDir(lab), "ports.json"), "utf8").catch(() => undefined);
    return text === undefined ? undefined : portsSchema.parse(JSON.parse(text));
  }, ANSWER_MS);
  if (ports === undefined) {
    throw ferryError("E_START", "the relay to the lab's Temporal server does not listen", {
      evidence: { lines: await lastLines(lab, "machine.relay.log") },
      remedy: "ferry lab down, then ferry lab up",
    });
  }
  return { address: `127.0.0.1:${ports.frontend}`, uiUrl: `http://127.0.0.1:${ports.ui}` };
}

/** A connection to a server that answers and has its default namespace. */
export async function temporalReady(lab: LabState, address: string): Promise<Connection> {
  let last: unknown;
  const connection = await until(
    async () => {
      try {
        const made = await Connection.connect({ address, connectTimeout: "2s" });
        try {
          await made.workflowService.describeNamespace({ namespace: "default" });
          return made;
        } catch (error) {
          await made.close();
          throw error;
        }
      } catch (error) {
        last = error;
        return undefined;
      }
    },
    ANSWER_MS,
    50,
  );
  if (connection !== undefined) return connection;
  throw ferryError("E_START", `Temporal does not answer at ${address}`, {
    evidence: { lines: await lastLines(lab, "switch.temporal.log") },
    cause: toFailure(last, "E_START"),
    remedy:
      lab.temporal.how === "address"
        ? "check FERRY_TEMPORAL_ADDRESS, or unset it to have a server of the lab's own"
        : "ferry lab down, then ferry lab up",
  });
}

/** Whether something accepts connections on this unix socket. */
export const socketAnswers = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = createConnection(path);
    const end = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(2000, () => end(false));
    socket.once("connect", () => end(true));
    socket.once("error", () => end(false));
  });

/** The agent's socket as this machine reaches it. */
export const agentSocket = (host: LabHost): string => `/proc/${host.init?.pid ?? 0}/root/run/ferry/agent.sock`;

/** @throws E_START with the agent's last log lines when it does not answer in a minute */
export async function agentReady(lab: LabState, host: LabHost): Promise<void> {
  const path = agentSocket(host);
  const answers = await until(
    async () => (existsSync(path) && (await socketAnswers(path))) || undefined,
    ANSWER_MS,
    30,
  );
  if (answers !== undefined) return;
  throw ferryError("E_START", `the agent of ${host.name} does not answer on its socket`, {
    node: host.name,
    evidence: { lines: await lastLines(lab, `${host.name}.agent.log`) },
    remedy: `see ${join(logDir(lab), `${host.name}.agent.log`)}`,
  });
}

/**
 * Whether a worker polls the node's queue. The server remembers a poller for some minutes after its end: `since` (Unix
 * milliseconds) counts only those that asked later.
 */
export async function workerPolls(connection: Connection, node: string, since = 0): Promise<boolean> {
  const { pollers } = await connection.workflowService.describeTaskQueue({
    namespace: "default",
    taskQueue: { name: nodeTaskQueue(node) },
    // oxlint-disable-next-line typescript/no-unsafe-enum-assignment -- the enum lives in a package that is not ours to import
    taskQueueType: ACTIVITY_QUEUE,
  });
  return (pollers ?? []).some(
    ({ lastAccessTime: at }) => Number(at?.seconds ?? 0) * 1000 + (at?.nanos ?? 0) / 1e6 >= since,
  );
}

/** @throws E_START with the worker's last log lines when it does not poll within a minute */
export async function workerReady(lab: LabState, connection: Connection, host: LabHost, since: number): Promise<void> {
  const polls = await until(async () => (await workerPolls(connection, host.name, since)) || undefined, ANSWER_MS, 50);
  if (polls !== undefined) return;
  throw ferryError("E_START", `the worker of ${host.name} does not poll its queue`, {
    node: host.name,
    evidence: { lines: await lastLines(lab, `${host.name}.worker.log`) },
    remedy: `see ${join(logDir(lab), `${host.name}.worker.log`)}`,
  });
}
