/**
 * The listening end. A connection becomes a session only after TLS with a certificate of our CA that names a node, an
 * offer with a version that we speak, and a yes from the owner. Everything else is told why (where TLS allows it),
 * reported, and closed; the listener lives on.
 */
import { createServer, type Socket } from "node:net";
import { createServer as createTlsServer, type TLSSocket } from "node:tls";
import { FerryError, ferryError, toFailure, type FailureData } from "../../model/failure.js";
import { Channel } from "./channel.js";
import { credentialsOf } from "./credentials.js";
import { KIND, type Kind } from "./frame.js";
import { readOffer } from "./hello.js";
import { nodeNameOf } from "./names.js";
import { Session } from "./session.js";
import { endWhenRevoked } from "./revoked.js";
import { socketFailure, tlsOf } from "./tls.js";
import { ALPN, DEFAULT_HANDSHAKE_MS, DEFAULT_MAX_PENDING, type LinkListener, type ListenOptions } from "./types.js";

/** A connection in its handshake. */
interface Pending {
  raw: Socket;
  from: string;
  address: string;
  timer: NodeJS.Timeout;
  /** Why it was dropped by us, if it was. */
  dropped?: FailureData;
}

const whoIs = (socket: { remoteAddress?: string | undefined; remotePort?: number | undefined }): string =>
  `${socket.remoteAddress ?? "?"}:${socket.remotePort ?? 0}`;

