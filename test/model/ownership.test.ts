/** A random walk of both ledgers through every move that the code allows: never two that may run. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import {
  HOLD_STATES,
  applyMove,
  emptyLedger,
  holdOf,
  holdsOf,
  mayRun,
  moveProblem,
  settle,
  type Hold,
  type HoldState,
  type Ledger,
} from "../../src/model/ownership.js";
import { backHome, conclude, nextEpoch, running, startProblem } from "../../src/model/settlement.js";
import type { Inquiry, OperationRef } from "../../src/model/contract.js";

const W = "w";
const ref: OperationRef = {
  schema: 1,
  operation: "w.migrate.1",
  workload: W,
  epoch: 1,
  to: 2,
  source: "a",
  destination: "b",
};
const owner = (): Ledger => applyMove(emptyLedger, { workload: W, epoch: 1, state: "OWNER" });
const hold = (epoch: number, state: HoldState, more: Partial<Hold> = {}): Hold => ({
  workload: W,
  epoch,
  state,
  ...more,
});

/** What each agent may do next, given what it has seen of the other: the protocol, less its timing. */
type Move =
  | "freeze"
  | "burn"
  | "back"
  | "release"
  | "gone"
  | "reserve"
  | "receive"
  | "prepare"
  | "lose"
  | "token"
  | "run"
  | "own"
  | "refuse";
const MOVES: Move[] = [
  "freeze",
  "burn",
  "back",
  "release",
  "gone",
  "reserve",
  "receive",
  "prepare",
  "lose",
  "token",
  "run",
  "own",
  "refuse",
];

interface Pair {
  source: Ledger;
  destination: Ledger;
}

function attempt(pair: Pair, move: Move): Pair {
  const here = holdOf(pair.source, W, 1)?.state;
  const there = holdOf(pair.destination, W, 2)?.state;
  const source = (next: Hold): Pair =>
    moveProblem(pair.source, next) === undefined ? { ...pair, source: applyMove(pair.source, next) } : pair;
  const destination = (next: Hold): Pair =>
    moveProblem(pair.destination, next) === undefined
      ? { ...pair, destination: applyMove(pair.destination, next) }
      : pair;
  const moves: Record<Move, () => Pair> = {
    freeze: () => source(hold(1, "FROZEN")),
    burn: () => (here === "OWNER" || here === "FROZEN" ? source(hold(2, "BURNED")) : pair),
    back: () => source(hold(1, "OWNER")),
    release: () => (there === "PREPARED" ? source(hold(1, "RELEASED", { to: 2, digest: "d" })) : pair),
    gone: () => source(hold(1, "GONE")),
    reserve: () => destination(hold(2, "RESERVED")),
    receive: () =>
      here === "FROZEN" || here === "RELEASED" || here === "GONE" ? destination(hold(2, "RECEIVED")) : pair,
    prepare: () => destination(hold(2, "PREPARED", { digest: "d" })),
    lose: () => (there === "PREPARED" ? destination(hold(2, "RECEIVED")) : pair),
    token: () => (here === "RELEASED" || here === "GONE" ? destination(hold(2, "ACTIVE", { digest: "d" })) : pair),
    run: () => destination(hold(2, "RUNNING")),
    own: () => (there === "RUNNING" ? destination(hold(2, "OWNER")) : pair),
    refuse: () => destination(hold(2, "TOMBSTONE")),
  };
  return moves[move]();
}

const mayRunOn = (ledger: Ledger): boolean => holdsOf(ledger, W).some((h) => mayRun(h.state));
const inquiry = (ledger: Ledger, epoch: number): Inquiry => {
  const state = holdOf(ledger, W, epoch)?.state;
  return { holds: holdsOf(ledger, W), processes: 0, ...(state === undefined ? {} : { state }) };
};

