/** What the parts of an agent work in, without an agent around it: a real journal and identity, no store, no bridge. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before } from "node:test";
import type { Book } from "../../src/agent/book.js";
import { NodeStore } from "../../src/agent/checkpoints.js";
import { parseAgentConfig } from "../../src/agent/config.js";
import { CostBook } from "../../src/agent/costs.js";
import type { NodeContext } from "../../src/agent/operations/node-context.js";
import { Sleepers } from "../../src/agent/sleepers.js";
import { noCheckpoints } from "../../src/model/checkpoints.js";
import type { OperationRef } from "../../src/model/contract.js";
import type { Runtime } from "../../src/runtimes/runtime.js";
import { makePki, type Pki } from "../transfer/link-support.js";

/** A migration of `web`, as its workflow names it. */
export const MIGRATION: OperationRef = {
  schema: 1,
  operation: "web.migrate.2",
  workload: "web",
  epoch: 1,
  to: 2,
  source: "node-a",
  destination: "node-b",
};

/** Registers the hooks: a directory of its own and keys for all tests of a file, there from the first test on. */
export function withKeys(name: string): { root: string; pki: Pki } {
  const keys = {} as { root: string; pki: Pki };
  before(async () => {
    keys.root = mkdtempSync(join(tmpdir(), `ferry-${name}-`));
    keys.pki = await makePki();
  });
  after(() => {
    keys.pki.remove();
    rmSync(keys.root, { recursive: true, force: true });
  });
  return keys;
}

/** `book` lies in `dir`/state. `runtime`: what of it may be asked for. */
export async function bareContext(
  node: string,
  dir: string,
  { book, runtime, pki }: { book: Book; runtime: object; pki: Pki },
): Promise<NodeContext> {
  const stateDir = join(dir, "state");
  const log = (): void => undefined;
  return {
    config: parseAgentConfig({ node, linkHost: "127.0.0.1", stateDir, runDir: join(dir, "run") }),
    book,
    runtime: runtime as Runtime,
    checkpoints: noCheckpoints(node),
    store: new NodeStore({ node, file: undefined, log }),
    identity: await pki.identity(node),
    log,
    costs: new CostBook(stateDir),
    sleepers: new Sleepers({ book, bridge: "none", log }),
  };
}
