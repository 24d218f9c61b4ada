/** What the parts of an agent work in, without an agent around it: a real journal and identity, no store, no bridge. */
import { join } from "node:path";
import type { Book } from "../../src/agent/book.js";
import { NodeStore } from "../../src/agent/checkpoints.js";
import { parseAgentConfig } from "../../src/agent/config.js";
import { CostBook } from "../../src/agent/costs.js";
import type { NodeContext } from "../../src/agent/operations/node-context.js";
import { Sleepers } from "../../src/agent/sleepers.js";
import { noCheckpoints } from "../../src/model/checkpoints.js";
import type { Runtime } from "../../src/runtimes/runtime.js";
import type { Pki } from "../transfer/link-support.js";

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