/** Throws E_PEER_CERT when this node's files are unusable, E_LINK_LOST when the address can't be listened on. */
export async function listenLink(options: ListenOptions): Promise<LinkListener> {
  const { identity, accept, onSession, onRefused } = options;
  const handshakeMs = options.handshakeTimeoutMs ?? DEFAULT_HANDSHAKE_MS;
  const maxPending = options.maxPending ?? DEFAULT_MAX_PENDING;
  const pending = new Map<string, Pending>();

  const refuse = (failure: FailureData, from: string): void => {
    onRefused?.({ ...failure, node: failure.node ?? identity.node }, from);
  };
  /** Takes the connection out of the handshake; undefined when it was not in it any more. */
  const settle = (from: string): Pending | undefined => {
    const entry = pending.get(from);
    if (entry !== undefined) {
      clearTimeout(entry.timer);
      pending.delete(from);
    }
    return entry;
  };
  const drop = (entry: Pending, failure: FailureData): void => {
    settle(entry.from);
    refuse(failure, entry.from);
    entry.raw.destroy();
  };
  /** Under a flood the oldest connection of the busiest address goes: a handshake takes milliseconds, a flood sits. */
  const makeRoom = (): void => {
    const counts = new Map<string, number>();
    for (const { address } of pending.values()) counts.set(address, (counts.get(address) ?? 0) + 1);
    const most = Math.max(...counts.values());
    for (const entry of pending.values()) {
      if (counts.get(entry.address) !== most) continue;
      const message = `link from ${entry.from}: dropped, ${maxPending} connections are in their handshake already`;
      drop(entry, { code: "E_LINK_LOST", message });
      return;
    }
  };

  const credentials = credentialsOf(identity);
  let loaded = credentials.current();
  // not rejected by TLS itself: a peer with a wrong certificate gets our refusal in words before it is closed
  const tlsServer = createTlsServer({ ...tlsOf(loaded), rejectUnauthorized: false, handshakeTimeout: handshakeMs * 2 });
  tlsServer.on("tlsClientError", (error, socket: TLSSocket) => {
    const from = whoIs(socket);
    const entry = settle(from);
    if (entry !== undefined) refuse(socketFailure(error, `link from ${from}`), from);
    socket.destroy();
  });
  tlsServer.on("secureConnection", (socket) => {
    const from = whoIs(socket);
    if (!pending.has(from)) {
      socket.destroy();
      return;
    }
    void greet(socket, from);
  });

  /** The files of this node's certificate may have been replaced. */
  const renew = (): void => {
    const now = credentials.current();
    if (now === loaded) return;
    loaded = now;
    tlsServer.setSecureContext(tlsOf(now));
  };

  /** The handshake after TLS. Never rejects. */
  const greet = async (socket: TLSSocket, from: string): Promise<void> => {
    const link = `link from ${from}`;
    const channel = new Channel(socket, "listener", link, options);
    let tell: Kind = KIND.refuse;
    try {
      if (socket.alpnProtocol !== ALPN) {
        throw ferryError("E_LINK_VERSION", `${link}: the dialer does not speak ${ALPN}`);
      }
      const certificate = socket.getPeerX509Certificate();
      if (certificate === undefined) throw ferryError("E_PEER_CERT", `${link}: the dialer showed no certificate`);
      if (!socket.authorized) throw ferryError("E_PEER_CERT", certificateProblem(socket, link));
      const peer = nodeNameOf(certificate);
      if (peer === undefined) throw ferryError("E_PEER_ID", `${link}: the dialer's certificate names no node`);
      const revoked = loaded.revocation(certificate);
      if (revoked !== undefined) throw new FerryError({ ...revoked, message: `${link}: ${revoked.message}` });
      const first = await channel.next();
      if (first.end !== undefined) {
        if (settle(from) !== undefined && first.end.failure !== undefined) refuse(first.end.failure, from);
        return;
      }
      if (first.frame.kind !== KIND.hello) throw ferryError("E_FRAME", `${link}: the first frame is not a hello`);
      const { version, hello } = readOffer(first.frame.meta);
      const refusal = accept(hello, peer);
      if (refusal !== undefined) {
        settle(from);
        refuse(refusal, from);
        channel.abort(refusal, KIND.refuse);
        return;
      }
      if (settle(from) === undefined) return;
      channel.send(KIND.welcome, "", { version }).catch(() => undefined);
      tell = KIND.abort;
      channel.establish();
      const session = new Session(channel, version, peer, hello, options.lendPayloads === true);
      endWhenRevoked(credentials, certificate, channel, session);
      onSession(session);
    } catch (error) {
      const failure = toFailure(error);
      if (settle(from) !== undefined) refuse(failure, from);
      channel.abort(failure, tell);
    }
  };

  const server = createServer({ noDelay: true }, (raw) => {
    const from = whoIs(raw);
    raw.on("error", () => undefined);
    if (pending.size >= maxPending) makeRoom();
    const entry: Pending = {
      raw,
      from,
      address: raw.remoteAddress ?? "?",
      timer: setTimeout(() => {
        drop(entry, { code: "E_LINK_LOST", message: `link from ${from}: no complete handshake in ${handshakeMs} ms` });
      }, handshakeMs),
    };
    pending.set(from, entry);
    raw.once("close", () => {
      if (settle(from) !== undefined) {
        refuse({ code: "E_STREAM_SHORT", message: `link from ${from}: hung up in the handshake` }, from);
      }
    });
    renew();
    tlsServer.emit("connection", raw);
  });

  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const message = `can't listen for links on ${options.host}:${options.port}: ${error.message}`;
      reject(ferryError("E_LINK_LOST", message, { node: identity.node }));
    });
    server.listen({ host: options.host, port: options.port, backlog: 512 }, resolve);
  });
  const address = server.address();
  return {
    port: typeof address === "object" && address !== null ? address.port : options.port,
    close() {
      server.close();
      for (const entry of pending.values()) {
        drop(entry, { code: "E_LINK_LOST", message: `link from ${entry.from}: the listener was closed` });
      }
      return Promise.resolve();
    },
  };
}

function certificateProblem(socket: TLSSocket, link: string): string {
  const why: unknown = socket.authorizationError;
  const word = why instanceof Error ? why.message : typeof why === "string" ? why : "unknown reason";
  return `${link}: the dialer's certificate was not accepted (${word})`;
}
