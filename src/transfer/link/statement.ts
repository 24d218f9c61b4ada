/**
 * What tokens and receipts have in common: a signed statement of a node, with the certificate to check it by. Each kind has
 * a first line of its own in the signed bytes, so that none can be taken for another.
 */
import { sign, verify, X509Certificate, type KeyObject } from "node:crypto";
import * as z from "zod";
import { ferryError, type FerryError } from "../../model/failure.js";
import { isNodeName, isOperationId, isWorkloadName } from "../../model/names.js";
import { credentialsOf, isP256 } from "./credentials.js";
import { nodeNameOf } from "./names.js";
import type { LinkIdentity } from "./types.js";

const ONE_CERTIFICATE = /^-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n?$/;

/** Fields that every statement has. */
export const statementFields = {
  workload: z.string().refine(isWorkloadName, "not a workload name"),
  operation: z.string().refine(isOperationId, "not an operation id"),
  digest: z.string().min(1).max(256),
  certificate: z.string().max(16_384).regex(ONE_CERTIFICATE, "not one PEM certificate"),
  signature: z
    .string()
    .max(256)
    .regex(/^[A-Za-z0-9+/]+={0,2}$/, "not base64"),
};
export const nodeField = z.string().refine(isNodeName, "not a node name");
export const epochField = z.int().min(1);

/** Proof that a statement is of its node. */
export interface Proof {
  certificate: string;
  signature: string;
}

export const tokenError = (message: string, remedy?: string): FerryError =>
  ferryError("E_TOKEN", message, remedy === undefined ? {} : { remedy });

/** Signs with this node's key. */
export function proofOf(bytes: Buffer, identity: LinkIdentity): Proof {
  const { certificate, key } = credentialsOf(identity).current();
  return { certificate: certificate.toString(), signature: sign("sha256", bytes, key).toString("base64") };
}

/** Throws E_TOKEN naming the first field that is not what is expected. */
export function demandFields<T extends object>(
  what: string,
  data: T,
  expect: T,
  fields: readonly (keyof T & string)[],
): void {
  for (const field of fields) {
    if (data[field] !== expect[field]) {
      throw tokenError(`the ${what}'s ${field} is ${String(data[field])}, expected ${String(expect[field])}`);
    }
  }
}

/** Throws E_TOKEN unless `node`, which is the statement's `role`, has signed these bytes. `now`: Unix milliseconds. */
export function demandProof(
  [what, role]: readonly [string, string],
  { certificate, signature }: Proof,
  bytes: Buffer,
  node: string,
  identity: LinkIdentity,
  now: number,
): void {
  const key = keyOf([what, role], certificate, node, identity, now);
  if (!verify("sha256", bytes, key, Buffer.from(signature, "base64"))) {
    throw tokenError(`the ${what}'s signature is wrong: a field was changed, or another key signed it`);
  }
}

/**
 * The public key of the node that a signed statement (`what`, by its `role`) says it is from. Throws E_TOKEN when its certificate is not
 * one that this node's CA gave to that node, or is out of date.
 */
function keyOf(
  [what, role]: readonly [string, string],
  pem: string,
  node: string,
  identity: LinkIdentity,
  now: number,
): KeyObject {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(pem);
  } catch {
    throw tokenError(`the ${what}'s certificate can't be read`);
  }
  const ours = credentialsOf(identity).current();
  if (ours.issuerOf(certificate) === undefined) {
    throw tokenError(`the ${what}'s certificate was not issued by this node's CA`);
  }
  if (certificate.ca) throw tokenError(`the ${what}'s certificate is a CA's, not a node's`);
  const inDate = now >= Date.parse(certificate.validFrom) && now <= Date.parse(certificate.validTo);
  if (!inDate) {
    throw tokenError(
      `the ${what}'s certificate is valid from ${certificate.validFrom} to ${certificate.validTo}`,
      `issue a new certificate for ${node}, check both nodes' clocks`,
    );
  }
  const named = nodeNameOf(certificate);
  if (named !== node) {
    throw tokenError(`the ${what}'s certificate names ${named ?? "no node"}, its ${role} is ${node}`);
  }
  const revoked = ours.revocation(certificate, now);
  if (revoked !== undefined) throw tokenError(`the ${what} is not believed: ${revoked.message}`, revoked.remedy);
  const { publicKey } = certificate;
  if (!isP256(publicKey)) {
    throw tokenError(`the ${what}'s certificate does not hold a P-256 key`);
  }
  return publicKey;
}
