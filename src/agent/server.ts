/** The agent's socket: POST /v1/<verb> with a JSON body. Validates, calls, answers; knows nothing of what verbs do. */
import { chmodSync, chownSync, existsSync, mkdirSync, rmSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, type Server } from "node:http";
import { connect } from "node:net";
import { dirname } from "node:path";
import type { z } from "zod";
import { CONTRACT_SCHEMA, type NodeAgent } from "../model/contract.js";
import { issuesOf } from "../host/issues.js";
import { packageVersion } from "../host/package-root.js";
import { ferryError, toFailure, type FailureData } from "../model/failure.js";
import { shown } from "../model/words.js";
import { isVerb, MAX_REQUEST_BYTES, VERBS, type Verb } from "./verbs.js";

async function readBody(incoming: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_REQUEST_BYTES)
      throw ferryError("E_REQUEST", `the request is larger than ${MAX_REQUEST_BYTES} bytes`);
    chunks.push(chunk);
  }
  if (size === 0) return {};
  try {
    return JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch {
    throw ferryError("E_REQUEST", "the request's body is not JSON");
  }
}

const UPGRADE =
  "bring Ferry on all nodes to one version, agents first, then workers (docs/operating.md, Upgrading Ferry); what is under way goes on by itself then";

/** The version of the contract that an input says it is of: at its top, or in the hand-over that it names. */
function schemaOf(body: unknown): unknown {
  const field = (value: unknown, name: string): unknown =>
    typeof value === "object" && value !== null ? (value as Record<string, unknown>)[name] : undefined;
  const input = field(body, "input") ?? body;
  return field(field(input, "ref") ?? input, "schema");
}

/** Parses the input of `verb`. Throws E_REQUEST that names every field that is wrong, or the version that it is of. */
export function parseInput(verb: Verb, body: unknown): unknown {
  const parsed = (VERBS[verb] as z.ZodType).safeParse(body);
  if (parsed.success) return parsed.data;
  const schema = schemaOf(body);
  if (Number.isInteger(schema) && schema !== CONTRACT_SCHEMA) {
    throw ferryError(
      "E_REQUEST",
      `${verb} was asked by version ${String(schema)} of the contract between workflows and agents; this agent (Ferry ${packageVersion()}) knows version ${CONTRACT_SCHEMA} only`,
      { remedy: UPGRADE },
    );
  }
  throw ferryError(
    "E_REQUEST",
    `${verb} was asked with a wrong input: ${issuesOf(parsed.error, "input")}`,
    parsed.error.issues.some(({ code }) => code === "unrecognized_keys") ? { remedy: UPGRADE } : {},
  );
}

async function dispatch(agent: NodeAgent, verb: Verb, input: unknown): Promise<unknown> {
  if (verb === "takeOver" || verb === "handOver" || verb === "saveCheckpoint") {
    const { input: inner, waitMs } = input as { input: never; waitMs: number };
    return agent[verb](inner, waitMs);
  }
  return (agent[verb] as (input: unknown) => Promise<unknown>)(input);
}

/** Is somebody listening on this unix socket? */
const answers = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });

export interface ServeOptions {
  socketPath: string;
  /** Group that may use the socket besides root (the worker's). */
  socketGid?: number;
  log: (level: "info" | "warn" | "error", message: string, fields?: Record<string, unknown>) => void;
}

/**
 * Ferry's directories on the tmpfs, which are gone after each reboot: the run directory and the socket's, for root and
 * the socket's group. A directory that others can reach, or
 * that is somebody else's (a socket in /run itself), is left as it is.
 */
export function prepareRunDirs(runDir: string, socketPath: string, socketGid = 0): void {
  for (const dir of new Set([runDir, dirname(socketPath)])) {
    try {
      if (existsSync(dir)) {
        const { mode, gid } = statSync(dir);
        const reached = (mode & 0o001) !== 0 || (gid === socketGid && (mode & 0o010) !== 0);
        if (dir !== runDir || socketGid === 0 || reached) continue;
      }
      mkdirSync(dir, { recursive: true, mode: 0o750 });
      chownSync(dir, 0, socketGid);
      chmodSync(dir, 0o750);
    } catch (error) {
      throw ferryError("E_REQUEST", `${dir} can't be prepared for the agent: ${toFailure(error).message}`, {
        remedy: "run the agent as root, or give it other places: --run DIR, --socket PATH",
      });
    }
  }
}

/** Serves `agent` on a unix socket. Throws E_JOURNAL_LOCKED when another agent serves there. */
export async function serveAgent(agent: NodeAgent, options: ServeOptions): Promise<Server> {
  const { socketPath, log } = options;
  if (await answers(socketPath)) {
    throw ferryError("E_JOURNAL_LOCKED", `another agent answers on ${socketPath}`, {
      remedy: "one agent per node: stop the other one first",
    });
  }
  rmSync(socketPath, { force: true });
  const server = createServer((incoming, outgoing) => {
    const answer = (status: number, body: unknown): void => {
      const text = JSON.stringify(body);
      outgoing.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
      outgoing.end(text);
    };
    void (async () => {
      const verb = /^\/v1\/([A-Za-z]+)$/.exec(incoming.url ?? "")?.[1] ?? "";
      try {
        if (incoming.method !== "POST" || !isVerb(verb))
          throw ferryError("E_REQUEST", `no such verb: ${shown(`${incoming.method} ${incoming.url}`)}`, {
            remedy: UPGRADE,
          });
        const input = parseInput(verb, await readBody(incoming));
        answer(200, { ok: true, result: (await dispatch(agent, verb, input)) ?? null });
      } catch (error) {
        const failure: FailureData = toFailure(error);
        if (failure.code === "E_INTERNAL")
          log("error", `${verb} failed`, { failure, stack: error instanceof Error ? error.stack : undefined });
        answer(failure.code === "E_REQUEST" ? 400 : 500, { ok: false, failure });
      }
    })();
  });
  server.requestTimeout = 0;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(socketPath, resolve);
  });
  chmodSync(socketPath, 0o660);
  if (options.socketGid !== undefined) chownSync(socketPath, 0, options.socketGid);
  return server;
}
