/** The gauges for alerts, read from the endpoint while there is something to tell: in doubt, stuck, a node that is silent. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { pino } from "pino";
import { tellStates } from "../../src/workers/metrics.js";
import { freePort, installRuntime, skipWithoutTemporal } from "../support/temporal.js";
import { Stage, until } from "./support.js";

const WATCH = { silentAfterMs: 1_000, lostAfterMs: 600_000, steadyMs: 300 };

describe("metrics", { skip: skipWithoutTemporal }, () => {
  let stage: Stage;
  let address: string;
  before(async () => {
    address = `127.0.0.1:${await freePort()}`;
    installRuntime({ telemetryOptions: { metrics: { prometheus: { bindAddress: address } } } });
    stage = await Stage.up(["node-a", "node-b", "node-c"], WATCH);
  });
  after(() => stage.down());

  /** `ferry_workloads.stuck` and the like, by their values. */
  async function gauges(): Promise<Record<string, number>> {
    const page = await (await fetch(`http://${address}/metrics`)).text();
    const found = [...page.matchAll(/^ferry_(workloads|nodes)\{[^}]*state="([a-z-]+)"[^}]*\} (\d+)$/gm)];
    return Object.fromEntries(found.map(([, of, state, value]) => [`${of}.${state}`, Number(value)]));
  }
  /** What they come to: read anew at once, and then every 15 s. */
  async function become(wanted: Record<string, number>): Promise<void> {
    const over = new AbortController();
    const telling = tellStates(stage.client, over.signal, pino({ level: "silent" }));
    await until(gauges, (seen) => JSON.stringify(seen) === JSON.stringify({ ...seen, ...wanted }), 40_000).finally(() =>
      over.abort(),
    );
    await telling;
  }
  const NONE = {
    "workloads.in-doubt": 0,
    "workloads.stuck": 0,
    "nodes.silent": 0,
    "nodes.lost": 0,
    "nodes.fenced": 0,
  };

  test("each is counted while it is so, and no longer", async () => {
    await become(NONE);
    assert.deepEqual(Object.keys(await gauges()).sort(), Object.keys(NONE).sort());

    const stuck = await stage.run();
    const broken = { code: "E_JOURNAL_CORRUPT", message: "line 7 is damaged", node: "node-a" } as const;
    const refused = { code: "E_RESTORE", message: "criu said no", node: "node-b" } as const;
    const of = { when: "before", workload: stuck.name } as const;
    stage.world.order({ ...of, node: "node-b", verb: "takeOver", times: 1, failure: refused });
    const burn = { ...of, node: "node-a", verb: "burn" as const, times: 1e6, failure: broken };
    stage.world.order(burn);
    await stuck.migrate("node-b");

    const doubtful = await stage.run();
    stage.world.at("source:released", () => stage.world.crash("node-c"), doubtful.name);
    await doubtful.migrate("node-c", { mode: "postcopy" });
    for (const [subject, state] of [
      [stuck, "stuck"],
      [doubtful, "in-doubt"],
    ] as const) {
      await until(
        () => subject.status(),
        (seen) => seen.state === state,
      );
    }
    await become({ ...NONE, "workloads.in-doubt": 1, "workloads.stuck": 1, "nodes.silent": 1 });

    burn.times = 0;
    stage.agent("node-c").restart();
    await stuck.settled();
    await doubtful.settled();
    await become(NONE);
  });
});
