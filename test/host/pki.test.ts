/** The cluster's PKI, with the real openssl. */
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { createAuthority, issueNodeCertificate } from "../../src/host/pki.js";

let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), "ferry-pki-"));
});
after(() => rmSync(dir, { recursive: true, force: true }));

const mode = (path: string): number => statSync(path).mode & 0o777;
const cert = (path: string): X509Certificate => new X509Certificate(readFileSync(path));

test("a CA and a node's certificate: P-256, the node's URI as only name, private files", async () => {
  const ca = await createAuthority(join(dir, "one"));
  const node = await issueNodeCertificate({ authorityDir: join(dir, "one"), node: "node-a", outDir: join(dir, "a") });
  for (const path of [ca.certFile, ca.keyFile, node.caFile, node.certFile, node.keyFile]) {
    assert.equal(mode(path), 0o600, path);
  }
  for (const path of [join(dir, "one"), join(dir, "a")]) assert.equal(mode(path), 0o700, path);
  assert.deepEqual(readdirSync(join(dir, "one")).sort(), ["ca.crt", "ca.key"]);
  assert.deepEqual(readdirSync(join(dir, "a")).sort(), ["ca.crt", "node.crt", "node.key"]);
  const leaf = cert(node.certFile);
  assert.equal(leaf.subjectAltName, "URI:ferry://node/node-a");
  assert.equal(leaf.ca, false);
  assert.equal(leaf.publicKey.asymmetricKeyDetails?.namedCurve, "prime256v1");
  assert.deepEqual(leaf.keyUsage, ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]);
  assert.ok(leaf.verify(cert(ca.certFile).publicKey));
  assert.ok(cert(ca.certFile).ca);
});

test("made again, good files are kept; another node, another CA or a broken pair are made anew", async () => {
  const authorityDir = join(dir, "two");
  await createAuthority(authorityDir);
  const ca = readFileSync(join(authorityDir, "ca.crt"), "utf8");
  const outDir = join(dir, "b");
  const issue = async (node: string, authority = authorityDir): Promise<string> => {
    const files = await issueNodeCertificate({ authorityDir: authority, node, outDir });
    assert.equal(readFileSync(files.caFile, "utf8"), readFileSync(join(authority, "ca.crt"), "utf8"));
    return readFileSync(files.certFile, "utf8");
  };
  const first = await issue("node-b");
  await createAuthority(authorityDir);
  assert.equal(readFileSync(join(authorityDir, "ca.crt"), "utf8"), ca);
  assert.equal(await issue("node-b"), first);
  const renamed = await issue("node-x");
  assert.notEqual(renamed, first);
  writeFileSync(join(outDir, "node.key"), "torn");
  const repaired = await issue("node-x");
  assert.notEqual(repaired, renamed);
  const moved = await issue("node-x", join(dir, "three"));
  assert.notEqual(moved, repaired);
  assert.ok(cert(join(outDir, "node.crt")).verify(cert(join(dir, "three", "ca.crt")).publicKey));
});

test("a broken CA is an error, never replaced", async () => {
  const authorityDir = join(dir, "four");
  await createAuthority(authorityDir);
  const key = readFileSync(join(authorityDir, "ca.key"), "utf8");
  rmSync(join(authorityDir, "ca.key"));
  await assert.rejects(createAuthority(authorityDir), { code: "E_STATE", message: /ca.key is missing/ });
  writeFileSync(join(authorityDir, "ca.key"), readFileSync(join(dir, "two", "ca.key")), { mode: 0o600 });
  await assert.rejects(createAuthority(authorityDir), { code: "E_STATE", message: /do not belong together/ });
  writeFileSync(join(authorityDir, "ca.key"), key, { mode: 0o600 });
  writeFileSync(join(authorityDir, "ca.crt"), "garbage");
  await assert.rejects(createAuthority(authorityDir), { code: "E_STATE", message: /not readable/ });
  assert.equal(readFileSync(join(authorityDir, "ca.crt"), "utf8"), "garbage");
});

test("names that are not node names are refused before anything is made", async () => {
  for (const node of ["", "A", "a/b", "..", "a b", "nö", "x".repeat(64), "a\nDNS:evil"]) {
    await assert.rejects(issueNodeCertificate({ authorityDir: join(dir, "five"), node, outDir: join(dir, "c") }), {
      code: "E_NAME",
    });
  }
  assert.throws(() => statSync(join(dir, "five")));
});

test("nodes that are issued at the same time do not disturb each other", async () => {
  const authorityDir = join(dir, "two");
  const names = ["n-1", "n-2", "n-3", "n-4"];
  const files = await Promise.all(
    names.map((node) => issueNodeCertificate({ authorityDir, node, outDir: join(dir, node) })),
  );
  const serials = new Set(files.map((file) => cert(file.certFile).serialNumber));
  assert.equal(serials.size, 4);
  assert.deepEqual(readdirSync(authorityDir).sort(), ["ca.crt", "ca.key"]);
});
