/**
 * What peers send during the blackout is kept and delivered after the resume. Shown without a clock: the client's host
 * lets nothing out any more once the requests are sent, so an answer can only come from what was kept.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Client, Connection } from "@temporalio/client";
import type { temporal } from "@temporalio/proto";
import { labRun } from "../../deploy/lab/index.js";
import type { MigrationHandle, WorkloadHandle } from "../../src/client/types.js";
import { ipv6Bytes, linkLocal } from "../../src/host/frames.js";
import type { MigrateOptions } from "../../src/model/plan.js";
import type { MigrationReport } from "../../src/model/report.js";
import { andRemove } from "./on-the-move.js";
import { ipOf, Lines, program, untilListening } from "./programs.js";
import {
  armFailpoint,
  assertMoved,
  cancelHeard,
  clearFailpoints,
  clientPid,
  goOn,
  other,
  reached,
  startLab,
  startWitness,
  until,
  type E2eLab,
} from "./support.js";

type History = temporal.api.history.v1.IHistory;

const CONNECTIONS = 51;
const DATAGRAMS = 20;
/** Nothing has to happen in this time; it is long against a delivery, and short against the client's patience. */
const SILENCE_MS = 1500;

let e2e: E2eLab;
before(async () => {
  e2e = await startLab();
});
after(async () => {
  await e2e?.down();
});

/** A client that notes what it is answered. */
class Peer {
  readonly answers: string[] = [];
  readonly #lines: Lines;

  constructor(lines: Lines) {
    this.#lines = lines;
    void (async () => {
      for (;;) this.answers.push(await lines.next(600_000));
    })().catch(() => undefined);
  }
  static async start(host: string): Promise<Peer> {
    const program = fileURLToPath(new URL("frames-client.js", import.meta.url));
    const args = [`--net=/proc/${await clientPid(e2e)}/ns/net`, "--", process.execPath, program, host, "7000"];
    const lines = new Lines(spawn("nsenter", [...args, String(CONNECTIONS)], { stdio: ["pipe", "pipe", "inherit"] }));
    assert.equal(await lines.next(), "connected");
    return new Peer(lines);
  }
  say(order: "tcp" | "udp", word: string): void {
    this.#lines.child.stdin?.write(`${order} ${word}\n`);
  }
  /** Answers to `word`, sorted: each has the number of times that it has come there. */
  to(order: "tcp" | "udp", word: string): string[] {
    const mine = this.answers.filter((line) => line.startsWith(`${order} ${word}.`));
    return mine.toSorted((a, b) => a.localeCompare(b, "en", { numeric: true }));
  }
  end(): void {
    this.#lines.child.kill("SIGKILL");
  }
}

/** The client's host lets nothing out to the port of the workload. */
async function silence(on: boolean): Promise<void> {
  const rules = "table inet silence { chain out { type filter hook output priority 0; th dport 7000 counter drop; }; }";
  await labRun(e2e.state, "client", on ? ["nft", rules] : ["nft", "delete", "table", "inet", "silence"]);
}
/** How many packets it has held back. */
async function heldBack(): Promise<number> {
  const { stdout } = await labRun(e2e.state, "client", ["nft", "list", "table", "inet", "silence"]);
  return Number(/packets (\d+)/.exec(stdout)?.[1]);
}
/** Frames that its link has let out: what was sent is out before it is silenced. */
async function sentFrames(): Promise<number> {
  const { stdout } = await labRun(e2e.state, "client", ["cat", "/sys/class/net/eth0/statistics/tx_packets"]);
  return Number(stdout);
}

/** Stops a migration in its blackout, has every connection and some datagrams speak, and silences the client's host. */
async function speakInBlackout(
  workload: WorkloadHandle,
  peer: Peer,
  word: string,
  options: Partial<MigrateOptions>,
): Promise<{ handle: MigrationHandle; source: string }> {
  const { node: source } = await workload.status();
  // That of an earlier move would let this one go on at once.
  await clearFailpoints(e2e);
  await armFailpoint(e2e, source, "source.transfer", "pause");
  const handle = await workload.migrate({ to: other(source), ...options });
  await reached(e2e, source, "source.transfer");
  const before = await sentFrames();
  peer.say("tcp", word);
  for (let i = 0; i < DATAGRAMS; i += 1) peer.say("udp", `${word}.${i}`);
  await until("the client has spoken", 5000, async () => (await sentFrames()) >= before + CONNECTIONS + DATAGRAMS);
  await silence(true);
  return { handle, source };
}

