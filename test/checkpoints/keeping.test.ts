/** `ferry checkpoints export|import|fsck|rekey|gc --store FILE`: on real stores, by the real command, without any node. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { createPublicKey, generateKeyPairSync, randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { openStore, readStoreConfig } from "../../src/checkpoints/store-config.js";
import { packageRoot } from "../../src/host/package-root.js";
import type { FsckReport, ImportedFile, Rotation } from "../../src/model/store-report.js";
import type { Manifest, Store } from "../../src/store/index.js";
import { ferry, type Run } from "../cli/support.js";
import { assertPages, checkpoint, range, tempDir } from "../store/kit.js";

interface Site {
  dir: string;
  config: string;
  publicKey: string;
  open: () => Promise<Store>;
}

/** A store's place, with its keys, as a node has them. */
function site(dir: string, more: { trusted?: string[]; key?: string; oldKeys?: string[] } = {}): Site {
  mkdirSync(dir, { recursive: true });
  const put = (name: string, text: string): string => {
    const path = join(dir, name);
    if (!existsSync(path)) writeFileSync(path, text, { mode: 0o600 });
    return path;
  };
  const { privateKey } = generateKeyPairSync("ed25519");
  const signer = put("signer.pem", privateKey.export({ type: "pkcs8", format: "pem" }).toString());
  const publicKey = put(
    "public.pem",
    createPublicKey(readFileSync(signer)).export({ type: "spki", format: "pem" }).toString(),
  );
  const key = more.key ?? put("master", `${randomBytes(32).toString("hex")}\n`);
  const config = join(dir, "store.json");
  const oldKeys = (more.oldKeys ?? []).map((file) => ({ file }));
  const said = { local: join(dir, "store"), key: { file: key }, oldKeys, signer, trusted: more.trusted ?? [] };
  writeFileSync(config, JSON.stringify(said));
  return { dir, config, publicKey, open: async () => openStore(await readStoreConfig(config)) };
}

const SEEDS = range(1, 300);
async function withCheckpoint(t: TestContext): Promise<Site & { manifest: Manifest }> {
  const here = site(join(await tempDir(t), "here"));
  const store = await here.open();
  await checkpoint(store, "web", range(50, 300));
  const manifest = await checkpoint(store, "web", SEEDS);
  store.close();
  return { ...here, manifest };
}

const run = async (code: number, ...argv: string[]): Promise<Run> => {
  const ended = await ferry(["checkpoints", ...argv]);
  assert.equal(ended.code, code, `ferry checkpoints ${argv.join(" ")}: ${ended.stdout}${ended.stderr}`);
  return ended;
};
const json = async <T>(code: number, ...argv: string[]): Promise<T> =>
  JSON.parse((await run(code, ...argv, "--json")).stdout) as T;

/** The largest pack, with a flipped bit; again: as it was. */
function flip(store: string): void {
  const all = readdirSync(join(store, "packs"), { recursive: true, encoding: "utf8" })
    .map((name) => join(store, "packs", name))
    .filter((path) => statSync(path).isFile());
  const [largest = ""] = all.toSorted((a, b) => statSync(b).size - statSync(a).size);
  const body = readFileSync(largest);
  body[5000] = (body[5000] ?? 0) ^ 1;
  writeFileSync(largest, body);
}

