/** `ferry demo`: a live redis moves to another node and back, under a counting client. */
import type { Command } from "commander";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { EXIT, type CommandContext } from "../io.js";
import { labDir } from "../lab-state.js";
import { untilNodesListed } from "../nodes-ready.js";
import { liveView } from "../live-view.js";
import { formatMs } from "../render/format.js";
import { renderLive, renderPlainProgress, renderReport } from "../render/migration.js";
import { mark, paint, type Style } from "../render/style.js";
import { uiLink } from "./ui.js";
import type { DemoOptions, DemoResult } from "../../../deploy/demo/demo.js";

interface DemoFlags {
  state?: string;
  lab?: string;
  out?: string;
  down?: boolean;
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  program
    .command("demo")
    .description(
      "A redis with 256 MB and a client that counts over one connection: moved cold to another node, post-copy back.\nThen the verdict, with a picture. Under three minutes once set up. Needs root.",
    )
    .option("--state <dir>", "the lab's directory; a lab that is up is used")
    .option("--lab <dir>", "the same as --state")
    .option("--out <dir>", "where pictures and the verdict go (default: ferry/demo in the user's state directory)")
    .option("--down", "take down what it started (default when CI is set)")
    .option("--json", "end with one JSON line")
    .addHelpText(
      "after",
      `
Exit codes: 0 the verdict is good; 1 it is not, or something failed.

Examples:
  npm run demo                    the same, after setting up what is missing
  npm run demo -- --json
  ferry demo --down`,
    )
    .action(async (flags: DemoFlags) => {
      const { env } = context.io;
      const { connect } = await import("../../client/index.js");
      const { labDown, labNode, labUp } = await import("../../../deploy/lab/index.js");
      const { readLab, requireLab } = await import("../../../deploy/lab/state.js");
      const { DEMO_WORKLOAD, runDemo } = await import("../../../deploy/demo/demo.js");
      const state = labDir(flags.state ?? flags.lab, env);
      const outDir = resolve(
        flags.out ?? join(env["XDG_STATE_HOME"] || join(homedir(), ".local", "state"), "ferry", "demo"),
      );
      const style = context.style();
      const say = (line: string): void => context.out(line);
      const ours = (await readLab(state)) === undefined;
      const takeDown = flags.down === true || (env["CI"] !== undefined && env["CI"] !== "" && env["CI"] !== "false");

      say(ours ? "bringing the lab up" : "using the lab that is up");
      let result: DemoResult | undefined;
      try {
        await labUp({ state, log: (line) => say(`  ${line}`) });
        const lab = await requireLab(state);
        const nodes = lab.hosts.filter((host) => host.kind === "node").map((host) => host.name);
        const client = await connect({ address: lab.address ?? "" });
        try {
          await untilNodesListed(client, nodes, 15_000);
          const clientHost = await labNode(state, "client");
          const entries = new Map(
            await Promise.all(nodes.map(async (name) => [name, (await labNode(state, name)).enter] as const)),
          );
          if (lab.uiUrl !== undefined)
            say(`watch it in the web console: ${uiLink(lab.uiUrl, "default", DEMO_WORKLOAD)}`);
          result = await runDemo({
            client,
            host: { clientPid: clientHost.pid, nodes, enter: (node) => entries.get(node) ?? [] },
            outDir,
            say,
            watch: watcher(context, style),
          });
          for (const line of renderVerdict(result, style)) say(line);
        } finally {
          await client.close();
        }
      } finally {
        if (ours && takeDown) await labDown({ state });
      }
      if (ours && takeDown) say("the lab is down again");
      else say("the lab is up: look around (ferry ps, ferry inspect demo-redis, ferry ui); clean up: ferry lab down");
      if (flags.json === true) {
        const { ok, connectionIntact, missing, duplicates, liveCopies, memoryIntact, answers, problems } =
          result.verdict;
        const moves = result.verdict.moves.map(({ from: _from, to: _to, ...move }) => move);
        context.out(
          JSON.stringify({
            ok,
            connectionIntact,
            missing,
            duplicates,
            liveCopies,
            memoryIntact,
            answers,
            moves,
            problems,
            files: result.files,
          }),
        );
      }
      context.exit(result.verdict.ok ? EXIT.moved : EXIT.failed);
    });
}

/** Shows a migration as `ferry migrate` does. */
const watcher =
  (context: CommandContext, style: Style): DemoOptions["watch"] =>
  async (workload, to, mode) => {
    const { stdout } = context.io;
    const source = (await workload.status()).node;
    const migration = await workload.migrate({ to, mode });
    const live = stdout.isTTY === true && context.io.env["TERM"] !== "dumb";
    const view = liveView(stdout);
    let last = "";
    for await (const progress of migration.progress({ everyMs: live ? 150 : 500 })) {
      if (live) {
        view.draw(renderLive({ workload: workload.name, source, destination: to, mode }, progress, style));
      } else if (progress.phase !== last) {
        context.out(`  ${renderPlainProgress(progress)}`);
        last = progress.phase;
      }
    }
    if (live) view.clear();
    const report = await migration.result();
    // the whole report is in the UI and in `ferry inspect`; here the first lines tell the story
    const lines = renderReport(report, style);
    for (const line of report.outcome === "moved" ? lines.slice(0, mode === "postcopy" ? 5 : 4) : lines)
      context.out(`  ${line}`);
    return report;
  };

export function renderVerdict({ verdict, files }: DemoResult, style: Style): string[] {
  const check = (good: boolean, words: string): string => `  ${mark(style, good ? "done" : "fail")} ${words}`;
  return [
    "",
    paint(style, "bold", verdict.ok ? "verdict: the client lost nothing" : "verdict: NOT in order"),
    check(
      verdict.missing + verdict.duplicates === 0,
      `${verdict.answers.toLocaleString("en-US")} answers, ${verdict.missing} missing, ${verdict.duplicates} twice`,
    ),
    check(
      verdict.connectionIntact,
      verdict.connectionIntact ? "one TCP connection from start to end" : "the connection broke",
    ),
    check(
      verdict.memoryIntact,
      "digest of the whole keyspace before, between and after the moves: " +
        (verdict.memoryIntact ? "equal" : "different"),
    ),
    check(
      verdict.liveCopies === 1,
      `${verdict.liveCopies} live ${verdict.liveCopies === 1 ? "copy" : "copies"} on all nodes together, after each move`,
    ),
    ...verdict.moves.map((move) =>
      check(
        move.outcome === "moved",
        `${move.mode.padEnd(8)}  ${move.source} to ${move.destination}: client gap ${formatMs(move.clientGapMs)}, blackout ${move.blackoutMs === null ? "not known" : formatMs(move.blackoutMs)}, total ${formatMs(move.totalMs)}`,
      ),
    ),
    ...verdict.problems.map((problem) => `    ${problem}`),
    "",
    `picture of the client's latency: ${files.svg}`,
    `                                 ${files.png}`,
  ];
}
