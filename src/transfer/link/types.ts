/** What users of the link see: identities, hellos, frames, sessions and the options of both ends. */
import type { FailureData } from "../../model/failure.js";

/** Who this side is: its node name and PEM files (see host/pki.ts). */
export interface LinkIdentity {
  node: string;
  caFile: string;
  certFile: string;
  keyFile: string;
  /** Revocation lists of the CAs (PEM). Without it, no certificate counts as revoked. */
  crlFile?: string;
}

/** Why the dialer calls: shown to the listener before anything else is said. */
export interface Hello {
  purpose: "control" | "bulk" | "fault";
  operation: string;
  workload: string;
  /** The epoch that is handed over to. */
  to: number;
}

export interface Frame {
  type: string;
  /** A JSON object; the receiver parses it. */
  meta: unknown;
  /** Owned by the receiver, unless the session was opened with `lendPayloads`. */
  payload: Buffer;
  /**
   * Keeps a lent payload beyond the end of the listener: returns what gives it back, to be called once. Frames that are
   * worked on while the next ones come are bounded by whoever keeps them.
   */
  keep?: () => () => void;
}

export interface LinkSession {
  /** Of the link: what both ends speak. */
  readonly version: number;
  /** Node name in the peer's certificate. */
  readonly peer: string;
  readonly hello: Hello;
  /**
   * Sends one frame. Resolves when the whole frame has been handed to the kernel: awaiting it is back-pressure, and the
   * payload may be changed afterwards (not before). Rejects E_LINK_LOST when the link has ended, E_FRAME when the frame
   * is over the limits (the session goes on).
   */
  send(type: string, meta: object, payload?: Buffer | readonly Buffer[]): Promise<void>;
  /**
   * Takes the frames, in order; the next is given only after the promise of the last. Frames that come earlier or
   * meanwhile wait, up to `windowBytes`, then the socket is not read. A listener that throws ends the session with that
   * failure, and the peer is told. Register in the turn in which the session was received: frames of a session that has
   * ended are dropped when nobody has asked for them.
   */
  onFrame(listener: (frame: Frame) => void | Promise<void>): void;
  /**
   * Called once, after the last frame that arrived whole was delivered. undefined: the peer or this side said bye.
   * `closed` is true, and `send` rejects, as soon as the end is known.
   */
  onClose(listener: (failure: FailureData | undefined) => void): void;
  readonly closed: boolean;
  /** Bytes of frames handed to the kernel. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** Bytes of frames that were given to `send` and wait in this process. */
  readonly bufferedBytes: number;
  /** Says bye after everything that was sent before, then ends. Resolves when the connection is gone; never rejects. */
  close(): Promise<void>;
  /** Cuts the link at once; frames that wait are dropped. onClose says E_LINK_LOST. */
  destroy(): void;
}

export interface SessionTuning {
  /** A ping is sent when nothing was sent or heard for this long (default 2000). */
  pingMs?: number;
  /** The peer is lost after this long without a byte (default 6000). */
  lostMs?: number;
  /** Received bytes that may wait for the listener before reading pauses (default 8 MiB). */
  windowBytes?: number;
  /**
   * Payloads are lent: their memory is used again once the frame listener has returned (its promise resolved), so what
   * is to be kept must be copied. For page traffic, where fresh memory for every frame costs a fifth of the speed.
   */
  lendPayloads?: boolean;
}

export interface ListenOptions extends SessionTuning {
  identity: LinkIdentity;
  host: string;
  port: number;
  /** Says why this peer may not have this session, or undefined to welcome it. */
  accept: (hello: Hello, peer: string) => FailureData | undefined;
  onSession: (session: LinkSession) => void;
  /** A connection that got no session: for logs. */
  onRefused?: (failure: FailureData, from: string) => void;
  /** From the TCP connection to the welcome (default 5000). */
  handshakeTimeoutMs?: number;
  /** Connections in the handshake; beyond it the oldest one of the busiest address is dropped (default 64). */
  maxPending?: number;
}

export interface LinkListener {
  readonly port: number;
  /** Stops listening and drops connections in the handshake. Sessions are their owners' and stay. */
  close(): Promise<void>;
}

export interface DialOptions extends SessionTuning {
  identity: LinkIdentity;
  host: string;
  port: number;
  /** The node that must answer. */
  peer: string;
  hello: Hello;
  /** For connection, TLS and welcome together (default 5000). */
  timeoutMs?: number;
  signal?: AbortSignal;
}

/** Limits of one frame. Handshake frames, which come from anybody with a certificate, have a smaller one for meta. */
export const MAX_PAYLOAD_BYTES = 4 * 1024 * 1024;
export const MAX_META_BYTES = 1024 * 1024;
export const MAX_HELLO_META_BYTES = 16 * 1024;
/** Versions of the link that this code speaks, newest first. Since 2 a source says its spec on a control link (operations/control.ts). */
export const LINK_VERSIONS: readonly number[] = [2, 1];
export const ALPN = "ferry/1";
export const DEFAULT_PING_MS = 2000;
export const DEFAULT_LOST_MS = 6000;
export const DEFAULT_WINDOW_BYTES = 8 * 1024 * 1024;
export const DEFAULT_HANDSHAKE_MS = 5000;
export const DEFAULT_MAX_PENDING = 64;
