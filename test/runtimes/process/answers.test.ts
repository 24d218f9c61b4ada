/** When criu's system calls are answered in the kernel's place, and that the answers hold for a real process. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { after, before, describe, it, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { answersFor, wrapperWords, type Asked } from "../../../src/runtimes/process/answers.js";
import type { EngineStatus } from "../../../src/runtimes/runtime.js";
import { parsePagemap } from "../../../src/transfer/images/criu.js";
import { parseLeftOut } from "../../../src/transfer/images/left-out.js";
import { nodesImpossible, TestNet, type TestNode } from "../../support/node.js";
import { dirs, incarnation } from "./workloads.js";

const GIB = 2 ** 30;
const task = (more: Partial<Asked> = {}): Asked => ({
  anonymousBytes: GIB,
  areas: 100,
  filtered: false,
  foreign: false,
  ...more,
});

test("large areas are left out where that saves more than it costs, and where nothing is in the way", () => {
  assert.equal(answersFor([task()], true).leaveOut, true);
  assert.equal(answersFor([task({ anonymousBytes: 2 ** 22 })], true).leaveOut, false, "too small");
  assert.equal(answersFor([task({ areas: 60_000 })], true).leaveOut, false, "too many questions");
  assert.equal(answersFor([task(), task({ filtered: true })], true).leaveOut, false, "a seccomp filter in the tree");
  const many = Array.from({ length: 200 }, () => task({ anonymousBytes: 2 ** 23, areas: 50 }));
  assert.equal(answersFor(many, true).leaveOut, false, "no process has a large area");
  assert.equal(answersFor([], true).leaveOut, false);
});

test("limits are answered only for other users' processes, and only where root may not read them", () => {
  assert.equal(answersFor([task({ foreign: true })], false).limits, true);
  assert.equal(answersFor([task({ foreign: true })], true).limits, false);
  assert.equal(answersFor([task()], false).limits, false);
  assert.deepEqual(wrapperWords("answers.pl", { limits: false, leaveOut: false }, "l", "s"), []);
});

/** A thread's stack inside a large area, another large area, and a small one; says so when SIGUSR1 finds all as it was. */
const LARGE = `
import mmap, signal, threading, time
threading.stack_size(64 << 20)
m = mmap.mmap(-1, 320 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(0, 320 << 20, 4096): m[i:i + 8] = i.to_bytes(8, "little")
go = threading.Event()
def inside(depth, mark):
    local = [mark + depth] * 50
    if depth: inside(depth - 1, mark)
    else: go.wait()
    assert local == [mark + depth] * 50
t = threading.Thread(target=inside, args=(300, 7)); t.start()
def check(*_):
    for i in range(0, 320 << 20, 4096): assert m[i:i + 8] == i.to_bytes(8, "little"), i
    go.set(); t.join(); print("all well", flush=True)
signal.signal(signal.SIGUSR1, check)
print("ready", flush=True)
while True: time.sleep(0.1)
`;

describe("criu leaves large areas out", { skip: nodesImpossible() ?? false }, () => {
  let net: TestNet;
  let a: TestNode;
  before(async () => {
    net = await TestNet.make(["a"]);
    a = net.node("a");
  });
  after(async () => assert.deepEqual(await net.end(), []));

  it("its pagemap has the stacks' pages of them and nothing else, and the tree goes on after a veto", async () => {
    const name = { name: "large", epoch: 1 };
    const spec = incarnation("large", { command: ["python3", "-c", LARGE] });
    const log = (): string => a.exec("cat", "/var/lib/ferry/volumes/large/log/output.log").stdout;
    await a.call("start", spec);
    for (let i = 0; i < 300 && !log().includes("ready"); i++) await sleep(20);
    const d = dirs("large.migrate.1");
    await a.call("freeze", spec, d);
    const status = await a.call<EngineStatus>("wait", "freeze", d, "post-dump", 30_000);
    assert.ok(status.reached["post-dump"] !== undefined, JSON.stringify(await a.call("evidence", "freeze", d)));
    const areas = parseLeftOut(readFileSync(a.outside(`${d.images}/left-out`), "utf8"));
    assert.ok(areas.length >= 2, "the memory, and the thread's stack");
    const { entries } = parsePagemap("pagemap-1.img", readFileSync(a.outside(`${d.images}/pagemap-1.img`)));
    const within = areas.flatMap(({ start, end }) => entries.filter((e) => e.start >= start && e.start < end));
    assert.deepEqual(
      within.map(({ pages }) => pages),
      [1],
      "one page, into which the thread's stack points",
    );
    await a.call("takeBack", spec, d);
    const { "1": pid } = await a.call<Record<string, number>>("pids", name);
    a.exec("kill", "-USR1", String(pid));
    for (let i = 0; i < 500 && !/all well|Error/.test(log()); i++) await sleep(10);
    assert.match(log(), /^ready\nall well\n$/);
    await a.call("destroy", name, d);
    assert.deepEqual(a.leftovers(), []);
    await rm(a.state("volumes"), { recursive: true, force: true });
    a.exec("rm", "-rf", "/run/ferry/ops");
  });
});
