/**
 * The feed: `node main.js CONFIG`. It stands where the source's mover does when a checkpoint is restored, and gives the
 * destination's mover what is in the store: images, then pages, those that somebody waits for first. Nothing of it is
 * remembered: one that takes the place of another finds all of it in the store again, and asks what is missing.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ferryError, toFailure, type FailureData } from "../../model/failure.js";
import type { SourceMoverRequest, SourceMoverStatus } from "../../model/mover.js";
import { openStore, readStoreConfig } from "../store-config.js";
import { readWorkingSet, type CheckpointReader, type Store, type TouchedRun } from "../../store/index.js";
import { readImageSet, type ImageSet } from "../../transfer/images/areas.js";
import { sendImages } from "../../transfer/images/send.js";
import { credentialsOf, type Frame, type LinkSession } from "../../transfer/link/index.js";
import { serveControl } from "../../transfer/mover/control.js";
import { DestinationWord } from "../../transfer/mover/destination-word.js";
import { Limiter } from "../../transfer/mover/limiter.js";
import { Links, type Sessions } from "../../transfer/mover/links.js";
import { isFrameType, sourceRequest } from "../../transfer/mover/messages.js";
import { PageSender } from "../../transfer/mover/page-sender.js";
import { parseMeta, startProcess } from "../../transfer/mover/process.js";
import { tablePages } from "../../transfer/pages/api.js";
import { slotsOf } from "../working-set.js";
import { bringImages } from "./images.js";
import { isThere, openMemory } from "./memory.js";

/** A peer that does not say goodbye is not waited for; the last answer gets this long to leave. In milliseconds. */
const EXIT_PATIENCE_MS = 500;
const EXIT_AFTER_MS = 20;

const { config, log } = startProcess("source");
process.title = "ferry-feed";
const limiter = new Limiter(config.bandwidthBytesPerSec);
const identity = { node: config.node, ...config.tls };
let failure: FailureData | undefined;
let images: SourceMoverStatus["images"] = { sent: false, bytes: 0 };
let load: { store: Store; reader: CheckpointReader; set: ImageSet; pages: PageSender } | undefined;
let loading: Promise<NonNullable<typeof load>> | undefined;
const word = new DestinationWord({
  from: { side: "destination" },
  onPagesRefused: (refused) => {
    load?.pages.stop();
    failure = { ...refused, side: "destination", node: config.peer };
    log("error", "the pages are refused", { failure });
    changed(true);
  },
});

const links = new Links({
  identity,
  peer: config.peer,
  hello: { operation: config.operation, workload: config.workload, to: config.to ?? 1 },
  onUp,
  onDown: (_, why) => {
    log("warn", "link lost", { failure: why });
    word.wake();
    changed(true);
  },
  log: (message, fields) => log("warn", message, fields),
});
credentialsOf(identity).watch(log);

function status(): SourceMoverStatus {
  const pages = load?.pages;
  return {
    side: "source",
    pid: process.pid,
    connected: links.sessions !== undefined,
    volume: { bytesSent: 0, passes: 0, finalDone: true, last: { comparedBytes: 0, durationMs: 0, sinceMs: 0 } },
    images,
    pages: {
      total: load?.set.table.slots ?? 0,
      sent: pages?.sent ?? 0,
      bytesSent: pages?.bytesSent ?? 0,
      allSent: pages?.allSent ?? false,
      allAcked: pages?.allAcked ?? false,
    },
    ...(failure === undefined ? {} : { failure }),
  };
}

function fail(what: FailureData): void {
  failure = { node: config.node, ...what };
  log("error", failure.message, { failure });
  void links.sessions?.control.send("refused", { what: "pages", failure }).catch(() => undefined);
  changed(true);
}

function onUp(sessions: Sessions): void {
  word.begin();
  sessions.control.onFrame((frame) => word.hear(frame));
  sessions.bulk.onFrame((frame) => onBulk(frame));
  sessions.fault.onFrame((frame) => onFault(sessions.fault, frame));
  changed(true);
  if (load !== undefined && images.sent && failure === undefined) {
    deliver(load, sessions).catch((error: unknown) => {
      if (!sessions.control.closed) fail(toFailure(error));
    });
  }
}

function onBulk({ type, meta }: Frame): undefined {
  if (!isFrameType(type)) throw ferryError("E_FRAME", `bulk frame ${type} was not expected`);
  if (type === "credit") load?.pages.credit(parseMeta(type, meta).frames);
  else if (type === "missing") load?.pages.missing(parseMeta(type, meta));
  else throw ferryError("E_FRAME", `bulk frame ${type} was not expected`);
  return undefined;
}

