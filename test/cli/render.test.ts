import { describe, test } from "node:test";
import assert from "node:assert/strict";
import type { MigrationProgress, NodeListing, WorkloadInspection } from "../../src/client/types.js";
import type { MigratePlan } from "../../src/model/plan.js";
import type { NodeFacts } from "../../src/model/node.js";
import type { MigrationReport } from "../../src/model/report.js";
import type { WorkloadStatus } from "../../src/model/workload.js";
import { formatAge, formatBytes, formatCommand, formatMs } from "../../src/cli/render/format.js";
import { renderLive, renderPlainProgress, renderPlan, renderReport } from "../../src/cli/render/migration.js";
import { columns, PLAIN, type Style } from "../../src/cli/render/style.js";
import { renderInspection, renderNodes, renderPs } from "../../src/cli/render/workloads.js";
import { golden } from "./support.js";

const NOW = 1_790_000_000_000;
const MIB = 1024 ** 2;

const status: WorkloadStatus = {
  name: "redis",
  runtime: "process",
  state: "running",
  node: "node-b",
  epoch: 2,
  sequence: 1,
  spec: {
    name: "redis",
    runtime: "process",
    command: ["redis-server", "--save", "", "--bind", "0.0.0.0"],
    env: { MODE: "fast" },
    dir: "/data",
    user: "redis",
    limits: { memoryBytes: 512 * MIB, cpus: 1.5 },
    network: { ip: "10.77.0.100/24", mac: "02:fe:0a:4d:00:64" },
  },
};

const report: MigrationReport = {
  outcome: "moved",
  workload: "redis",
  operation: "redis.migrate.1",
  mode: "cold",
  source: "node-a",
  destination: "node-b",
  epoch: 2,
  node: "node-b",
  phases: [
    { name: "preflight", side: "source", startedAt: NOW, durationMs: 120 },
    { name: "freeze", side: "source", startedAt: NOW + 900, durationMs: 3.2 },
    { name: "dump", side: "source", startedAt: NOW + 903, durationMs: 98 },
    { name: "transfer", side: "source", startedAt: NOW + 1001, durationMs: 410 },
    { name: "restore", side: "destination", startedAt: NOW + 1411, durationMs: 61 },
    { name: "resume", side: "destination", startedAt: NOW + 1480, durationMs: 4 },
  ],
  blackoutMs: 584,
  residualMs: 0,
  totalMs: 2210,
  bytesSent: 258 * MIB,
  volumeBytes: 12 * MIB,
  pagesSent: 66_048,
  rounds: 0,
  bandwidthBytesPerSec: 629 * MIB,
  reasons: ["cold: asked for"],
  findings: [
    {
      level: "warn",
      check: "kernel",
      side: "destination",
      message: "6.17 is older than the source's 6.18",
      remedy: "prefer equal kernels",
    },
  ],
};

const plan: MigratePlan = {
  workload: "redis",
  source: "node-a",
  destination: "node-b",
  epoch: 2,
  mode: "cold",
  memoryBytes: 258 * MIB,
  volumeBytes: 12_000,
  reasons: ["cold: the default, nothing depends on the source after resume"],
  findings: [
    {
      level: "block",
      check: "file /usr/bin/redis-server",
      side: "destination",
      message: "has another build id than on the source",
      remedy: "install the same version on both nodes",
    },
    { level: "block", check: "memory", side: "destination", message: "258 MiB needed, 100 MiB free" },
    { level: "warn", check: "criu version", side: "source", message: "4.2.0 has a known flaw with many sockets" },
    { level: "info", check: "processes", side: "source", message: "1 process, 6 threads" },
  ],
};

const progress: MigrationProgress = {
  workload: "redis",
  operation: "redis.migrate.1",
  phase: "transfer",
  bytesSent: 158 * MIB,
  bytesTotal: 256 * MIB,
  rateBytesPerSec: 410 * MIB,
  etaMs: 239,
  elapsedMs: 1234,
};