test("whatever both agents do in whatever order, at most one may run, and the verdict never contradicts it", () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...MOVES), { maxLength: 40 }), (moves) => {
      let pair: Pair = { source: owner(), destination: emptyLedger };
      let released = false;
      for (const move of moves) {
        pair = attempt(pair, move);
        assert.ok(!(mayRunOn(pair.source) && mayRunOn(pair.destination)), JSON.stringify(moves));
        const here = holdOf(pair.source, W, 1)?.state;
        released ||= here === "RELEASED";
        if (released) assert.ok(here === "RELEASED" || here === "GONE", "after the commit point only forward");
        const { verdict } = conclude(ref, inquiry(pair.source, 1), inquiry(pair.destination, 2));
        if (released) assert.ok(verdict !== "roll-back" && verdict !== "rolled-back", verdict);
        else assert.ok(verdict !== "forward" && verdict !== "moved", verdict);
      }
    }),
    { numRuns: 2000 },
  );
});

/** A person starts it anew on either node, or stops it; `rude`: without asking the other node (a client of its own). */
type Meddling = "start here" | "start there" | "stop here" | "stop there";
const MEDDLING: Meddling[] = ["start here", "start there", "stop here", "stop there"];

function meddle(pair: Pair, what: Meddling, rude: boolean): Pair {
  const side = what.endsWith("here") ? "source" : "destination";
  const other = side === "source" ? "destination" : "source";
  const own = holdsOf(pair[side], W);
  const stop = what.startsWith("stop");
  const owner = own.findLast((h) => h.state === "OWNER");
  if (stop && owner === undefined) return pair;
  const epoch = nextEpoch(0, own, holdsOf(pair[other], W));
  const next = stop ? hold(owner?.epoch ?? 0, "STOPPED") : hold(epoch, "OWNER");
  if (moveProblem(pair[side], next) !== undefined) return pair;
  if (!stop && !rude && startProblem(W, other, holdsOf(pair[other], W)) !== undefined) return pair;
  return { ...pair, [side]: applyMove(pair[side], next) };
}

const live = (ledger: Ledger): number => holdsOf(ledger, W).filter((h) => mayRun(h.state)).length;

test("started anew at any moment, by whoever lost its entity: never a second copy", () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...MOVES, ...MEDDLING), { maxLength: 40 }), (moves) => {
      let pair: Pair = { source: owner(), destination: emptyLedger };
      for (const move of moves) {
        const meddling = MEDDLING.find((m) => m === move);
        pair = meddling === undefined ? attempt(pair, move as Move) : meddle(pair, meddling, false);
        assert.ok(live(pair.source) + live(pair.destination) <= 1, JSON.stringify(moves));
      }
    }),
    { numRuns: 5000 },
  );
});

test("whoever asks an agent to start it: never beside a copy that its own node runs, holds or awaits", () => {
  const copies = (ledger: Ledger): number =>
    holdsOf(ledger, W).filter((h) => mayRun(h.state) || h.state === "FROZEN" || h.state === "PREPARED").length;
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...MOVES, ...MEDDLING), { maxLength: 40 }), (moves) => {
      let pair: Pair = { source: owner(), destination: emptyLedger };
      for (const move of moves) {
        const meddling = MEDDLING.find((m) => m === move);
        pair = meddling === undefined ? attempt(pair, move as Move) : meddle(pair, meddling, true);
        for (const ledger of [pair.source, pair.destination]) assert.ok(copies(ledger) <= 1, JSON.stringify(moves));
      }
    }),
    { numRuns: 5000 },
  );
});

