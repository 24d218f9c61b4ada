/** Signed specs: what a node that trusts a signer takes, and what it refuses, each in its own words. */
import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { test } from "node:test";
import { parsePolicy, type Policy } from "../../src/agent/policy.js";
import { checkPolicy, type Asked } from "../../src/agent/policy-check.js";
import { newSigningKey, signSpec, type SignOptions } from "../../src/keys/spec-signing.js";
import { FerryError } from "../../src/model/failure.js";
import { specProblems } from "../../src/model/spec-check.js";
import { sameSpec } from "../../src/model/spec-signature.js";
import type { WorkloadSpec } from "../../src/model/workload.js";
import { spec } from "./preflight-support.js";

const NOW = 1_800_000_000_000;
const DAY = 86_400_000;
const alice = newSigningKey();
const mallory = newSigningKey();
const policy: Policy = parsePolicy(
  JSON.stringify({ trustedSigners: { alice: alice.publicLine }, requireSignature: true }),
);
const signed = (more: Partial<SignOptions> = {}, subject = spec): WorkloadSpec =>
  signSpec(subject, {
    signer: "alice",
    privatePem: alice.privatePem,
    signedAt: NOW - DAY,
    expiresAt: NOW + DAY,
    ...more,
  });
const said = (subject: WorkloadSpec, asked: Partial<Asked> = {}, by = policy): string =>
  checkPolicy(subject, by, { side: "source", node: "node-a", nowMs: NOW, others: 0, ...asked })
    .map(({ level, check, message }) => `${level} ${check}: ${message}`)
    .join("\n");

test("a spec that a trusted signer signed is taken, at a start and at an arrival", () => {
  const good = signed();
  assert.deepEqual(specProblems(good), []);
  assert.equal(said(good), "");
  assert.equal(said(good, { from: "node-b" }), "");
  // As it comes out of a journal or a history: other order of keys.
  const again = JSON.parse(JSON.stringify(Object.fromEntries(Object.entries(good).toReversed()))) as WorkloadSpec;
  assert.equal(said(again), "");
});

test("missing", () => {
  assert.match(said(spec), /^block signature: the spec is not signed, and this node takes signed ones only .*alice/);
  // Not required: unsigned is fine, a bad one is not.
  const optional = { ...policy, requireSignature: false };
  assert.equal(said(spec, {}, optional), "");
  assert.match(said(signed({ privatePem: mallory.privatePem }), {}, optional), /^block signature/);
  // A node that knows no signers does not look.
  assert.equal(said(signed({ privatePem: mallory.privatePem }), {}, {}), "");
});

test("forged: another key under the name, or words that were changed", () => {
  const forged = /^block signature: the spec's signature was not made with a key of alice that this node knows/;
  assert.match(said(signed({ privatePem: mallory.privatePem })), forged);
  const good = signed();
  const change = (more: object): WorkloadSpec =>
    ({ ...good, signature: { ...good.signature, ...more } }) as WorkloadSpec;
  assert.match(said(change({ expiresAt: NOW + 1000 * DAY })), forged);
  assert.match(said(change({ nodes: ["node-a"] })), forged);
  assert.match(said(change({ digest: "0".repeat(64) })), forged);
  assert.match(said(change({ value: `${"A".repeat(86)}==` })), forged);
});

test("for another spec: whatever field differs", () => {
  const { signature } = signed();
  const others: Partial<WorkloadSpec>[] = [
    { name: "other" },
    { command: ["python3", "-c", "evil"] },
    { env: { A: "1" } },
    { dir: "/tmp" },
    { user: "nobody" },
    { limits: { memoryBytes: 2 ** 40 } },
    { volumes: [{ name: "v", path: "/srv/v", kind: "copy" }] },
    { network: { ...spec.network, ip: "10.77.0.101/24" } },
    { network: { ...spec.network, gateway: "10.77.0.1" } },
  ];
  for (const more of others) {
    assert.match(
      said({ ...spec, ...more, ...(signature && { signature }) }),
      /the signature by alice is of another spec/,
    );
  }
});

test("unknown signer", () => {
  assert.match(said(signed({ signer: "bob" })), /signed by bob, whom this node does not know \(signers: alice\)/);
  assert.match(said(signed({ signer: "constructor" })), /whom this node does not know/);
});

test("expired: not started any more, but what runs may go on moving", () => {
  const old = signed({ expiresAt: NOW - 1 });
  assert.match(said(old), /^block signature: the spec's signature by alice has expired on 2027-01-1/);
  assert.match(said(old, { from: "node-b" }), /^warn signature: .* has expired .*: once stopped it can't be started/);
  assert.match(said(signed({ signedAt: NOW + DAY, expiresAt: NOW + 2 * DAY })), /^block signature: .* holds from/);
});

test("for other nodes", () => {
  const bound = signed({ nodes: ["node-b", "node-c"] });
  assert.match(said(bound), /the spec is signed for node-b, node-c, not for node-a/);
  assert.equal(said(bound, { node: "node-c", from: "node-b" }), "");
});

test("a key that is replaced: both hold while the policy has both", () => {
  const next = newSigningKey();
  const both = parsePolicy(JSON.stringify({ trustedSigners: { alice: [next.publicLine, alice.publicLine] } }));
  assert.equal(said(signed(), {}, both), "");
  assert.equal(said(signed({ privatePem: next.privatePem }), {}, both), "");
});

test("signed again it is the same spec; with another command it is not", () => {
  assert.ok(sameSpec(signed(), signed({ signedAt: NOW })));
  assert.ok(sameSpec(signed(), spec));
  assert.ok(!sameSpec(signed(), { ...spec, command: ["x"] }));
});

test("a signature of the wrong form is a wrong spec; a key that can't sign is refused without its words", () => {
  const good = signed();
  for (const [more, words] of [
    [{ signer: "Alice!" }, /signature\.signer/],
    [{ expiresAt: "soon" }, /signature\.expiresAt/],
    [{ nodes: [] }, /signature\.nodes/],
    [{ value: "x" }, /signature\.value/],
    [{ extra: 1 }, /signature\."extra" is not a known field/],
  ] as const) {
    const subject = { ...good, signature: { ...good.signature, ...more } };
    assert.match(specProblems(subject).join("\n"), words);
  }
  const rsa = generateKeyPairSync("rsa", { modulusLength: 1024 }).privateKey.export({ type: "pkcs8", format: "pem" });
  for (const privatePem of ["SECRET-WORDS", rsa.toString()]) {
    assert.throws(
      () => signed({ privatePem }),
      (error) => error instanceof FerryError && error.code === "E_SIGNATURE" && !error.message.includes("SECRET"),
    );
  }
});
