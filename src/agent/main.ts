/** `ferry agent`: reads the journal, goes on with what it owns, serves the socket and the link until told to stop. */
import { join } from "node:path";
import pino from "pino";
import { toFailure, type FailureData } from "../model/failure.js";
import { sharedVolumeDir } from "./policy.js";
import { createProcessRuntime } from "../runtimes/process/index.js";
import { CostBook } from "./costs.js";
import { FerryAgent } from "./agent.js";
import { Book } from "./book.js";
import { parseAgentConfig, type AgentConfig } from "./config.js";
import type { Log, NodeContext } from "./operations/node-context.js";
import { journalLoss, quarantined } from "./quarantine.js";
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
    sharedVolume: (name) => sharedVolumeDir(name),
    log,
  });
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
  };
  const costs = new CostBook(config.stateDir);
  const context: NodeContext = { config, book, runtime, identity, log, costs };
  const agent = new FerryAgent(context);
  await agent.boot();
  await agent.hub.listen();
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
