/** Moving workloads of any kind while somebody watches them. */
import { FerryError } from "../../src/client/index.js";
import type { WorkloadHandle } from "../../src/client/types.js";
import type { Mode } from "../../src/model/plan.js";
import { assertMoved, migrate, other, until } from "./support.js";
import assert from "node:assert/strict";

/** Moves it to the other node once per mode; `each` looks at it before the first and after every move. */
export async function moveAbout(
  workload: WorkloadHandle,
  modes: readonly Mode[],
  each: (node: string) => Promise<void>,
): Promise<void> {
  let { node } = await workload.status();
  await each(node);
  for (const mode of modes) {
    node = other(node);
    const report = await migrate(workload, node, mode);
    assertMoved(report);
    assert.equal(report.node, node);
    await each(node);
  }
}

/** The whole of its log. */
export async function wholeLog(workload: WorkloadHandle): Promise<string> {
  let text = "";
  for (let offset = 0; ;) {
    const chunk = await workload.logs({ offset, maxBytes: 1 << 17 });
    text += chunk.text;
    if (chunk.nextOffset >= chunk.sizeBytes || chunk.nextOffset <= offset) return text;
    offset = chunk.nextOffset;
  }
}

/** Does `work`; what goes wrong is told together with the end of the workload's log. In the end the workload is removed. */
export async function andRemove(workload: WorkloadHandle, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const log = await workload.logs({ maxBytes: 4096 }).then(
      ({ text }) => text.slice(-1500),
      (why: unknown) => String(why),
    );
    const why = error instanceof Error ? error.message : String(error);
    throw new Error(`${workload.name}: ${why}\nthe end of its log:\n${log}`, { cause: error });
  } finally {
    // The migration's result is there an instant before its entity has heard of the end.
    await until(`${workload.name} is removed`, 20_000, async () => {
      try {
        await workload.remove({ force: true });
        return true;
      } catch (error) {
        if (error instanceof FerryError && error.code === "E_BUSY") return false;
        throw error;
      }
    });
  }
}
