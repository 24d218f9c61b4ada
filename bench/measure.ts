/** One run: a workload is started on node-a and filled, a client counts, it moves to node-b, its memory is checked. */
import { readFileSync, rmSync } from "node:fs";
import { loadavg } from "node:os";
import type { Place } from "../deploy/demo/clients.js";
import { countSequence, parseSamples, type Sample } from "../deploy/demo/verdict.js";
import { startIdle, startLoad } from "./load.js";
import type { Cell, Run, System } from "./model.js";
import { programOf } from "./program.js";
import { scratch, warmMemory, wireBytesOf, type Stage } from "./stage.js";
import { seenByClient } from "./stats.js";
import { MOVERS, reasonOf, type Subject } from "./systems.js";

/** The client counts this long before it is asked to move, and after everything has arrived. */
const IDLE_MS = 1000;
const AFTER_MS = 1200;
const ANSWER_WITHIN_MS = 60_000;
/** Copies of the memory that a move may touch at once: source, stage or image, destination. */
const COPIES = 2.5;
const EXTRA_MIB = 256;
const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

export async function measure(stage: Stage, system: System, cell: Cell, repeat: number, warm: boolean): Promise<Run> {
  const run: Run = {
    system,
    ...cell,
    repeat,
    ok: false,
    at: new Date().toISOString(),
    loadAverage: loadavg()[0] ?? 0,
  };
  let subject: Subject | undefined;
  try {
    if (warm) await warmMemory(cell.mib * COPIES + EXTRA_MIB);
    const program = programOf(cell);
    subject = await MOVERS[system].start(stage, program.command);
    const place: Place = { pid: stage.clientPid, host: subject.ip, port: program.port };
    await program.populate(place, stage);
    const seen = await observe(stage, cell, program, subject, place);
    return await ended({ ...run, ...seen, ok: true }, subject);
  } catch (error) {
    return await ended({ ...run, reason: reasonOf(error) }, subject);
  }
}

/** The run, once nothing is left of its subject. */
async function ended(run: Run, subject: Subject | undefined): Promise<Run> {
  try {
    await subject?.end();
    return run;
  } catch (error) {
    const reason = [run.reason, `it could not be cleared away: ${reasonOf(error)}`].filter(Boolean).join("; ");
    return { ...run, reason };
  }
}

async function observe(
  stage: Stage,
  cell: Cell,
  program: ReturnType<typeof programOf>,
  subject: Subject,
  place: Place,
): Promise<Partial<Run>> {
  const before = await program.digest(place, stage);
  const file = scratch(stage, "samples.tsv");
  const counter = await program.count(place, file, stage);
  const load = await startLoad(stage, cell, place);
  const idle = cell.idle === undefined ? undefined : startIdle(stage, place, cell.idle);
  try {
    await pause(IDLE_MS);
    const wire = await wireBytesOf(stage, "node-a");
    const from = now();
    const move = await subject.move();
    const to = now();
    await untilAnswered(file, to);
    await pause(AFTER_MS);
    const wireBytes = (await wireBytesOf(stage, "node-a")) - wire;
    const loadPerSec = await load.stop();
    const idleGapMs = await idle?.longest(from, to);
    const end = await counter.stop();
    const samples = parseSamples(readFileSync(file, "utf8"));
    const { missing, duplicates } = countSequence(samples);
    if (end.connections !== 1 || end.breaks > 0 || end.errors > 0 || missing > 0 || duplicates > 0) {
      throw new Error(
        `the client's connection did not survive: ${end.connections} connections, ${end.breaks} breaks, ${missing} answers missing, ${duplicates} twice`,
      );
    }
    const memoryIntact = (await program.digest(place, stage)) === before;
    if (!memoryIntact) throw new Error("its memory is not what it was");
    return {
      move,
      client: seenByClient(samples, from, to),
      wireBytes,
      memoryIntact,
      ...(loadPerSec === undefined ? {} : { loadPerSec }),
      ...(idleGapMs === undefined ? {} : { idleGapMs }),
    };
  } finally {
    load.kill();
    idle?.kill();
    counter.kill();
    rmSync(file, { force: true });
  }
}

const now = (): number => performance.timeOrigin + performance.now();

/** Until an answer came to a request of after `to`: then the one that ends the gap is among them. */
async function untilAnswered(file: string, to: number): Promise<void> {
  const end = performance.now() + ANSWER_WITHIN_MS;
  for (;;) {
    const samples: Sample[] = parseSamples(readFileSync(file, "utf8"));
    if ((samples.at(-1)?.sentAt ?? 0) > to) return;
    if (performance.now() > end) throw new Error(`the client got no answer for ${ANSWER_WITHIN_MS / 1000} s after it`);
    await pause(100);
  }
}
