import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { getPriority } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { test } from "node:test";
import { BOUNDING_SETS } from "../../src/model/privileges.js";
import { openStore, startFaultService } from "../../src/transfer/pages/index.js";
import { keptBy, privilegesOf } from "../support/capabilities.js";
import { feed, imagePages, skipReason, stage, Target, until } from "./pages-kit.js";

const skip = skipReason();
const SEED = Number(process.env["FERRY_TEST_SEED"] ?? Date.now() % 1_000_000);

test("a fault waits for its page, is asked for once, and is answered when it comes", { skip }, async () => {
  const scene = await stage(64);
  try {
    const touched = scene.target.ask("touch 10");
    await until(() => scene.missing.includes(10));
    // whoever waits is not to wait for others, too, where that is allowed
    await until(() => getPriority(scene.daemonPid()) === getPriority() - 10);
    const { bounding } = privilegesOf(readFileSync("/proc/self/status", "utf8"));
    const { effective, noNewPrivs } = privilegesOf(readFileSync(`/proc/${scene.daemonPid()}/status`, "utf8"));
    assert.deepEqual([effective, noNewPrivs], [keptBy(BOUNDING_SETS.pageDaemon, bounding), true]);
    scene.store.write(10, imagePages(10, 1));
    scene.service.arrived(10, 1);
    assert.deepEqual(await touched, { touched: 10 });
    scene.store.write(20, imagePages(20, 4));
    assert.deepEqual(await scene.target.ask("touch 21"), { touched: 21 });
    // nothing was asked to be filled
    await delay(100);
    assert.ok(scene.service.status().filled < 10);
    await until(() => scene.service.status().faults >= 2);
  } finally {
    await scene.end();
  }
});

test(
  "a fault asks for its neighbours too, faults one behind the other for more and more, each page once",
  { skip },
  async () => {
    const scene = await stage(1536);
    try {
      const asked: [number, number][] = [];
      scene.service.onMissing((slot, pages) => asked.push([slot, pages]));
      const answered = async (page: number): Promise<void> => {
        const before = asked.length;
        const touched = scene.target.ask(`touch ${page}`);
        await until(() => asked.length > before);
        const [slot, pages] = asked[before]!;
        scene.store.write(slot, imagePages(slot, pages));
        scene.service.arrived(slot, pages);
        assert.deepEqual(await touched, { touched: page });
      };
      // the second area begins at slot 512; 520 is in the middle of sixteen
      await answered(520);
      assert.deepEqual(asked, [[512, 16]]);
      for (const page of [528, 560, 624, 752, 1008]) await answered(page);
      // half of what was asked for is used: the next is asked for while the thread still has the other half
      assert.deepEqual(asked.slice(1, 6), [
        [528, 32],
        [560, 64],
        [624, 128],
        [752, 256],
        [1008, 256],
      ]);
      // what is there is put in place as far as it is asked for: no fault, nobody asks
      await until(() => scene.service.status().faults >= 6);
      const { faults } = scene.service.status();
      assert.deepEqual(await scene.target.ask("touch 1200"), { touched: 1200 });
      await delay(100);
      assert.equal(asked.length, 6);
      assert.equal(scene.service.status().faults, faults);
      // elsewhere: little again; and not over the border of the area
      await answered(500);
      assert.deepEqual(asked.at(-1), [496, 16]);
    } finally {
      await scene.end();
    }
  },
);

test(
  "a new mover is asked for what a thread waits for and nobody has sent, and goes on",
  { skip, timeout: 20_000 },
  async () => {
    const scene = await stage(64);
    try {
      const touched = scene.target.ask("touch 10");
      await until(() => scene.missing.includes(10));
      // the mover before it died with the page on its way: the daemon looks through all who wait, and still lacks this one
      const { dir, store } = scene;
      const next = await startFaultService({
        store,
        storeDir: dir,
        socketPath: join(dir, "lazy-pages.socket"),
        log: () => undefined,
      });
      const asked: number[] = [];
      next.onMissing((slot) => asked.push(slot));
      await until(() => asked.includes(10));
      store.write(10, imagePages(10, 1));
      next.arrived(10, 1);
      assert.deepEqual(await touched, { touched: 10 });
      await next.close();
    } finally {
      await scene.end();
    }
  },
);

test("everything is filled, then daemon's userfaultfds and guard are gone", { skip }, async () => {
  const pages = 4096;
  const scene = await stage(pages);
  try {
    await until(() => scene.service.status().guardPid !== undefined);
    const guard = scene.service.status().guardPid!;
    scene.service.fill();
    await feed(scene, pages, 256, 0);
    await until(() => scene.service.status().allFilled);
    assert.equal(scene.service.status().filled, pages);
    await until(() => scene.service.status().guardPid === undefined);
    await until(() => !existsSync(`/proc/${guard}`));
    const answer = await scene.target.ask(`run ${SEED} 200`);
    assert.equal(answer.bad, undefined);
  } finally {
    await scene.end();
  }
});

