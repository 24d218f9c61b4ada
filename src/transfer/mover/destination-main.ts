/** The destination's mover: `node destination-main.js CONFIG`. See model/mover.ts for what it does and when. */
import { setTimeout as sleep } from "node:timers/promises";
import { toFailure } from "../../model/failure.js";
import { listenLink, type LinkListener } from "../link/index.js";
import { serveControl, type Control } from "./control.js";
import { DestinationMover } from "./destination.js";
import { destinationRequest } from "./messages.js";
import { startProcess } from "./process.js";

/** A predecessor's port may take this long to come free, in milliseconds. */
const PORT_WAIT_MS = 10_000;
/** The answer to "exit" gets this long to leave, in milliseconds. */
const EXIT_AFTER_MS = 20;

const { config, log } = startProcess("destination");
/** Told of changes once somebody can hear of them. */
const told: { control?: Control } = {};
const mover = new DestinationMover(config, log, (urgent) => told.control?.changed(urgent));
await mover.resume();

async function listen(): Promise<LinkListener> {
  const until = performance.now() + PORT_WAIT_MS;
  for (;;) {
    try {
      return await listenLink({
        identity: { node: config.node, ...config.tls },
        host: config.listenHost ?? "127.0.0.1",
        port: mover.port,
        lendPayloads: true,
        accept: (hello, peer) => mover.accept(hello, peer),
        onSession: (session) => mover.attach(session),
        onRefused: (failure, from) => log("warn", "connection refused", { failure, from }),
      });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE" || performance.now() > until) throw error;
      log("warn", "port is still in use", { port: mover.port, problem: toFailure(error).message });
      await sleep(50);
    }
  }
}

const listener = await listen();
mover.listening(listener.port);
told.control = await serveControl({
  path: config.controlSocket,
  schema: destinationRequest,
  status: () => mover.status(),
  handle: async (request) => {
    await mover.handle(request);
    if (request.verb === "exit") await exit();
  },
});
log("info", "ready", { port: listener.port });

/** Answered when it is done: page daemon and guard are gone, unless tasks depend on them. */
async function exit(): Promise<void> {
  await listener.close();
  await mover.close();
  // The answer leaves first.
  setTimeout(() => process.exit(0), EXIT_AFTER_MS);
}
