/**
 * The book: the journal read as a ledger. What this node has promised, for which workloads and operations, and the
 * inputs that a restarted agent needs to go on. Every `record` is checked against model/ownership, journaled and
 * fsynced, and only then applied.
 */
import { z } from "zod";
import type { Ending, HandOverInput, ReserveInput, SaveInput, Token } from "../model/contract.js";
import { ferryError, isFailureCode, toFailure, type FailureData, type Side } from "../model/failure.js";
import {
  applyMove,
  emptyLedger,
  highestEpoch,
  holdOf,
  holdsOf,
  moveProblem,
  type Hold,
  type Ledger,
} from "../model/ownership.js";
import type { KeptCourse } from "../model/steering.js";
import type { WorkloadSpec } from "../model/workload.js";
import {
  courseSchema,
  handOverSchema,
  holdSchema,
  reserveSchema,
  saveSchema,
  specSchema,
  tokenSchema,
} from "./schemas.js";
import { openJournal, type Journal } from "./journal.js";

/** What a restarted agent must know to go on with its side of a hand-over. */
export type OperationRecord =
  | { side: "source"; input: HandOverInput; local?: boolean }
  | { side: "destination"; input: ReserveInput; local?: boolean };

/** A checkpoint that was begun here. */
export interface SaveRecord {
  input: SaveInput;
  /** It is over, and there is no checkpoint: why. */
  failure?: Pick<FailureData, "code" | "message" | "remedy">;
}

/** What the source was told by the destination, in the order in which it may be told. */
const WORDS = ["runs", "owns"] as const;
export type Word = (typeof WORDS)[number];

const failedSchema = z.strictObject({
  code: z.string().refine(isFailureCode, "is no failure's code"),
  message: z.string(),
  remedy: z.string().optional(),
});

const bodySchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("hold"), hold: holdSchema }),
  z.strictObject({ kind: z.literal("spec"), spec: specSchema }),
  z.strictObject({ kind: z.literal("started"), workload: z.string(), epoch: z.int() }),
  z.strictObject({
    kind: z.literal("ended"),
    workload: z.string(),
    epoch: z.int(),
    exitCode: z.int().min(0).max(255).optional(),
  }),
  z.strictObject({
    kind: z.literal("asleep"),
    workload: z.string(),
    epoch: z.int(),
    digest: z.string().max(128),
  }),
  z.strictObject({ kind: z.literal("awake"), workload: z.string() }),
  z.strictObject({ kind: z.literal("source"), input: handOverSchema, local: z.boolean().optional() }),
  z.strictObject({ kind: z.literal("destination"), input: reserveSchema, local: z.boolean().optional() }),
  z.strictObject({ kind: z.literal("save"), input: saveSchema, failure: failedSchema.optional() }),
  z.strictObject({ kind: z.literal("token"), token: tokenSchema }),
  z.strictObject({ kind: z.literal("course"), operation: z.string(), course: courseSchema }),
  z.strictObject({ kind: z.literal("heard"), operation: z.string(), to: z.int(), word: z.enum(WORDS) }),
  z.strictObject({ kind: z.literal("forget"), workload: z.string() }),
]);
type Body = z.infer<typeof bodySchema>;

const key = (side: Side, operation: string): string => `${side} ${operation}`;

export class Book {
  private state: Ledger = emptyLedger;
  private readonly specs = new Map<string, WorkloadSpec>();
  private readonly startedEpochs = new Set<string>();
  /** By workload and epoch: what a copy was begun by that was not here before. */
  private readonly origins = new Map<string, string>();
  private readonly operationRecords = new Map<string, OperationRecord>();
  /** The last one of each workload. */
  private readonly saveRecords = new Map<string, SaveRecord>();
  private readonly ended = new Map<string, Ending>();
  /** Under which epoch each was let go to sleep. */
  private readonly asleep = new Map<string, number>();
  private readonly tokens = new Map<string, Token>();
  private readonly courses = new Map<string, KeptCourse>();
  private readonly words = new Map<string, Word>();
  private readonly journal: Journal;
  readonly torn: boolean;

  /** Throws E_JOURNAL_CORRUPT, E_JOURNAL_LOCKED. */
  constructor(dir: string) {
    const opened = openJournal(dir);
    this.journal = opened.journal;
    this.torn = opened.torn;
    for (const entry of opened.entries) {
      const parsed = bodySchema.safeParse(entry.body);
      if (!parsed.success) {
        this.journal.close();
        throw ferryError(
          "E_JOURNAL_CORRUPT",
          `journal ${this.journal.path} line ${entry.seq} is of a kind that this agent does not know`,
          {
            remedy: "it was written by a newer agent, or damaged: start the agent that wrote it",
          },
        );
      }
      try {
        this.apply(parsed.data);
      } catch (error) {
        this.journal.close();
        throw ferryError(
          "E_JOURNAL_CORRUPT",
          `journal ${this.journal.path} line ${entry.seq} says what can't be: ${toFailure(error).message}`,
          { remedy: "it was damaged, or mixed from two: put back an intact copy of the whole file, to its last line" },
        );
      }
    }
  }

