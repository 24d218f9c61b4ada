/**
 * Signatures of specs: Ed25519, by a key of a person or a pipeline, checked by the nodes that trust it. The private key is
 * a PEM file (PKCS 8); what a node's policy names is the public key as one line of base64 (its SubjectPublicKeyInfo).
 */
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  sign,
  verify,
  type KeyObject,
} from "node:crypto";
import { ferryError } from "../model/failure.js";
import { nameProblem } from "../model/names.js";
import { signedText, specText, unsigned, type SpecSignature } from "../model/spec-signature.js";
import type { WorkloadSpec } from "../model/workload.js";

const lineOf = (publicKey: KeyObject): string => publicKey.export({ type: "spki", format: "der" }).toString("base64");

/** Of all of a spec but its signature, hex. */
export const specDigest = (spec: WorkloadSpec): string => createHash("sha256").update(specText(spec)).digest("hex");

/** A new pair: the private key as PEM, the public one as the line for policies. */
export function newSigningKey(): { privatePem: string; publicLine: string } {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  return {
    privatePem: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    publicLine: lineOf(publicKey),
  };
}

/** A policy's line as a key; undefined when it is none of Ed25519. */
export function readPublicLine(line: string): KeyObject | undefined {
  try {
    const key = createPublicKey({ key: Buffer.from(line, "base64"), format: "der", type: "spki" });
    return key.asymmetricKeyType === "ed25519" && lineOf(key) === line ? key : undefined;
  } catch {
    return undefined;
  }
}

export interface SignOptions {
  /** The name under which the nodes' policies know the key. */
  signer: string;
  /** PEM of the private key. */
  privatePem: string | Buffer;
  /** Unix milliseconds. */
  signedAt: number;
  expiresAt: number;
  nodes?: string[];
}

/** The spec with a signature over all of it. Throws E_NAME for the signer's name, E_SIGNATURE when the key can't sign. */
export function signSpec(spec: WorkloadSpec, options: SignOptions): WorkloadSpec {
  const { signer, privatePem, signedAt, expiresAt, nodes } = options;
  const wrongName = nameProblem("signer", signer);
  if (wrongName !== undefined) throw ferryError("E_NAME", wrongName);
  let key: KeyObject;
  try {
    key = createPrivateKey(privatePem);
  } catch {
    // Not the library's words: they may quote what was read.
    throw ferryError("E_SIGNATURE", "the signing key is not a PEM private key that can be read", {
      remedy: "make one with: ferry keygen signing --out FILE",
    });
  }
  if (key.asymmetricKeyType !== "ed25519") {
    throw ferryError("E_SIGNATURE", `the signing key is ${String(key.asymmetricKeyType)}, it must be ed25519`, {
      remedy: "make one with: ferry keygen signing --out FILE",
    });
  }
  const said = { signer, signedAt, expiresAt, ...(nodes === undefined ? {} : { nodes }), digest: specDigest(spec) };
  const value = sign(null, Buffer.from(signedText(said)), key).toString("base64");
  return { ...unsigned(spec), signature: { ...said, value } };
}

/** Is the signature of exactly this spec? */
export const isOfSpec = (spec: WorkloadSpec, { digest }: SpecSignature): boolean => digest === specDigest(spec);

/** Did one of these keys sign what the signature says? */
export function isGenuine(signature: SpecSignature, keys: readonly KeyObject[]): boolean {
  const text = Buffer.from(signedText(signature));
  const value = Buffer.from(signature.value, "base64");
  return keys.some((key) => verify(null, text, key, value));
}