const FACTS: NodeFacts = {
  node: "node-a",
  version: "0.1.0",
  linkHost: "10.77.0.11",
  linkPort: 7400,
  kernel: "6.18.0",
  arch: "x64",
  criuVersion: "4.2.1",
  cpus: 2,
  memoryTotalBytes: 8 * 1024 * MIB,
  memoryAvailableBytes: 5 * 1024 * MIB,
  diskAvailableBytes: 40 * 1024 * MIB,
  bootId: "b",
  workloads: [{ name: "redis", epoch: 2, state: "OWNER" }],
};

const text = (lines: readonly string[]): string => lines.join("\n");
const ASCII: Style = { width: 60, color: false, unicode: false };

describe("what people read", () => {
  test("ps", () => {
    const listing = {
      name: "redis",
      node: "node-b",
      runtime: "process",
      state: "running",
      startedAt: new Date(NOW - 3_700_000),
    } as const;
    const gone = {
      name: "batch",
      node: "node-a",
      runtime: "process",
      state: "stuck",
      startedAt: new Date(NOW - 5000),
    } as const;
    golden("ps.txt", text(renderPs([{ listing, status }, { listing: gone }], NOW, PLAIN)));
    const away = text(
      renderPs(
        [
          { listing, status, away: "lost" },
          { listing: gone, away: "silent" },
        ],
        NOW,
        PLAIN,
      ),
    );
    assert.match(away, /^redis .* running, node lost /m);
    assert.match(away, /^batch .* stuck, node silent /m);
    const stopped = { listing, status: { ...status, state: "stopped" }, away: "lost" } as const;
    assert.doesNotMatch(text(renderPs([stopped], NOW, PLAIN)), /node lost/, "nothing of it runs there anyway");
    golden("ps-empty.txt", text(renderPs([], NOW, PLAIN)));
  });
  test("nodes", () => {
    const up: NodeListing = {
      name: "node-a",
      reachable: true,
      facts: FACTS,
    };
    golden(
      "nodes.txt",
      text(renderNodes([{ name: "node-b", reachable: false, problem: "its worker does not answer" }, up], PLAIN)),
    );
  });
  test("nodes that are not there say since when, and that silence is not death", () => {
    const node = { name: "node-b", reachable: false, problem: "no answer" };
    const presence = { state: "lost", since: NOW, heardAt: NOW - 60_000, problem: "no answer" } as const;
    const lines = text(renderNodes([{ ...node, presence, facts: FACTS }], PLAIN));
    assert.match(lines, /^node-b +lost /m);
    assert.match(lines, /^node-b: no answer \(lost since .*Z: it may still run its workloads\)$/m);
    const fence = { at: NOW, evidence: "the plug" };
    assert.match(text(renderNodes([{ ...node, presence, fence, facts: FACTS }], PLAIN)), /^node-b +fenced /m);
  });
  test("inspect", () => {
    const inspection: WorkloadInspection = {
      status: { ...status, operation: "redis/migrate/2" },
      observation: {
        holds: [
          { workload: "redis", epoch: 1, state: "GONE", operation: "redis.migrate.1", peer: "node-a", to: 2 },
          { workload: "redis", epoch: 2, state: "OWNER" },
        ],
        processes: 1,
        pid: 4711,
        memoryBytes: 258 * MIB,
        logBytes: 2048,
      },
    };
    golden("inspect.txt", text(renderInspection(inspection, PLAIN)));
    golden(
      "inspect-away.txt",
      text(
        renderInspection(
          {
            status: { ...status, state: "in-doubt", problem: "node-b does not answer" },
            problem: "no answer within 3 s",
          },
          PLAIN,
        ),
      ),
    );
  });
  test("a plan, blocked and free", () => {
    golden("plan-blocked.txt", text(renderPlan(plan, PLAIN)));
    golden("plan-free.txt", text(renderPlan({ ...plan, findings: plan.findings.slice(3) }, ASCII)));
  });
  test("reports of every outcome", () => {
    golden("report-moved.txt", text(renderReport(report, PLAIN)));
    golden(
      "report-postcopy.txt",
      text(renderReport({ ...report, mode: "postcopy", residualMs: 640, findings: [] }, ASCII)),
    );
    golden(
      "report-rolled-back.txt",
      text(
        renderReport(
          {
            ...report,
            outcome: "rolled-back",
            node: "node-a",
            epoch: 1,
            findings: [],
            failure: {
              code: "E_RESTORE",
              message: "criu could not restore the workload",
              side: "destination",
              node: "node-b",
              phase: "restore",
              evidence: {
                command: ["criu", "restore", "--lazy-pages"],
                exitCode: 1,
                lines: ["Error (criu/files-reg.c:2143): File usr/bin/redis-server has bad size"],
              },
              remedy: "install the same redis on both nodes",
            },
          },
          PLAIN,
        ),
      ),
    );
    const none = { ...report, phases: [], blackoutMs: 0 };
    golden("report-moved-unknown.txt", text(renderReport({ ...report, blackoutMs: null, phases: [] }, PLAIN)));
    golden(
      "report-refused.txt",
      text(renderReport({ ...none, outcome: "refused", node: "node-a", findings: plan.findings }, PLAIN)),
    );
    golden("report-in-doubt.txt", text(renderReport({ ...none, outcome: "in-doubt", findings: [] }, PLAIN)));
    golden("report-stuck.txt", text(renderReport({ ...none, outcome: "stuck", findings: [] }, PLAIN)));
    golden("report-planned.txt", text(renderReport({ ...none, outcome: "planned", plan }, PLAIN)));
  });
  test("the live view, wide and narrow", () => {
    const head = { workload: "redis", source: "node-a", destination: "node-b", mode: "cold" } as const;
    golden("live.txt", text(renderLive(head, progress, { ...PLAIN, width: 80 })));
    golden(
      "live-narrow.txt",
      text(renderLive({ ...head, mode: "postcopy" }, { ...progress, phase: "drain" }, { ...ASCII, width: 40 })),
    );
    golden(
      "live-plain.txt",
      text([
        renderPlainProgress({ ...progress, phase: "preflight", bytesTotal: 0, bytesSent: 0 }),
        renderPlainProgress(progress),
      ]),
    );
  });
  test("a live frame is never wider than the terminal, whatever the names and numbers", () => {
    for (const width of [40, 41, 60, 80, 200]) {
      for (const color of [false, true]) {
        const head = {
          workload: "w".repeat(40),
          source: "n".repeat(63),
          destination: "m".repeat(63),
          mode: "postcopy",
        } as const;
        for (const phase of ["preflight", "transfer", "drain", "done"] as const) {
          const lines = renderLive(head, { ...progress, phase, etaMs: 9e6 }, { width, color, unicode: true });
          for (const line of lines) assert.ok(columns(line) < width, `${columns(line)} columns at ${width}: ${line}`);
        }
      }
    }
  });
  test("escape sequences in foreign text never reach the terminal", () => {
    const evil = "\u001b]0;owned\u0007\u001b[31m";
    const out = [
      ...renderPlan(
        {
          ...plan,
          findings: [{ level: "block", check: evil, side: "source", message: evil, remedy: evil }],
          reasons: [evil],
        },
        PLAIN,
      ),
      ...renderInspection(
        {
          status: { ...status, problem: evil, spec: { ...status.spec, command: [evil], env: { A: evil } } },
          problem: evil,
        },
        PLAIN,
      ),
      ...renderReport(
        { ...report, outcome: "rolled-back", failure: { code: "E_DUMP", message: evil, evidence: { lines: [evil] } } },
        PLAIN,
      ),
      ...renderNodes([{ name: "node-a", reachable: false, problem: evil }], PLAIN),
    ].join("\n");
    // oxlint-disable-next-line no-control-regex -- that is what must not be there
    assert.doesNotMatch(out, /[\u0000-\u0009\u000b-\u001f\u007f]/);
  });
  test("numbers", () => {
    assert.equal(formatBytes(1536), "1.5 KiB");
    assert.equal(formatBytes(0), "0 B");
    assert.equal(formatMs(999.6), "1.0 s");
    assert.equal(formatMs(125_000), "2 min 5 s");
    assert.equal(formatAge(NOW - 7_300_000, NOW), "2h");
    assert.equal(formatCommand(["a", "", "it's"]), "a '' 'it'\\''s'");
  });
});
