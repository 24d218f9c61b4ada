/** A stopped process with memory like a program's, for those who read it from outside. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";

/** Every eighth MiB is zeros, the rest repeats itself; or no page of it is like another, and nothing compresses. */
const PROGRAM = `
import mmap, os, sys, time
n = int(sys.argv[1]) << 20
m = mmap.mmap(-1, n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
step = 1 << 20
for i in range(0, n, step):
    if (i // step) % 8 == 3: m[i:i+step] = bytes(step)
    elif sys.argv[2] == "noise": m[i:i+step] = os.urandom(step)
    else: m[i:i+step] = (i.to_bytes(8, "little") + os.urandom(56)) * (step // 64)
print("ready", flush=True)
time.sleep(10000)
`;

/** Resolves when all of its `mebibytes` are written and it stands still. The caller kills it. */
export async function startMemoryTarget(
  mebibytes: number,
  content: "patterns" | "noise" = "patterns",
): Promise<ChildProcess & { pid: number }> {
  const target = spawn("python3", ["-c", PROGRAM, String(mebibytes), content], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  assert.ok(target.stdout !== null && target.pid !== undefined);
  await once(target.stdout, "data");
  target.kill("SIGSTOP");
  return target as ChildProcess & { pid: number };
}
