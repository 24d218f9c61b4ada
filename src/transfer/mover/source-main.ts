/** The source's mover: `node source-main.js CONFIG`. See model/mover.ts for what it does and when. */
import { setTimeout as sleep } from "node:timers/promises";
import { ferryError, toFailure, type FailureData } from "../../model/failure.js";
import type { SourceMoverRequest, SourceMoverStatus } from "../../model/mover.js";
import { sendImages } from "../images/send.js";
import { credentialsOf, type Frame, type LinkSession } from "../link/index.js";
import { tablePages } from "../pages/api.js";
import { openTree } from "../pages/source.js";
import { chooseTracker } from "../trackers/choose.js";
import { VolumeSender } from "../volume/sender.js";
import { Cargo, mendImages, type DigestedTable } from "./cargo.js";
import { serveControl } from "./control.js";
import { DestinationWord } from "./destination-word.js";
import { Limiter } from "./limiter.js";
import { Links, type Sessions } from "./links.js";
import { sourceRequest, isFrameType } from "./messages.js";
import { PageSender } from "./page-sender.js";
import { Precopy } from "./precopy.js";
import { parseMeta, startProcess } from "./process.js";

/** A peer that does not say goodbye is not waited for; the last answer gets this long to leave. In milliseconds. */
const EXIT_PATIENCE_MS = 500;
const EXIT_AFTER_MS = 20;

const { config, log } = startProcess("source");
const limiter = new Limiter(config.bandwidthBytesPerSec);
let failure: FailureData | undefined;
let images: SourceMoverStatus["images"] = { sent: false, bytes: 0 };
/**
 * What is being moved, once criu has written it. `staged`: what pre-copy has sent can be relied on, where the destination
 * still has it. `pages`: by the table of this digest, the one that the destination has.
 */
let cargo: { load: Cargo; staged: boolean; digest?: string; pages?: PageSender } | undefined;
/** Images that went ahead, over the session that is named: the destination looks at them while the source reads them, too. */
let ahead: { control: LinkSession; images: { digest: string; bytes: number } } | undefined;
let sending: Promise<void> | undefined;
const word = new DestinationWord({
  from: { side: "destination", node: config.peer },
  onPagesRefused: (refused) => {
    cargo?.pages?.stop();
    precopy.refused(refused);
    failure = { ...refused, side: "destination", node: config.peer };
    log("error", "the destination refuses the pages", { failure });
    changed(true);
  },
});

const identity = { node: config.node, ...config.tls };
const links = new Links({
  identity,
  peer: config.peer,
  hello: { operation: config.operation, workload: config.workload, to: config.to ?? 1 },
  onUp,
  onDown: (sessions, why) => {
    log("warn", "link lost", { failure: why });
    volume.detach(sessions.bulk);
    precopy.detach(sessions.bulk);
    word.wake();
    changed(true);
  },
  log: (message, fields) => log("warn", message, fields),
});
credentialsOf(identity).watch(log);
const volume = new VolumeSender({
  dir: config.volumeDir,
  take: (bytes) => limiter.take(bytes),
  session: async () => (await links.ready()).bulk,
  onChange: (urgent) => changed(urgent),
  log: (message, fields) => log("info", message, fields),
});

const precopy = new Precopy({
  limiter,
  open: async () => {
    for (;;) {
      const sessions = await links.ready();
      try {
        await word.wait(sessions.control, () => word.state !== undefined);
        return { sessions, stage: word.state?.stage ?? null };
      } catch (error) {
        if (!sessions.control.closed) throw error;
        await links.lost(sessions);
      }
    }
  },
  choose: chooseTracker,
  onChange: (urgent) => changed(urgent),
  log: (message, fields) => log("info", message, fields),
});

function status(): SourceMoverStatus {
  const before = precopy.status();
  const { pages } = cargo ?? {};
  return {
    side: "source",
    pid: process.pid,
    connected: links.sessions !== undefined,
    volume: { bytesSent: volume.bytesSent, passes: volume.passes, finalDone: volume.finalDone, last: volume.last },
    images,
    pages: {
      total: cargo?.load.set.table.slots ?? 0,
      sent: pages?.sent ?? 0,
      bytesSent: pages?.bytesSent ?? 0,
      allSent: pages?.allSent ?? false,
      allAcked: pages?.allAcked ?? false,
    },
    ...(before === undefined ? {} : { precopy: before }),
    ...(failure === undefined ? {} : { failure }),
  };
}

function fail(what: FailureData): void {
  failure = { side: "source", node: config.node, ...what };
  log("error", failure.message, { failure });
  void links.sessions?.control.send("refused", { what: "pages", failure }).catch(() => undefined);
  void precopy.untrack();
  changed(true);
}

function onUp(sessions: Sessions): void {
  word.begin();
  sessions.control.onFrame((frame) => word.hear(frame));
  sessions.bulk.onFrame((frame) => onBulk(frame));
  sessions.fault.onFrame((frame) => onFault(sessions.fault, frame));
  volume.attach(sessions.bulk);
  changed(true);
  // After a loss: offer again what the destination may have lost, then push what it lacks.
  if (cargo !== undefined && images.sent && failure === undefined) {
    deliver(cargo, sessions).catch((error: unknown) => {
      if (!sessions.control.closed) fail(toFailure(error));
    });
  }
}

function onBulk({ type, meta, payload }: Frame): Promise<void> | undefined {
  if (!isFrameType(type)) throw ferryError("E_FRAME", `bulk frame ${type} was not expected`);
  if (type === "credit") cargo?.pages?.credit(parseMeta(type, meta).frames);
  else if (type === "missing") cargo?.pages?.missing(parseMeta(type, meta));
  else if (type === "staged") precopy.staged(parseMeta(type, meta).frames);
  else if (type === "volume-data" || type === "volume-exit")
    return volume.received(type, parseMeta(type, meta), payload);
  else throw ferryError("E_FRAME", `bulk frame ${type} was not expected`);
  return undefined;
}

