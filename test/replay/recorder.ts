/** Writes histories as `temporal workflow show` prints them. What is there is never written again. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporalBinary } from "../support/temporal.js";
import { runsOf, until, type Stage, type Subject } from "../workflows/support.js";

/** Where this checkout lies, in stack traces: nobody's business. */
const MACHINE = /(?:file:\/\/)?\/[^\s"\\()]*?\/(dist|node_modules|src)\//g;

export class Recorder {
  readonly stage: Stage;
  private readonly directory: string;

  constructor(stage: Stage, directory: string) {
    this.stage = stage;
    this.directory = directory;
    mkdirSync(directory, { recursive: true });
  }

  keep(name: string, workflowId: string, runId?: string): void {
    const file = join(this.directory, `${name}.json`);
    if (existsSync(file)) return;
    // By the CLI: the SDK's own historyToJSON fails when npm has installed protobufjs twice ("type must be a Type").
    const args = ["workflow", "show", "--address", this.stage.server.address, "-w", workflowId, "--output", "json"];
    if (runId !== undefined) args.push("--run-id", runId);
    const text = execFileSync(temporalBinary() ?? "temporal", args, { encoding: "utf8", maxBuffer: 2 ** 26 });
    writeFileSync(file, `${JSON.stringify(JSON.parse(text.replaceAll(MACHINE, "$1/")))}\n`);
  }

  /** The first run and the last one of a workflow that has gone on in new runs: NAME-1, NAME-2. */
  async keepRuns(name: string, workflowId: string): Promise<void> {
    const runs = await runsOf(this.stage.client, workflowId);
    if (runs.length < 2) throw new Error(`${workflowId} has one run only`);
    this.keep(`${name}-1`, workflowId, runs[0]?.runId);
    this.keep(`${name}-2`, workflowId, runs.at(-1)?.runId);
  }

  /** Of the last migration of `subject`. */
  async keepMigration(name: string, subject: Subject): Promise<void> {
    this.keep(`migrate-${name}`, `${subject.name}/migrate/${(await subject.status()).sequence}`);
  }

  /** Until the workflow is in its third run. */
  async untilLong(workflowId: string): Promise<void> {
    await until(
      () => runsOf(this.stage.client, workflowId).catch(() => []),
      (runs) => runs.length > 2,
    );
  }
}
