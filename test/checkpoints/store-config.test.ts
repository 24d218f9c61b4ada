/** The configuration of a node's store: what is wrong in it is said, and nothing of a key is. */
import assert from "node:assert/strict";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { NodeStore } from "../../src/agent/checkpoints.js";
import { openStore, readStoreConfig, secretPlaces } from "../../src/checkpoints/store-config.js";
import { FerryError, type FailureCode } from "../../src/model/failure.js";
import { facts, tempDir } from "../store/kit.js";

interface Place {
  dir: string;
  file: string;
  put: (name: string, content: string) => string;
  config: (more?: object) => string;
}

async function place(t: TestContext): Promise<Place> {
  const dir = await tempDir(t);
  const put = (name: string, content: string): string => {
    writeFileSync(join(dir, name), content, { mode: 0o600 });
    return join(dir, name);
  };
  const pair = generateKeyPairSync("ed25519");
  const signer = put("signer.pem", pair.privateKey.export({ type: "pkcs8", format: "pem" }).toString());
  const key = put("master", `${randomBytes(32).toString("hex")}\n`);
  const config = (more: object = {}) =>
    put("store.json", JSON.stringify({ local: join(dir, "store"), key: { file: key }, signer, ...more }));
  return { dir, file: join(dir, "store.json"), put, config };
}

const fails = (work: Promise<unknown>, code: FailureCode, words: RegExp): Promise<void> =>
  assert.rejects(work, (error: unknown) => {
    assert.ok(error instanceof FerryError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, words);
    return true;
  });

