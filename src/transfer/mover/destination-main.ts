/** The destination's mover: `node destination-main.js CONFIG`. See model/mover.ts for what it does and when. */
import { DestinationMover } from "./destination.js";
import { serveControl, type Control } from "./control.js";
import { listenFor } from "./listen.js";
import { destinationRequest } from "./messages.js";
import { startProcess } from "./process.js";

/** The answer to "exit" gets this long to leave, in milliseconds. */
const EXIT_AFTER_MS = 20;

const { config, log } = startProcess("destination");
/** Told of changes once somebody can hear of them. */
const told: { control?: Control } = {};
const mover = new DestinationMover(config, log, (urgent) => told.control?.changed(urgent));
await mover.resume();

const listener = await listenFor(mover, config, log);
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