const once = (order: "tcp" | "udp", word: string): string[] =>
  Array.from({ length: order === "tcp" ? CONNECTIONS : DATAGRAMS }, (_, i) => `${order} ${word}.${i} 1`);

async function withEcho(name: string, work: (workload: WorkloadHandle, peer: Peer) => Promise<void>): Promise<void> {
  const workload = await e2e.client.workloads.run({ name, node: "node-a", command: program("echo") });
  await andRemove(workload, async () => {
    const host = await ipOf(workload);
    await untilListening(e2e, host, 7000);
    const peer = await Peer.start(host);
    try {
      await work(workload, peer);
    } finally {
      peer.end();
      await clearFailpoints(e2e);
      await silence(false).catch(() => undefined);
    }
  });
}

test("what 51 idle connections and datagrams say in the blackout is answered once, without being sent again", async () => {
  await withEcho("kept", async (workload, peer) => {
    for (const [word, mode] of [
      ["cold", "cold"],
      ["precopy", "precopy"],
      ["postcopy", "postcopy"],
    ] as const) {
      const { handle, source } = await speakInBlackout(workload, peer, word, { mode });
      await goOn(e2e, source, "source.transfer");
      const report = await handle.result();
      assertMoved(report);
      await until("everything is answered", 10_000, () => peer.to("tcp", word).length >= CONNECTIONS);
      await until("every datagram is answered", 10_000, () => peer.to("udp", word).length >= DATAGRAMS);
      await silence(false);
      assert.deepEqual(peer.to("tcp", word), once("tcp", word));
      assert.deepEqual(peer.to("udp", word), once("udp", word));
      const { frames } = report;
      assert.ok(frames !== undefined && frames.kept >= CONNECTIONS + DATAGRAMS, JSON.stringify(frames));
      assert.ok(frames.delivered >= CONNECTIONS + DATAGRAMS && frames.dropped === 0, JSON.stringify(frames));
    }
    assert.deepEqual(
      peer.answers.filter((line) => line.startsWith("error")),
      [],
    );
  });
});

test("with keepFrames off nothing is kept: connections are answered when they send again, datagrams are lost", async () => {
  await withEcho("unkept", async (workload, peer) => {
    const { handle, source } = await speakInBlackout(workload, peer, "off", { mode: "cold", keepFrames: false });
    await goOn(e2e, source, "source.transfer");
    const report = await handle.result();
    assertMoved(report);
    assert.equal(report.frames, undefined);
    await new Promise((resolve) => setTimeout(resolve, SILENCE_MS));
    assert.deepEqual([...peer.to("tcp", "off"), ...peer.to("udp", "off")], []);
    assert.ok((await heldBack()) > 0, "the client tried again");
    await silence(false);
    await until("everything is answered", 60_000, () => peer.to("tcp", "off").length >= CONNECTIONS);
    assert.deepEqual(peer.to("tcp", "off"), once("tcp", "off"));
    assert.deepEqual(peer.to("udp", "off"), []);
  });
});

test("after a roll back the source delivers what it has kept, once", async () => {
  await withEcho("back", async (workload, peer) => {
    const { handle, source } = await speakInBlackout(workload, peer, "back", { mode: "cold" });
    await cancelHeard(e2e, handle, source);
    await goOn(e2e, source, "source.transfer");
    const report = await handle.result();
    assert.equal(report.outcome, "rolled-back");
    await until("everything is answered", 10_000, () => peer.to("tcp", "back").length >= CONNECTIONS);
    await until("every datagram is answered", 10_000, () => peer.to("udp", "back").length >= DATAGRAMS);
    await silence(false);
    assert.deepEqual(peer.to("tcp", "back"), once("tcp", "back"));
    assert.deepEqual(peer.to("udp", "back"), once("udp", "back"));
  });
});

