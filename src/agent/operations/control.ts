/**
 * The control link of a hand-over: agent to agent, source dials destination. Small messages, all of them levels:
 *
 *   destination -> source   state  { hold, armed, digest, ... }   whenever it changes, and on every new connection
 *   source -> destination   token  { token }                      the commit, sent again on every new connection
 *   source -> destination   abort  { failure }                    best effort: the source went back
 */
import { z } from "zod";
import type { OperationRef, Token } from "../../model/contract.js";
import { ferryError, toFailure, type FailureData } from "../../model/failure.js";
import { HOLD_STATES, type HoldState } from "../../model/ownership.js";
import { dialLink, listenLink, type LinkSession } from "../../transfer/link/index.js";
import { Level } from "../level.js";
import { tokenSchema } from "../schemas.js";
import type { NodeContext } from "./node-context.js";

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
  drained: boolean;
  failure?: FailureData;
}

const failureSchema = z.looseObject({ code: z.string(), message: z.string() });
const stateSchema = z.strictObject({
  hold: z.enum(HOLD_STATES).optional(),
  armed: z.boolean(),
  digest: z.string().max(128).optional(),
  moverPort: z.int().min(1).max(65_535).optional(),
  wantsImages: z.boolean(),
  resumedAt: z.number().optional(),
  drained: z.boolean(),
  failure: failureSchema.optional(),
});
const tokenMessage = z.strictObject({ token: tokenSchema });
const abortMessage = z.strictObject({ failure: failureSchema });

const BACKOFF_MS = [50, 100, 200, 400, 800, 1500] as const;

/** The source's end: dials again and again until stopped. */
export class ControlDialer {
  /** `destination` is the last word of the destination; `lost` why there is no connection right now. */
  readonly level = new Level<{ connected: boolean; destination?: DestinationState; lost?: FailureData }>({
    connected: false,
  });
  private session: LinkSession | undefined;
  private token: Token | undefined;
  private started = false;
  private stopped = false;
  private readonly context: NodeContext;
  private readonly ref: OperationRef;
  private readonly peer: string;
  private readonly endpoint: { host: string; port: number };

  constructor(context: NodeContext, ref: OperationRef, peer: string, endpoint: { host: string; port: number }) {
    this.context = context;
    this.ref = ref;
    this.peer = peer;
    this.endpoint = endpoint;
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
      if (this.stopped) session.destroy();
      else if (this.token !== undefined) session.send("token", { token: this.token }).catch(() => undefined);
    });
  }

  /** Commit: send the token now and on every reconnection. */
  release(token: Token): void {
    if (this.token !== undefined) return;
    this.token = token;
    this.session?.send("token", { token }).catch(() => undefined);
  }
  async abort(failure: FailureData): Promise<void> {
    await this.session?.send("abort", { failure }).catch(() => undefined);
  }
  async stop(): Promise<void> {
    this.stopped = true;
    await this.session?.close().catch(() => undefined);
  }
}

/** What a take-over offers to the hub. */
export interface ControlTarget {
  state(): DestinationState;
  onToken(token: unknown): void;
  onAbort(failure: FailureData): void;
  onConnected(connected: boolean): void;
}

/** The destination's end: one listener for all operations of this node. */
export class ControlHub {
  private readonly sessions = new Map<string, LinkSession>();
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
    });
  }

  private adopt(session: LinkSession): void {
    const { operation } = session.hello;
    this.sessions.get(operation)?.destroy();
    this.sessions.set(operation, session);
    session.onFrame((frame) => {
      const target = this.targets.get(operation);
      if (frame.type === "token") {
        const parsed = tokenMessage.safeParse(frame.meta);
        if (parsed.success) target?.onToken(parsed.data.token);
      } else if (frame.type === "abort") {
        const parsed = abortMessage.safeParse(frame.meta);
        if (parsed.success) target?.onAbort(parsed.data.failure as unknown as FailureData);
      }
    });
    session.onClose(() => {
      if (this.sessions.get(operation) === session) {
        this.sessions.delete(operation);
        this.targets.get(operation)?.onConnected(false);
      }
    });
    this.targets.get(operation)?.onConnected(true);
    this.publish(operation);
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
      drained: hold?.state === "OWNER",
      ...(hold === undefined ? {} : { hold: hold.state }),
      ...(hold?.digest === undefined ? {} : { digest: hold.digest }),
    };
  }

  register(operation: string, target: ControlTarget): void {
    this.targets.set(operation, target);
    if (this.sessions.has(operation)) target.onConnected(true);
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
