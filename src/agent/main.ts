/** `ferry agent`: reads the journal, goes on with what it owns, serves the socket and the link until told to stop. */
import { join } from "node:path";
import pino from "pino";
import { noCheckpoints } from "../model/checkpoints.js";
import { toFailure, type FailureData } from "../model/failure.js";
import { readStoreConfig, secretPlaces } from "../checkpoints/store-config.js";
import { loadPolicy, sharedVolumeDir } from "./policy.js";
import { createProcessRuntime } from "../runtimes/process/index.js";
import { CostBook } from "./costs.js";
import { credentialsOf } from "../transfer/link/index.js";
import { FerryAgent } from "./agent.js";
import { NodeStore } from "./checkpoints.js";
import { Book } from "./book.js";
import { parseAgentConfig, type AgentConfig } from "./config.js";
import type { Log, NodeContext } from "./operations/node-context.js";
import { storedCheckpoints } from "./operations/restoring.js";
import { journalLoss, quarantined } from "./quarantine.js";
import { Sleepers } from "./sleepers.js";
import { prepareRunDirs, serveAgent, type ServeOptions } from "./server.js";

function makeLog(config: AgentConfig): Log {
  const sink = pino(
    {
      level: config.logLevel,
      base: { node: config.node, component: "agent" },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    pino.destination({ dest: config.logFile ?? 1, sync: true, mkdir: true }),
  );
  return (level, message, fields = {}) => sink[level](fields, message);
}

/** Runs until SIGTERM or SIGINT. Stopping the agent leaves every workload, criu and mover as it is. */
export async function runAgent(raw: unknown): Promise<void> {
  const config = parseAgentConfig(raw);
  const log = makeLog(config);
  const options = {
    socketPath: config.socket,
    log,
    ...(config.socketGid === undefined ? {} : { socketGid: config.socketGid }),
  };
  prepareRunDirs(config.runDir, config.socket, config.socketGid);
  let book: Book;
  try {
    book = new Book(config.stateDir);
  } catch (error) {
    const failure = toFailure(error);
    if (failure.code !== "E_JOURNAL_CORRUPT") throw error;
    await serveQuarantined(failure, log, options);
    return;
  }
  if (book.torn)
    log("warn", "the journal's last line was torn and dropped: it had promised nothing", { journal: book.path });
  const runtime = createProcessRuntime({
    stateDir: config.stateDir,
    runDir: config.runDir,
    cgroupParent: config.cgroupParent,
    bridge: config.bridge,
    hidden: [
      join(config.tlsDir, "node.key"),
      config.policyFile,
      ...(await storePlaces(config)),
      ...hiddenByPolicy(config),
    ],
    sharedVolume: (name) => sharedVolumeDir(name, config.policyFile),
    log,
  });
  sayPolicy(config, log);
  const loss = journalLoss(book, runtime);
  if (loss !== undefined) {
    // Not held open: a person puts the whole file in its place.
    book.close();
    await serveQuarantined(loss, log, options);
    return;
  }
  const identity = {
    node: config.node,
    caFile: join(config.tlsDir, "ca.crt"),
    certFile: join(config.tlsDir, "node.crt"),
    keyFile: join(config.tlsDir, "node.key"),
    ...(config.crlFile === undefined ? {} : { crlFile: config.crlFile }),
  };
  const costs = new CostBook(config.stateDir);
  const store = new NodeStore({ node: config.node, file: config.storeFile, log });
  const checkpoints = config.storeFile === undefined ? noCheckpoints(config.node) : storedCheckpoints(() => context);
  const sleepers = new Sleepers({ book, bridge: config.bridge, log });
  const context: NodeContext = { config, book, runtime, checkpoints, store, identity, log, costs, sleepers };
  const agent = new FerryAgent(context);
  await agent.boot();
  await agent.hub.listen();
  credentialsOf(identity).watch(log);
  const server = await serveAgent(agent, options);
  log("info", "agent is ready", {
    socket: config.socket,
    link: `${config.linkHost}:${config.linkPort}`,
    journalEntries: book.entries,
  });
  await untilStopped();
  log("info", "agent stops; workloads and operations stay as they are");
  server.close();
  server.closeAllConnections();
  agent.close();
  await agent.hub.close();
  book.close();
}

/** A policy that can't be used refuses every start: it is said now, too. */
function sayPolicy({ policyFile }: AgentConfig, log: Log): void {
  try {
    const limits = Object.keys(loadPolicy(policyFile));
    log("info", limits.length === 0 ? "this node's policy limits nothing" : "this node has a policy", {
      policyFile,
      limits,
    });
  } catch (error) {
    log("error", "this node starts nothing: its policy can't be used", { failure: toFailure(error) });
  }
}

/** As of the agent's start: what is mounted already does not change. */
function hiddenByPolicy({ policyFile }: AgentConfig): string[] {
  try {
    return loadPolicy(policyFile).hidden ?? [];
  } catch {
    // Said already; nothing is started with such a policy.
    return [];
  }
}

/** No workload sees the store, or its keys. As of the agent's start. */
async function storePlaces({ storeFile }: AgentConfig): Promise<string[]> {
  if (storeFile === undefined) return [];
  return [storeFile, ...(await readStoreConfig(storeFile).then(secretPlaces, () => []))];
}

async function serveQuarantined(failure: FailureData, log: Log, options: ServeOptions): Promise<void> {
  log("error", "quarantine: nothing is started or changed on this node", { failure });
  const server = await serveAgent(quarantined(failure), options);
  await untilStopped();
  server.close();
}

const untilStopped = (): Promise<void> =>
  new Promise((resolve) => {
    process.once("SIGTERM", () => resolve());
    process.once("SIGINT", () => resolve());
  });
