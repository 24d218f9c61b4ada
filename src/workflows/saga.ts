/**
 * What a migration knows and shows while it goes through its steps (migrate.ts): its state, the view, what it tells its
 * entity, and the report at the end.
 */
import {
  CancellationScope,
  continueAsNew,
  defineQuery,
  getExternalWorkflowHandle,
  isCancellation,
  setHandler,
  workflowInfo,
} from "@temporalio/workflow";
import { CONTRACT_SCHEMA, type SideOutcome, type SourceFacts } from "../model/contract.js";
import type { FailureData, Side } from "../model/failure.js";
import {
  QUERY,
  SIGNAL,
  type CarriedAt,
  type CarriedMigration,
  type HandOver,
  type MigrateInput,
  type MigrationState,
  type MigrationView,
  type OperationNews,
} from "../model/messages.js";
import { operationId } from "../model/names.js";
import type { Phase } from "../model/phase.js";
import type { AskedOptions, Finding, MigrateOptions, MigratePlan, Mode } from "../model/plan.js";
import type { MigrationReport } from "../model/report.js";
import { attributes, showMigration, showReport } from "./console.js";
import { measure, quiet } from "./length.js";
import { assembleReport } from "./report.js";
import { resolvable } from "./resolve.js";
import { steerable } from "./steer.js";
import type { Doubt } from "./settle.js";

export interface Step {
  name: string;
  side: Side | "both";
  phase: Phase;
  /** Activities that it calls, and the one that undoes it. */
  activities: readonly string[];
  undo?: "refuse" | "burn";
  /** Ends the migration early when it returns an outcome. */
  run: (saga: Saga) => Promise<"planned" | "refused" | undefined>;
}

export interface Saga {
  readonly input: MigrateInput;
  handOver: HandOver;
  facts?: SourceFacts;
  findings: Finding[];
  plan?: MigratePlan;
  sourceOutcome?: SideOutcome;
  destinationOutcome?: SideOutcome;
  /** Steps with an undo that were begun: if there are any, both journals are asked before anything is said. */
  begun: Step[];
  failures: FailureData[];
  reasons: string[];
  leftovers: HandOver[];
  /** The older hand-over that is being settled before this one begins. */
  settling?: HandOver;
  /** Where it was found to run, when that is not the source. */
  place?: { node: string; epoch: number };
  /** Highest number of its operations that a journal names, where they were looked at for that. */
  sequence?: number;
  view: MigrationView;
  tell: (change: Partial<MigrationView>) => void;
  /** Its search attributes; only what changed reaches the server. */
  show: ReturnType<typeof attributes>;
  /** Both sides were asked, and have not answered yet. */
  handing: boolean;
  /** Its history is long: it should go on in a new run. */
  long: () => boolean;
  /** Shows the mode that `auto` came to. */
  chose: (mode: Mode) => void;
}

/** Until preflight has chosen, and for what an older hand-over left: its mode changes nothing about how it is settled. */
export const chosen = (asked: AskedOptions): MigrateOptions => ({
  ...asked,
  mode: asked.mode === "auto" ? "precopy" : asked.mode,
});

export function begin(input: MigrateInput): Saga {
  const now = Date.now();
  const { workload, source, destination, options, sequence, carried } = input;
  const long = measure(input.tuning, "operation");
  const operation = operationId(workload, "migrate", sequence);
  const show = attributes();
  const view: MigrationView = carried?.view ?? {
    workload,
    operation,
    source,
    destination,
    mode: options.mode,
    state: "working",
    phase: "preflight",
    startedAt: now,
    since: now,
    phases: [],
    steering: [],
  };
  const saga: Saga = {
    input,
    handOver: carried?.handOver ?? {
      ref: {
        schema: CONTRACT_SCHEMA,
        operation,
        workload,
        epoch: input.epoch,
        to: input.epoch + 1,
        source,
        destination,
      },
      options: chosen(options),
      spec: input.spec,
    },
    findings: carried?.findings ?? [],
    begun: [],
    failures: carried?.failures ?? [],
    reasons: carried?.reasons ?? [],
    leftovers: [],
    handing: false,
    long,
    show,
    chose: (mode) => {
      view.mode = mode;
      show({ FerryMode: mode });
    },
    view,
    tell: (change) => {
      if (change.state !== undefined && change.state !== view.state) view.since = Date.now();
      Object.assign(view, change);
      // Once it is over its state is how it ended: see `finish`.
      if (view.state !== "done") show({ FerryState: view.state });
      showMigration(view);
    },
  };
  if (carried?.plan !== undefined) saga.plan = carried.plan;
  if (carried?.sourceOutcome !== undefined) saga.sourceOutcome = carried.sourceOutcome;
  if (carried?.destinationOutcome !== undefined) saga.destinationOutcome = carried.destinationOutcome;
  setHandler(defineQuery<MigrationView>(QUERY.view), () => view);
  steerable({
    view,
    handOver: saga.handOver,
    underWay: () => saga.handing,
    tell: saga.tell,
    tuning: input.tuning,
  });
  setHandler(defineQuery<MigrationReport>(QUERY.report), () =>
    report(saga, view.state === "stuck" ? "stuck" : "in-doubt"),
  );
  resolvable({ view, handOver: () => saga.settling ?? saga.handOver, tuning: input.tuning });
  saga.tell({});
  return saga;
}

