/**
 * The token: the source's signed word that it released a workload. Whoever holds one for (workload, operation, to,
 * destination, digest) may let the prepared copy run, so it is bound to all of them and verified against the CA.
 */
import * as z from "zod";
import { issuesOf } from "../../host/issues.js";
import type { Token } from "../../model/contract.js";
import { demandFields, demandProof, epochField, nodeField, proofOf, statementFields, tokenError } from "./statement.js";
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

const tokenSchema = z.strictObject({
  ...statementFields,
  from: epochField,
  to: epochField,
  source: nodeField,
  destination: nodeField,
});

/** The signed bytes: a fixed field order, and a first line that no other use of the key shares. */
const signedBytes = (fields: TokenFields): Buffer => {
  const { workload, operation, from, to, source, destination, digest } = fields;
  return Buffer.from(
    `ferry-token-v1\n${JSON.stringify({ destination, digest, from, operation, source, to, workload })}`,
  );
};

/** Signs with this node's key. Throws E_TOKEN when the fields are not valid or name another source than this node. */
export function signToken(fields: TokenFields, identity: LinkIdentity): Token {
  if (fields.source !== identity.node) {
    throw tokenError(`a token of source ${fields.source} can't be signed by ${identity.node}`);
  }
  return parseToken({ ...fields, ...proofOf(signedBytes(fields), identity) });
}

function parseToken(token: unknown): Token {
  const parsed = tokenSchema.safeParse(token);
  if (!parsed.success) throw tokenError(`the token is not valid: ${issuesOf(parsed.error)}`);
  return parsed.data;
}

/**
 * The token, if it is genuine and for exactly this hand-over. Throws E_TOKEN that names what differs.
 * @param identity this node's: its CAs and revocation lists count
 * @param now Unix milliseconds
 */
export function verifyToken(
  token: unknown,
  identity: LinkIdentity,
  expect: TokenExpectation,
  now: number = Date.now(),
): Token {
  const parsed = parseToken(token);
  demandFields<TokenExpectation>("token", parsed, expect, [
    "workload",
    "operation",
    "to",
    "source",
    "destination",
    "digest",
  ]);
  if (parsed.from >= parsed.to) throw tokenError(`the token goes from epoch ${parsed.from} to ${parsed.to}`);
  demandProof(["token", "source"], parsed, signedBytes(parsed), parsed.source, identity, now);
  return parsed;
}
