/**
 * The token: the source's signed word that it released a workload. Whoever holds one for (workload, operation, to,
 * destination, digest) may let the prepared copy run, so it is bound to all of them and verified against the CA.
 */
import { createPrivateKey, sign, verify, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import * as z from "zod";
import type { Token } from "../../model/contract.js";
import { ferryError, type FerryError } from "../../model/failure.js";
import { isNodeName, isOperationId, isWorkloadName } from "../../model/names.js";
import { issuesOf } from "./hello.js";
import { nodeNameOf } from "./tls.js";
import type { LinkIdentity } from "./types.js";

type TokenFields = Omit<Token, "certificate" | "signature">;

/** What a destination knows by itself, and the token must say too. */
export interface TokenExpectation {
  workload: string;
  operation: string;
  to: number;
  source: string;
  destination: string;
  digest: string;
}

const ONE_CERTIFICATE = /^-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n?$/;

const tokenSchema = z.strictObject({
  workload: z.string().refine(isWorkloadName, "not a workload name"),
  operation: z.string().refine(isOperationId, "not an operation id"),
  from: z.int().min(1),
  to: z.int().min(1),
  source: z.string().refine(isNodeName, "not a node name"),
  destination: z.string().refine(isNodeName, "not a node name"),
  digest: z.string().min(1).max(256),
  certificate: z.string().max(16_384).regex(ONE_CERTIFICATE, "not one PEM certificate"),
  signature: z
    .string()
    .max(256)
    .regex(/^[A-Za-z0-9+/]+={0,2}$/, "not base64"),
});

/** The signed bytes: a fixed field order, and a first line that no other use of the key shares. */
const signedBytes = (fields: TokenFields): Buffer => {
  const { workload, operation, from, to, source, destination, digest } = fields;
  return Buffer.from(
    `ferry-token-v1\n${JSON.stringify({ destination, digest, from, operation, source, to, workload })}`,
  );
};

const tokenError = (message: string, remedy?: string): FerryError =>
  ferryError("E_TOKEN", message, remedy === undefined ? {} : { remedy });

/** Signs with this node's key. Throws E_TOKEN when the fields are not valid or name another source than this node. */
export function signToken(fields: TokenFields, identity: LinkIdentity): Token {
  if (fields.source !== identity.node) {
    throw tokenError(`a token of source ${fields.source} can't be signed by ${identity.node}`);
  }
  const key = createPrivateKey(readFileSync(identity.keyFile));
  const token: Token = {
    ...fields,
    certificate: new X509Certificate(readFileSync(identity.certFile)).toString(),
    signature: sign("sha256", signedBytes(fields), key).toString("base64"),
  };
  return parseToken(token);
}

function parseToken(token: unknown): Token {
  const parsed = tokenSchema.safeParse(token);
  if (!parsed.success) throw tokenError(`the token is not valid: ${issuesOf(parsed.error)}`);
  return parsed.data;
}

/**
 * The token, if it is genuine and for exactly this hand-over. Throws E_TOKEN that names what differs.
 * @param identity this node's: only its CA file is used
 * @param now Unix milliseconds
 */
export function verifyToken(
  token: unknown,
  identity: LinkIdentity,
  expect: TokenExpectation,
  now: number = Date.now(),
): Token {
  const parsed = parseToken(token);
  for (const field of ["workload", "operation", "to", "source", "destination", "digest"] as const) {
    if (parsed[field] !== expect[field]) {
      throw tokenError(`the token's ${field} is ${parsed[field]}, expected ${expect[field]}`);
    }
  }
  if (parsed.from >= parsed.to) throw tokenError(`the token goes from epoch ${parsed.from} to ${parsed.to}`);
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(parsed.certificate);
  } catch {
    throw tokenError("the token's certificate can't be read");
  }
  const ca = new X509Certificate(readFileSync(identity.caFile));
  if (!certificate.checkIssued(ca) || !certificate.verify(ca.publicKey)) {
    throw tokenError("the token's certificate was not issued by this node's CA");
  }
  if (certificate.ca) throw tokenError("the token's certificate is a CA's, not a node's");
  const inDate = now >= Date.parse(certificate.validFrom) && now <= Date.parse(certificate.validTo);
  if (!inDate) {
    throw tokenError(
      `the token's certificate is valid from ${certificate.validFrom} to ${certificate.validTo}`,
      "issue a new certificate for the source, check both nodes' clocks",
    );
  }
  const named = nodeNameOf(certificate);
  if (named !== parsed.source) {
    throw tokenError(`the token's certificate names ${named ?? "no node"}, its source is ${parsed.source}`);
  }
  const { publicKey } = certificate;
  if (publicKey.asymmetricKeyType !== "ec" || publicKey.asymmetricKeyDetails?.namedCurve !== "prime256v1") {
    throw tokenError("the token's certificate does not hold a P-256 key");
  }
  if (!verify("sha256", signedBytes(parsed), publicKey, Buffer.from(parsed.signature, "base64"))) {
    throw tokenError("the token's signature is wrong: a field was changed, or another key signed it");
  }
  return parsed;
}
