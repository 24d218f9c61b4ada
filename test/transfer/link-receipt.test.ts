/** Receipts: genuine for exactly one hand-over, or E_TOKEN with the field that differs. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Receipt } from "../../src/model/contract.js";
import {
  signReceipt,
  signToken,
  verifyReceipt,
  type LinkIdentity,
  type ReceiptFields,
} from "../../src/transfer/link/index.js";
import { makePki, refusesEachField, type Pki } from "./link-support.js";

let pki: Pki;
let other: Pki;
let a: LinkIdentity;
let b: LinkIdentity;
const fields = { workload: "redis", operation: "redis.migrate.1", epoch: 2, digest: "sha256:abc" };
const expect: ReceiptFields = { ...fields, owner: "node-b" };
before(async () => {
  [pki, other] = await Promise.all([makePki(), makePki()]);
  [a, b] = await Promise.all([pki.identity("node-a"), pki.identity("node-b")]);
});
after(() => {
  pki.remove();
  other.remove();
});

const refused = (receipt: unknown, why: RegExp, want: ReceiptFields = expect, now?: number): void =>
  assert.throws(() => verifyReceipt(receipt, a, want, now), { code: "E_TOKEN", message: why });

test("a receipt is verified by the source, also after a way through JSON", () => {
  const receipt = signReceipt(fields, b);
  assert.deepEqual(verifyReceipt(JSON.parse(JSON.stringify(receipt)), a, expect), receipt);
});

test("each field is bound: expected otherwise, or changed in the receipt", () => {
  const receipt = signReceipt(fields, b);
  const others = {
    workload: "other",
    operation: "redis.migrate.2",
    epoch: 3,
    owner: "node-c",
    digest: "sha256:abd",
  };
  refusesEachField("receipt", receipt, expect, others, refused);
});

test("of another node, of another CA, out of date, of no form at all", async () => {
  const receipt = signReceipt(fields, b);
  // The source may not vouch for the destination, whatever it writes into the receipt.
  const own = signReceipt(fields, a);
  refused({ ...own, owner: "node-b" }, /certificate names node-a/);
  refused({ ...receipt, signature: own.signature }, /signature is wrong/);
  refused(signReceipt(fields, await other.identity("node-b")), /not issued by this node's CA/);
  refused(receipt, /valid from/, expect, Date.now() + 100 * 365 * 86_400_000);
  const { digest: _, ...partial }: Receipt = receipt;
  for (const rubbish of [undefined, null, 1, "x", [], {}, partial, { ...receipt, more: 1 }, { ...receipt, epoch: 0 }]) {
    refused(rubbish, /not valid/);
  }
});

test("a token is no receipt, and neither is its signature", () => {
  const token = signToken(
    {
      workload: "redis",
      operation: "redis.migrate.1",
      from: 1,
      to: 2,
      source: "node-b",
      destination: "node-a",
      digest: "sha256:abc",
    },
    b,
  );
  refused(token, /not valid/);
  refused({ ...signReceipt(fields, b), signature: token.signature }, /signature is wrong/);
});
