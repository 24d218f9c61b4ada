/** Checkpoints at rest: objects of a store that somebody else has written too, and files that were carried about. */
import assert from "node:assert/strict";
import { sign, type KeyObject } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { FailureCode } from "../../src/model/failure.js";
import { exportCheckpoint, fsck, importCheckpoint, type Manifest, type Store } from "../../src/store/index.js";
import { manifestKey, readManifest, signerId } from "../../src/store/manifest.js";
import { packKey } from "../../src/store/pack-format.js";
import { decodeTree, encodeTree } from "../../src/store/tree.js";
import { archiveOf, entriesOf, type ArchiveEntry } from "../store/archive-kit.js";
import { checkpoint, keysOf, newSigner, openLocal, OTHER_MASTER, range, SIGNER } from "../store/kit.js";
import { makeFifo } from "./corpus-config.js";
import { raise, refused, type Refused, type Room } from "./entry.js";

interface Place {
  dir: string;
  store: Store;
  manifest: Manifest;
  open: (more?: Parameters<typeof openLocal>[1]) => Promise<Store>;
}

/** A store with one checkpoint, for as long as `use` takes. */
async function withPlace(use: (place: Place) => unknown, signer: KeyObject = SIGNER): Promise<void> {
  const dir = mkdtempSync("/dev/shm/ferry-hostile-");
  try {
    const store = await openLocal(join(dir, "store"), { signer });
    const manifest = await checkpoint(store, "web", range(1, 60));
    await use({ dir, store, manifest, open: (more) => openLocal(join(dir, "store"), more) });
  } finally {
    rmSync(dir, { recursive: true });
  }
}

async function exported({ store, manifest }: Place): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of exportCheckpoint(store, "web", manifest.id)) parts.push(part);
  return Buffer.concat(parts);
}

/** Nothing of it is there afterwards. */
async function takenIn(place: Place, file: string, more?: Parameters<typeof openLocal>[1]): Promise<void> {
  const empty = await openLocal(join(place.dir, "empty"), more);
  const before = await keysOf(empty, "");
  try {
    await importCheckpoint(empty, file);
  } finally {
    assert.deepEqual(await keysOf(empty, ""), before, "something was stored");
  }
}

const file = (
  input: string,
  says: string,
  change: (whole: Buffer, place: Place) => Buffer | string,
  code: FailureCode = "E_STORE_CORRUPT",
): Refused =>
  refused(`an exported file: ${input}`, code, says, () =>
    withPlace(async (place) => {
      const path = join(place.dir, "x.ferry");
      writeFileSync(path, change(await exported(place), place));
      await takenIn(place, path);
    }),
  );
/** Its own digest is put right. */
const entries = (input: string, says: string, change: (all: ArchiveEntry[]) => ArchiveEntry[]): Refused =>
  file(input, says, (whole) => archiveOf(change(entriesOf(whole))));

const flipped = (body: Buffer, at: number): Buffer => {
  const bad = Buffer.from(body);
  bad[at] = (bad[at] ?? 0) ^ 1;
  return bad;
};

/** An object of the store with something changed, then looked at with a store that remembers nothing. */
const object = (
  input: string,
  code: FailureCode,
  says: string,
  which: (place: Place) => Promise<string> | string,
  change: (body: Buffer) => Buffer,
): Refused =>
  refused(`the store: ${input}`, code, says, () =>
    withPlace(async (place) => {
      const path = join(place.dir, "store", await which(place));
      writeFileSync(path, change(readFileSync(path)));
      const { problems } = await fsck(await place.open());
      assert.ok(problems.every(({ checkpoints }) => checkpoints.includes(`web/${place.manifest.id}`)));
      raise(problems[0]?.failure);
    }),
  );

const packOf = async ({ store, manifest }: Place): Promise<string> =>
  packKey((await store.tree(manifest)).packs[0]?.id ?? "");
const manifestOf = ({ manifest }: Place): string => manifestKey("web", manifest.id);

/** A manifest that says anything at all, signed by somebody who is trusted. */
function signed(manifest: object): Buffer {
  const payload = JSON.stringify(manifest);
  const signature = sign(null, Buffer.from(`ferry checkpoint manifest 1\n${payload}`), SIGNER).toString("hex");
  return Buffer.from(JSON.stringify({ payload, signatures: [{ key: signerId(SIGNER), signature }] }));
}
const manifest = (input: string, says: string, change: object): Refused =>
  refused(`a manifest: ${input}`, "E_STORE_CORRUPT", says, () =>
    withPlace(({ manifest: good }) =>
      readManifest(signed({ ...good, ...change }), manifestKey("web", good.id), [SIGNER]),
    ),
  );
const stream = (name: string): Refused =>
  refused(`a tree: a stream \`${name}\``, "E_STORE_CORRUPT", "is no name of a stream", () => {
    const [kind, bytes, dataBytes] = ["file" as const, 0, 0];
    return decodeTree(
      encodeTree({ format: 1, streams: [{ name, kind, bytes, dataBytes, windows: [] }], packs: [] }),
      "x",
    );
  });

