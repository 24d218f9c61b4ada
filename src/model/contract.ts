/**
 * The contract between workflows and the nodes: activity inputs and results. Workflows and activities meet here and
 * nowhere else. Every input carries `schema` so that an agent can refuse what it does not know.
 *
 * All activities are idempotent: they mean "ensure that operation X has reached state Y", keyed by (operation, epoch).
 */
import type { Checkpoint, CheckpointDiff, ListedCheckpoint, SaveOptions, StoredCheckpoint } from "./checkpoints.js";
import type { FailureData } from "./failure.js";
import type { TrackerKind } from "./mover.js";
import type { NodeFacts } from "./node.js";
import type { Hold, HoldState } from "./ownership.js";
import type { AskedOptions, Finding, MigrateOptions } from "./plan.js";
import type { ClockOffset, FrameCounts, PhaseTime, PrecopyReport, Progress, TransferCounts } from "./report.js";
import type { SteerCommand, Steered } from "./steering.js";
import type { WorkloadSpec } from "./workload.js";

export const CONTRACT_SCHEMA = 1;

/** Names one hand-over: epoch is the source's, `to` the destination's. */
export interface OperationRef {
  schema: number;
  operation: string;
  workload: string;
  epoch: number;
  to: number;
  source: string;
  destination: string;
}

export interface StartInput {
  schema: number;
  operation: string;
  epoch: number;
  spec: WorkloadSpec;
}
export interface Started {
  /** 0: it has ended already. */
  pid: number;
  epoch: number;
}

/** A workload that ended by itself on this node. */
export interface Ending {
  workload: string;
  epoch: number;
  /** As a shell says it: 128 and the signal's number where it was killed. Missing: nobody saw it end. */
  exitCode?: number;
}

/** A workload that sleeps on this node: what comes for its address is kept, and has it restored. */
export interface Sleeper {
  workload: string;
  /** Under which it was let go. */
  epoch: number;
  /** Something came for it, or a restore of it was begun and is not over. */
  wanted: boolean;
  /** Somebody else answers for its address, so it is not held: does it still sleep here? */
  disputed: boolean;
}

/** Since when nothing was going on in a workload, as far as its node has looked: it looks from the first question on. */
export interface IdleInput {
  schema: number;
  workload: string;
  epoch: number;
  /** More than this much of one core, over some seconds, is no idling. */
  cpuPercent: number;
}
/** Milliseconds since the last packet to or from it, and since it last used more than that much of a core. */
export interface Idleness {
  packetsMs: number;
  cpuMs: number;
}

export interface RecoverInput {
  /** source and epoch: of the node that was lost; destination and to: of this one. */
  ref: OperationRef;
  spec: WorkloadSpec;
  /** Id of the checkpoint. */
  checkpoint: string;
}

/** Source and destination are this node. `to` is kept for it: it runs on under it if criu was lost while it was frozen. */
export interface SaveInput {
  ref: OperationRef;
  options: SaveOptions;
  /** Nobody else's: operations are counted anew when a workload of the same name is made anew. */
  request: string;
}
/** How a checkpoint ended on its node. The checkpoint is there, or `failure` says why it is not; the workload is in `state`. */
export interface Saved {
  /** OWNER: it runs on. STOPPED: it was let go, as was asked for. */
  state: HoldState;
  /** Under which it runs on, or was stopped. */
  epoch: number;
  checkpoint?: StoredCheckpoint;
  /** Frozen until it ran again (it runs on), or until the checkpoint was there. */
  frozenMs?: number;
  /**
   * STOPPED: it was let go with `checkpoint`. false: it had run on, and was stopped, or ended, for another reason. Missing: an
   * agent of before says nothing of it.
   */
  letGo?: boolean;
  phases: PhaseTime[];
  /** Rounds of memory before the freeze. */
  rounds: number;
  failure?: FailureData;
}

/** Run it here from a checkpoint: nothing of it runs or may come to run anywhere. */
export interface RestoreInput {
  /** source and epoch: where it was last; destination and to: of this one. Both may be this node. */
  ref: OperationRef;
  /** A clone has its own name, address and MAC here. */
  spec: WorkloadSpec;
  /** Id, and whose it is: of another workload for a clone. */
  checkpoint: string;
  of: string;
  /** Id of the checkpoint that it was let go with, if nothing of it has run since. Of that one connections go on; else they are closed. */
  letGoWith?: string;
  /** It runs at once, and its pages follow. Missing: they come first. */
  lazy?: boolean;
}

