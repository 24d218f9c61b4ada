/**
 * Phases of a migration, in order, and which of them may follow which.
 *
 *   preflight -> reserve -> arm -> presync -> precopy (rounds) -> freeze -> dump -> transfer -> restore -> switch -> resume
 *             -> drain (what follows the resume) -> release -> cleanup -> done
 *
 * `store` is of checkpoints only: they have no restore, switch and drain, and `resume` is that it runs on.
 *
 * Before `switch` everything can be undone (the source goes on). The commit point, RELEASED in the source's journal,
 * lies at the start of `switch`; from there it only goes forward.
 */
export const PHASES = [
  "preflight",
  "reserve",
  "arm",
  "presync",
  "precopy",
  "freeze",
  "dump",
  "transfer",
  "restore",
  "switch",
  "resume",
  "drain",
  "store",
  "release",
  "cleanup",
  "done",
] as const;
export type Phase = (typeof PHASES)[number];

/** What each phase does, in a few words. */
export const PHASE_WORDS: Record<Phase, string> = {
  preflight: "check both nodes",
  reserve: "reserve room on the destination",
  arm: "destination ready to take over",
  presync: "copy files while it runs",
  precopy: "copy memory in rounds while it runs",
  freeze: "freeze on the source",
  dump: "save processes and sockets",
  transfer: "send memory and files",
  restore: "restore on the destination, held",
  switch: "hand over the right to run",
  resume: "resume on the destination",
  drain: "fill in remaining pages",
  store: "put the checkpoint into the store",
  release: "let go of the source's copy",
  cleanup: "sweep both nodes",
  done: "done",
};

/** How a migration ended, or what it waits for. */
export type Outcome = "moved" | "rolled-back" | "refused" | "in-doubt" | "stuck" | "planned";

/** Phases that lie between freeze on the source and resume on the destination. */
export const BLACKOUT: readonly Phase[] = ["freeze", "dump", "transfer", "restore", "switch", "resume"];

export const isPhase = (value: unknown): value is Phase => (PHASES as readonly unknown[]).includes(value);

/** Phases only move forward (some are skipped, some overlap between sides). */
export const mayFollow = (before: Phase, after: Phase): boolean => PHASES.indexOf(after) >= PHASES.indexOf(before);

/** Can the workload still go back to the source without asking anybody? */
export const canUndo = (phase: Phase): boolean => PHASES.indexOf(phase) < PHASES.indexOf("switch");
