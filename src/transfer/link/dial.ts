/** The dialing end, once and with bounded repetition. */
import { X509Certificate } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, type TLSSocket } from "node:tls";
import { ferryError, FerryError, toFailure, type FailureCode, type FailureData } from "../../model/failure.js";
import { Channel } from "./channel.js";
import { credentialsOf, type Loaded } from "./credentials.js";
import { KIND } from "./frame.js";
import { checkHello, makeOffer, readFailure, readWelcome } from "./hello.js";
import { Session } from "./session.js";
import { nodeNameOf } from "./names.js";
import { endWhenRevoked } from "./revoked.js";
import { socketFailure, tlsOf } from "./tls.js";
import { ALPN, DEFAULT_HANDSHAKE_MS, type DialOptions, type LinkSession } from "./types.js";

/**
 * Opens a session with `peer`. Throws E_PEER_ID when another node answers, E_PEER_CERT, E_LINK_VERSION, E_FRAME,
 * E_LINK_LOST (unreachable, silent), E_CANCELLED, or the listener's own refusal as its cause.
 */
export async function dialLink(options: DialOptions): Promise<LinkSession> {
  checkHello(options.hello);
  const { signal } = options;
  const link = `link to ${options.peer} (${options.host}:${options.port})`;
  if (signal?.aborted === true) throw cancelled(link);
  const credentials = credentialsOf(options.identity);
  const loaded = credentials.current();
  const timeoutMs = options.timeoutMs ?? DEFAULT_HANDSHAKE_MS;
  const socket = connect({
    ...tlsOf(loaded),
    host: options.host,
    port: options.port,
    rejectUnauthorized: true,
    checkServerIdentity: (_host, certificate) =>
      wrongPeer(new X509Certificate(certificate.raw), options.peer, link, loaded),
  });
  let cut: FailureData | undefined;
  const cutNow = (failure: FailureData): void => {
    cut ??= failure;
    socket.destroy();
  };
  const timer = setTimeout(() => {
    cutNow({ code: "E_LINK_LOST", message: `${link}: no complete handshake in ${timeoutMs} ms` });
  }, timeoutMs);
  const onAbort = (): void => cutNow(cancelled(link).data);
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    await secured(socket, link);
    if (socket.alpnProtocol !== ALPN) throw ferryError("E_LINK_VERSION", `${link}: it does not speak ${ALPN}`);
    const channel = new Channel(socket, "dialer", link, options);
    channel.send(KIND.hello, "", makeOffer(options.hello)).catch(() => undefined);
    const first = await channel.next();
    if (first.end !== undefined) {
      throw new FerryError(first.end.failure ?? { code: "E_LINK_LOST", message: `${link}: hung up in the handshake` });
    }
    if (first.frame.kind === KIND.refuse) {
      const cause = readFailure(first.frame.meta["failure"]);
      throw ferryError(cause?.code ?? "E_LINK_LOST", `${link}: refused`, cause === undefined ? {} : { cause });
    }
    if (first.frame.kind !== KIND.welcome) {
      throw ferryError("E_FRAME", `${link}: the first answer is neither a welcome nor a refusal`);
    }
    const version = readWelcome(first.frame.meta);
    if (cut !== undefined) throw new FerryError(cut);
    channel.establish();
    const session = new Session(channel, version, options.peer, options.hello, options.lendPayloads === true);
    endWhenRevoked(credentials, socket.getPeerX509Certificate(), channel, session);
    return session;
  } catch (error) {
    socket.destroy();
    throw new FerryError(cut ?? toFailure(error, "E_LINK_LOST"), { cause: error });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

const cancelled = (link: string): FerryError => ferryError("E_CANCELLED", `${link}: dialing was cancelled`);

function wrongPeer(certificate: X509Certificate, peer: string, link: string, loaded: Loaded): Error | undefined {
  const named = nodeNameOf(certificate);
  if (named !== peer) {
    return ferryError("E_PEER_ID", `${link}: the certificate there names ${named ?? "no node"}`, {
      remedy: "check the address that the destination gave for its link",
    });
  }
  const revoked = loaded.revocation(certificate);
  return revoked === undefined ? undefined : new FerryError({ ...revoked, message: `${link}: ${revoked.message}` });
}

/** Resolves after TLS with a certificate of our CA and the right name. */
function secured(socket: TLSSocket, link: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: Error): void => reject(new FerryError(socketFailure(error, link)));
    const onClose = (): void => {
      reject(ferryError("E_LINK_LOST", `${link}: hung up in the TLS handshake`));
    };
    socket.on("error", onError);
    socket.once("close", onClose);
    socket.once("secureConnect", () => {
      // the channel takes over; an error after this would otherwise reject what is settled, harmlessly
      socket.off("close", onClose);
      resolve();
    });
  });
}

export interface RedialLimits {
  /** At most this many dials (default: no limit). */
  attempts?: number;
  /** Give up this long after the call, in milliseconds (default 30000 when no attempts are given). */
  untilMs?: number;
  signal?: AbortSignal;
  /** Told of each failed dial that will be repeated. */
  onRetry?(failure: FailureData, attempt: number, waitMs: number): void;
}

const FIRST_WAIT_MS = 50;
const MAX_WAIT_MS = 2000;
/** Worth another try; everything else is an answer. */
const AGAIN: ReadonlySet<FailureCode> = new Set(["E_LINK_LOST", "E_STREAM_SHORT", "E_AGENT_DOWN"]);

/**
 * Dials until there is a session: waits 50 ms, doubling to 2 s, between dials. Only loss and unreachability are tried
 * again. Throws what the last dial threw, E_CANCELLED on `signal`.
 */
export async function redial(options: DialOptions, limits: RedialLimits = {}): Promise<LinkSession> {
  const signal = limits.signal ?? options.signal;
  const untilMs = limits.untilMs ?? (limits.attempts === undefined ? 30_000 : Number.POSITIVE_INFINITY);
  const deadline = performance.now() + untilMs;
  for (let attempt = 1; ; attempt += 1) {
    const leftMs = deadline - performance.now();
    const timeoutMs = Math.max(1, Math.min(options.timeoutMs ?? DEFAULT_HANDSHAKE_MS, leftMs));
    try {
      return await dialLink({ ...options, timeoutMs, ...(signal === undefined ? {} : { signal }) });
    } catch (error) {
      const failure = toFailure(error);
      const waitMs = Math.min(MAX_WAIT_MS, FIRST_WAIT_MS * 2 ** (attempt - 1)) * (0.8 + 0.4 * Math.random());
      const spent = attempt >= (limits.attempts ?? Number.POSITIVE_INFINITY) || performance.now() + waitMs >= deadline;
      if (!AGAIN.has(failure.code) || spent) throw error;
      limits.onRetry?.(failure, attempt, waitMs);
      await sleep(waitMs, undefined, signal === undefined ? {} : { signal }).catch(() => undefined);
    }
  }
}