describe("the configuration of a store", () => {
  it("opens what it names, and makes it", async (t) => {
    const { file, config, dir } = await place(t);
    config();
    const read = await readStoreConfig(file);
    assert.deepEqual(secretPlaces(read), [join(dir, "store"), join(dir, "master"), join(dir, "signer.pem")]);
    const store = await openStore(read);
    const begun = await store.begin({ workload: "redis" });
    assert.ok("writer" in begun);
    const { id } = await begun.writer.commit(facts("redis"));
    store.close();
    const again = await openStore(read);
    assert.equal((await again.manifest("redis", id)).id, id);
    again.close();
  });

  it("says what is wrong in it", async (t) => {
    const { file, config, put, dir } = await place(t);
    await fails(readStoreConfig(join(dir, "none.json")), "E_REQUEST", /can't be read.*ENOENT/);
    for (const text of ["", "{", "[]", "null", "7", JSON.stringify({ local: "/x" })]) {
      put("store.json", text);
      await fails(readStoreConfig(file), "E_REQUEST", /store\.json: /);
    }
    const bad: object[] = [
      { local: "relative" },
      { local: 7 },
      { s3: { bucket: "both" } },
      { local: undefined, s3: { bucket: "x" } },
      { local: undefined, s3: { bucket: "bucket", endpoint: "no address" } },
      { key: "in the file itself" },
      { key: { file: "relative" } },
      { key: { environment: "no name" } },
      { key: { command: "/bin/sh -c a" } },
      { key: { command: ["relative"] } },
      { key: { command: [] } },
      { key: { file: "/a", environment: "B" } },
      { signer: undefined },
      { signer: 7 },
      { trusted: ["relative"] },
      { trusted: "/not/a/list" },
      { oldKeys: [{ file: "/a" }, { other: 1 }] },
      { unknown: true },
    ];
    for (const more of bad) {
      config(more);
      await assert.rejects(
        readStoreConfig(file),
        (error: FerryError) => error.code === "E_REQUEST",
        JSON.stringify(more),
      );
    }
  });

  it("takes no key that is none, and never says it", async (t) => {
    const { file, config, put } = await place(t);
    const opened = () => readStoreConfig(file).then(openStore);
    config({ signer: "/does/not/exist" });
    await fails(opened(), "E_REQUEST", /\/does\/not\/exist is no key/);
    config({ signer: put("text.pem", "no key") });
    await fails(opened(), "E_REQUEST", /is no key/);
    const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
    config({ signer: put("rsa.pem", rsa.privateKey.export({ type: "pkcs8", format: "pem" }).toString()) });
    await fails(opened(), "E_REQUEST", /it is rsa, not Ed25519/);
    config({ trusted: [put("rsa.pub", rsa.publicKey.export({ type: "spki", format: "pem" }).toString())] });
    await fails(opened(), "E_REQUEST", /it is rsa/);
    const secret = "correct horse battery staple";
    config({ key: { file: put("short", secret) } });
    await assert.rejects(opened(), (error: FerryError) => {
      assert.equal(error.code, "E_STORE_KEY");
      assert.ok(!JSON.stringify(error.data).includes(secret));
      return true;
    });
    config({ key: { environment: "FERRY_TEST_NO_SUCH_KEY" } });
    await fails(opened(), "E_STORE_KEY", /FERRY_TEST_NO_SUCH_KEY/);
    config({ key: { command: ["/bin/false"] } });
    await fails(opened(), "E_STORE_KEY", /\/bin\/false/);
    config();
    (await opened()).close();
    config({ key: { file: put("another", randomBytes(32).toString("hex")) } });
    await fails(opened(), "E_STORE_KEY", /./);
  });
});

describe("a node's store", () => {
  const log = (): void => undefined;

  it("is none without a configuration", async () => {
    const store = new NodeStore({ node: "node-a", file: undefined, log });
    await fails(store.list({ schema: 1 }), "E_NO_CHECKPOINT", /node-a has no store/);
    await fails(store.newest("redis"), "E_NO_CHECKPOINT", /node-a/);
  });

  it("is looked for again when it was away, and read anew when its configuration changed", async (t) => {
    const { file, config, put, dir } = await place(t);
    const store = new NodeStore({ node: "node-a", file, log });
    t.after(() => store.close());
    await fails(store.list({ schema: 1 }), "E_REQUEST", /can't be read/);
    config();
    assert.deepEqual(await store.list({ schema: 1 }), []);
    const first = await store.open();
    assert.equal(await store.open(), first);
    // Another node's key is trusted from now on.
    const pair = generateKeyPairSync("ed25519");
    const other = put("other.pem", pair.privateKey.export({ type: "pkcs8", format: "pem" }).toString());
    const theirs = await openStore({ local: join(dir, "store"), key: { file: join(dir, "master") }, signer: other });
    const begun = await theirs.begin({ workload: "redis" });
    assert.ok("writer" in begun);
    const { id } = await begun.writer.commit({ ...facts("redis"), node: "node-b" });
    const [broken] = await store.list({ schema: 1 });
    assert.ok(broken !== undefined && "failure" in broken && broken.failure.code === "E_STORE_SIGNATURE");
    assert.equal(await store.newest("redis"), undefined, "who is not trusted is not believed");
    config({ trusted: [put("other.pub", pair.publicKey.export({ type: "spki", format: "pem" }).toString())] });
    assert.equal((await store.newest("redis"))?.id, id);
    const [listed] = await store.list({ schema: 1, workload: "redis" });
    assert.ok(listed !== undefined && "node" in listed && listed.node === "node-b" && !listed.pinned);

    await store.pin({ schema: 1, workload: "redis", checkpoint: id, pinned: true });
    assert.equal((await store.newest("redis"))?.pinned, true);
    await fails(store.remove({ schema: 1, workload: "redis", checkpoint: id }), "E_STATE", /pinned/);
    await store.pin({ schema: 1, workload: "redis", checkpoint: id, pinned: false });
    await store.verify({ schema: 1, workload: "redis", checkpoint: id });
    await store.remove({ schema: 1, workload: "redis", checkpoint: id });
    await store.remove({ schema: 1, workload: "redis", checkpoint: id });
    await fails(store.remove({ schema: 1, workload: "other", checkpoint: id }), "E_CHECKPOINT_UNKNOWN", /other/);
    await fails(store.verify({ schema: 1, workload: "redis", checkpoint: id }), "E_CHECKPOINT_UNKNOWN", /redis/);
    theirs.close();
  });

  it("tells what differs between two checkpoints", async (t) => {
    const { file, config } = await place(t);
    config();
    const node = new NodeStore({ node: "node-a", file, log });
    t.after(() => node.close());
    const store = await node.open();
    const made = async (text: string): Promise<string> => {
      const begun = await store.begin({ workload: "redis" });
      assert.ok("writer" in begun);
      await begun.writer.file("images/a.img", { kind: "image" }, Buffer.from(text));
      await begun.writer.file("same", { kind: "file" }, Buffer.from("same"));
      return (await begun.writer.commit(facts("redis"))).id;
    };
    const [before, after] = [await made("one"), await made("other")];
    const { streams } = await node.diff({ schema: 1, workload: "redis", checkpoint: before, with: after });
    assert.deepEqual(streams, [{ name: "images/a.img", kind: "image", before: 3, after: 5, changed: 4096 }]);
  });

  it("gives its processes what they need to open it, and nothing else", async (t) => {
    const { file, config } = await place(t);
    process.env["FERRY_TEST_STORE_KEY"] = randomBytes(32).toString("hex");
    t.after(() => delete process.env["FERRY_TEST_STORE_KEY"]);
    config({ key: { environment: "FERRY_TEST_STORE_KEY" } });
    const store = new NodeStore({ node: "node-a", file, log });
    assert.deepEqual(Object.keys(await store.environment()), ["FERRY_TEST_STORE_KEY"]);
  });
});