test("after a move the network is told more than once, of the IPv4 address and of the link-local one", async () => {
  await withEcho("announced", async (workload) => {
    const { mac } = (await workload.status()).spec.network;
    const watch = fileURLToPath(new URL("announce-watch.js", import.meta.url));
    const args = [`--net=/proc/${await clientPid(e2e)}/ns/net`, "--", process.execPath, watch, "eth0"];
    const lines = new Lines(spawn("nsenter", args, { stdio: ["pipe", "pipe", "inherit"] }));
    try {
      assert.equal(await lines.next(), "listening");
      const seen: string[] = [];
      void (async () => {
        for (;;) seen.push(await lines.next(600_000));
      })().catch(() => undefined);
      const ip = await ipOf(workload);
      assertMoved(await (await workload.migrate({ to: "node-b", mode: "cold" })).result());
      const arps = (): number => seen.filter((line) => line === `arp ${mac} ${ip}`).length;
      const local = `na ${mac} ${ipv6Bytes(linkLocal(mac)).toString("hex")}`;
      const advertisements = (): number => seen.filter((line) => line === local).length;
      // Both forms of gratuitous ARP go each time: more than two are more than one time.
      await until("it was announced again", 10_000, () => arps() > 2 && advertisements() > 1).catch(() =>
        assert.fail(`seen on the wire: ${seen.join(", ")}`),
      );
      assert.deepEqual(
        seen.filter((line) => line.endsWith(` ${ip}`) && !line.includes(mac)),
        [],
        "nobody else claims its address",
      );
    } finally {
      lines.child.kill("SIGKILL");
    }
  });
});

/** Milliseconds of [from, to] in which no phase of either side ran. */
function uncovered(report: MigrationReport, from: number, to: number): number {
  let at = from;
  let holes = 0;
  for (const { startedAt, durationMs } of report.phases.toSorted((a, b) => a.startedAt - b.startedAt)) {
    if (startedAt > at) holes += Math.min(startedAt, to) - at;
    at = Math.max(at, startedAt + durationMs);
    if (at >= to) return holes;
  }
  return holes + Math.max(0, to - at);
}

/** Activities that ran all through [from, to], sorted, and those that began or ended in it. */
function activitiesIn(history: History, from: number, to: number): { spanning: string[]; inside: string[] } {
  const names = new Map<string, string>();
  const began = new Map<string, number>();
  const spanning: string[] = [];
  const inside: string[] = [];
  for (const event of history.events ?? []) {
    const at = Number(event.eventTime?.seconds ?? 0) * 1000 + (event.eventTime?.nanos ?? 0) / 1e6;
    const scheduled = event.activityTaskScheduledEventAttributes;
    if (scheduled) names.set(String(event.eventId), scheduled.activityType?.name ?? "?");
    const started = event.activityTaskStartedEventAttributes;
    const ended =
      event.activityTaskCompletedEventAttributes ??
      event.activityTaskFailedEventAttributes ??
      event.activityTaskTimedOutEventAttributes ??
      event.activityTaskCanceledEventAttributes;
    const id = scheduled ? String(event.eventId) : String((started ?? ended)?.scheduledEventId ?? "");
    const name = names.get(id);
    if (name === undefined) continue;
    if (started) began.set(id, at);
    if (at > from && at < to) inside.push(`${name} ${(at - from).toFixed(3)} ms in`);
    if (ended && at >= to && (began.get(id) ?? to) <= from) spanning.push(name);
  }
  return { spanning: spanning.toSorted(), inside };
}

test("the blackout waits for nothing of the server: no step of the hand-over begins or ends there", async () => {
  const witness = await startWitness(e2e, "redis", "node-a", 20);
  const connection = await Connection.connect({ address: e2e.lab.address ?? "" });
  try {
    const client = new Client({ connection });
    for (const [mode, to] of [
      ["cold", "node-b"],
      ["precopy", "node-a"],
    ] as const) {
      const handle = await witness.workload.migrate({ to, mode });
      const report = await handle.result();
      assertMoved(report);
      const { frozenAt, resumedAt, clock } = report;
      assert.ok(frozenAt !== undefined && resumedAt !== undefined && resumedAt > frozenAt);
      assert.ok(clock !== undefined, "the clocks were compared");
      // Both nodes of the lab have the machine's clock.
      assert.ok(Math.abs(clock.offsetMs) <= clock.uncertaintyMs, JSON.stringify(clock));
      assert.ok(Math.abs((report.blackoutMs ?? Number.NaN) - (resumedAt - frozenAt)) < 0.01);
      assert.equal(uncovered(report, frozenAt, resumedAt), 0);
      const { spanning, inside } = activitiesIn(
        await client.workflow.getHandle(handle.workflowId).fetchHistory(),
        frozenAt,
        resumedAt,
      );
      assert.deepEqual(spanning, ["handOver", "takeOver"]);
      // In a long blackout the workflow looks whether somebody has lost the token; nobody waits for what it finds.
      assert.deepEqual(
        inside.filter((line) => !line.startsWith("inquire ")),
        [],
      );
    }
    await witness.assertIntact();
  } finally {
    witness.counter.kill();
    await connection.close();
  }
});
