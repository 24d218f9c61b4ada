import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { cgroupLayout } from "../../../src/host/cgroup.js";
import { PtraceHelper } from "../../../src/host/ptrace-helper.js";
import { threadState } from "../../../src/host/ptrace-procfs.js";
import { closeFd } from "../../../src/host/syscall.js";
import { chooseTracker, trackerProblem } from "../../../src/transfer/trackers/choose.js";
import { PagemapScanTracker } from "../../../src/transfer/trackers/pagemap-scan.js";
import { needsRoot, Program, traces } from "./kit.js";

const skip = needsRoot || ((await trackerProblem("pagemap-scan")) ?? false);
const status = (pid: number, key: string): string | undefined =>
  new RegExp(`^${key}:\\t(.*)$`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];

async function arm(helper: PtraceHelper, pid: number, name = ""): Promise<{ stoppedMs: number; alteredMs: number }> {
  const armed = await helper.arm(pid);
  assert.ok(!("problem" in armed), "message" in armed ? `${name}: ${armed.message}` : "");
  closeFd(armed.fd);
  return armed;
}

/** What each call must return in the end: its result and errno, and how long it must have waited at least. */
const CALLS: {
  name: string;
  result: number;
  errno: number;
  atLeastMs: number;
  wake?: "line" | "SIGUSR1" | "SIGINT";
}[] = [
  { name: "nanosleep", result: 0, errno: 0, atLeastMs: 1500 },
  { name: "read", result: 1, errno: 0, atLeastMs: 0, wake: "line" },
  { name: "epoll_wait", result: 0, errno: 0, atLeastMs: 1500 },
  { name: "poll", result: 0, errno: 0, atLeastMs: 1500 },
  { name: "futex", result: -1, errno: 110, atLeastMs: 1500 },
  { name: "semtimedop", result: -1, errno: 11, atLeastMs: 1500 },
  { name: "sigtimedwait", result: -1, errno: 11, atLeastMs: 1500 },
  { name: "sigsuspend", result: -1, errno: 4, atLeastMs: 0, wake: "SIGUSR1" },
  { name: "pause", result: -1, errno: 4, atLeastMs: 0, wake: "SIGUSR1" },
];

test("a system call that waits goes on as if nobody had stopped it", { skip, timeout: 60_000 }, async (t) => {
  const helper = new PtraceHelper();
  t.after(() => helper.end());
  const programs = await Promise.all(CALLS.map(({ name }) => Program.start("call", name)));
  try {
    await sleep(100);
    for (const [index, { name }] of CALLS.entries()) {
      const program = programs[index];
      assert.ok(program);
      const before = ["SigBlk", "SigIgn", "SigCgt"].map((key) => status(program.pid, key));
      for (let turn = 0; turn < 3; turn++) {
        await arm(helper, program.pid, name);
        const held = await helper.whileHeld(program.pid, () => undefined);
        assert.ok("stoppedMs" in held);
      }
      assert.deepEqual(traces(program.pid), [], name);
      await sleep(5);
      assert.deepEqual(
        ["SigBlk", "SigIgn", "SigCgt"].map((key) => status(program.pid, key)),
        before,
        name,
      );
    }
    for (const [index, { name, result, errno, atLeastMs, wake }] of CALLS.entries()) {
      const program = programs[index];
      assert.ok(program);
      if (wake === "line") program.child.stdin?.write("x");
      else if (wake !== undefined) process.kill(program.pid, wake);
      const [word, gotResult, gotErrno, ms] = (await program.line()).split(" ");
      assert.deepEqual([word, Number(gotResult), Number(gotErrno)], ["returned", result, errno], name);
      assert.ok(Number(ms) >= atLeastMs - 1, `${name} waited ${ms} ms`);
    }
  } finally {
    await Promise.all(programs.map((program) => program.end()));
  }
});

test("a program that computes under a storm of signals comes to no harm", { skip, timeout: 60_000 }, async () => {
  const program = await Program.start("spin");
  const helper = new PtraceHelper();
  try {
    const times: { stoppedMs: number; alteredMs: number }[] = [];
    for (let turn = 0; turn < 200; turn++) times.push(await arm(helper, program.pid));
    const [loops = 0, ticks = 0] = (await program.ask("go")).split(" ").map(Number);
    assert.ok(loops > 0 && ticks > 0, "it goes on");
    const median = (of: number[]): string => (of.toSorted((a, b) => a - b)[of.length >> 1] ?? 0).toFixed(3);
    const [stopped, altered] = [times.map((one) => one.stoppedMs), times.map((one) => one.alteredMs)];
    console.log(
      `stopped ${median(stopped)} ms (most ${Math.max(...stopped).toFixed(2)}), ` +
        `other registers ${median(altered)} ms (most ${Math.max(...altered).toFixed(2)})`,
    );
    assert.deepEqual(traces(program.pid), []);
  } finally {
    await helper.end();
    await program.end();
  }
});

test(
  "a tracker that is killed at any moment leaves the program running and untouched",
  { skip, timeout: 90_000 },
  async () => {
    const program = await Program.start("spin");
    const main = fileURLToPath(new URL("./scan-loop.js", import.meta.url));
    try {
      let before = 0;
      for (let turn = 0; turn < 8; turn++) {
        const tracker = spawn(process.execPath, [main, String(program.pid)], { stdio: ["ignore", "pipe", "inherit"] });
        await once(tracker.stdout, "data");
        await sleep((turn * 37) % 100);
        tracker.kill("SIGKILL");
        await once(tracker, "exit");
        // the helper ends when it sees the end of its input
        for (let wait = 0; wait < 300 && traces(program.pid).length > 0; wait++) await sleep(10);
        assert.deepEqual(traces(program.pid), []);
        const [loops = 0] = (await program.ask("go")).split(" ").map(Number);
        assert.ok(loops > before, "it goes on");
        before = loops;
      }
    } finally {
      await program.end();
    }
  },
);

