/** The protocol, walked exhaustively in small bounds; and wrong protocols, each of which the checker has to find out. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { moveProblem } from "../../../src/model/ownership.js";
import { conclude } from "../../../src/model/settlement.js";
import { explore, type Options, type Violation } from "./explore.js";
import { type Budget, type Rules } from "./world.js";

const NONE: Budget = {
  kills: 0,
  powerLosses: 0,
  engineDeaths: 0,
  localFailures: 0,
  terminations: 0,
  fences: 0,
  recoveries: 0,
  operations: 1,
  checkpoints: 0,
  restores: 0,
};
const told = ({ promise, trace }: Violation): string =>
  `${promise} is broken:\n${trace.map((step, i) => `${i + 1}. ${step}`).join("\n")}`;

/** Those of `npm run model` go further; these take seconds. */
const BOUNDS: Record<string, Partial<Budget>> = {
  "nothing dies": {},
  "an agent dies twice": { kills: 2 },
  "a machine loses power": { powerLosses: 1 },
  "an agent dies and a machine loses power": { kills: 1, powerLosses: 1 },
  "criu dies in the hold": { engineDeaths: 1 },
  "a machine loses power, and a person fences it": { powerLosses: 1, fences: 1 },
  "a machine loses power, and a person recovers from a checkpoint": { powerLosses: 1, recoveries: 1 },
  "the workflow is terminated, and an agent dies": { terminations: 1, kills: 1 },
  "a checkpoint after a migration": { checkpoints: 1 },
  "checkpoints and restores, an agent dies twice": { operations: 0, checkpoints: 2, restores: 2, kills: 2 },
  "criu, then the agent dies in a checkpoint, and the local restore fails": {
    operations: 0,
    checkpoints: 1,
    restores: 1,
    engineDeaths: 1,
    kills: 2,
    localFailures: 1,
  },
  "a machine loses power in a checkpoint or a restore, an agent dies, and a person recovers or restores": {
    operations: 0,
    checkpoints: 2,
    restores: 2,
    powerLosses: 1,
    kills: 1,
    recoveries: 1,
  },
  "a checkpoint, a restore, and a migration of what was restored": { operations: 1, checkpoints: 1, restores: 1 },
};
for (const [name, budget] of Object.entries(BOUNDS)) {
  // Post-copy differs in what a loss of power takes from a hand-over.
  for (const lazy of name.includes("power") && !name.includes("recovers") ? [false, true] : [false]) {
    test(`${name}${lazy ? ", in post-copy" : ""}: never two copies, never none, always a way out`, (t) => {
      const { violation, ...found } = explore({ budget: { ...NONE, ...budget }, lazy });
      t.diagnostic(JSON.stringify(found));
      assert.equal(violation && told(violation), undefined);
      assert.ok(found.settled > 0);
    });
  }
}

/** The destination does no more than to reserve, and the workflow hears every answer. */
const away: Pick<Options, "only" | "judged"> = {
  only: ({ name }) => (!name.startsWith("B:") || name.includes("told to reserve")) && !name.includes("hears nothing"),
  judged: ["A"],
};

test("criu, then the agent dies in a local restore, which fails: never two copies, never none, always a way out", (t) => {
  const budget = { ...NONE, engineDeaths: 1, kills: 2, localFailures: 1 };
  const { violation, ...found } = explore({ budget, lazy: false, ...away });
  t.diagnostic(JSON.stringify(found));
  assert.equal(violation && told(violation), undefined);
});

/** The ledger without those of its objections that say `word`. */
const deafTo =
  (word: string): Rules["problem"] =>
  (ledger, next) => {
    const problem = moveProblem(ledger, next);
    return problem?.includes(word) === true ? undefined : problem;
  };

const WRONG: ({ name: string; promise: Violation["promise"] } & Omit<Partial<Options>, "budget"> & {
    budget?: Partial<Budget>;
  })[] = [
  {
    name: "what is called off is not burned",
    rules: { burn: false, problem: deafTo("was burned") },
    promise: "always a way out",
  },
  {
    name: "a late call hands over what was burned",
    rules: { lateCallsEnd: false, problem: deafTo("is burned") },
    promise: "always a way out",
  },
  {
    name: "a destination that waits for its token too long runs",
    rules: { waitForToken: false },
    promise: "never two copies",
  },
  {
    name: "a machine that runs is fenced",
    rules: { fenceOnlyWhatIsOff: false },
    budget: { fences: 1 },
    promise: "never two copies",
  },
  {
    name: "recovered although the machine that has it runs",
    rules: { fenceOnlyWhatIsOff: false },
    budget: { recoveries: 1 },
    promise: "never two copies",
  },
  {
    name: "recovered where something of it is held",
    rules: { recoverOnlyAnew: false, problem: deafTo("already holds epoch") },
    budget: { powerLosses: 1, recoveries: 1 },
    promise: "never two copies",
  },
  {
    name: "a machine that comes back is not told that it was recovered elsewhere",
    rules: { tellTheLost: false },
    budget: { powerLosses: 1, recoveries: 1 },
    promise: "always a way out",
  },
  {
    name: "a refusal is not journaled",
    rules: { journalRefusals: false },
    promise: "always a way out",
  },
  {
    name: "the destination refuses although the source may have released",
    rules: {
      askSourceFirst: false,
      conclude: (ref, source, destination) =>
        source === undefined ? { verdict: "roll-back", why: "wrong" } : conclude(ref, source, destination),
    },
    promise: "always a way out",
  },
  {
    name: "prepared is said before it is journaled",
    rules: { journalPreparedFirst: false },
    budget: { kills: 1 },
    promise: "always a way out",
  },
  {
    name: "the source kills its copy as soon as the other runs",
    rules: { keepUntilWhole: false },
    lazy: true,
    promise: "always a way out",
  },
  {
    name: "a local restore that was cut is left as it is",
    rules: { refuseLocally: false },
    budget: { kills: 1, engineDeaths: 1 },
    ...away,
    promise: "always a way out",
  },
  {
    name: "let go before its checkpoint is stored",
    rules: { storeBeforeStop: false },
    budget: { operations: 0, checkpoints: 1 },
    promise: "stored before it is let go",
  },
  {
    name: "a restarted agent lets go what was being taken back",
    rules: { looksWhetherFrozen: false },
    budget: { operations: 0, checkpoints: 1, kills: 1 },
    promise: "stored before it is let go",
  },
  {
    name: "a late call takes back what is frozen for a checkpoint",
    rules: { takeBackOwnOnly: false },
    budget: { checkpoints: 1 },
    promise: "stored before it is let go",
  },
  {
    name: "restored because the store has one that was to be let go",
    rules: { restoreAsksAll: false },
    budget: { operations: 0, checkpoints: 1, restores: 1 },
    promise: "never two copies",
  },
  {
    name: "a restore whose answer was lost is forgotten, and begun elsewhere",
    rules: { settleAttempts: false },
    budget: { operations: 0, checkpoints: 1, restores: 2 },
    promise: "never two copies",
  },
  {
    name: "a restore that never came to a machine that was given up is begun when it comes late",
    rules: { refuseTheUnheard: false },
    budget: { operations: 0, checkpoints: 1, restores: 2, powerLosses: 1 },
    promise: "never two copies",
  },
];
for (const { name, budget, lazy, promise, ...more } of WRONG) {
  test(`found out: ${name}`, (t) => {
    const { violation } = explore({ budget: { ...NONE, ...budget }, lazy: lazy ?? false, ...more });
    t.diagnostic(violation === undefined ? "nothing" : violation.trace.join("; "));
    assert.equal(violation?.promise, promise);
  });
}
