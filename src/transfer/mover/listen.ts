/** Where the destination's end of the movers' link listens: the port that an earlier process of the operation had. */
import { setTimeout as sleep } from "node:timers/promises";
import { toFailure } from "../../model/failure.js";
import type { MoverConfig } from "../../model/mover.js";
import { credentialsOf, listenLink, refusalLog, type LinkListener } from "../link/index.js";
import type { DestinationMover } from "./destination.js";
import type { Log } from "./process.js";

/** A predecessor's port may take this long to come free, in milliseconds. */
const PORT_WAIT_MS = 10_000;

/** Sessions go to the mover from here on, and it knows its port. */
export async function listenFor(mover: DestinationMover, config: MoverConfig, log: Log): Promise<LinkListener> {
  const identity = { node: config.node, ...config.tls };
  const onRefused = refusalLog(log);
  const until = performance.now() + PORT_WAIT_MS;
  for (;;) {
    try {
      const listener = await listenLink({
        identity,
        host: config.listenHost ?? "127.0.0.1",
        port: mover.port,
        lendPayloads: true,
        accept: (hello, peer) => mover.accept(hello, peer),
        onSession: (session) => mover.attach(session),
        onRefused,
      });
      credentialsOf(identity).watch(log);
      mover.listening(listener.port);
      return listener;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE" || performance.now() > until) throw error;
      log("warn", "port is still in use", { port: mover.port, problem: toFailure(error).message });
      await sleep(50);
    }
  }
}