  get ledger(): Ledger {
    return this.state;
  }
  get path(): string {
    return this.journal.path;
  }
  get entries(): number {
    return this.journal.length;
  }
  get head(): string {
    return this.journal.head;
  }

  hold(workload: string, epoch: number): Hold | undefined {
    return holdOf(this.state, workload, epoch);
  }
  holds(workload: string): Hold[] {
    return holdsOf(this.state, workload);
  }
  highest(workload: string): number {
    return highestEpoch(this.state, workload);
  }
  workloads(): string[] {
    return [...this.state.keys()];
  }
  spec(workload: string): WorkloadSpec | undefined {
    return this.specs.get(workload);
  }
  wasStarted(workload: string, epoch: number): boolean {
    return this.startedEpochs.has(`${workload} ${epoch}`);
  }
  /**
   * The operation that has begun this epoch here: a start, a recovery, a restore. Its hold names the last one that had to do with
   * it: a checkpoint, or a migration that came back. Undefined: a migration has brought it, or nothing.
   */
  beganBy(workload: string, epoch: number): string | undefined {
    return this.origins.get(`${workload} ${epoch}`);
  }
  /** The last end by itself of each workload. */
  endings(): Ending[] {
    return [...this.ended.values()];
  }
  /** Workloads that were let go to sleep here, and have not been started since. */
  sleepers(): { workload: string; epoch: number }[] {
    return [...this.asleep].map(([workload, epoch]) => ({ workload, epoch }));
  }
  operation(side: Side, operation: string): OperationRecord | undefined {
    return this.operationRecords.get(key(side, operation));
  }
  operations(): OperationRecord[] {
    return [...this.operationRecords.values()];
  }
  save(workload: string): SaveRecord | undefined {
    return this.saveRecords.get(workload);
  }
  saves(): SaveRecord[] {
    return [...this.saveRecords.values()];
  }
  token(operation: string, to: number): Token | undefined {
    return this.tokens.get(`${operation} ${to}`);
  }

  /** What the destination of this epoch has said last: it runs, or it owns (it has every page). */
  heard(operation: string, to: number): Word | undefined {
    return this.words.get(`${operation} ${to}`);
  }

  /** What a person has said to the source of this operation. */
  course(operation: string): KeptCourse | undefined {
    return this.courses.get(operation);
  }

  /** Journal a hold. Throws E_STALE_EPOCH, E_TOMBSTONED, E_BURNED, E_STATE when the move is not legal; nothing is written then. */
  record(hold: Hold): void {
    const problem = moveProblem(this.state, hold);
    if (problem !== undefined) {
      const before = this.hold(hold.workload, hold.epoch)?.state;
      const code =
        before === "TOMBSTONE"
          ? "E_TOMBSTONED"
          : before === "BURNED"
            ? "E_BURNED"
            : before === undefined
              ? "E_STALE_EPOCH"
              : before === "RELEASED" || before === "GONE"
                ? "E_PAST_COMMIT"
                : "E_STATE";
      throw ferryError(code, problem, { workload: hold.workload });
    }
    const before = this.hold(hold.workload, hold.epoch);
    if (
      before !== undefined &&
      before.state === hold.state &&
      JSON.stringify({ ...before, ...hold }) === JSON.stringify(before)
    )
      return;
    this.write({ kind: "hold", hold });
  }
  recordSpec(spec: WorkloadSpec): void {
    if (JSON.stringify(this.specs.get(spec.name)) !== JSON.stringify(spec)) this.write({ kind: "spec", spec });
  }
  recordStarted(workload: string, epoch: number): void {
    this.write({ kind: "started", workload, epoch });
  }
  /** Ended by itself: STOPPED, in one entry with how. */
  recordEnding(ending: Ending): void {
    const hold = this.hold(ending.workload, ending.epoch);
    if (hold?.state !== "OWNER") {
      throw ferryError(
        "E_STATE",
        `${ending.workload} epoch ${ending.epoch} is ${hold?.state ?? "unknown"}: it can't end`,
      );
    }
    this.write({ kind: "ended", ...ending });
  }
  /** Its checkpoint is there (`digest`: its id): STOPPED, in one entry with that it sleeps. */
  recordAsleep(workload: string, epoch: number, digest: string): void {
    if (this.hold(workload, epoch)?.state !== "STOPPED") this.write({ kind: "asleep", workload, epoch, digest });
  }
  /** What comes for it does not wake it any more. */
  recordAwake(workload: string, epoch: number): void {
    if (this.asleep.get(workload) === epoch) this.write({ kind: "awake", workload });
  }
  recordOperation(record: OperationRecord): void {
    const { input, side } = record;
    if (JSON.stringify(this.operation(side, input.ref.operation)) === JSON.stringify(record)) return;
    this.write({ kind: side, input, ...(record.local === undefined ? {} : { local: record.local }) } as Body);
  }
  recordSave(record: SaveRecord): void {
    if (JSON.stringify(this.save(record.input.ref.workload)) === JSON.stringify(record)) return;
    this.write({ kind: "save", ...record } as Body);
  }
  recordToken(token: Token): void {
    if (this.token(token.operation, token.to) === undefined) this.write({ kind: "token", token });
  }
  /** A word that was heard is not forgotten with the agent: taking back after it loses what was done since. */
  recordHeard(operation: string, to: number, word: Word): void {
    const before = this.heard(operation, to);
    if (before === word || before === "owns") return;
    this.write({ kind: "heard", operation, to, word });
  }
  /** Throws E_NO_SPACE: the reserve is for the entries that end operations. */
  recordCourse(operation: string, course: KeptCourse): void {
    this.journal.demandRoom();
    this.write({ kind: "course", operation, course });
  }
  /** Everything about a workload but its highest epoch, which stays so that epochs are never used again. */
  recordForget(workload: string): void {
    if (this.state.has(workload)) this.write({ kind: "forget", workload });
  }

