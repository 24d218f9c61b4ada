/**
 * The control link of a hand-over: agent to agent, source dials destination. Small messages, all of them levels:
 *
 *   destination -> source   state  { hold, armed, digest, ... }   whenever it changes, and on every new connection
 *   source -> destination   spec   { digest }                     which spec runs there, first on every new connection (link 2)
 *   source -> destination   token  { token }                      the commit, sent again on every new connection
 *   source -> destination   resume-first {}                       PREPARED does not need every page; repeated likewise
 *   source -> destination   abort  { failure }                    best effort: the source went back
 *   source -> destination   frames (payload)                      frames that came for the workload in the blackout
 *   both ways               clock  { sentAt, readAt }             what the destination's clock shows, asked before the freeze
 */
import { z } from "zod";
import type { OperationRef, Token } from "../../model/contract.js";
import { ferryError, toFailure, type FailureData } from "../../model/failure.js";
import { keptFailure } from "../../model/foreign-failure.js";
import { hasOwned, HOLD_STATES, type HoldState } from "../../model/ownership.js";
import type { ClockOffset } from "../../model/report.js";
import { dialLink, listenLink, refusalLog, type LinkSession } from "../../transfer/link/index.js";
import { Level } from "../level.js";
import { SPEC_DIGEST } from "../../model/spec-signature.js";
import { tokenSchema } from "../schemas.js";
import type { NodeContext } from "./node-context.js";
import { wallMs } from "./phases.js";

/** What the destination says of itself. */
export interface DestinationState {
  hold?: HoldState;
  /** takeOver was asked of it: it waits for the images. */
  armed: boolean;
  digest?: string;
  /** Where its mover listens now: another port after the node lost power. */
  moverPort?: number;
  /** Its mover has no images (yet, or no more: they lie in memory and the node lost power). */
  wantsImages: boolean;
  /** Unix ms by the destination's clock. */
  resumedAt?: number;
  /** It has every page: nothing depends on the source any more. */
  complete: boolean;
  failure?: FailureData;
}

/** What the source hears: what was owned, and has ended since, needs it as little as what runs. */
export const toldAs = (state: HoldState): HoldState => (hasOwned(state) ? "OWNER" : state);

const failureSchema = z.unknown().transform((value) => keptFailure(value, "E_LINK_LOST"));
const stateSchema = z.strictObject({
  hold: z.enum(HOLD_STATES).optional(),
  armed: z.boolean(),
  digest: z.string().max(128).optional(),
  moverPort: z.int().min(1).max(65_535).optional(),
  wantsImages: z.boolean(),
  resumedAt: z.number().optional(),
  complete: z.boolean(),
  failure: failureSchema.optional(),
});
const tokenMessage = z.strictObject({ token: tokenSchema });
const abortMessage = z.strictObject({ failure: failureSchema });

const clockAsked = z.strictObject({ sentAt: z.number() });
const clockRead = z.strictObject({ sentAt: z.number(), readAt: z.number() });
/** Round trips for one estimate: the shortest counts. */
const CLOCK_SAMPLES = 8;
const CLOCK_TIMEOUT_MS = 500;

const specMessage = z.strictObject({ digest: z.string().regex(SPEC_DIGEST) });
/** Since this version of the link every source says its spec. */
const SAYS_SPEC = 2;

const BACKOFF_MS = [50, 100, 200, 400, 800, 1500] as const;

/** The source's end: dials again and again until stopped. */
export class ControlDialer {
  /** `destination` is the last word of the destination; `lost` why there is no connection right now. */
  readonly level = new Level<{ connected: boolean; destination?: DestinationState; lost?: FailureData }>({
    connected: false,
  });
  private session: LinkSession | undefined;
  private token: Token | undefined;
  private first = false;
  private onClock: ((read: z.infer<typeof clockRead>) => void) | undefined;
  private started = false;
  private stopped = false;
  private readonly context: NodeContext;
  private readonly ref: OperationRef;
  private readonly peer: string;
  private readonly endpoint: { host: string; port: number };
  private readonly spec: string;

  /** `spec`: digest of the one that runs here. */
  constructor(
    context: NodeContext,
    ref: OperationRef,
    peer: string,
    endpoint: { host: string; port: number },
    spec: string,
  ) {
    this.context = context;
    this.ref = ref;
    this.peer = peer;
    this.endpoint = endpoint;
    this.spec = spec;
  }

  /** Idempotent. */
  start(): void {
    if (this.started) return;
    this.started = true;
    void this.loop();
  }

