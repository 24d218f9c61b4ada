/**
 * After `lab up` every agent and worker answers, but Temporal's listing is a little behind (about a second): without
 * waiting for it, the next command could be told that a node does not exist.
 */
import type { FerryClient } from "../client/types.js";

/** Waits until all nodes are listed and answer, at most `withinMs`; says whether they are. */
export async function untilNodesListed(
  client: FerryClient,
  names: readonly string[],
  withinMs: number,
): Promise<boolean> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    const listed = await client.nodes.list();
    if (names.every((name) => listed.some((node) => node.name === name && node.reachable))) return true;
    if (performance.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 150));
  }
}
