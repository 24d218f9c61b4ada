/** A thread of the tracker `compare`: a message with tasks is answered, one with what was sent is not. It ends with its parent, or when it is terminated. */
import { parentPort, workerData } from "node:worker_threads";
import { CompareTable, type Looked, type Share } from "./compare-table.js";
import type { Task } from "./tasks.js";

export type CompareAnswer = { looked: Looked[] } | { problem: string };

export interface SentDigests {
  pid: number;
  start: number;
  digests: Uint32Array;
}
export interface CompareSetup {
  share: Share;
  scans: boolean;
  key: Uint8Array;
}

const { share, scans, key } = workerData as CompareSetup;
const table = new CompareTable(share, scans, key);
parentPort?.on("message", (tasks: Task[] | SentDigests) => {
  if (!Array.isArray(tasks)) {
    table.sent(tasks.pid, tasks.start, tasks.digests);
    return;
  }
  let answer: CompareAnswer;
  try {
    answer = { looked: table.look(tasks) };
  } catch (error) {
    answer = { problem: error instanceof Error ? error.message : String(error) };
  }
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  parentPort?.postMessage(answer);
});