function onFault(session: LinkSession, { type, meta }: Frame): Promise<void> | undefined {
  if (type !== "fault") throw ferryError("E_FRAME", `fault frame ${type} was not expected`);
  return cargo?.pages?.fault(session, parseMeta("fault", meta));
}

/** Makes sure that the destination has these images and a table of them, then pushes pages in the background. */
async function deliver(what: NonNullable<typeof cargo>, sessions: Sessions): Promise<void> {
  const { control, bulk } = sessions;
  await word.wait(control, () => word.state !== undefined);
  if (word.state === undefined || word.state.digest === null) {
    const stage = word.state?.stage ?? null;
    const sent = ahead?.control === control ? ahead.images : await sendImages(config.imagesDir, control);
    ahead = undefined;
    images = { ...images, digest: sent.digest, bytes: sent.bytes };
    word.state = undefined;
    const staged = what.staged ? precopy.stagedAt(bulk, stage) : undefined;
    const offered = what.load.offer(staged?.map);
    if (staged !== undefined) await precopy.sendStale(control, staged);
    await control.send("ready", {
      digest: sent.digest,
      areas: offered.digest,
      stage: staged === undefined ? null : { id: staged.id, regions: staged.regions },
    });
    await word.wait(control, () => word.state !== undefined && word.state.digest !== null);
  }
  const state = word.state;
  const taken = what.load.find(state?.areas ?? null);
  if (state === undefined || taken === undefined || (images.digest ?? state.digest) !== state.digest) {
    throw ferryError("E_IMAGE_DIGEST", "the destination holds other images of this operation", {
      side: "destination",
      node: config.peer,
      phase: "transfer",
    });
  }
  if (state.digest !== null) images = { ...images, sent: true, digest: state.digest };
  const pages = pagesOf(what, taken);
  changed(true);
  void pages.push(sessions);
}

/** Who sends the pages of this table: the same one as long as it is the same table. */
function pagesOf(what: NonNullable<typeof cargo>, { table, digest }: DigestedTable): PageSender {
  if (what.digest !== digest || what.pages === undefined) {
    what.digest = digest;
    what.pages = new PageSender({
      reader: openTree(table, what.load.pids),
      slots: table.slots,
      pages: tablePages(table),
      limiter,
      onChange: changed,
      onFailure: fail,
    });
  }
  return what.pages;
}

async function startImages(pids: Record<string, number>): Promise<void> {
  if (cargo === undefined) {
    const { timers, leftOut } = mendImages(config.imagesDir, pids);
    const { sessions } = links;
    if (sessions !== undefined && word.state?.digest === null) {
      ahead = await sendImages(config.imagesDir, sessions.control).then(
        (sent) => ({ control: sessions.control, images: sent }),
        // lost: they are sent again over the next session
        () => undefined,
      );
    }
    const load = new Cargo(config.imagesDir, config.storeDir, pids);
    const { set } = load;
    if (timers > 0) log("info", "images: periodic timers that had fired are armed again", { timers });
    const staged = await precopy.last(pids);
    cargo = { load, staged };
    log("info", "images read", {
      tasks: set.tasks.length,
      areas: set.table.areas.length,
      leftOut,
      lazyPages: set.table.slots,
      presentPages: set.presentPages,
      ...(staged ? { unsentPages: precopy.status()?.unsentPages } : {}),
    });
  }
  for (;;) {
    const sessions = await links.ready();
    try {
      await deliver(cargo, sessions);
      // Beside the restore: it must be known before anything is released, which waits for this word.
      await cargo.load.counted;
      break;
    } catch (error) {
      if (!sessions.control.closed && !sessions.bulk.closed) throw error;
      if (word.refused !== undefined) throw error;
      log("warn", "link lost while images were sent, sending them again");
      await links.lost(sessions);
    }
  }
}

async function handle(request: SourceMoverRequest): Promise<void> {
  switch (request.verb) {
    case "status":
      return;
    case "connect":
      await links.connect(request.host, request.port);
      return;
    case "presync":
      await volume.presync(request.pids);
      return;
    case "finalSync":
      await volume.finalSync(request.pids);
      return;
    case "sendImages": {
      sending ??= startImages(request.pids);
      try {
        await sending;
      } catch (error) {
        sending = undefined;
        throw error;
      }
      return;
    }
    case "limit":
      limiter.set(request.bandwidthBytesPerSec ?? undefined);
      return;
    case "scan":
      whileRunning(request.verb);
      await precopy.scan(request.pids, request.tracker);
      return;
    case "sendUnsent":
      whileRunning(request.verb);
      await precopy.sendUnsent();
      return;
    case "cut":
      volume.cut();
      precopy.cut();
      return;
    case "untrack":
      await precopy.untrack();
      return;
    case "exit":
      await exit();
  }
}

function whileRunning(verb: string): void {
  if (sending !== undefined || cargo !== undefined) {
    throw ferryError("E_STATE", `${verb} was asked for after the images were to be sent`);
  }
}

async function exit(): Promise<void> {
  volume.close();
  await precopy.untrack();
  await Promise.race([links.close(), sleep(EXIT_PATIENCE_MS)]);
  // The answer leaves first.
  setTimeout(() => process.exit(0), EXIT_AFTER_MS);
}

const control = await serveControl({ path: config.controlSocket, schema: sourceRequest, status, handle });
function changed(urgent: boolean): void {
  control.changed(urgent);
}
log("info", "ready");