export interface CheckpointsInput {
  schema: number;
  /** Missing: of all workloads. */
  workload?: string;
}
export interface CheckpointRef {
  schema: number;
  workload: string;
  checkpoint: string;
}
export interface PinInput extends CheckpointRef {
  pinned: boolean;
}
export interface DiffInput extends CheckpointRef {
  /** Id of the later one. */
  with: string;
}

export interface StopInput {
  schema: number;
  workload: string;
  epoch: number;
  /** SIGTERM first, SIGKILL after this long. */
  graceMs: number;
  /** Only if it is still being restored: the restore fails then. Throws E_STATE when it is not. */
  callOff?: boolean;
}

export interface WorkloadRef {
  schema: number;
  workload: string;
}

export interface Observation {
  /** Every hold of this workload in the node's journal, oldest first. */
  holds: Hold[];
  /** Processes in the cgroup of the running hold. */
  processes: number;
  /** Host pid of its root process. */
  pid?: number;
  memoryBytes: number;
  logBytes: number;
  /** The node's own copy of the spec: lets a new entity adopt what runs there. */
  spec?: WorkloadSpec;
  /** It is being restored: how many of its pages are in place, and whether it runs already. */
  pages?: { total: number; inPlace: number; runs: boolean };
}

/** What the source finds out before the freeze, for the destination to compare with. */
export interface SourceFacts {
  findings: Finding[];
  node: NodeFacts;
  spec: WorkloadSpec;
  memoryBytes: number;
  volumeBytes: number;
  /** The volume could not be counted in time: `volumeBytes` is what its file system has in use. */
  volumeAtMost?: boolean;
  processes: number;
  threads: number;
  cpuFlags: string[];
  /** The spec's user as the source resolved it; restored processes keep these numbers. */
  userIds?: { uid: number; gid: number };
  /** A short look at how fast the memory changes. Missing: it was not needed, or not possible, and `findings` says why. */
  dirty?: {
    tracker: TrackerKind;
    rateBytesPerSec: number;
    windowMs: number;
    /** Bytes that change at all, where a longer look found hardly more than a short one. */
    workingSetBytes?: number;
  };
  /** What a blackout of this workload costs besides pages, from what was measured before, in milliseconds. */
  fixedBlackoutMs?: number;
  /** Page traffic of migrations from here to that destination, bytes a second. */
  bandwidthBytesPerSec?: number;
  /** Bytes of `memoryBytes` that only move while it is frozen: shared memory, memfd, tmpfs files, huge pages. */
  frozenBytes?: number;
  /** Shared volumes: a file that the source has just written there. The destination must find it under the same name. */
  shared?: { name: string; file: string; nonce: string }[];
  /** Files that are mapped or open outside the volume: the destination must have the same. */
  files: { path: string; sizeBytes: number; mode: number; buildId?: string; mapped: boolean }[];
}

export interface PreflightInput {
  ref: OperationRef;
  options: AskedOptions;
}
export interface PreflightDestinationInput extends PreflightInput {
  facts: SourceFacts;
}

export interface ReserveInput {
  ref: OperationRef;
  options: MigrateOptions;
  spec: WorkloadSpec;
  memoryBytes: number;
  volumeBytes: number;
}
export interface Reservation {
  /** Link of the destination's agent. */
  agent: { host: string; port: number };
  /** Link of the destination's mover (pages, images, volume) for this operation. */
  mover: { host: string; port: number };
}

export interface TakeOverInput {
  ref: OperationRef;
  options: MigrateOptions;
  spec: WorkloadSpec;
}
export interface HandOverInput {
  ref: OperationRef;
  options: MigrateOptions;
  reservation: Reservation;
}

/** How one side ended. Times are by that node's clocks: `at` values are Unix milliseconds with fractions. */
export interface SideOutcome {
  state: HoldState;
  /** source: when the tree was frozen; destination: when it was resumed (Unix ms, this node's wall clock). */
  frozenAt?: number;
  resumedAt?: number;
  drainedAt?: number;
  phases: PhaseTime[];
  transfer: TransferCounts;
  /** Set when this side went back or refused: why. */
  failure?: FailureData;
  /** Epoch under which the workload runs on this node after the operation, if it does. */
  epoch?: number;
  /** source: how the rounds went. */
  precopy?: PrecopyReport;
  /** source: the destination's clock against its own. */
  clock?: ClockOffset;
  /** Its wall clock was set by this much meanwhile, at the most: then its times are not to be trusted. */
  clockStepMs?: number;
  /** source: how many were kept, and dropped there; destination: how many were delivered, and dropped there. */
  frames?: Partial<FrameCounts>;
  /** source: the destination was told to resume before every page was there. */
  resumedFirst?: boolean;
  /** Destination, when it became the owner. */
  receipt?: Receipt;
}