function report(saga: Saga, outcome: MigrationReport["outcome"]): MigrationReport {
  const { ref } = saga.handOver;
  const moved = outcome === "moved";
  const failures = [...saga.failures];
  if ((outcome === "in-doubt" || outcome === "stuck") && saga.view.problem !== undefined) {
    failures.unshift({
      code: outcome === "stuck" ? "E_STUCK" : "E_IN_DOUBT",
      message: saga.view.problem,
      ...(saga.view.remedy === undefined ? {} : { remedy: saga.view.remedy }),
    });
  }
  const known = saga.sequence === undefined ? {} : { sequence: saga.sequence };
  const assembled = assembleReport({
    handOver: saga.handOver,
    outcome,
    node: moved ? ref.destination : (saga.place?.node ?? ref.source),
    epoch: moved ? (saga.destinationOutcome?.epoch ?? ref.to) : (saga.place?.epoch ?? ref.epoch),
    startedAt: saga.view.startedAt,
    endedAt: Date.now(),
    findings: saga.findings,
    failures,
    reasons: saga.reasons,
    ...(saga.plan === undefined ? {} : { plan: saga.plan }),
    ...(saga.sourceOutcome === undefined ? {} : { sourceOutcome: saga.sourceOutcome }),
    ...(saga.destinationOutcome === undefined ? {} : { destinationOutcome: saga.destinationOutcome }),
  });
  const made = { ...assembled, ...known };
  return outcome === "in-doubt" || outcome === "stuck"
    ? { ...made, ...(failures[0] && { failure: failures[0] }) }
    : made;
}

export function finish(saga: Saga, outcome: MigrationReport["outcome"]): MigrationReport {
  const made = report(saga, outcome);
  saga.tell({ state: "done", phase: "done", phases: made.phases });
  saga.show({ FerryState: outcome, FerryNode: made.node });
  showReport(made);
  return made;
}

export function tellDoubt(saga: Saga, doubt: Omit<Doubt, "state"> & { state: MigrationState }): void {
  const changed = doubt.state !== saga.view.state || doubt.problem !== saga.view.problem;
  if (doubt.state === "working") {
    delete saga.view.problem;
    delete saga.view.remedy;
  }
  saga.tell(doubt);
  if (changed) {
    // Not waited for: the entity may be gone, and asking the nodes must not wait for it. Whoever found the doubt may be
    // called off already: a rejection that nobody sees would fail the task, for ever.
    void CancellationScope.nonCancellable(() => news(saga, {}));
  }
}

/** Ends this run; the next one goes on at `at`. Never returns. */
export async function goOn(saga: Saga, at: CarriedAt): Promise<never> {
  await quiet();
  const { input, handOver, view, findings, failures, reasons, plan, sourceOutcome, destinationOutcome } = saga;
  const carried: CarriedMigration = {
    at,
    handOver,
    view,
    findings,
    failures,
    // What an observation finds is found, and said, again.
    reasons: at === "begin" ? [] : reasons,
    ...(plan && { plan }),
    ...(sourceOutcome && { sourceOutcome }),
    ...(destinationOutcome && { destinationOutcome }),
  };
  return continueAsNew<(input: MigrateInput) => Promise<MigrationReport>>({ ...input, carried });
}

/** Tells the entity. One that is gone is no reason to stop. */
export async function news(saga: Saga, more: Pick<OperationNews, "handOver">): Promise<void> {
  const { parent } = workflowInfo();
  if (parent === undefined) return;
  const body: OperationNews = {
    operation: saga.handOver.ref.operation,
    state: saga.view.state,
    ...more,
    ...(saga.view.problem === undefined ? {} : { problem: saga.view.problem }),
  };
  try {
    await getExternalWorkflowHandle(parent.workflowId).signal(SIGNAL.operation, body);
  } catch (error) {
    if (isCancellation(error)) throw error;
  }
}