for (let round = 0; round < 4; round++) {
  const seed = SEED + round;
  test(`discards, unmaps, moves, forks and writes while pages come slowly (seed ${seed})`, { skip }, async () => {
    const pages = 6000;
    const scene = await stage(pages);
    try {
      const ran = scene.target.ask(`run ${seed} 2500`);
      if (round % 2 === 0) scene.service.fill();
      const fed = feed(scene, pages, round % 2 === 0 ? 16 : 100, 2);
      if (round % 2 === 1) void delay(100).then(() => scene.service.fill());
      assert.equal((await ran).bad, undefined, `seed ${seed}`);
      await fed;
      await until(() => scene.service.status().allFilled);
      assert.equal(scene.service.status().failure, undefined);
    } finally {
      await scene.end();
    }
  });
}

for (let round = 0; round < 4; round++) {
  const seed = SEED + 100 + round;
  test(`the daemon is killed again and again, the task waits and goes on (seed ${seed})`, { skip }, async () => {
    const pages = 6000;
    const scene = await stage(pages, round !== 0);
    try {
      if (round === 0) {
        // before anything was handed over, and in the middle of it
        process.kill(scene.daemonPid(), "SIGKILL");
        const connected = scene.target.ask("connect");
        await delay(Math.random() * 3);
        try {
          process.kill(scene.daemonPid(), "SIGKILL");
        } catch {
          // between two daemons
        }
        assert.equal((await connected).bad, undefined);
        await until(() => scene.service.status().tasks > 0);
      }
      const run = { ended: false };
      let kills = 0;
      const ran = scene.target.ask(`run ${seed} 2500`).finally(() => {
        run.ended = true;
      });
      scene.service.fill();
      const fed = feed(scene, pages, 16, 3);
      const killer = (async () => {
        while (!run.ended && kills < 8) {
          await delay(Math.random() * 250);
          try {
            process.kill(scene.daemonPid(), "SIGKILL");
            kills++;
          } catch {
            // between two daemons
          }
        }
      })();
      assert.equal((await ran).bad, undefined, `seed ${seed}, ${kills} kills`);
      await fed;
      await killer;
      await until(() => scene.service.status().allFilled);
      assert.ok(kills > 1, `${kills} kills`);
      assert.equal(scene.service.status().failure, undefined);
    } catch (error) {
      console.log(readFileSync(join(scene.dir, "pages.log"), "utf8").split("\n").slice(-30).join("\n"));
      throw error;
    } finally {
      await scene.end();
    }
  });
}

test("a guard that dies is replaced; daemon and guard together are a loud loss", { skip }, async () => {
  const scene = await stage(64);
  try {
    await until(() => scene.service.status().guardPid !== undefined && scene.service.status().tasks === 1);
    const first = scene.service.status().guardPid!;
    process.kill(first, "SIGKILL");
    await until(() => ![undefined, first].includes(scene.service.status().guardPid));
    process.kill(scene.daemonPid(), "SIGKILL");
    const touched = scene.target.ask("touch 3");
    await until(() => scene.missing.includes(3));
    scene.store.write(3, imagePages(3, 1));
    scene.service.arrived(3, 1);
    assert.deepEqual(await touched, { touched: 3 });
    const daemon = scene.daemonPid();
    process.kill(daemon, "SIGSTOP");
    process.kill(scene.service.status().guardPid!, "SIGKILL");
    process.kill(daemon, "SIGKILL");
    await until(() => scene.service.status().failure !== undefined);
    assert.match(scene.service.status().failure!, /must not run/);
    assert.equal(scene.service.status().allFilled, false);
  } finally {
    await scene.end();
  }
});

test("a second caller finds the living daemon; reset makes room for another restore", { skip }, async () => {
  const scene = await stage(64);
  try {
    await until(() => scene.service.status().tasks === 1);
    const socketPath = join(scene.dir, "lazy-pages.socket");
    const pid = scene.daemonPid();
    await scene.service.close();
    assert.ok(existsSync(`/proc/${pid}`), "the daemon serves on: a task depends on it");
    const service = await startFaultService({
      store: openStore(scene.dir),
      storeDir: scene.dir,
      socketPath,
      log: () => undefined,
    });
    assert.equal(scene.daemonPid(), pid);
    assert.equal(service.status().tasks, 1);
    await scene.target.end();
    await service.reset();
    await until(() => service.status().tasks === 0);
    scene.store.write(0, imagePages(0, 64));
    const again = new Target(socketPath, 64);
    await again.answer();
    assert.deepEqual(await again.ask("connect"), { connected: true });
    await until(() => service.status().tasks === 1);
    await again.end();
    service.fill();
    await until(() => service.status().allFilled);
    await service.close();
    await until(() => !existsSync(`/proc/${pid}`));
  } finally {
    await scene.end();
  }
});