/** Proof that the source released: bound to workload, operation, epochs, destination and image digest. */
export interface Token {
  workload: string;
  operation: string;
  from: number;
  to: number;
  source: string;
  destination: string;
  digest: string;
  /** PEM certificate of the source node; the destination checks it against its CA. */
  certificate: string;
  /** Base64 signature over the other fields (canonical JSON) by the source node's key. */
  signature: string;
}

/** Proof that the destination is the owner and needs nothing more of the source: bound to the same hand-over. */
export interface Receipt {
  workload: string;
  operation: string;
  /** The epoch that it owns. */
  epoch: number;
  owner: string;
  digest: string;
  /** PEM certificate of the owner; the source checks it against its CA. */
  certificate: string;
  /** Base64 signature over the other fields (canonical JSON) by the owner's key. */
  signature: string;
}

export interface Inquiry {
  /** State of this node's hold for the operation's epoch on this side; undefined: nothing known. */
  state?: HoldState;
  holds: Hold[];
  processes: number;
  token?: Token;
  /** Destination, once its journal says OWNER; source, when it has taken back what it had released (see `retake`). */
  receipt?: Receipt;
  /** Why the last attempt on this side failed. */
  failure?: FailureData;
  outcome?: SideOutcome;
  /** Of the side's work under way. */
  progress?: Progress;
}

export interface DeliverInput {
  ref: OperationRef;
  token: Token;
}

export interface SteerInput {
  ref: OperationRef;
  command: SteerCommand;
}

export interface AcknowledgeInput {
  ref: OperationRef;
  receipt: Receipt;
}

/** A person's decision about a hand-over in doubt. */
export interface ResolveInput {
  ref: OperationRef;
  /** Why the other side can't run it: for the log, and for whoever reads it later. */
  evidence: string;
  /** The side that is not kept may have run it for a while: what it did then is lost. */
  acceptRollback?: boolean;
}

/** A person has said that a node is off. */
export interface Fence {
  /** Unix milliseconds. */
  at: number;
  /** Who said it, and how it was done. */
  evidence: string;
}

/** One watch of a node, by its worker. Milliseconds. */
export interface WatchInput {
  /** Returns when the agent has answered for this long. */
  forMs: number;
  /** How often the agent is asked, and the heartbeat sent. */
  everyMs: number;
  /** Fails with E_AGENT_DOWN when the agent was away for this long; missing: waits for it. */
  awayMs?: number;
}

export interface LogsInput {
  schema: number;
  workload: string;
  /** Byte offset to read from; negative: this many bytes before the end. */
  offset: number;
  maxBytes: number;
}
export interface LogChunk {
  text: string;
  offset: number;
  nextOffset: number;
  sizeBytes: number;
}

