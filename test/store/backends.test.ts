/** Both places that a store can be in promise the same: one list for both. */
import assert from "node:assert/strict";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import type { FerryError } from "../../src/model/failure.js";
import { localBackend, s3Backend, type Backend } from "../../src/store/index.js";
import { NO_S3, S3Server } from "../support/s3-server.js";
import { tempDir } from "./kit.js";

function conformance(open: () => Promise<Backend>): void {
  let backend: Backend;
  const keys = async (prefix: string): Promise<string[]> => {
    const found: string[] = [];
    for await (const { key } of backend.list(prefix)) found.push(key);
    return found;
  };
  before(async () => (backend = await open()));
  after(() => backend.close());

  it("gives back what was put, whole and in parts", async () => {
    const body = Buffer.from("0123456789");
    assert.equal(await backend.put("a/one", body), "stored");
    assert.deepEqual(await backend.get("a/one"), body);
    assert.deepEqual(await backend.get("a/one", { offset: 3, bytes: 4 }), Buffer.from("3456"));
    assert.equal((await backend.stat("a/one"))?.bytes, 10);
  });
  it("leaves an object alone that is there already", async () => {
    await backend.put("a/two", Buffer.from("first"));
    assert.equal(await backend.put("a/two", Buffer.from("second")), "exists");
    assert.equal(String(await backend.get("a/two")), "first");
    await backend.replace("a/two", Buffer.from("third"));
    assert.equal(String(await backend.get("a/two")), "third");
  });
  it("lets exactly one of many win who put the same name at once", async () => {
    const bodies = Array.from({ length: 8 }, (_, i) => Buffer.from(`writer ${i}`));
    const said = await Promise.all(bodies.map((body) => backend.put("a/race", body)));
    assert.equal(said.filter((word) => word === "stored").length, 1);
    assert.deepEqual(await backend.get("a/race"), bodies[said.indexOf("stored")]);
  });
  it("says undefined of what is not there, and deletes it without complaint", async () => {
    assert.equal(await backend.get("a/none"), undefined);
    assert.equal(await backend.get("a/none", { offset: 0, bytes: 1 }), undefined);
    assert.equal(await backend.stat("a/none"), undefined);
    await backend.delete("a/none");
  });
  it("refuses a part that reaches over the end", async () => {
    await backend.put("a/short", Buffer.from("abc"));
    for (const range of [
      { offset: 1, bytes: 9 },
      { offset: 7, bytes: 1 },
    ]) {
      await assert.rejects(backend.get("a/short", range), (error: FerryError) => error.code === "E_STORE_CORRUPT");
    }
  });
  it("lists in order by prefix, and what was deleted no more", async () => {
    for (const name of ["l/b/2", "l/a/1", "l/b/1", "l/bc"]) await backend.put(name, Buffer.from(name));
    assert.deepEqual(await keys("l/"), ["l/a/1", "l/b/1", "l/b/2", "l/bc"]);
    assert.deepEqual(await keys("l/b"), ["l/b/1", "l/b/2", "l/bc"]);
    assert.deepEqual(await keys("none/"), []);
    await backend.delete("l/b/1");
    assert.deepEqual(await keys("l/b/"), ["l/b/2"]);
  });
  it("keeps an object of megabytes", async () => {
    const body = Buffer.alloc(12 * 1024 * 1024, "megabytes ");
    assert.equal(await backend.put("big/one", body), "stored");
    assert.equal(await backend.put("big/one", body), "exists");
    assert.ok((await backend.get("big/one"))?.equals(body));
  });
  it("refuses names that lead out of it", async () => {
    for (const key of ["../etc/shadow", "/etc/shadow", "a//b", "a/../b", ""]) {
      await assert.rejects(async () => backend.put(key, Buffer.from("x")), /is no name of an object/);
    }
  });
}

describe("a local directory", () => {
  let dir = "";
  before(async () => (dir = await mkdtemp(join(tmpdir(), "ferry-store-"))));
  after(() => rm(dir, { recursive: true, force: true }));
  conformance(() => localBackend(join(dir, "store")));

  it("is for its owner only", async (t) => {
    const root = join(await tempDir(t), "store");
    const backend = await localBackend(root);
    await backend.put("a/b", Buffer.from("secret"));
    assert.equal((await stat(join(root, "a"))).mode & 0o777, 0o700);
    assert.equal((await stat(join(root, "a/b"))).mode & 0o777, 0o600);
  });
});

describe("a bucket of a real S3 server", { skip: NO_S3 }, () => {
  let server: S3Server;
  before(async () => (server = await S3Server.start()));
  after(() => server.stop());
  // Parts of 5 MiB from 8 MiB on: the big object goes up in three.
  conformance(() => s3Backend(server.options("store", { multipartFromBytes: 8 << 20, partBytes: 5 << 20 })));

  it("says what to do about a bucket that is not there and a key that is not known", async () => {
    const says = (words: RegExp) => (error: FerryError) =>
      error.code === "E_STORE" && words.test(error.data.remedy ?? "");
    await assert.rejects(s3Backend({ ...server.options("x"), bucket: "no-such-bucket" }), says(/makes no buckets/));
    const wrong = { accessKeyId: "ferry", secretAccessKey: "not the one" };
    await assert.rejects(s3Backend({ ...server.options("x"), credentials: wrong }), says(/check the access key/));
    const nobody = { accessKeyId: "nobody", secretAccessKey: "nothing" };
    await assert.rejects(s3Backend({ ...server.options("x"), credentials: nobody }), says(/the access key/));
  });
  it("goes on when the server was killed and started again in the middle", async () => {
    const backend = await s3Backend(server.options("again", { multipartFromBytes: 8 << 20, partBytes: 5 << 20 }));
    await backend.put("first", Buffer.from("so that it knows the server"));
    await server.kill();
    const body = Buffer.alloc(16 * 1024 * 1024, "again ");
    const putting = backend.put("second", body);
    await server.up();
    assert.equal(await putting, "stored");
    assert.ok((await backend.get("second"))?.equals(body));
  });
  it("gives up with what to do when the server stays away", async () => {
    const away = { ...server.options("x", { patienceMs: 300 }), endpoint: "http://127.0.0.1:9" };
    await assert.rejects(
      s3Backend(away),
      (error: FerryError) => error.code === "E_STORE" && /is up/.test(error.data.remedy ?? ""),
    );
  });
});
