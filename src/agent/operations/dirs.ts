/**
 * Where one side of one hand-over keeps its things. All of it lies on the node's tmpfs: images are executable memory
 * and hold every secret, so directories are 0700 and nothing of them reaches a disk.
 */
import { existsSync, mkdirSync, readdirSync, rmdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import type { OperationDirs } from "../../runtimes/runtime.js";

export interface SideDirs extends OperationDirs {
  root: string;
  store: string;
  moverConfig: string;
  moverSocket: string;
  moverLog: string;
}

export const operationsDir = (runDir: string): string => join(runDir, "ops");

const ROOTS = { source: "s", destination: "d", sink: "k" } as const;

export function sideDirs(runDir: string, operation: string, side: keyof typeof ROOTS): SideDirs {
  const root = join(operationsDir(runDir), operation, ROOTS[side]);
  return {
    root,
    run: join(root, "run"),
    images: join(root, "images"),
    store: join(root, "pages"),
    moverConfig: join(root, "mover.json"),
    moverSocket: join(root, "mover.sock"),
    moverLog: join(root, "mover.log"),
  };
}

export function makeDirs(dirs: SideDirs): void {
  for (const dir of [dirs.root, dirs.run, dirs.images, dirs.store]) mkdirSync(dir, { recursive: true, mode: 0o700 });
}

export function removeDirs(dirs: SideDirs): void {
  rmSync(dirs.root, { recursive: true, force: true });
  try {
    // The operation's own directory goes with its last side.
    rmdirSync(dirname(dirs.root));
  } catch {
    // the other side is still there, or it is gone already
  }
}

/** Removes what operations that are not under way have left; their movers end by themselves then. */
export function sweepOperations(runDir: string, underWay: (operation: string) => boolean): void {
  const root = operationsDir(runDir);
  if (!existsSync(root)) return;
  for (const operation of readdirSync(root)) {
    if (!underWay(operation)) removeOperation(runDir, operation);
  }
}

/** Everything that an operation has here. */
export const removeOperation = (runDir: string, operation: string): void =>
  rmSync(join(operationsDir(runDir), operation), { recursive: true, force: true });