/** Activities of one node, run on queue `node:<name>`. */
export interface NodeActivities {
  /** Every node that has ever registered, this one too. Asked of the worker, not of its agent. */
  knownNodes(): Promise<string[]>;
  /** Has a person fenced that node? Asked of the worker. */
  fenceOf(node: string): Promise<Fence | null>;
  /** The node is there for as long as this runs and heartbeats. Asked of the worker, which asks its agent. */
  watchNode(input: WatchInput): Promise<void>;
  describeNode(): Promise<NodeFacts>;
  startWorkload(input: StartInput): Promise<Started>;
  stopWorkload(input: StopInput): Promise<Observation>;
  removeWorkload(input: WorkloadRef): Promise<void>;
  observeWorkload(input: WorkloadRef): Promise<Observation>;
  /** For how long it has been idle. Packets: unicast, not to itself. E_STATE when it does not run here under that epoch. */
  idleWorkload(input: IdleInput): Promise<Idleness>;
  /** The newest checkpoint that this node could run it from; null: there is none. E_NO_CHECKPOINT: none are kept. */
  newestCheckpoint(input: WorkloadRef): Promise<Checkpoint | null>;
  /**
   * Run it here from that checkpoint. By a person's word: the node that had it was fenced. Refused while this node holds
   * anything of it.
   */
  recoverWorkload(input: RecoverInput): Promise<Started>;
  /** Take a checkpoint of what runs here. Asked again: the same one. */
  saveCheckpoint(input: SaveInput): Promise<Saved>;
  /** Run it here from this checkpoint. E_CHECKPOINT_UNKNOWN; refused while this node holds anything of it. */
  restoreWorkload(input: RestoreInput): Promise<Started>;
  /** What the store has, oldest first, as this node sees it. E_NO_CHECKPOINT: the node has no store. */
  listCheckpoints(input: CheckpointsInput): Promise<ListedCheckpoint[]>;
  pinCheckpoint(input: PinInput): Promise<void>;
  /** E_STATE when it is pinned. */
  removeCheckpoint(input: CheckpointRef): Promise<void>;
  /** Reads all of it. Throws E_STORE_CORRUPT, E_STORE_SIGNATURE. */
  verifyCheckpoint(input: CheckpointRef): Promise<void>;
  diffCheckpoints(input: DiffInput): Promise<CheckpointDiff>;
  readLog(input: LogsInput): Promise<LogChunk>;
  preflightSource(input: PreflightInput): Promise<SourceFacts>;
  preflightDestination(input: PreflightDestinationInput): Promise<Finding[]>;
  /** Undone by `refuse`. */
  reserve(input: ReserveInput): Promise<Reservation>;
  /** Armed: returns when the destination runs the workload (and, post-copy, has every page) or has refused. */
  takeOver(input: TakeOverInput): Promise<SideOutcome>;
  /** Returns when the source is GONE, or runs again after rolling back. */
  handOver(input: HandOverInput): Promise<SideOutcome>;
  inquire(input: OperationRef): Promise<Inquiry>;
  /** Source: burn `to` and take the workload back. Answers RELEASED or GONE when it is too late for that. */
  burn(input: OperationRef): Promise<Inquiry>;
  /** Destination: tombstone `to` and sweep. Answers ACTIVE or later when it is too late for that. */
  refuse(input: OperationRef): Promise<Inquiry>;
  /** Destination: carry the source's token there when the link could not. */
  deliver(input: DeliverInput): Promise<Inquiry>;
  /** Source: a person steers the hand-over under way. E_STATE when there is none, or it is too late for the command. */
  steer(input: SteerInput): Promise<Steered>;
  /** Source: carry the destination's receipt there when the link could not; it lets its frozen copy go. */
  acknowledge(input: AcknowledgeInput): Promise<Inquiry>;
  /**
   * Source, by a person's word: the destination is off (or has refused for ever), take back what was released. Journaled
   * as FENCED(to) first. E_PAST_COMMIT when it is let go already, or the destination has said that it runs.
   */
  retake(input: ResolveInput): Promise<Inquiry>;
  /** Destination, by a person's word: the source is off, run what was prepared without its token. E_STATE: pages are missing, or no consent. */
  claim(input: ResolveInput): Promise<Inquiry>;
  /**
   * Either, with the other side's signed receipt: a person has decided for the other one while this node was away. Kills
   * its copy. Files are kept aside.
   */
  supersede(input: AcknowledgeInput): Promise<Inquiry>;
  /** Both: remove what the operation left (after it was settled). */
  cleanup(input: OperationRef): Promise<void>;
}

/** A long step asked for again and again until it is done: "ensure it goes on, tell me how far it is". */
export type Step<Result> = { done: true; result: Result } | { done: false; progress?: Progress };

/**
 * The agent as its worker sees it (over the unix socket), and as the simulated agent of tests implements it. The same
 * verbs as the activities; the long ones are polled, so that a worker may die and another go on asking.
 * Throws FerryError; E_AGENT_DOWN when the agent can't be reached (the only failure worth a retry).
 */
export interface NodeAgent extends Omit<
  NodeActivities,
  "takeOver" | "handOver" | "saveCheckpoint" | "knownNodes" | "fenceOf" | "watchNode"
> {
  /** Starts it if need be, then waits up to `waitMs` for the end. */
  takeOver(input: TakeOverInput, waitMs: number): Promise<Step<SideOutcome>>;
  handOver(input: HandOverInput, waitMs: number): Promise<Step<SideOutcome>>;
  saveCheckpoint(input: SaveInput, waitMs: number): Promise<Step<Saved>>;
  /** Workloads that ended by themselves and were not started again: a level, read by the worker again and again. */
  endings(): Promise<Ending[]>;
  /** Workloads that sleep here: a level. Answers when one of them is wanted, or after `waitMs`. */
  sleepers(input: { waitMs: number }): Promise<Sleeper[]>;
}
