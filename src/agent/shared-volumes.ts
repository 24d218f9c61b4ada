/**
 * Shared volumes: is what the source calls by a name the same storage as what the destination calls so? The source writes a
 * file with a random word there, the destination must find it, and be able to write there itself. Who is told a name of
 * storage that only looks alike would otherwise find out when files are missing.
 */
import { randomBytes } from "node:crypto";
import { open, readdir, readFile, realpath, stat, statfs, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { run } from "../host/exec.js";
import type { SourceFacts } from "../model/contract.js";
import { toFailure } from "../model/failure.js";
import { liesIn } from "../model/volumes.js";
import type { Finding } from "../model/plan.js";
import type { WorkloadSpec } from "../model/workload.js";
import type { Policy } from "./policy.js";
import { finder } from "./preflight/findings.js";

export const NONCE_FILE = /^\.ferry-same-[0-9a-f]{16}$/;
export const NONCE = /^[0-9a-f]{32}$/;
/** The destination looks within a second or two; then the file goes away, whoever has seen it. */
const NONCE_LIVES_MS = 60_000;
/** Left by an agent that died meanwhile. */
const NONCE_IS_OLD_MS = 3_600_000;
/** Network file systems show a new name late. */
const LOOK_AGAIN_MS = [0, 100, 400, 1500];

const FILE_SYSTEMS = new Map([
  [0xef53, "ext4"],
  [0x58465342, "xfs"],
  [0x9123683e, "btrfs"],
  [0x01021994, "tmpfs"],
  [0x794c7630, "overlay"],
  [0x6969, "nfs"],
  [0x2fc12fc1, "zfs"],
]);
/** What kind of file system that is, in a word. */
export async function fileSystem(path: string): Promise<string> {
  const { type } = await statfs(path);
  return FILE_SYSTEMS.get(type) ?? `type ${type.toString(16)}`;
}

const sharedOf = (spec: WorkloadSpec): string[] =>
  (spec.volumes ?? []).filter(({ kind }) => kind === "shared").map(({ name }) => name);

const dirOf = (policy: Policy, name: string): string | undefined =>
  Object.hasOwn(policy.sharedVolumes ?? {}, name) ? policy.sharedVolumes?.[name] : undefined;

const unlinkLater = (file: string): void => {
  setTimeout(() => void unlink(file).catch(() => undefined), NONCE_LIVES_MS).unref();
};

async function sweepOld(dir: string): Promise<void> {
  for (const name of await readdir(dir)) {
    if (!NONCE_FILE.test(name)) continue;
    const stats = await stat(join(dir, name)).catch(() => undefined);
    if (stats !== undefined && Date.now() - stats.mtimeMs > NONCE_IS_OLD_MS) {
      await unlink(join(dir, name)).catch(() => undefined);
    }
  }
}

/** On the source: writes a word into each shared volume, for the destination to find. */
export async function offerShared(
  spec: WorkloadSpec,
  policy: Policy,
): Promise<{ findings: Finding[]; shared: NonNullable<SourceFacts["shared"]> }> {
  const findings: Finding[] = [];
  const shared: NonNullable<SourceFacts["shared"]> = [];
  for (const name of sharedOf(spec)) {
    const dir = dirOf(policy, name);
    if (dir === undefined) continue;
    const file = `.ferry-same-${randomBytes(8).toString("hex")}`;
    const nonce = randomBytes(16).toString("hex");
    try {
      await sweepOld(dir);
      await writeFile(join(dir, file), nonce, { flag: "wx", mode: 0o600, flush: true });
      unlinkLater(join(dir, file));
      shared.push({ name, file, nonce });
    } catch (error) {
      findings.push(
        finder("source").block(
          "shared volume",
          `volume ${name} at ${dir} can't be written: ${toFailure(error).message}`,
          "mend the mount, or take the volume out of the node's policy",
        ),
      );
    }
  }
  return { findings, shared };
}

async function readSoon(file: string): Promise<string | undefined> {
  for (const wait of LOOK_AGAIN_MS) {
    if (wait > 0) await sleep(wait);
    const text = await readFile(file, "utf8").catch(() => undefined);
    if (text !== undefined && text !== "") return text;
  }
  return undefined;
}

/** On the destination: is it the same storage? Takes the word away when it is found. */
export async function checkShared(facts: SourceFacts, policy: Policy, node: string): Promise<Finding[]> {
  const { block, info } = finder("destination");
  const findings: Finding[] = [];
  for (const name of sharedOf(facts.spec)) {
    const dir = dirOf(policy, name);
    // The policy's own finding says what is missing.
    if (dir === undefined) continue;
    const word = facts.shared?.find((one) => one.name === name);
    try {
      if ((await realpath(dir)) !== dir) {
        findings.push(
          block(
            "shared volume",
            `volume ${name}: there is a link on the way to ${dir} on ${node}`,
            "name the real path",
          ),
        );
        continue;
      }
      const found = word === undefined ? undefined : await readSoon(join(dir, word.file));
      if (word === undefined || found !== word.nonce) {
        findings.push(
          block(
            "shared volume",
            `volume ${name} is not the same storage on both nodes: what ${facts.node.node} has just written there is not in ${dir} on ${node}`,
            "mount the same storage on both nodes, or give the volume as :copy",
          ),
        );
        continue;
      }
      // Removing it shows that this node may write there, too.
      const file = await open(join(dir, word.file), "r+");
      await file.close();
      await unlink(join(dir, word.file));
      findings.push(
        info(
          "shared volume",
          `volume ${name} is the same storage on both nodes (${await fileSystem(dir)}): nothing is copied`,
        ),
      );
    } catch (error) {
      findings.push(
        block(
          "shared volume",
          `volume ${name} at ${dir} on ${node} can't be used: ${toFailure(error).message}`,
          "mend the mount there, or take the volume out of that node's policy",
        ),
      );
    }
  }
  return findings;
}

/** Ferry's own directories are no place for a volume: they are hidden from workloads. */
export function checkPlaces(spec: WorkloadSpec, stateDir: string, side: "source" | "destination"): Finding[] {
  return (spec.volumes ?? [])
    .filter(({ path }) => liesIn(path, stateDir) || liesIn(stateDir, path))
    .map(({ name, path }) =>
      finder(side).block(
        "volume",
        `volume ${name} at ${path}: Ferry keeps all workloads' files in ${stateDir} on this node, which no workload can see`,
        "choose another path",
      ),
    );
}

/** Kernel caches of network storage: what the source has written must be there before the destination reads it. */
export async function flushShared(dirs: readonly string[]): Promise<void> {
  await Promise.all(dirs.map((dir) => run("sync", ["--file-system", dir], { timeoutMs: 60_000 })));
}