describe("export and import by command", () => {
  it("carry a checkpoint to another site, whole and once", async (t) => {
    const here = await withCheckpoint(t);
    const dir = await tempDir(t);
    const file = join(dir, "web.ferry");
    const { id } = here.manifest;
    const said = await run(0, "export", "web", id.slice(0, 15), "--store", here.config, "-o", file).catch(
      () => undefined,
    );
    // Both ids may begin so.
    if (said === undefined) await run(0, "export", "web", id, "--store", here.config, "-o", file);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    assert.deepEqual(readdirSync(dir), ["web.ferry"]);
    const before = readFileSync(file);
    const again = await run(2, "export", "web", "--store", here.config, "-o", file);
    assert.match(again.stderr, /can't be written[\s\S]*name a new file/);
    assert.ok(readFileSync(file).equals(before), "a file that is there is left alone");

    const there = site(join(dir, "there"));
    assert.match((await run(1, "import", file, "--store", there.config)).stderr, /is not trusted here/);
    const trusting = site(join(dir, "there"), { trusted: [here.publicKey] });
    assert.match(
      (await run(2, "import", file, "--store", trusting.config)).stderr,
      /is encrypted with the key [0-9a-f]{16}/,
    );
    const imported = await json<ImportedFile>(
      0,
      "import",
      file,
      "--store",
      trusting.config,
      "--key",
      join(here.dir, "master"),
    );
    assert.deepEqual([imported.checkpoint, imported.already, imported.mended], [id, false, 0]);
    const store = await trusting.open();
    await assertPages(store, here.manifest, SEEDS);
    store.close();
    assert.match((await run(0, "import", file, "--store", trusting.config)).stdout, /was there already, whole/);
    assert.match((await run(0, "fsck", "--store", trusting.config)).stdout, /all is whole/);
  });

  it("go through pipes; a reader that goes away makes a failure of it", async (t) => {
    const here = await withCheckpoint(t);
    const there = site(join(await tempDir(t), "there"), { key: join(here.dir, "master"), trusted: [here.publicKey] });
    const bin = [process.execPath, join(packageRoot(), "bin", "ferry.js"), "checkpoints"];
    const spool = await tempDir(t);
    const shell = (script: string): { status: number | null; stderr: string } => {
      const env = { ...process.env, TMPDIR: spool, HERE: here.config, THERE: there.config };
      try {
        execFileSync("bash", ["-o", "pipefail", "-c", script, ...bin], { env, stdio: ["ignore", "ignore", "pipe"] });
        return { status: 0, stderr: "" };
      } catch (error) {
        const { status, stderr } = error as { status: number | null; stderr: Buffer };
        return { status, stderr: stderr.toString() };
      }
    };
    const both = shell('"$0" "$1" "$2" export web --store $HERE -o - | "$0" "$1" "$2" import - --store $THERE');
    assert.deepEqual(both, { status: 0, stderr: "" });
    const store = await there.open();
    await assertPages(store, here.manifest, SEEDS);
    store.close();
    assert.notEqual(shell('"$0" "$1" "$2" export web --store $HERE -o - | head -c 100').status, 0);
    const cut = shell(
      'head -c 100000 <("$0" "$1" "$2" export web --store $HERE -o -) | "$0" "$1" "$2" import - --store $THERE',
    );
    assert.equal(cut.status, 1);
    assert.match(cut.stderr, /it is cut/);
    const endless = shell('yes | "$0" "$1" "$2" import - --store $THERE');
    assert.match(endless.stderr, /does not begin as one/);
    assert.deepEqual(readdirSync(spool), [], "nothing is left of what came by standard input");
  });

  it("are called off in good order", { timeout: 60_000 }, async (t) => {
    const here = await withCheckpoint(t);
    const out = join(await tempDir(t), "out");
    mkdirSync(out);
    const child = spawn(
      process.execPath,
      [join(packageRoot(), "bin", "ferry.js"), "checkpoints", "import", "-", "--store", here.config],
      { stdio: ["pipe", "ignore", "ignore"], env: { ...process.env, TMPDIR: out } },
    );
    t.after(() => child.kill("SIGKILL"));
    const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
    child.stdin.on("error", () => undefined);
    child.stdin.write("FERRYAR2");
    while (readdirSync(out).length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    child.kill("SIGTERM");
    const more = setInterval(() => child.stdin.write("x"), 20);
    const code = await ended;
    clearInterval(more);
    assert.equal(code, 1);
    assert.deepEqual(readdirSync(out), []);
  });

  it("say what is wrong with what was typed", async (t) => {
    const here = await withCheckpoint(t);
    const dir = await tempDir(t);
    await run(2, "export", "web", "-o", join(dir, "x"));
    await run(2, "export", "web", "--store", here.config);
    await run(2, "export", "nothing", "--store", here.config, "-o", join(dir, "x"));
    await run(2, "export", "web", "2000", "--store", here.config, "-o", join(dir, "x"));
    await run(2, "export", "web", "--store", here.config, "-o", join(dir, "no", "such", "dir"));
    await run(2, "export", "../web", "--store", here.config, "-o", join(dir, "x"));
    await run(2, "export", "web", "--store", join(dir, "none.json"), "-o", join(dir, "x"));
    await run(2, "import", join(dir, "none"), "--store", here.config);
    assert.deepEqual(readdirSync(dir), []);
    // Looking makes no store.
    const nothing = site(join(dir, "nothing"));
    assert.match((await run(1, "fsck", "--store", nothing.config)).stderr, /there is no store at/);
    await run(1, "export", "web", "--store", nothing.config, "-o", join(dir, "x"));
    assert.ok(!existsSync(join(dir, "nothing", "store")));
  });
});

describe("fsck by command", () => {
  it("says what is broken and what it hurts; an import mends it", async (t) => {
    const here = await withCheckpoint(t);
    const file = join(await tempDir(t), "web.ferry");
    await run(0, "export", "web", "--store", here.config, "-o", file);
    const whole = await run(0, "fsck", "--store", here.config);
    assert.match(whole.stdout, /2 checkpoints, \d+ packs .* read to the last byte\n[\s\S]*all is whole/);
    flip(join(here.dir, "store"));
    const broken = await run(1, "fsck", "--store", here.config);
    assert.match(broken.stdout, /digest of segment[\s\S]*hurts: web 20[\s\S]*what to do: [\s\S]*1 problem, /);
    // Sizes are right: only who reads sees it.
    await run(0, "fsck", "--store", here.config, "--quick");
    const report = await json<FsckReport>(1, "fsck", "web", "--store", here.config);
    assert.equal(report.problems.length, 1);
    assert.ok(report.problems[0]?.checkpoints.every((name) => name.startsWith("web/20")));
    await run(0, "fsck", "other", "--store", here.config);
    assert.match((await run(0, "import", file, "--store", here.config)).stdout, /1 damaged object mended/);
    await run(0, "fsck", "--store", here.config);
    const packs = join(here.dir, "store", "packs");
    const [first = ""] = readdirSync(packs);
    rmSync(join(packs, first), { recursive: true });
    assert.match((await run(1, "fsck", "--store", here.config, "--quick")).stdout, /is missing/);
  });
});

describe("rekey and gc by command", () => {
  it("after a rekey the old key opens nothing, and may go", async (t) => {
    const here = await withCheckpoint(t);
    const old = join(here.dir, "master");
    const key = join(here.dir, "new");
    writeFileSync(key, `${randomBytes(32).toString("hex")}\n`, { mode: 0o600 });
    site(here.dir, { key, oldKeys: [old] });
    const before = await json<FsckReport>(0, "fsck", "--store", here.config);
    assert.equal(before.keys.length, 1);
    const rotation = await json<Rotation>(0, "rekey", "--store", here.config);
    assert.deepEqual(rotation, { wrapped: 1, forgotten: 1, left: [] });
    assert.match(
      (await run(0, "rekey", "--store", here.config)).stdout,
      /0 data keys encrypted anew[\s\S]*may go from oldKeys/,
    );
    site(here.dir, { key: old });
    assert.match((await run(2, "fsck", "--store", here.config)).stderr, /the wrong key for the store/);
    site(here.dir, { key });
    const store = await here.open();
    await assertPages(store, here.manifest, SEEDS);
    store.close();
    assert.match((await run(0, "rekey", "--store", here.config, "--new-data-key")).stdout, /data key [0-9a-f]{8} made/);
    const after = await json<FsckReport>(0, "fsck", "--store", here.config);
    assert.deepEqual(
      new Map(after.keys.map(({ current, packs }) => [current, packs > 0])),
      new Map([
        [false, true],
        [true, false],
      ]),
    );
  });

  it("gc marks what is of no use, and frees nothing before its time", async (t) => {
    const here = await withCheckpoint(t);
    const store = await here.open();
    for (const id of await store.ids("web")) await store.delete("web", id);
    const packs = (await json<{ packs: number; waitingPacks: number }>(0, "gc", "--store", here.config)).packs;
    assert.equal(packs, 0);
    store.close();
  });
});