test("a stopped task is tracked and stays stopped", { skip, timeout: 30_000 }, async () => {
  const program = await Program.start("hold", 64);
  const tracker = new PagemapScanTracker();
  try {
    await program.freeze();
    assert.ok((await tracker.scan(program.pids)).pages >= 64);
    assert.equal((await tracker.scan(program.pids)).pages, 0);
    assert.equal(threadState(program.pid), "T");
    program.thaw();
    assert.equal(await program.ask("touch 1"), "done");
    assert.ok((await tracker.scan(program.pids)).pages >= 1);
  } finally {
    await tracker.end();
    await program.end();
  }
});

test(
  "a task in a frozen cgroup is all dirty until it is thawed, and is not harmed",
  { skip, timeout: 30_000 },
  async () => {
    const group = join(cgroupLayout().unified, `ferry-test-tracker-${process.pid}`);
    mkdirSync(group);
    const program = await Program.start("hold", 64);
    const tracker = new PagemapScanTracker();
    try {
      writeFileSync(join(group, "cgroup.procs"), String(program.pid));
      writeFileSync(join(group, "cgroup.freeze"), "1");
      for (let turn = 0; turn < 200; turn++) {
        if (/^frozen 1$/m.test(readFileSync(join(group, "cgroup.events"), "utf8"))) break;
        await sleep(5);
      }
      const [first, again] = [await tracker.scan(program.pids), await tracker.scan(program.pids)];
      console.log(
        `frozen: ${first.pages} pages in ${first.durationMs.toFixed(0)} ms, then ${again.durationMs.toFixed(0)} ms`,
      );
      assert.ok(first.pages >= 64 && again.pages === first.pages);
      writeFileSync(join(group, "cgroup.freeze"), "0");
      assert.equal(await program.ask("touch 3"), "done");
      assert.ok((await tracker.scan(program.pids)).pages >= 64);
      await program.ask("touch 1");
      assert.ok((await tracker.scan(program.pids)).pages < 400);
      await tracker.end();
      assert.deepEqual(traces(program.pid), []);
    } finally {
      writeFileSync(join(group, "cgroup.freeze"), "0");
      await tracker.end();
      await program.end();
      for (let turn = 0; turn < 100 && existsSync(group); turn++) {
        try {
          rmdirSync(group);
        } catch {
          await sleep(10);
        }
      }
    }
  },
);

test("a program that uses userfaultfd itself is left to the next tracker", { skip, timeout: 30_000 }, async () => {
  const program = await Program.start("userfaultfd");
  const alone = new PagemapScanTracker();
  const { tracker } = await chooseTracker("auto");
  try {
    await assert.rejects(alone.scan(program.pids), /userfaultfd on its memory itself/);
    assert.ok((await tracker.scan(program.pids)).pages >= 16);
    assert.notEqual(tracker.kind, "pagemap-scan");
    assert.match(tracker.why ?? "", /userfaultfd/);
  } finally {
    await tracker.end();
    await alone.end();
    await program.end();
  }
});

for (const who of ["filtered", "nobody"]) {
  const what = who === "nobody" ? "without privileges" : "that a seccomp filter would kill for userfaultfd";
  test(`a program ${what} is tracked like others`, { skip, timeout: 30_000 }, async () => {
    const program = await Program.start(who);
    const tracker = new PagemapScanTracker();
    try {
      const seccomp = status(program.pid, "Seccomp");
      await tracker.scan(program.pids);
      await program.ask("touch 5");
      const { pages } = await tracker.scan(program.pids);
      assert.ok(pages > 0 && pages < 400, `${pages} pages`);
      await tracker.end();
      assert.equal(status(program.pid, "Seccomp"), seccomp);
      assert.deepEqual(traces(program.pid), []);
    } finally {
      await tracker.end();
      await program.end();
    }
  });
}

test("a program that a debugger holds is refused in words", { skip, timeout: 30_000 }, async () => {
  const program = await Program.start("hold", 8);
  const [debuggerOf, tracker] = [new PtraceHelper(), new PagemapScanTracker()];
  try {
    const refused = await holdAndScan(debuggerOf, program, tracker);
    assert.match(refused, /traced by process \d+/);
  } finally {
    await tracker.end();
    await debuggerOf.end();
    await program.end();
  }
});

async function holdAndScan(helper: PtraceHelper, program: Program, tracker: PagemapScanTracker): Promise<string> {
  let said = "";
  await helper.whileHeld(program.pid, async () => {
    await tracker.scan(program.pids).catch((error: Error) => (said = error.message));
  });
  return said;
}

test("a tracker that can't work here is refused with what to do", { skip: needsRoot }, async (t) => {
  const problem = await trackerProblem("soft-dirty");
  if (problem === undefined) return t.skip("this kernel has soft-dirty bits");
  await assert.rejects(chooseTracker("soft-dirty"), (error: Error & { data?: { remedy?: string } }) => {
    assert.match(error.message, /soft-dirty does not work on this node: .*MEM_SOFT_DIRTY/);
    assert.match(error.data?.remedy ?? "", /auto/);
    return true;
  });
});
