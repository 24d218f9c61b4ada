/**
 * The mover's side of the control protocol (model/mover.ts): one request, one answer, and the whole status to everybody
 * who is connected whenever it changed. The socket keeps listening when the agent dies; the next one connects.
 */
import type { z } from "zod";
import { listenJson, type JsonPeer } from "../../host/json-socket.js";
import { ferryError, toFailure } from "../../model/failure.js";
import { requestLine } from "./messages.js";

/** Counters are told this often at most, in milliseconds; anything else at once. */
const COUNTERS_EVERY_MS = 200;

export interface Control {
  /** Tell the status: at once when a level changed, soon when only counters did. */
  changed(urgent: boolean): void;
  close(): Promise<void>;
}

export async function serveControl<Request extends { verb: string }>(options: {
  path: string;
  schema: z.ZodType<Request>;
  status: () => object;
  handle: (request: Request) => Promise<void>;
}): Promise<Control> {
  const peers = new Set<JsonPeer>();
  let timer: NodeJS.Timeout | undefined;
  const push = (): void => {
    clearTimeout(timer);
    timer = undefined;
    if (peers.size === 0) return;
    const status = options.status();
    for (const peer of peers) peer.send({ status });
  };
  const answer = async (peer: JsonPeer, line: unknown): Promise<void> => {
    const envelope = requestLine.safeParse(line);
    if (!envelope.success) {
      peer.destroy();
      return;
    }
    const { id } = envelope.data;
    try {
      const request = options.schema.safeParse(envelope.data.request);
      if (!request.success) {
        throw ferryError("E_REQUEST", `the mover does not know this request: ${request.error.message}`);
      }
      await options.handle(request.data);
      peer.send({ id, ok: true, status: options.status() });
    } catch (error) {
      peer.send({ id, ok: false, failure: toFailure(error) });
    }
  };
  const server = await listenJson(options.path, (peer) => {
    peers.add(peer);
    peer.onClose(() => peers.delete(peer));
    peer.onMessage((line) => {
      void answer(peer, line);
    });
    peer.send({ status: options.status() });
  });
  return {
    changed(urgent) {
      if (urgent) push();
      else timer ??= setTimeout(push, COUNTERS_EVERY_MS);
    },
    close: () => server.close(),
  };
}