test("a new owner is refused beside every state that is not over, and the words say what to do", () => {
  const path: Hold[] = [
    hold(1, "OWNER"),
    hold(1, "FROZEN", { to: 2, peer: "b", operation: "w.migrate.1" }),
    hold(1, "RELEASED", { to: 2, digest: "d" }),
  ];
  const arriving = ["RESERVED", "RECEIVED", "PREPARED", "ACTIVE", "RUNNING", "OWNER"] as const;
  const ways = [path, arriving.map((state) => hold(2, state, { digest: "d", peer: "a", operation: "w.migrate.1" }))];
  for (const way of ways) {
    let ledger = emptyLedger;
    for (const next of way) {
      ledger = applyMove(ledger, next);
      assert.match(moveProblem(ledger, hold(9, "OWNER")) ?? "", /already holds epoch/, next.state);
      const problem = startProblem(W, "here", holdsOf(ledger, W));
      assert.ok(problem?.remedy !== undefined, next.state);
      assert.match(problem.message, mayRun(next.state) ? /runs on here/ : new RegExp(`is ${next.state} on here`));
    }
  }
  for (const state of ["GONE", "BURNED", "TOMBSTONE", "STOPPED"] as const) {
    assert.equal(startProblem(W, "here", [hold(1, state)]), undefined);
  }
});

test("with a side that does not answer nothing is undone that may have been released", () => {
  for (const destination of [undefined, ...HOLD_STATES]) {
    const { verdict } = settle(undefined, destination);
    if (destination !== "TOMBSTONE") assert.notEqual(verdict, "roll-back", String(destination));
  }
  for (const source of ["RELEASED", "GONE"] as const) {
    for (const destination of [undefined, ...HOLD_STATES]) {
      const { verdict } = settle(source, destination);
      assert.ok(verdict !== "roll-back" && verdict !== "rolled-back", `${source} ${String(destination)}`);
    }
  }
});

test("refused moves throw the reason and change nothing", () => {
  fc.assert(
    fc.property(fc.constantFrom(...HOLD_STATES), fc.integer({ min: -1, max: 3 }), (state, epoch) => {
      const ledger = owner();
      const next = hold(epoch, state);
      const problem = moveProblem(ledger, next);
      if (problem === undefined) applyMove(ledger, next);
      else assert.throws(() => applyMove(ledger, next), RangeError);
      assert.deepEqual(holdsOf(ledger, W), [hold(1, "OWNER")]);
    }),
  );
});

test("an epoch is used once: the next lies above everything that either node has seen", () => {
  const holds = fc.array(fc.record({ epoch: fc.integer({ min: 1, max: 99 }), to: fc.integer({ min: 1, max: 99 }) }));
  fc.assert(
    fc.property(fc.nat(99), holds, holds, (epoch, a, b) => {
      const seen = [a, b].map((list) => list.map(({ epoch: e, to }) => hold(e, "GONE", { to })));
      const next = nextEpoch(epoch, ...seen);
      assert.ok([epoch, ...seen.flat().flatMap((h) => [h.epoch, h.to ?? 0])].every((old) => old < next));
    }),
  );
});

test("a source that restored itself locally is home, under its new epoch", () => {
  const holds = [hold(1, "GONE", { to: 3 }), hold(2, "BURNED"), hold(3, "OWNER")];
  const source: Inquiry = { state: "GONE", holds, processes: 1 };
  assert.equal(backHome(ref, source)?.epoch, 3);
  assert.equal(running(holds)?.epoch, 3);
  assert.equal(conclude(ref, source, { state: "TOMBSTONE", holds: [], processes: 0 }).verdict, "rolled-back");
  assert.equal(conclude(ref, source, undefined).verdict, "roll-back");
});

test("an epoch that was released can't be burned afterwards", () => {
  const at = (epoch: number, state: Hold["state"], more: Partial<Hold> = {}): Hold => ({
    workload: "redis",
    epoch,
    state,
    ...more,
  });
  let ledger = applyMove(emptyLedger, at(1, "OWNER"));
  ledger = applyMove(ledger, at(1, "FROZEN", { to: 2 }));
  assert.equal(moveProblem(ledger, at(2, "BURNED")), undefined, "frozen: it may");
  ledger = applyMove(ledger, at(1, "RELEASED", { to: 2, digest: "d" }));
  assert.match(moveProblem(ledger, at(2, "BURNED")) ?? "", /released/);
  ledger = applyMove(ledger, at(1, "GONE"));
  assert.match(moveProblem(ledger, at(2, "BURNED")) ?? "", /released/);
});

