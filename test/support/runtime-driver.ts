/** Program inside a test node: the process runtime, called by JSON lines. Engines are named by their operation's dirs. */
import { createInterface } from "node:readline";
import { toFailure } from "../../src/model/failure.js";
import { createProcessRuntime, type ProcessRuntimeConfig } from "../../src/runtimes/process/index.js";
import type { EngineStatus, Incarnation, OperationDirs } from "../../src/runtimes/runtime.js";

const config = JSON.parse(process.argv[2] ?? "{}") as Omit<ProcessRuntimeConfig, "log">;
const runtime = createProcessRuntime({
  ...config,
  log: (level, message, fields) => process.stderr.write(`${level} ${message} ${JSON.stringify(fields ?? {})}\n`),
});

type Point = keyof EngineStatus["reached"];
const engine = (kind: "freeze" | "restore", dirs: OperationDirs) => {
  const found = kind === "freeze" ? runtime.adoptFreeze(dirs) : runtime.adoptRestore(dirs);
  if (found === undefined) throw new Error(`no ${kind} in ${dirs.run}`);
  return found;
};

const methods: Record<string, (...args: never[]) => unknown> = {
  start: (i: Incarnation) => runtime.start(i),
  observe: (i: { name: string; epoch: number }) => runtime.observe(i),
  pids: (i: { name: string; epoch: number }) => runtime.pids(i),
  freeze: async (i: Incarnation, d: OperationDirs) => {
    await runtime.freeze(i, d);
  },
  restore: async (i: Incarnation, d: OperationDirs) => {
    await runtime.restore(i, d);
  },
  wait: (kind: "freeze" | "restore", d: OperationDirs, point: Point, ms: number) =>
    engine(kind, d).wait((s) => s.reached[point] !== undefined, ms),
  status: (kind: "freeze" | "restore", d: OperationDirs) => engine(kind, d).status(),
  evidence: (kind: "freeze" | "restore", d: OperationDirs) => engine(kind, d).evidence(),
  takeBack: (i: Incarnation, d: OperationDirs) => runtime.takeBack(i, d),
  destroy: (i: { name: string; epoch: number }, d?: OperationDirs) => runtime.destroy(i, d),
  stop: (i: { name: string; epoch: number }, ms: number) => runtime.stop(i, ms),
  prepare: (i: Incarnation, d: OperationDirs) => runtime.prepare(i, d),
  release: (i: Incarnation, d: OperationDirs) => runtime.release(i, d),
  openNetwork: (i: Incarnation) => runtime.openNetwork(i),
  sweep: (kept: string[]) => runtime.sweep((name, epoch) => kept.includes(`${name}.${epoch}`)),
};

createInterface({ input: process.stdin }).on("line", (line) => {
  const { id, method, args } = JSON.parse(line) as { id: number; method: string; args: never[] };
  void (async () => {
    try {
      const result = await methods[method]?.(...args);
      process.stdout.write(`${JSON.stringify({ id, result })}\n`);
    } catch (error) {
      process.stdout.write(`${JSON.stringify({ id, failure: toFailure(error) })}\n`);
    }
  })();
});
