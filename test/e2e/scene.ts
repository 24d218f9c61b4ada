/** A lab with a redis that is watched: what most tests of faults begin with, once for all tests of a file. */
import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { after, afterEach, before } from "node:test";
import { hierarchies } from "../../deploy/lab/cgroups.js";
import { labRun } from "../../deploy/lab/index.js";
import type { MigrationReport } from "../../src/client/index.js";
import type { MigrationHandle } from "../../src/client/types.js";
import type { MigrateOptions } from "../../src/model/plan.js";
import {
  armFailpoint,
  assertLives,
  clearFailpoints,
  goOn,
  other,
  reached,
  startLab,
  startWitness,
  until,
  type E2eLab,
  type Witness,
} from "./support.js";
import { witnessFileDigest, writeWitnessFile } from "./witness-file.js";

export class Scene {
  e2e!: E2eLab;
  /** A redis named `redis`, at first on node-a. */
  witness!: Witness;
  /** Of its keyspace and of a file in its /data, as they have to stay. */
  digest!: string;
  files!: string;

  async up(megabytes: number): Promise<void> {
    this.e2e = await startLab();
    this.witness = await startWitness(this.e2e, "redis", "node-a", megabytes);
    this.digest = await this.witness.digest();
    await writeWitnessFile(this.e2e, "node-a", "redis", 3);
    this.files = await this.fileDigest("node-a");
  }
  private fileDigest(node: string): Promise<string> {
    return witnessFileDigest(this.e2e, node, "redis");
  }
  async down(): Promise<void> {
    // Either may be missing, when it did not come up.
    (this.witness as Witness | undefined)?.counter.kill();
    await (this.e2e as E2eLab | undefined)?.down();
  }

  async atRest(): Promise<void> {
    const { workload } = this.witness;
    await until("its entity is at rest", 30_000, async () => (await workload.status()).operation === undefined);
  }
  /** It runs once, whole, where its entity says. */
  async assertOneCopy(node: string): Promise<void> {
    await this.atRest();
    await assertLives(this.e2e, this.witness, this.digest, node, 20_000);
    assert.equal(await this.fileDigest(node), this.files, "its file is as before");
    const status = await this.witness.workload.status();
    assert.deepEqual([status.state, status.node], ["running", node]);
  }
  /**
   * No process, directory, namespace, cgroup, mount or nft table of an operation; what was swept in the background is waited for.
   */
  async assertNothingLeft(node: string): Promise<void> {
    const { epoch } = await this.witness.workload.status();
    let left = "";
    const clean = async (): Promise<boolean> => {
      const found = await Promise.all([node, other(node)].map((each) => this.leftOn(each, each === node ? epoch : 0)));
      left = found.flat().join(", ");
      return left === "";
    };
    await until("nothing is left of it", 60_000, clean).catch((error: unknown) => {
      throw new Error(`still there: ${left}`, { cause: error });
    });
  }
  private async leftOn(node: string, epoch: number): Promise<string[]> {
    const { state, lab } = this.e2e;
    const find = async (command: string[]): Promise<string[]> =>
      (await labRun(state, node, command, { allow: [1, 255] })).stdout.split("\n").filter(Boolean);
    /** Of its incarnations one may be there, and that only where it runs. */
    const ended = (names: string[]): string[] =>
      names.filter((name) => epoch === 0 || !new RegExp(`[.-]${epoch}$`).test(name));
    const below = (dir: string): Promise<string[]> => find(["find", dir, "-mindepth", "1", "-maxdepth", "1"]);
    const processes = await find(["pgrep", "-a", "-f", "criu (dump|restore)|ferry-mover|pages/daemon|rsync --server"]);
    const namespaces = await find(["find", "/run/netns", "-mindepth", "1"]);
    const cgroups = (await hierarchies()).flatMap((root) => {
      const dir = join(root, lab.cgroup, node);
      return existsSync(dir)
        ? readdirSync(dir, { withFileTypes: true }).flatMap((e) => (e.isDirectory() ? join(dir, e.name) : []))
        : [];
    });
    // Of the node, and of what runs there: criu locks a network by a table in the namespace that it dumps or restores.
    const inside = namespaces.map((path) => ["ip", "netns", "exec", basename(path)]);
    const tables = await Promise.all([[], ...inside].map((prefix) => find([...prefix, "nft", "list", "tables"])));
    const mounts = await find(["grep", "-E", " /run/ferry/(ops|incarnations)/", "/proc/self/mountinfo"]);
    return [
      ...processes,
      ...(await below("/run/ferry/ops")),
      ...ended(await below("/run/ferry/incarnations")),
      ...ended(namespaces),
      ...ended(cgroups),
      ...tables.flat().filter((table) => /criu|ferry/i.test(table)),
      ...mounts,
    ].map((what) => `${node}: ${what}`);
  }

  /** A migration to the other node that stands at this failpoint. */
  async pausedAt(point: string, options: Partial<MigrateOptions> & Pick<MigrateOptions, "mode">) {
    const { node: source } = await this.witness.workload.status();
    const destination = other(source);
    const side = point.startsWith("source") ? source : destination;
    await armFailpoint(this.e2e, side, point, "pause");
    const handle = await this.witness.workload.migrate({ to: destination, ...options });
    const ended = handle.result();
    ended.catch(() => undefined);
    await reached(this.e2e, side, point, ended);
    return { source, destination, side, handle, ended, go: () => goOn(this.e2e, side, point) };
  }
}

/** How it ended; a doubt that goes on meanwhile is no end. Asked for as long as it takes, a minute at most. */
export async function settled(handle: MigrationHandle): Promise<MigrationReport> {
  for (const until = performance.now() + 60_000; ;) {
    const report = await handle.result();
    if (report.outcome !== "in-doubt" || performance.now() > until) return report;
  }
}

/** Registers the hooks; what it has is there from the first test on. */
export function withRedis(megabytes: number): Scene {
  const scene = new Scene();
  before(() => scene.up(megabytes));
  after(() => scene.down());
  afterEach(() => clearFailpoints(scene.e2e));
  return scene;
}