  private async loop(): Promise<void> {
    for (let attempt = 0; !this.stopped; attempt++) {
      try {
        const session = await dialLink({
          identity: this.context.identity,
          host: this.endpoint.host,
          port: this.endpoint.port,
          peer: this.peer,
          hello: { purpose: "control", operation: this.ref.operation, workload: this.ref.workload, to: this.ref.to },
          timeoutMs: 5000,
        });
        attempt = 0;
        await this.serve(session);
      } catch (error) {
        this.level.update({ connected: false, lost: toFailure(error, "E_LINK_LOST") });
      }
      if (this.stopped) return;
      await new Promise((resolve) => setTimeout(resolve, BACKOFF_MS[Math.min(attempt, BACKOFF_MS.length - 1)]));
    }
  }

  private serve(session: LinkSession): Promise<void> {
    return new Promise((resolve) => {
      this.session = session;
      session.onFrame((frame) => {
        if (frame.type === "clock") {
          const read = clockRead.safeParse(frame.meta);
          if (read.success) this.onClock?.(read.data);
        }
        if (frame.type !== "state") return;
        const parsed = stateSchema.safeParse(frame.meta);
        if (!parsed.success) {
          session.destroy();
          return;
        }
        this.level.update({ connected: true, destination: parsed.data as DestinationState });
      });
      session.onClose((failure) => {
        this.session = undefined;
        this.level.update({
          connected: false,
          lost: failure ?? { code: "E_LINK_LOST", message: `the destination ${this.peer} closed the control link` },
        });
        resolve();
      });
      if (this.stopped) {
        session.destroy();
        return;
      }
      // One of an older version does not know the word, and passes over it.
      session.send("spec", { digest: this.spec }).catch(() => undefined);
      if (this.first) session.send("resume-first", {}).catch(() => undefined);
      if (this.token !== undefined) session.send("token", { token: this.token }).catch(() => undefined);
    });
  }

  /** Commit: send the token now and on every reconnection. */
  release(token: Token): void {
    if (this.token !== undefined) return;
    this.token = token;
    this.session?.send("token", { token }).catch(() => undefined);
  }
  /** The destination may resume before it has every page: said now and on every reconnection. */
  resumeFirst(): void {
    if (this.first) return;
    this.first = true;
    this.session?.send("resume-first", {}).catch(() => undefined);
  }
  /** The destination's word reached us another way (its receipt): it owns the workload, and needs nothing more. */
  vouched(): void {
    const { destination = { armed: false, wantsImages: false } } = this.level.value;
    this.level.update({ destination: { ...destination, hold: "OWNER", complete: true } });
  }

  /** Frames for the workload. false: there is no connection right now. */
  frames(payload: Buffer): boolean {
    if (this.session === undefined) return false;
    this.session.send("frames", {}, payload).catch(() => undefined);
    return true;
  }

  /** How the destination's clock differs from ours. undefined: it did not say, or not in time. */
  async clock(): Promise<ClockOffset | undefined> {
    let best: ClockOffset | undefined;
    const until = performance.now() + CLOCK_TIMEOUT_MS;
    for (let i = 0; i < CLOCK_SAMPLES && performance.now() < until; i++) {
      const { session } = this;
      if (session === undefined) break;
      const sentAt = wallMs();
      const read = await new Promise<z.infer<typeof clockRead> | undefined>((resolve) => {
        const timer = setTimeout(() => resolve(undefined), Math.max(1, until - performance.now()));
        this.onClock = (answer) => {
          if (answer.sentAt !== sentAt) return;
          clearTimeout(timer);
          resolve(answer);
        };
        session.send("clock", { sentAt }).catch(() => undefined);
      });
      this.onClock = undefined;
      if (read === undefined) break;
      best = closer(best, sentAt, read.readAt, wallMs());
    }
    return best;
  }

  async abort(failure: FailureData): Promise<void> {
    await this.session?.send("abort", { failure }).catch(() => undefined);
  }
  async stop(): Promise<void> {
    this.stopped = true;
    await this.session?.close().catch(() => undefined);
  }
}

/** One more round trip: the shorter it is, the less can hide in it. */
export function closer(
  best: ClockOffset | undefined,
  sentAt: number,
  readAt: number,
  receivedAt: number,
): ClockOffset | undefined {
  const uncertaintyMs = (receivedAt - sentAt) / 2;
  // A clock that was set meanwhile says nothing.
  if (uncertaintyMs < 0 || (best !== undefined && best.uncertaintyMs <= uncertaintyMs)) return best;
  return { offsetMs: readAt - (sentAt + uncertaintyMs), uncertaintyMs };
}

/** What a take-over offers to the hub. */
export interface ControlTarget {
  state(): DestinationState;
  onToken(token: unknown): void;
  onResumeFirst(): void;
  onAbort(failure: FailureData): void;
  onFrames(payload: Buffer): void;
  onConnected(connected: boolean): void;
  /** The source's spec has this digest; undefined: the source is of a version that does not say it. */
  onSpec(digest: string | undefined): void;
}

