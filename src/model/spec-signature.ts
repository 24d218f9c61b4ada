/**
 * What a signature of a spec says, and over which bytes. It travels inside the spec, so that every node that the workload
 * comes to, and every start after a stop, can check it. Pure: who signs and checks is in src/keys.
 */
import { canonicalJson } from "./canonical.js";
import { nameProblem } from "./names.js";
import type { WorkloadSpec } from "./workload.js";

export interface SpecSignature {
  /** The name under which the nodes' policies know the key. */
  signer: string;
  /** Unix milliseconds. */
  signedAt: number;
  /** Unix milliseconds: it may be started until then. */
  expiresAt: number;
  /** Nodes that it may run on; missing: all that trust the signer. */
  nodes?: string[];
  /** SHA-256 of `specText`, hex: of which spec it is. */
  digest: string;
  /** Base64 of an Ed25519 signature over `signedText`. */
  value: string;
}

export const SPEC_DIGEST = /^[0-9a-f]{64}$/;
/** Base64 of 64 bytes. */
export const SIGNATURE_VALUE = /^[A-Za-z0-9+/]{86}==$/;
const MAX_NODES = 1000;

export function unsigned(spec: WorkloadSpec): Omit<WorkloadSpec, "signature"> {
  const { signature: _, ...rest } = spec;
  return rest;
}

/** Equal in everything but who signed it, and when. */
export const sameSpec = (a: WorkloadSpec, b: WorkloadSpec): boolean => specText(a) === specText(b);

/** All of a spec, in one form. */
export const specText = (spec: WorkloadSpec): string => canonicalJson(unsigned(spec));

/** The signed bytes, as text: all that the signature says, after a line that no other use of a key shares. */
export const signedText = ({ signer, signedAt, expiresAt, nodes, digest }: Omit<SpecSignature, "value">): string =>
  `ferry-spec-v1\n${canonicalJson({ digest, signer, signedAt, expiresAt, nodes: nodes ?? null })}`;

/** What is wrong with the form of a signature, in words. */
export function signatureProblems(signature: unknown): string[] {
  if (typeof signature !== "object" || signature === null || Array.isArray(signature)) {
    return ["signature must be an object"];
  }
  const { signer, signedAt, expiresAt, nodes, digest, value, ...rest } = signature as Record<string, unknown>;
  const problems = Object.keys(rest).map((key) => `signature.${JSON.stringify(key.slice(0, 60))} is not a known field`);
  const time = (name: string, at: unknown): void => {
    if (typeof at !== "number" || !Number.isSafeInteger(at) || at < 0) {
      problems.push(`signature.${name} must be Unix milliseconds`);
    }
  };
  const badSigner = nameProblem("signer", signer);
  if (badSigner !== undefined) problems.push(`signature.signer: ${badSigner}`);
  time("signedAt", signedAt);
  time("expiresAt", expiresAt);
  if (nodes !== undefined) {
    if (!Array.isArray(nodes) || nodes.length === 0 || nodes.length > MAX_NODES) {
      problems.push(`signature.nodes must be a list of 1 to ${MAX_NODES} nodes`);
    } else {
      for (const node of nodes as unknown[]) {
        const bad = nameProblem("node", node);
        if (bad !== undefined) problems.push(`signature.nodes: ${bad}`);
      }
    }
  }
  if (typeof digest !== "string" || !SPEC_DIGEST.test(digest)) {
    problems.push("signature.digest must be a SHA-256 in hex");
  }
  if (typeof value !== "string" || !SIGNATURE_VALUE.test(value)) {
    problems.push("signature.value must be 64 bytes as base64");
  }
  return problems;
}