export const STORE: Room = {
  title: "Checkpoints in a store, and as files",
  entries: [
    file("empty", "it is cut", () => ""),
    file("something else", "it does not begin as one", () => "#!/bin/sh\nreboot\n"),
    file("of another format", 'format "9" is not known', () => "FERRYAR9"),
    file("cut in the middle", "it is cut", (whole) => whole.subarray(0, whole.length / 2)),
    file("without its last byte", "it is cut", (whole) => whole.subarray(0, -1)),
    file("with something behind its end", "something follows its end", (whole) => Buffer.concat([whole, whole])),
    file("with a flipped bit", "its digest differs", (whole) => flipped(whole, Math.floor(whole.length / 2))),
    file("a name of 2 GiB", "a name in it is too long", (whole) => {
      const bad = Buffer.from(whole);
      bad.writeUInt32LE(2 ** 31, 8);
      return bad;
    }),
    file("an object of 2^62 bytes", "bytes, which none has", (whole) => {
      const bad = Buffer.from(whole);
      bad.writeBigUInt64LE(2n ** 62n, 12 + bad.readUInt32LE(8));
      return bad;
    }),
    entries("an object `../../etc/shadow`", "is no object of a checkpoint", (all) => [
      ...all,
      { name: "../../etc/shadow", body: Buffer.from("root::0:0:99999:7:::\n") },
    ]),
    entries("an object `packs/00/../../../etc/shadow`", "is no object of a checkpoint", (all) => [
      ...all,
      { name: "packs/00/../../../etc/shadow", body: Buffer.from("x") },
    ]),
    entries("the store's own settings in it", "is no object of a checkpoint", (all) => [
      ...all,
      { name: "store.json", body: Buffer.from("{}") },
    ]),
    entries("a pack that nothing needs", "nothing in it needs packs/", (all) => [
      ...all,
      { name: packKey("ab".repeat(16)), body: Buffer.from("x") },
    ]),
    entries("a pack twice", "is in it twice", (all) => [...all, ...all.slice(-1)]),
    entries("without a pack", "is missing in it", (all) => all.slice(0, -1)),
    entries("without a manifest", "it does not begin with a manifest", (all) => all.slice(1)),
    entries("a flipped bit in a pack, its own digest put right", "was changed or is cut", (all) =>
      all.map((entry, i) => (i === all.length - 1 ? { ...entry, body: flipped(entry.body, 200) } : entry)),
    ),
    refused("an exported file: a FIFO", "E_REQUEST", "is no plain file", () =>
      withPlace((place) => {
        makeFifo(join(place.dir, "x"));
        return takenIn(place, join(place.dir, "x"));
      }),
    ),
    refused("an exported file: a link to /dev/zero", "E_REQUEST", "is no plain file", () =>
      withPlace((place) => {
        symlinkSync("/dev/zero", join(place.dir, "x"));
        return takenIn(place, join(place.dir, "x"));
      }),
    ),
    refused("an exported file: signed by a stranger", "E_STORE_SIGNATURE", "who is not trusted here", () =>
      withPlace(async (place) => {
        writeFileSync(join(place.dir, "x"), await exported(place));
        await takenIn(place, join(place.dir, "x"));
      }, newSigner()),
    ),
    refused(
      "an exported file: encrypted with another key",
      "E_STORE_KEY",
      "the checkpoint is encrypted with the key",
      () =>
        withPlace(async (place) => {
          writeFileSync(join(place.dir, "x"), await exported(place));
          await takenIn(place, join(place.dir, "x"), { masterKeys: [OTHER_MASTER] });
        }),
    ),
    manifest("of workload `../../etc/shadow`", "workload: is no name of a workload", { workload: "../../etc/shadow" }),
    manifest("with an id `../../etc/shadow`", "id: Invalid string", { id: "../../etc/shadow" }),
    manifest("with a pack `../../etc/shadow`", "tree.pack: Invalid string", {
      tree: { pack: "../../etc/shadow", packBytes: 1, packDigest: "0".repeat(64), block: 0 },
    }),
    manifest("of another workload", "is the manifest of other", { workload: "other" }),
    manifest("of a later format", "format: Invalid input", { format: 2 }),
    manifest("with a field that nobody knows", "Unrecognized key", { root: true }),
    stream("../../etc/shadow"),
    stream("/etc/shadow"),
    stream("a/../../b"),
    object("a flipped bit in a pack", "E_STORE_CORRUPT", "was changed or is cut", packOf, (body) => flipped(body, 200)),
    object("a pack that is cut", "E_STORE_CORRUPT", "bytes instead of", packOf, (body) => body.subarray(0, -1)),
    object(
      "a flipped bit in what a manifest says",
      "E_STORE_SIGNATURE",
      "was changed after it was signed",
      manifestOf,
      (body) => Buffer.from(body.toString().replace("node-a", "node-b")),
    ),
    object("a manifest that is cut", "E_STORE_CORRUPT", "is no JSON", manifestOf, (body) => body.subarray(0, 100)),
    refused("the store: the wrong key", "E_STORE_KEY", "the wrong key for the store", () =>
      withPlace(({ open }) => open({ masterKeys: [OTHER_MASTER] })),
    ),
    refused("the store: no key, and it is encrypted", "E_STORE_KEY", "is encrypted, and no key is given", () =>
      withPlace(({ open }) => open({ masterKeys: [] })),
    ),
    refused("the store: a wrapped key with a flipped bit", "E_STORE_CORRUPT", "its digest differs", () =>
      withPlace(async ({ dir, store, open }) => {
        const path = join(dir, "store", (await keysOf(store, "keys/"))[0] ?? "");
        writeFileSync(path, flipped(readFileSync(path), 50));
        await open();
      }),
    ),
    refused(
      "the store: settings that are cut",
      "E_STORE_CORRUPT",
      "store.json of the store was changed or is cut",
      () =>
        withPlace(async ({ dir, open }) => {
          const path = join(dir, "store", "store.json");
          writeFileSync(path, readFileSync(path).subarray(0, -10));
          await open();
        }),
    ),
  ],
};