function onFault(session: LinkSession, { type, meta }: Frame): Promise<void> | undefined {
  if (type !== "fault") throw ferryError("E_FRAME", `fault frame ${type} was not expected`);
  return load?.pages.fault(session, parseMeta("fault", meta));
}

/** Makes sure that the destination has these images, then pushes pages in the background. */
async function deliver({ set, pages }: NonNullable<typeof load>, sessions: Sessions): Promise<void> {
  const { control } = sessions;
  await word.wait(control, () => word.state !== undefined);
  if (word.state === undefined || word.state.digest === null) {
    const sent = await sendImages(config.imagesDir, control);
    images = { ...images, digest: sent.digest, bytes: sent.bytes };
    word.state = undefined;
    await control.send("ready", { digest: sent.digest, areas: set.areasDigest, stage: null });
    await word.wait(control, () => word.state !== undefined && word.state.digest !== null);
  }
  const { state } = word;
  const others = images.digest !== undefined && images.digest !== state?.digest;
  if (state === undefined || state.digest === null || state.areas !== set.areasDigest || others) {
    throw ferryError("E_IMAGE_DIGEST", "the destination holds images of something else under this name");
  }
  images = { ...images, sent: true, digest: state.digest };
  changed(true);
  void pages.push(sessions);
}

async function open(): Promise<NonNullable<typeof load>> {
  const { storeFile, checkpoint } = config;
  if (storeFile === undefined || checkpoint === undefined) {
    throw ferryError("E_INTERNAL", "a feed without a store, or a checkpoint");
  }
  const store = await openStore(await readStoreConfig(storeFile));
  // Held: it can be read to its end even if it is removed meanwhile.
  const reader = await store.read(checkpoint.workload, checkpoint.id);
  const another = checkpoint.workload === config.workload ? undefined : config.workload;
  const [touched] = await Promise.all([
    touchedBefore(store, checkpoint),
    bringImages(reader, config.imagesDir, another),
  ]);
  const set = readImageSet(config.imagesDir);
  const first = slotsOf(set.table, touched);
  const away = (why: FailureData): void => log("warn", "the store is away; asking again", { failure: why });
  const pages = new PageSender({
    reader: openMemory(set.table, reader, { away, isThere: () => isThere(store) }),
    first,
    slots: set.table.slots,
    pages: tablePages(set.table),
    limiter,
    onChange: changed,
    onFailure: fail,
  });
  log("info", "checkpoint opened", {
    checkpoint: checkpoint.id,
    tasks: set.tasks.length,
    pages: set.table.slots,
    first: first.reduce((sum, run) => sum + run.pages, 0),
  });
  return { store, reader, set, pages };
}

/** What it needed first the last time. Only a hint: without it pages come in the order of addresses. */
async function touchedBefore(store: Store, { workload, id }: { workload: string; id: string }): Promise<TouchedRun[]> {
  try {
    return (await readWorkingSet(store, workload, id))?.runs ?? [];
  } catch (error) {
    log("warn", "the working set can't be used", { failure: toFailure(error) });
    return [];
  }
}

function loaded(): NonNullable<typeof loading> {
  loading ??= open();
  loading.catch(() => (loading = undefined));
  return loading;
}

async function begin(): Promise<void> {
  load = await loaded();
  for (;;) {
    const sessions = await links.ready();
    try {
      await deliver(load, sessions);
      return;
    } catch (error) {
      if (!sessions.control.closed && !sessions.bulk.closed) throw error;
      if (word.refused !== undefined) throw error;
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
    case "sendImages":
      await begin();
      return;
    case "limit":
      limiter.set(request.bandwidthBytesPerSec ?? undefined);
      return;
    case "exit":
      await Promise.race([links.close(), sleep(EXIT_PATIENCE_MS)]);
      await Promise.race([load?.reader.close().catch(() => undefined), sleep(EXIT_PATIENCE_MS)]);
      // The answer leaves first.
      setTimeout(() => process.exit(0), EXIT_AFTER_MS);
      return;
    case "presync":
    case "finalSync":
    case "scan":
    case "sendUnsent":
    case "cut":
    case "untrack":
      throw ferryError("E_REQUEST", `a feed has nothing to ${request.verb}`);
  }
}

const control = await serveControl({ path: config.controlSocket, schema: sourceRequest, status, handle });
function changed(urgent: boolean): void {
  control.changed(urgent);
}
log("info", "ready");
// Before it is asked: then its peer waits for nothing but the images. What goes wrong is said when it is asked.
void loaded();