test("fenced: only what was released and kept goes back, and then nobody gets its token any more", () => {
  const frozen = applyMove(owner(), hold(1, "FROZEN", { to: 2 }));
  assert.match(moveProblem(frozen, hold(2, "FENCED")) ?? "", /only an epoch that was released from here/);
  const released = applyMove(frozen, hold(1, "RELEASED", { to: 2, digest: "d" }));
  assert.match(moveProblem(released, hold(1, "FROZEN")) ?? "", /was not fenced/);
  assert.match(moveProblem(released, hold(3, "FENCED")) ?? "", /only an epoch that was released from here/);
  const fenced = applyMove(released, hold(2, "FENCED"));
  const again = applyMove(fenced, hold(1, "FROZEN"));
  assert.match(moveProblem(again, hold(1, "RELEASED", { to: 2 })) ?? "", /can't be released/);
  const home = applyMove(again, hold(1, "OWNER"));
  assert.equal(moveProblem(home, hold(1, "FROZEN", { to: 3 })), undefined);
  const gone = applyMove(released, hold(1, "GONE"));
  assert.match(moveProblem(gone, hold(2, "FENCED")) ?? "", /not let go/);

  const source = { state: "OWNER", holds: holdsOf(home, W), processes: 1 } satisfies Inquiry;
  for (const state of ["PREPARED", "ACTIVE", "RUNNING", "OWNER"] as const) {
    const there = { state, holds: [], processes: 1 } satisfies Inquiry;
    assert.equal(conclude(ref, source, there).verdict, "roll-back", `${state}: what comes back is stale`);
  }
  for (const state of ["TOMBSTONE", "SUPERSEDED"] as const) {
    assert.equal(conclude(ref, source, { state, holds: [], processes: 0 }).verdict, "rolled-back");
  }
});

test("superseded: whatever may run ends there, for good", () => {
  for (const state of ["OWNER", "FROZEN", "RELEASED", "ACTIVE", "RUNNING"] as const) {
    const ledger: Ledger = new Map([[W, new Map([[1, hold(1, state, { to: 2 })]])]]);
    const over = applyMove(ledger, hold(1, "SUPERSEDED"));
    for (const next of HOLD_STATES) {
      if (next !== "SUPERSEDED") assert.notEqual(moveProblem(over, hold(1, next, { to: 2 })), undefined, next);
    }
    assert.equal(moveProblem(over, hold(2, "RESERVED")), undefined, "another epoch may come");
  }
});

test("frozen for a checkpoint: back without a burn, or stopped; frozen for another epoch, neither", () => {
  const saving = applyMove(owner(), hold(1, "FROZEN", { to: 1 }));
  assert.equal(moveProblem(saving, hold(1, "OWNER")), undefined);
  assert.equal(moveProblem(saving, hold(1, "STOPPED")), undefined);
  assert.match(moveProblem(saving, hold(1, "FROZEN", { to: 2 })) ?? "", /does not change/);
  // criu was lost in the hold: restored locally, under a later epoch
  assert.equal(moveProblem(saving, hold(2, "RESERVED")), undefined);
  assert.equal(moveProblem(saving, hold(1, "RELEASED", { to: 2, digest: "d" })), undefined);
  const over = applyMove(saving, hold(1, "STOPPED"));
  for (const state of HOLD_STATES)
    if (state !== "STOPPED") assert.ok(moveProblem(over, hold(1, state, { to: 2 })), state);

  // What a checkpoint has left in the hold is of no use to a migration after it.
  const after = applyMove(saving, hold(1, "OWNER"));
  const moving = applyMove(after, hold(1, "FROZEN", { to: 2 }));
  assert.match(moveProblem(moving, hold(1, "OWNER")) ?? "", /burned/);
  assert.match(moveProblem(moving, hold(1, "STOPPED")) ?? "", /can't be stopped/);
  assert.match(moveProblem(moving, hold(1, "FROZEN", { to: 1 })) ?? "", /does not change/);
});
