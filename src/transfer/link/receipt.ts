/**
 * The receipt: the destination's signed word that it is the owner of an epoch and needs nothing more of the source (its
 * journal says OWNER: it runs, and has every page and file). Where the link is cut for good the workflow carries it to the
 * source, which may then let its frozen copy go. Bound to the hand-over like the token, and verified like it.
 */
import * as z from "zod";
import { issuesOf } from "../../host/issues.js";
import type { Receipt } from "../../model/contract.js";
import { demandFields, demandProof, epochField, nodeField, proofOf, statementFields, tokenError } from "./statement.js";
import type { LinkIdentity } from "./types.js";

export type ReceiptFields = Omit<Receipt, "certificate" | "signature">;

const receiptSchema = z.strictObject({ ...statementFields, epoch: epochField, owner: nodeField });

/** Another first line than the token's: neither can be taken for the other. */
const signedBytes = ({ workload, operation, epoch, owner, digest }: ReceiptFields): Buffer =>
  Buffer.from(`ferry-receipt-v1\n${JSON.stringify({ digest, epoch, operation, owner, workload })}`);

/** Signs with this node's key: only about itself. */
export function signReceipt(fields: Omit<ReceiptFields, "owner">, identity: LinkIdentity): Receipt {
  const whole = { ...fields, owner: identity.node };
  return { ...whole, ...proofOf(signedBytes(whole), identity) };
}

/**
 * The receipt, if it is genuine and says exactly what is expected. Throws E_TOKEN that names what differs.
 * @param identity this node's: its CAs and revocation lists count
 * @param now Unix milliseconds
 */
export function verifyReceipt(
  receipt: unknown,
  identity: LinkIdentity,
  expect: ReceiptFields,
  now: number = Date.now(),
): Receipt {
  const parsed = receiptSchema.safeParse(receipt);
  if (!parsed.success) throw tokenError(`the receipt is not valid: ${issuesOf(parsed.error)}`);
  const { data } = parsed;
  demandFields<ReceiptFields>("receipt", data, expect, ["workload", "operation", "epoch", "owner", "digest"]);
  demandProof(["receipt", "owner"], data, signedBytes(data), data.owner, identity, now);
  return data;
}
