/**
 * JSON lines over a unix socket: one JSON value per line, both ways. The socket file is 0600: who may open it may speak.
 * Nothing is known here of what the values mean; receivers parse them strictly.
 */
import { chmodSync, unlinkSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { ferryError, toFailure } from "../model/failure.js";

/** Longest line that is taken, in bytes. */
export const MAX_LINE_BYTES = 8 * 1024 * 1024;
/** Room in sockaddr_un, without the final zero. */
const MAX_SOCKET_PATH = 107;
/** A reader that does not read is cut off when this much waits for it. */
const MAX_WAITING_BYTES = 16 * 1024 * 1024;

export interface JsonPeer {
  /** Queues one value. Dropped silently when the peer is gone: `onClose` has said so. */
  send(value: unknown): void;
  onMessage(listener: (value: unknown) => void): void;
  /** Called once; with the reason when the stream was not well formed or broke. */
  onClose(listener: (reason: Error | undefined) => void): void;
  /** What was queued is still sent. */
  end(): void;
  destroy(): void;
  readonly closed: boolean;
}

function checkPath(path: string): void {
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH) {
    throw ferryError("E_INTERNAL", `socket path is longer than ${MAX_SOCKET_PATH} bytes: ${path}`, {
      remedy: "use a shorter state or run directory",
    });
  }
}

function peerOf(socket: Socket): JsonPeer {
  const messageListeners: ((value: unknown) => void)[] = [];
  const closeListeners: ((reason: Error | undefined) => void)[] = [];
  let early: unknown[] = [];
  let parts: Buffer[] = [];
  let waiting = 0;
  let closed = false;
  let reason: Error | undefined;

  const line = (bytes: Buffer): void => {
    if (closed || bytes.length === 0) return;
    let value: unknown;
    try {
      value = JSON.parse(bytes.toString("utf8"));
    } catch (error) {
      socket.destroy(ferryError("E_FRAME", `a line that is not JSON: ${toFailure(error).message}`));
      return;
    }
    if (messageListeners.length === 0) early.push(value);
    for (const listener of messageListeners) listener(value);
  };
  socket.on("data", (chunk: Buffer) => {
    let rest = chunk;
    for (let at = rest.indexOf(10); at >= 0; at = rest.indexOf(10)) {
      parts.push(rest.subarray(0, at));
      const whole = parts.length === 1 ? (parts[0] ?? Buffer.alloc(0)) : Buffer.concat(parts);
      parts = [];
      waiting = 0;
      rest = rest.subarray(at + 1);
      line(whole);
    }
    if (rest.length > 0) {
      parts.push(rest);
      waiting += rest.length;
      if (waiting > MAX_LINE_BYTES) socket.destroy(ferryError("E_FRAME", `a line over ${MAX_LINE_BYTES} bytes`));
    }
  });
  socket.on("error", (error) => {
    reason ??= error;
  });
  socket.on("close", () => {
    closed = true;
    for (const listener of closeListeners) listener(reason);
  });
  return {
    send(value) {
      if (closed || socket.destroyed || socket.writableEnded) return;
      socket.write(`${JSON.stringify(value)}\n`);
      if (socket.writableLength > MAX_WAITING_BYTES) socket.destroy(ferryError("E_FRAME", "the peer does not read"));
    },
    onMessage(listener) {
      messageListeners.push(listener);
      const values = early;
      early = [];
      for (const value of values) listener(value);
    },
    onClose(listener) {
      if (closed) listener(reason);
      else closeListeners.push(listener);
    },
    end: () => {
      socket.end();
    },
    destroy: () => {
      socket.destroy();
    },
    get closed() {
      return closed;
    },
  };
}

export interface JsonServer {
  close(): Promise<void>;
}

/** Listens at `path`; a socket file that nobody answers at is replaced. Throws E_STATE when somebody does. */
export async function listenJson(path: string, onPeer: (peer: JsonPeer) => void): Promise<JsonServer> {
  checkPath(path);
  const answered = await connectJson(path, 1000).then(
    (peer) => {
      peer.destroy();
      return true;
    },
    () => false,
  );
  if (answered) throw ferryError("E_STATE", `another process answers at ${path}`);
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    onPeer(peerOf(socket));
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, () => {
      server.off("error", reject);
      resolve();
    });
  });
  chmodSync(path, 0o600);
  return {
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

/** Connects to a socket that listens. Rejects with E_AGENT_DOWN when nobody does within `timeoutMs`. */
export function connectJson(path: string, timeoutMs: number): Promise<JsonPeer> {
  checkPath(path);
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    const fail = (why: string): void => {
      clearTimeout(timer);
      socket.destroy();
      reject(ferryError("E_AGENT_DOWN", `nobody answers at ${path}: ${why}`));
    };
    const timer = setTimeout(() => fail(`no connection within ${timeoutMs} ms`), timeoutMs);
    const onError = (error: Error): void => fail(error.message);
    socket.once("error", onError);
    socket.once("connect", () => {
      clearTimeout(timer);
      const peer = peerOf(socket);
      socket.off("error", onError);
      resolve(peer);
    });
  });
}
