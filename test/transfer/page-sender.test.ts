/** Which pages the source sends when: faults while the bulk is under way, on sessions that only write down what they get. */
import assert from "node:assert/strict";
import { setImmediate as turn } from "node:timers/promises";
import { test } from "node:test";
import type { LinkSession } from "../../src/transfer/link/index.js";
import { Limiter } from "../../src/transfer/mover/limiter.js";
import { PageSender } from "../../src/transfer/mover/page-sender.js";
import { PAGE_SIZE } from "../../src/transfer/pages/api.js";
import { imagePages, until } from "./pages-kit.js";

type Sent = { slot: number; pages: number };

/** A session whose frames of pages are written down; what lies in them must be those pages. */
class Tape {
  readonly sent: Sent[] = [];
  readonly others: { type: string; meta: object }[] = [];
  readonly #closeListeners: (() => void)[] = [];
  closed = false;
  readonly bufferedBytes = 0;

  send(type: string, meta: object, payload?: Buffer | readonly Buffer[]): Promise<void> {
    if (this.closed) return Promise.reject(new Error("closed"));
    if (type === "pages") {
      const { slot, runs } = meta as { slot: number; runs: number[] };
      const pages = runs.reduce((sum, run) => sum + run, 0);
      const data = Buffer.concat(payload as readonly Buffer[]);
      assert.ok(data.equals(imagePages(slot, pages)), `pages from ${slot} on`);
      this.sent.push({ slot, pages });
    } else this.others.push({ type, meta });
    return Promise.resolve();
  }
  onClose(listener: () => void): void {
    this.#closeListeners.push(listener);
  }
  cut(): void {
    this.closed = true;
    for (const listener of this.#closeListeners) listener();
  }
  get session(): LinkSession {
    return this as unknown as LinkSession;
  }
}

interface Scene {
  sender: PageSender;
  bulk: Tape;
  fault: Tape;
  control: Tape;
  pushing: Promise<void>;
  /** Answers the question that the source has asked last. */
  answer(runs: [number, number][], received: number): Promise<void>;
}

function push(slots: number, sender = senderOf(slots)): Scene {
  const [bulk, fault, control] = [new Tape(), new Tape(), new Tape()];
  let answered = 0;
  const pushing = sender.push({ bulk: bulk.session, fault: fault.session, control: control.session });
  return {
    sender,
    bulk,
    fault,
    control,
    pushing,
    async answer(runs, received) {
      await until(() => bulk.others.length > answered);
      const { id } = bulk.others[answered]!.meta as { id: number };
      answered += 1;
      // the question has left before its answer comes
      await turn();
      sender.missing({ id, runs, received });
    },
  };
}

const senderOf = (slots: number, areas: Sent[] = [{ slot: 0, pages: slots }], first: Sent[] = []): PageSender =>
  new PageSender({
    first,
    reader: {
      areas,
      read: async (slot, pages, into) => {
        await turn();
        imagePages(slot, pages).copy(into);
      },
      readNow: (slot, pages, into) => void imagePages(slot, pages).copy(into),
      close: () => undefined,
    },
    slots,
    pages: slots,
    limiter: new Limiter(),
    onChange: () => undefined,
    onFailure: (failure) => assert.fail(failure.message),
  });

/** How often each slot was sent. */
function counts(slots: number, ...tapes: Tape[]): number[] {
  const times = Array.from({ length: slots }, () => 0);
  for (const tape of tapes) {
    for (const { slot, pages } of tape.sent) for (let at = slot; at < slot + pages; at += 1) times[at]! += 1;
  }
  return times;
}

const paged = (tape: Tape): number => tape.sent.reduce((sum, { pages }) => sum + pages, 0);

/** Acknowledges every bulk frame until `what` holds. */
async function drain({ sender, bulk }: Scene, what: () => boolean): Promise<void> {
  let acknowledged = 0;
  await until(() => {
    const frames = bulk.sent.length - acknowledged;
    acknowledged += frames;
    if (frames > 0) sender.credit(frames);
    return what();
  });
}

test("a fault is answered at once, before all of the bulk that waits for its turn, the waiting page first", async () => {
  const slots = 32 * 1024;
  const scene = push(slots);
  await scene.answer([[0, slots]], 0);
  // the destination acknowledges nothing: the window is full, chunks are read and wait
  let before = -1;
  await until(() => before === (before = scene.bulk.sent.length) && before > 0);
  assert.ok(paged(scene.bulk) < slots / 2);
  assert.equal(scene.sender.fault(scene.fault.session, { slot: 20_000, pages: 256 }), undefined);
  assert.equal(paged(scene.fault), 256, "in the same turn");
  assert.deepEqual(scene.fault.sent[0], { slot: 20_000, pages: 16 });
  assert.equal(scene.bulk.sent.length, before);
  // asked for again: the page that a thread waits for is sent again, what is on its way is not
  void scene.sender.fault(scene.fault.session, { slot: 20_000, pages: 256 });
  assert.deepEqual(scene.fault.sent.slice(-1), [{ slot: 20_000, pages: 16 }]);
  scene.bulk.cut();
  await scene.pushing;
});

test("the bulk goes on behind the last fault, then from the start; every page goes once and is counted", async () => {
  const slots = 16 * 1024;
  const scene = push(slots);
  await scene.answer([[0, slots]], 0);
  await until(() => paged(scene.bulk) > 0);
  void scene.sender.fault(scene.fault.session, { slot: 9000, pages: 128 });
  const before = scene.bulk.sent.length;
  await drain(scene, () => scene.bulk.sent.length > before + 8);
  // what was read before the fault came may go first
  const behind = scene.bulk.sent.findIndex(({ slot }) => slot === 9128);
  assert.ok(behind >= 0, JSON.stringify(scene.bulk.sent));
  assert.deepEqual(
    scene.bulk.sent.slice(behind, behind + 3).map(({ slot }) => slot),
    scene.bulk.sent.slice(behind, behind + 3).map((_, index) => 9128 + scene.bulk.sent[behind]!.pages * index),
  );
  await drain(scene, () => scene.bulk.others.length === 2);
  assert.equal(scene.sender.sent, slots);
  assert.ok(counts(slots, scene.bulk, scene.fault).every((times) => times === 1));
  await scene.answer([], slots);
  await scene.pushing;
  assert.ok(scene.sender.allAcked);
  assert.deepEqual(scene.control.others, [{ type: "complete", meta: { slots } }]);
});

test("the small areas go first, as they lie, the rest behind them in order", async () => {
  const slots = 8192;
  const areas = [
    { slot: 0, pages: 10 },
    { slot: 10, pages: 5000 },
    { slot: 5010, pages: 30 },
    { slot: 5040, pages: 1 },
    { slot: 5041, pages: 3151 },
  ];
  const scene = push(slots, senderOf(slots, areas));
  await scene.answer([[0, slots]], 0);
  await drain(scene, () => scene.bulk.others.length === 2);
  assert.deepEqual(scene.bulk.sent.slice(0, 3), [
    { slot: 0, pages: 10 },
    { slot: 5010, pages: 31 },
    { slot: 10, pages: 256 },
  ]);
  assert.ok(counts(slots, scene.bulk).every((times) => times === 1));
  scene.bulk.cut();
  await scene.pushing;
});

test("faults all over the place while the bulk runs: the bulk sends no page twice, and none is left out", async () => {
  const slots = 8 * 1024;
  const scene = push(slots);
  const lacking: [number, number][] = [
    [100, 3000],
    [4000, 1],
    [5000, 3000],
  ];
  const total = 6001;
  await scene.answer(lacking, slots - total);
  let at = 7;
  const faults = setInterval(() => {
    at = (at * 1103 + 12345) % slots;
    const inside = lacking.some(([slot, pages]) => at >= slot && at < slot + pages);
    if (inside) void scene.sender.fault(scene.fault.session, { slot: at, pages: 1 + (at % 40) });
  }, 1);
  try {
    await drain(scene, () => scene.bulk.others.length === 2);
  } finally {
    clearInterval(faults);
  }
  const bulk = counts(slots, scene.bulk);
  const all = counts(slots, scene.bulk, scene.fault);
  assert.ok(Math.max(...bulk) === 1);
  for (const [slot, pages] of lacking) {
    for (let page = slot; page < slot + pages; page += 1) assert.ok(all[page]! > 0, `slot ${page}`);
  }
  assert.equal(scene.sender.sent, slots);
  await scene.answer([], slots);
  await scene.pushing;
});

test("what a lost link may have swallowed goes again over the next one, also to those who wait for it", async () => {
  const slots = 2048;
  const first = push(slots);
  await first.answer([[0, slots]], 0);
  await until(() => paged(first.bulk) > 512);
  first.bulk.cut();
  await first.pushing;
  const next = push(slots, first.sender);
  // before the destination has said what it has
  void first.sender.fault(next.fault.session, { slot: 0, pages: 64 });
  assert.equal(paged(next.fault), 64);
  await next.answer([[0, slots]], 0);
  await drain(next, () => next.bulk.others.length === 2);
  assert.ok(counts(slots, next.bulk).every((times) => times === 1));
  assert.equal(next.sender.sent, slots);
  await next.answer([], slots);
  await next.pushing;
  assert.equal(PAGE_SIZE * slots, next.sender.bytesSent - paged(first.bulk) * PAGE_SIZE - 64 * PAGE_SIZE);
});

test("pages that take a while to come: questions are answered beside each other, and what can't be read is said once", async () => {
  const slots = 4096;
  const waiting: (() => void)[] = [];
  const failures: string[] = [];
  const sender = new PageSender({
    reader: {
      areas: [{ slot: 0, pages: slots }],
      read: async (slot, pages, into) => {
        if (slot >= 2048) await new Promise<void>((resolve) => waiting.push(resolve));
        if (slot >= 4000) throw new Error("not there");
        imagePages(slot, pages).copy(into);
      },
    },
    slots,
    pages: slots,
    limiter: new Limiter(),
    onChange: () => undefined,
    onFailure: ({ message }) => failures.push(message),
  });
  const scene = push(slots, sender);
  await scene.answer([[0, 1024]], 3072);
  // The first one has to wait, the second has not.
  assert.equal(sender.fault(scene.fault.session, { slot: 2048, pages: 32 }), undefined);
  assert.equal(sender.fault(scene.fault.session, { slot: 1500, pages: 32 }), undefined);
  await until(() => paged(scene.fault) === 32);
  assert.deepEqual(scene.fault.sent[0], { slot: 1500, pages: 16 });
  while (paged(scene.fault) < 64) {
    for (const go of waiting.splice(0)) go();
    await turn();
  }
  assert.deepEqual(scene.fault.sent.slice(2), [
    { slot: 2048, pages: 16 },
    { slot: 2064, pages: 16 },
  ]);
  // So many at once that no further question is taken for now.
  let full: Promise<void> | undefined;
  for (let slot = 2100; full === undefined && slot < 2300; slot += 1)
    full = sender.fault(scene.fault.session, { slot, pages: 1 });
  assert.ok(full instanceof Promise);
  for (const go of waiting.splice(0)) go();
  await full;
  void sender.fault(scene.fault.session, { slot: 4000, pages: 1 });
  void sender.fault(scene.fault.session, { slot: 4001, pages: 1 });
  for (const go of waiting.splice(0)) go();
  await until(() => failures.length > 0);
  assert.deepEqual(failures, ["not there"]);
  scene.bulk.cut();
  await scene.pushing;
});

test("what was needed first the last time goes before everything else, in that order, and nothing goes twice", async () => {
  const slots = 8 * 1024;
  const first = [
    { slot: 7000, pages: 16 },
    { slot: 300, pages: 20 },
    { slot: 5000, pages: 300 },
  ];
  const scene = push(slots, senderOf(slots, undefined, first));
  // Two of them are there already.
  await scene.answer(
    [
      [0, 7000],
      [7002, slots - 7002],
    ],
    2,
  );
  await drain(scene, () => scene.sender.sent === slots);
  const order = scene.bulk.sent.slice(0, 4);
  assert.deepEqual(order, [
    { slot: 7002, pages: 14 },
    { slot: 300, pages: 20 },
    { slot: 5000, pages: 256 },
    { slot: 5256, pages: 44 },
  ]);
  const times = counts(slots, scene.bulk);
  assert.ok(times.every((count, slot) => count === (slot === 7000 || slot === 7001 ? 0 : 1)));
  scene.bulk.cut();
  await scene.pushing;
});
