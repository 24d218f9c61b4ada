/** criu's own incremental dumps, which need soft-dirty bits: two pre-dumps, a dump that has them as parents, and a restore. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, statSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { run } from "../../src/host/exec.js";
import { packageRoot } from "../../src/host/package-root.js";
import { readMessage, readScalars } from "../../src/transfer/images/protobuf.js";
import { until } from "../e2e/support.js";
import { notInGuest } from "./kit.js";

const PAGES = 16_384;
const COMMON = [
  "--no-default-config",
  "--log-file",
  "criu.log",
  "-v2",
  "--manage-cgroups=ignore",
  "--network-lock=skip",
];
const MINUTES = 60_000;

interface DumpStats {
  scanned: number;
  skipped: number;
  written: number;
}

/** What criu counted: stats-dump has two magic words, a length and a message with the dump's figures in field 1. */
function statsOf(dir: string): DumpStats {
  const file = readFileSync(join(dir, "stats-dump"));
  assert.equal(file.readUInt32LE(4), 0x57093306, "the magic word of STATS");
  let stats: Partial<DumpStats> = {};
  readMessage(file.subarray(12, 12 + file.readUInt32LE(8)), (field) => {
    if (field.number === 1 && field.bytes !== undefined) {
      stats = readScalars(field.bytes, { 5: "scanned", 6: "skipped", 7: "written" });
    }
  });
  return { scanned: stats.scanned ?? 0, skipped: stats.skipped ?? 0, written: stats.written ?? 0 };
}

async function pageBytes(dir: string): Promise<number> {
  const names = (await readdir(dir)).filter((name) => /^pages-\d+\.img$/.test(name));
  return names.reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
}

test(
  "pre-dump twice, dump what has changed, restore: the memory is right",
  { skip: notInGuest, timeout: 5 * MINUTES },
  async () => {
    const dir = mkdtempSync("/tmp/ferry-incremental-");
    const results = join(dir, "results");
    const images = ["1", "2", "3"].map((name) => join(dir, name));
    for (const folder of images) mkdirSync(folder);
    const nothing = openSync("/dev/null", "r+");
    const program = spawn(
      "/usr/bin/python3",
      [join(packageRoot(), "test/vm/checked-memory.py"), String(PAGES), results],
      { detached: true, stdio: [nothing, nothing, nothing], cwd: "/", env: {} },
    );
    const pid = program.pid ?? assert.fail("no process");
    const exit = once(program, "exit");
    let said = 0;
    const next = async (): Promise<string> => {
      const lines = (): string[] => readFileSync(results, "utf8").trim().split("\n");
      await until("the program's answer", MINUTES, () => statSync(results, { throwIfNoEntry: false }) !== undefined);
      await until("the program's answer", MINUTES, () => lines().length > said);
      return lines()[said++] ?? "";
    };
    const ask = (signal: NodeJS.Signals): Promise<string> => {
      process.kill(pid, signal);
      return next();
    };
    const criu = async (args: string[], folder: string): Promise<void> => {
      try {
        await run("criu", [...args, "--images-dir", folder, ...COMMON], { timeoutMs: 2 * MINUTES });
      } catch (error) {
        console.log(readFileSync(join(folder, "criu.log"), "utf8"));
        throw error;
      }
    };
    try {
      assert.equal(await next(), "ready");
      const [first = "", second = "", last = ""] = images;
      const dump = ["--tree", String(pid), "--track-mem"];
      await criu(["pre-dump", ...dump], first);
      assert.equal(await ask("SIGUSR1"), "changed");
      await criu(["pre-dump", ...dump, "--prev-images-dir", "../1"], second);
      assert.equal(await ask("SIGUSR1"), "changed");
      await criu(["dump", ...dump, "--prev-images-dir", "../2"], last);
      await exit;
      const sizes = await Promise.all(images.map((folder) => pageBytes(folder)));
      const stats = images.map((folder) => statsOf(folder));
      console.log(JSON.stringify({ stats, sizes }));
      const [whole = 0, ...later] = sizes;
      assert.ok(whole > PAGES * 4096);
      for (const [index, bytes] of later.entries()) {
        assert.ok(bytes < whole / 4, `dump ${index + 2} has ${bytes} bytes of ${whole}`);
        assert.ok((stats[index + 1]?.skipped ?? 0) > PAGES / 2, "pages are left to the parent");
      }
      await criu(["restore", "--restore-detached"], last);
      assert.equal(await ask("SIGUSR2"), `checked ${PAGES} wrong 0`);
      assert.equal(await ask("SIGUSR1"), "changed");
      assert.equal(await ask("SIGUSR2"), `checked ${PAGES} wrong 0`);
    } finally {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // it has ended
      }
      rmSync(dir, { recursive: true, force: true });
    }
  },
);
