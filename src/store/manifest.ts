/**
 * The manifest: what a checkpoint is, signed with Ed25519. It names the tree by its pack's digest, and that names every
 * stored byte: so who believes the signature believes the checkpoint.
 *
 * Stored as {"payload": "...", "signatures": [...]}. What is signed is the payload's very bytes: nothing to normalise.
 */
import { createHash, createPublicKey, sign, verify, type KeyObject } from "node:crypto";
import { z } from "zod";
import { ferryError } from "../model/failure.js";
import { isWorkloadName } from "../model/names.js";
import { parseObject } from "./objects.js";

export const CHECKPOINT_ID = /^\d{8}T\d{9}Z-[0-9a-f]{16}$/;
export const isStoredId = (id: string): boolean => CHECKPOINT_ID.test(id);

const Count = z.number().int().nonnegative();
const Words = z.string().max(1000);
const Id = z.string().regex(CHECKPOINT_ID);

/** What the caller says of a checkpoint; everything else the store fills in. */
const FACTS = {
  workload: z.string().refine(isWorkloadName, "is no name of a workload"),
  epoch: Count,
  runtime: Words,
  node: Words,
  criuVersion: Words,
  kernel: Words,
  cpu: Words,
  arch: Words,
  reason: Words,
  requestedBy: Words,
  labels: z.record(z.string().max(100), Words),
  /** When the workload was frozen for it: what it did later is not in there. */
  takenAt: z.iso.datetime().optional(),
  /** It was let go with it, and did nothing later under this epoch. */
  stopped: z.boolean().optional(),
};
export const CheckpointFacts = z.strictObject(FACTS);
export type CheckpointFacts = z.infer<typeof CheckpointFacts>;

const Manifest = z.strictObject({
  format: z.literal(1),
  id: Id,
  createdAt: z.iso.datetime(),
  ...FACTS,
  /** The checkpoint whose blocks it shares; it may be gone since: nothing of it is needed. */
  parent: Id.nullable(),
  streams: Count,
  /** Of all streams; `newBytes`: in objects that this checkpoint added to the store. */
  bytes: Count,
  dataBytes: Count,
  newBytes: Count,
  tree: z.strictObject({
    pack: z.string().regex(/^[0-9a-f]{32}$/),
    packBytes: Count,
    packDigest: z.string().regex(/^[0-9a-f]{64}$/),
    block: Count,
  }),
});
export type Manifest = z.infer<typeof Manifest>;

const Envelope = z.strictObject({
  payload: z.string(),
  signatures: z
    .array(z.strictObject({ key: z.string().regex(/^[0-9a-f]{32}$/), signature: z.string().regex(/^[0-9a-f]{128}$/) }))
    .min(1),
});

export const manifestKey = (workload: string, id: string): string => `checkpoints/${workload}/${id}.json`;
export const trashKey = (workload: string, id: string): string => `trash/${workload}/${id}.json`;

/** First 16 bytes of the digest of the public key, hex. */
export function signerId(key: KeyObject): string {
  const publicKey = key.type === "private" ? createPublicKey(key) : key;
  return createHash("sha256")
    .update(publicKey.export({ type: "spki", format: "der" }))
    .digest("hex")
    .slice(0, 32);
}

/** A prefix of its own: no other message of Ferry's that is signed with the same key can be taken for a manifest. */
const toSign = (payload: string): Buffer => Buffer.from(`ferry checkpoint manifest 1\n${payload}`);

export function signManifest(manifest: Manifest, key: KeyObject): Buffer {
  const payload = JSON.stringify(Manifest.parse(manifest));
  const signature = sign(null, toSign(payload), key).toString("hex");
  return Buffer.from(`${JSON.stringify({ payload, signatures: [{ key: signerId(key), signature }] })}\n`);
}

/**
 * @param trusted public keys whose word counts; undefined: the signature is not looked at (gc, which only keeps more)
 * @throws FerryError E_STORE_CORRUPT, E_STORE_SIGNATURE
 */
export function readManifest(body: Buffer, object: string, trusted: readonly KeyObject[] | undefined): Manifest {
  const { payload, signatures } = parseObject(Envelope, body, object);
  if (trusted !== undefined) {
    const byId = new Map(trusted.map((key) => [signerId(key), key]));
    const known = signatures.filter(({ key }) => byId.has(key));
    if (known.length === 0) {
      throw ferryError("E_STORE_SIGNATURE", `${object} is signed by ${signatures[0]?.key}, who is not trusted here`, {
        remedy:
          "add the public key of the node that wrote it to those that are trusted, if you know that it is its key",
      });
    }
    const good = known.some(({ key, signature }) => {
      const publicKey = byId.get(key);
      return publicKey !== undefined && verify(null, toSign(payload), publicKey, Buffer.from(signature, "hex"));
    });
    if (!good) {
      throw ferryError("E_STORE_SIGNATURE", `the signature of ${object} is wrong: it was changed after it was signed`, {
        remedy: "restore from another checkpoint",
      });
    }
  }
  const manifest = parseObject(Manifest, Buffer.from(payload), object);
  if (!object.endsWith(`/${manifest.workload}/${manifest.id}.json`)) {
    throw ferryError("E_STORE_CORRUPT", `${object} is the manifest of ${manifest.workload} ${manifest.id}`);
  }
  return manifest;
}
