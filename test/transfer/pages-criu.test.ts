/** The page side under a real `criu restore --lazy-pages`: a program that checks its own memory, and a daemon that dies. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { test } from "node:test";
import { cacheDir } from "../../deploy/setup/cache.js";
import { rootfsPath } from "../../deploy/setup/rootfs.js";
import { packageRoot } from "../../src/host/package-root.js";
import { readImageSet } from "../../src/transfer/images/areas.js";
import { createStore, destroyFaultService, startFaultService } from "../../src/transfer/pages/index.js";
import { PAGE, scratchDir, skipReason, until } from "./pages-kit.js";

const rootfs = process.env["FERRY_TEST_ROOTFS"] ?? rootfsPath(cacheDir());
const skip =
  skipReason() || (existsSync(join(rootfs, "usr/sbin/criu")) ? false : "no node root file system: npm run setup");
const SEED = Number(process.env["FERRY_TEST_SEED"] ?? Date.now() % 1_000_000);

const INIT = `set -e
mount -t tmpfs -o mode=755 tmpfs "$1/root"; mkdir "$1/root/up" "$1/root/work" "$1/root/all"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/root/up,workdir=$1/root/work" "$1/root/all"
cd "$1/root/all"
mount -t proc proc proc; mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs tmp; mount --rbind /dev dev
ip link set lo up; mkdir -p mnt/t run/old; mount --bind "$1" mnt/t
pivot_root . run/old; cd /; umount -l /run/old
exec sh -c 'touch /mnt/t/up; while :; do sleep 3600 & wait $!; done' </dev/null >/dev/null 2>&1
`;
const HOOK = `#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = post-dump ] || exit 0
: > /mnt/t/held
while :; do sleep 60; done
`;
const CRIU = [
  "--no-default-config",
  "--images-dir",
  "/mnt/t/img",
  "--manage-cgroups=ignore",
  "--network-lock",
  "skip",
  "-v4",
];

async function roundTrip(seed: number, kills: number): Promise<void> {
  const dir = scratchDir();
  const images = join(dir, "img");
  const storeDir = join(dir, "store");
  for (const sub of ["root", "img"]) mkdirSync(join(dir, sub), { mode: 0o700 });
  writeFileSync(join(dir, "hook.sh"), HOOK, { mode: 0o700 });
  writeFileSync(join(dir, "target.py"), readFileSync(join(packageRoot(), "test/transfer/pages-target.py")));
  const node = spawn(
    "unshare",
    ["-m", "-p", "-n", "-f", "--kill-child", "--propagation=private", "sh", "-c", INIT, "init", dir, rootfs],
    { stdio: ["ignore", "ignore", "inherit"] },
  );
  try {
    await until(() => existsSync(join(dir, "up")));
    const init = readFileSync(`/proc/${node.pid}/task/${node.pid}/children`, "utf8").trim();
    const enter = ["-t", init, "-m", "-n", "-p", "--root", "--wdns=/"];
    const inside = (...command: string[]): string => {
      const done = spawnSync("nsenter", [...enter, ...command], { encoding: "utf8" });
      return `${done.stdout}${done.stderr}`.trim();
    };
    inside(
      "sh",
      "-c",
      `setsid python3 /mnt/t/target.py alone /mnt/t 12000 ${seed} </dev/null >/mnt/t/out 2>&1 & echo $! > /mnt/t/pid`,
    );
    await until(() => existsSync(join(dir, "started")));
    await delay(300);
    const pid = readFileSync(join(dir, "pid"), "utf8").trim();
    const dump = spawn(
      "nsenter",
      [
        ...enter,
        "criu",
        "dump",
        ...CRIU,
        "-t",
        pid,
        "--lazy-pages",
        "--address",
        "127.0.0.1",
        "--port",
        "9999",
        "--action-script",
        "/mnt/t/hook.sh",
        "-o",
        "dump.log",
      ],
      { stdio: "ignore" },
    );
    await until(() => existsSync(join(dir, "held")) || dump.exitCode !== null);
    const log = (name: string): string => readFileSync(join(images, name), "utf8").split("\n").slice(-15).join("\n");
    if (dump.exitCode !== null) assert.fail(log("dump.log"));

    const { table } = readImageSet(images);
    const store = createStore(storeDir, table);
    const memory = new Map<number, Buffer>();
    for (const area of table.areas) {
      const fd = openSync(`/proc/${init}/root/proc/${area.vpid}/mem`, "r");
      const data = Buffer.alloc(area.pages * PAGE);
      assert.equal(readSync(fd, data, 0, data.length, area.start), data.length);
      closeSync(fd);
      for (let page = 0; page < area.pages; page++) {
        memory.set(area.slot + page, data.subarray(page * PAGE, (page + 1) * PAGE));
      }
    }
    inside("sh", "-c", `kill -9 ${pid}; pkill -9 -x criu; pkill -9 -f hook.sh; true`);
    await until(() => inside("sh", "-c", "pgrep -x 'criu|python3'") === "");

    const service = await startFaultService({
      store,
      storeDir,
      socketPath: join(images, "lazy-pages.socket"),
      log: () => undefined,
    });
    const feeding = { stop: false };
    try {
      const wanted: number[] = [];
      service.onMissing((slot, pages) => {
        for (let at = slot; at < slot + pages; at++) wanted.push(at);
      });
      const daemonPid = (): number =>
        (JSON.parse(readFileSync(join(storeDir, "holder.json"), "utf8")) as { daemon: { pid: number } }).daemon.pid;
      const put = (slot: number): void => {
        if (store.has(slot)) return;
        store.write(slot, memory.get(slot)!);
        service.arrived(slot, 1);
      };
      const feeder = (async () => {
        for (let slot = 0; slot < table.slots && !feeding.stop;) {
          for (const asked of wanted.splice(0)) put(asked);
          // slower than the program, so that much of what it does meets pages that are not there
          for (let count = 0; count < 8 && slot < table.slots; count++) put(slot++);
          await delay(2);
        }
      })();
      const restore = spawn(
        "nsenter",
        [...enter, "criu", "restore", ...CRIU, "--lazy-pages", "-d", "-o", "restore.log"],
        { stdio: "ignore" },
      );
      const code = await new Promise((resolve) => restore.once("exit", resolve));
      if (code !== 0) assert.fail(log("restore.log"));
      service.fill();
      for (let kill = 0; kill < kills; kill++) {
        await delay(50 + Math.random() * 300);
        await until(() => existsSync(`/proc/${daemonPid()}`));
        process.kill(daemonPid(), "SIGKILL");
      }
      await delay(300);
      writeFileSync(join(dir, "stop"), "");
      await until(() => existsSync(join(dir, "result")), 60_000);
      const result = JSON.parse(readFileSync(join(dir, "result"), "utf8")) as { ok?: number; bad?: string };
      assert.equal(result.bad, undefined);
      await feeder;
      await until(() => service.status().allFilled);
      assert.equal(service.status().failure, undefined);
      assert.ok(service.status().faults > 20, `${service.status().faults} faults`);
    } finally {
      feeding.stop = true;
      await service.close();
      await destroyFaultService(storeDir);
      store.close();
    }
  } finally {
    const gone = new Promise((resolve) => node.once("exit", resolve));
    node.kill("SIGKILL");
    await gone;
    rmSync(dir, { recursive: true, force: true });
  }
}

test("criu restores lazily from the store, the program checks every page", { skip }, () => roundTrip(SEED, 0));
test("the page daemon is killed three times under a restored program", { skip }, () => roundTrip(SEED + 1, 3));