  /** Call it before something is begun that will need entries to end. Throws E_NO_SPACE. */
  demandRoom(): void {
    this.journal.demandRoom();
  }

  close(): void {
    this.journal.close();
  }

  private write(body: Body): void {
    this.journal.append(body);
    this.apply(body);
  }

  private apply(body: Body): void {
    switch (body.kind) {
      case "hold": {
        const { workload, epoch, state, operation } = body.hold;
        const isFirst = this.hold(workload, epoch) === undefined;
        this.state = applyMove(this.state, body.hold as Hold);
        if (isFirst && state === "OWNER" && operation !== undefined)
          this.origins.set(`${workload} ${epoch}`, operation);
        return;
      }
      case "spec":
        this.specs.set(body.spec.name, body.spec);
        return;
      case "started":
        this.startedEpochs.add(`${body.workload} ${body.epoch}`);
        this.asleep.delete(body.workload);
        return;
      case "ended": {
        const { workload, epoch, exitCode } = body;
        this.state = applyMove(this.state, { workload, epoch, state: "STOPPED" });
        this.ended.set(workload, { workload, epoch, ...(exitCode === undefined ? {} : { exitCode }) });
        return;
      }
      case "asleep": {
        const { kind: _, ...where } = body;
        this.state = applyMove(this.state, { ...where, state: "STOPPED" });
        this.asleep.set(body.workload, body.epoch);
        return;
      }
      case "awake":
        this.asleep.delete(body.workload);
        return;
      case "source":
        this.operationRecords.set(key("source", body.input.ref.operation), {
          side: "source",
          input: body.input as HandOverInput,
          ...(body.local === undefined ? {} : { local: body.local }),
        });
        return;
      case "destination":
        this.operationRecords.set(key("destination", body.input.ref.operation), {
          side: "destination",
          input: body.input as ReserveInput,
          ...(body.local === undefined ? {} : { local: body.local }),
        });
        return;
      case "save":
        this.saveRecords.set(body.input.ref.workload, {
          input: body.input,
          ...(body.failure === undefined ? {} : { failure: body.failure as NonNullable<SaveRecord["failure"]> }),
        });
        return;
      case "token":
        this.tokens.set(`${body.token.operation} ${body.token.to}`, body.token);
        return;
      case "course":
        this.courses.set(body.operation, body.course as KeptCourse);
        return;
      case "heard":
        this.words.set(`${body.operation} ${body.to}`, body.word);
        return;
      case "forget": {
        const highest = this.highest(body.workload);
        const last = this.hold(body.workload, highest);
        const next = new Map(this.state);
        next.set(body.workload, new Map(last === undefined ? [] : [[highest, last]]));
        this.state = next;
        this.specs.delete(body.workload);
        this.saveRecords.delete(body.workload);
        this.ended.delete(body.workload);
        this.asleep.delete(body.workload);
        for (const [name, record] of this.operationRecords) {
          if (record.input.ref.workload !== body.workload) continue;
          this.operationRecords.delete(name);
          this.courses.delete(record.input.ref.operation);
          this.words.delete(`${record.input.ref.operation} ${record.input.ref.to}`);
        }
        return;
      }
    }
  }
}
