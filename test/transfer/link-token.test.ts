/** Tokens: genuine for exactly one hand-over, or E_TOKEN with the field that differs. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import type { Token } from "../../src/model/contract.js";
import { signToken, verifyToken, type LinkIdentity, type TokenExpectation } from "../../src/transfer/link/index.js";
import { makePki, refusesEachField, TOKEN, TOKEN_EXPECTED, type Pki } from "./link-support.js";

let pki: Pki;
let other: Pki;
let a: LinkIdentity;
let b: LinkIdentity;
const fields = TOKEN;
const expect = TOKEN_EXPECTED;
before(async () => {
  [pki, other] = await Promise.all([makePki(), makePki()]);
  [a, b] = await Promise.all([pki.identity("node-a"), pki.identity("node-b")]);
});
after(() => {
  pki.remove();
  other.remove();
});

const refused = (token: unknown, why: RegExp, want: TokenExpectation = expect, now?: number): void =>
  assert.throws(() => verifyToken(token, b, want, now), { code: "E_TOKEN", message: why });

test("a token is verified by the destination, also after a way through JSON", () => {
  const token = signToken(fields, a);
  assert.deepEqual(verifyToken(JSON.parse(JSON.stringify(token)), b, expect), token);
});

test("each field is bound: expected otherwise, or changed in the token", () => {
  const token = signToken(fields, a);
  const others = {
    workload: "other",
    operation: "redis.migrate.2",
    to: 3,
    source: "node-c",
    destination: "node-c",
    digest: "sha256:abd",
  };
  refusesEachField("token", token, expect, others, refused);
  refused({ ...token, from: 5 }, /from epoch 5 to 2/);
  const later = signToken({ ...fields, from: 2, to: 9 }, a);
  refused({ ...later, from: 1 }, /signature is wrong/, { ...expect, to: 9 });
});

test("another node, another CA, an expired certificate and a CA's own are refused", async () => {
  const [foreign, expired] = await Promise.all([
    other.identity("node-a"),
    pki.special("expired", { node: "node-a", days: -1 }),
  ]);
  refused(signToken(fields, foreign), /not issued by this node's CA/);
  refused(signToken(fields, expired), /valid from/);
  const forged = { ...signToken({ ...fields, source: "node-b" }, b), source: "node-a" };
  refused(forged, /names node-b, its source is node-a/);
  const own = signToken(fields, a);
  refused({ ...own, certificate: readFileSync(b.certFile, "utf8") }, /names node-b/);
  refused({ ...own, certificate: readFileSync(a.caFile, "utf8") }, /CA's, not a node's/);
  refused(own, /valid from/, expect, Date.now() + 10 * 365 * 86_400_000);
  assert.throws(() => signToken({ ...fields, source: "node-b" }, a), { code: "E_TOKEN" });
});

test("what is not a token is refused in words, never crashes", () => {
  const token: Token = signToken(fields, a);
  const broken: unknown[] = [
    undefined,
    null,
    "token",
    [],
    {},
    { ...token, extra: 1 },
    { ...token, to: "2" },
    { ...token, workload: "a/b" },
    { ...token, signature: "" },
    { ...token, signature: "!!!" },
    { ...token, signature: "A".repeat(300) },
    { ...token, signature: token.signature.slice(0, -8) },
    { ...token, certificate: "" },
    { ...token, certificate: token.certificate + token.certificate },
    { ...token, certificate: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" },
    { ...token, certificate: "x".repeat(20_000) },
  ];
  for (const value of broken) refused(value, /token/);
});
