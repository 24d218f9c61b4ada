/** The sink of a checkpoint: `node main.js CONFIG`, started as a destination's mover is. See sink.ts. */
import { serveControl, type Control } from "../../transfer/mover/control.js";
import { listenFor } from "../../transfer/mover/listen.js";
import { startProcess } from "../../transfer/mover/process.js";
import { sinkRequest } from "./messages.js";
import { Sink } from "./sink.js";

/** The answer to "exit" gets this long to leave, in milliseconds. */
const EXIT_AFTER_MS = 20;

const { config, log } = startProcess("destination");
process.title = "ferry-sink";
/** Told of changes once somebody can hear of them. */
const told: { control?: Control } = {};
const sink = new Sink(config, log, (urgent) => told.control?.changed(urgent));
await sink.mover.resume();

const listener = await listenFor(sink.mover, config, log);
told.control = await serveControl({
  path: config.controlSocket,
  schema: sinkRequest,
  status: () => sink.status(),
  handle: async (request) => {
    if (request.verb === "store") await sink.store(request);
    if (request.verb === "exit") await exit();
  },
});
log("info", "ready", { port: listener.port });

async function exit(): Promise<void> {
  await listener.close();
  await sink.mover.close();
  // The answer leaves first.
  setTimeout(() => process.exit(0), EXIT_AFTER_MS);
}