/** The destination's end: one listener for all operations of this node. */
export class ControlHub {
  private readonly sessions = new Map<string, LinkSession>();
  /** What the source of an operation has said of its spec on its present connection, which may be before there is a target. */
  private readonly specs = new Map<string, string | undefined>();
  private readonly targets = new Map<string, ControlTarget>();
  private readonly context: NodeContext;
  private server: { port: number; close(): Promise<void> } | undefined;

  constructor(context: NodeContext) {
    this.context = context;
  }

  async listen(): Promise<void> {
    const { config, identity } = this.context;
    this.server = await listenLink({
      identity,
      host: config.linkHost,
      port: config.linkPort,
      accept: (hello, peer) => {
        const record = this.context.book.operation("destination", hello.operation);
        if (
          hello.purpose !== "control" ||
          record === undefined ||
          record.input.ref.to !== hello.to ||
          record.input.ref.workload !== hello.workload
        ) {
          return {
            code: "E_STATE",
            message: `node ${config.node} has not reserved anything for operation ${hello.operation} (epoch ${hello.to})`,
          };
        }
        const expected = record.local === true ? config.node : record.input.ref.source;
        if (peer !== expected) {
          return {
            code: "E_PEER_ID",
            message: `operation ${hello.operation} was reserved for node ${expected}, not for ${peer}`,
          };
        }
        return undefined;
      },
      onSession: (session) => this.adopt(session),
      onRefused: refusalLog(this.context.log),
    });
  }

  private adopt(session: LinkSession): void {
    const { operation } = session.hello;
    this.sessions.get(operation)?.destroy();
    this.sessions.set(operation, session);
    this.specs.delete(operation);
    session.onFrame((frame) => {
      const target = this.targets.get(operation);
      if (frame.type === "frames") {
        target?.onFrames(frame.payload);
      } else if (frame.type === "spec") {
        const parsed = specMessage.safeParse(frame.meta);
        if (parsed.success) this.hearSpec(operation, parsed.data.digest);
        else session.destroy();
      } else if (frame.type === "clock") {
        const asked = clockAsked.safeParse(frame.meta);
        if (asked.success) session.send("clock", { ...asked.data, readAt: wallMs() }).catch(() => undefined);
      } else if (frame.type === "token") {
        const parsed = tokenMessage.safeParse(frame.meta);
        if (parsed.success) target?.onToken(parsed.data.token);
      } else if (frame.type === "resume-first") {
        target?.onResumeFirst();
      } else if (frame.type === "abort") {
        const parsed = abortMessage.safeParse(frame.meta);
        if (parsed.success && parsed.data.failure !== undefined) target?.onAbort(parsed.data.failure);
      }
    });
    session.onClose(() => {
      if (this.sessions.get(operation) === session) {
        this.sessions.delete(operation);
        this.specs.delete(operation);
        this.targets.get(operation)?.onConnected(false);
      }
    });
    this.targets.get(operation)?.onConnected(true);
    if (session.version < SAYS_SPEC) this.hearSpec(operation, undefined);
    this.publish(operation);
  }

  private hearSpec(operation: string, digest: string | undefined): void {
    this.specs.set(operation, digest);
    this.targets.get(operation)?.onSpec(digest);
  }

  /** Tell the source the state of this operation as it is now. */
  publish(operation: string): void {
    const session = this.sessions.get(operation);
    if (session === undefined) return;
    const target = this.targets.get(operation);
    const state = target?.state() ?? this.fromBook(operation);
    session.send("state", state).catch(() => undefined);
  }

  private fromBook(operation: string): DestinationState {
    const record = this.context.book.operation("destination", operation);
    const hold = record && this.context.book.hold(record.input.ref.workload, record.input.ref.to);
    return {
      armed: false,
      wantsImages: false,
      complete: hasOwned(hold?.state),
      ...(hold === undefined ? {} : { hold: toldAs(hold.state) }),
      ...(hold?.digest === undefined ? {} : { digest: hold.digest }),
    };
  }

  register(operation: string, target: ControlTarget): void {
    this.targets.set(operation, target);
    if (this.sessions.has(operation)) target.onConnected(true);
    if (this.specs.has(operation)) target.onSpec(this.specs.get(operation));
    this.publish(operation);
  }
  unregister(operation: string, target: ControlTarget): void {
    if (this.targets.get(operation) === target) this.targets.delete(operation);
  }
  connected(operation: string): boolean {
    return this.sessions.has(operation);
  }
  async close(): Promise<void> {
    for (const session of this.sessions.values()) session.destroy();
    await this.server?.close();
  }
}

/** A failure of the other side, as this side reports it. */
export const peerFailure = (side: "source" | "destination", node: string, failure: FailureData): FailureData =>
  ferryError(failure.code, failure.message, { ...failure, side, node }).data;
