/**
 * The tree of a checkpoint: its streams, where the leaves of each lie, and every pack that is needed. It is the last
 * block that a writer stores; the signed manifest names it.
 */
import { z } from "zod";
import { ferryError } from "../model/failure.js";
import { parseObject } from "./objects.js";

export const STREAM_KINDS = ["image", "memory", "file"] as const;
export type StreamKind = (typeof STREAM_KINDS)[number];

/** What a caller keeps with a stream: mode, owner, times, link target... The store does not look at it. */
export type StreamMeta = Record<string, string | number | boolean | null>;

/** Leaves up to this size lie in the tree itself: most are a few dozen bytes. */
export const INLINE_BYTES = 384;

const HEX_PACK = z.string().regex(/^[0-9a-f]{32}$/);
const HEX_DIGEST = z.string().regex(/^[0-9a-f]{64}$/);
const Count = z.number().int().nonnegative();

/** "./", "../", "/x" and control characters are in no name: whoever restores may join it to a directory. */
export const isStreamName = (name: string): boolean =>
  name.length > 0 &&
  Buffer.byteLength(name) <= 4096 &&
  // eslint-disable-next-line no-control-regex -- control characters are what is looked for
  !/[\u0000-\u001f\u007f]/.test(name) &&
  name.split("/").every((part) => part !== "" && part !== "." && part !== "..");

const Window = z.strictObject({
  /** Number of the window in the stream. */
  w: Count,
  /** Packs that the leaf needs: indices into `packs`. */
  p: z.array(Count),
  /** The leaf itself, base64... */
  leaf: z.string().optional(),
  /** ...or pack (index into `packs`) and block where it lies. */
  at: z.tuple([Count, Count]).optional(),
});

const Stream = z.strictObject({
  name: z.string().refine(isStreamName, "is no name of a stream"),
  kind: z.enum(STREAM_KINDS),
  bytes: Count,
  /** Bytes in blocks that are not zero. */
  dataBytes: Count,
  /** Of the content, when it was written from start to end. */
  sha256: HEX_DIGEST.optional(),
  meta: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()])).optional(),
  windows: z.array(Window),
});

const Tree = z.strictObject({
  format: z.literal(1),
  streams: z.array(Stream),
  packs: z.array(z.strictObject({ id: HEX_PACK, bytes: Count, digest: HEX_DIGEST })),
});

export type TreeWindow = z.infer<typeof Window>;
export type TreeStream = z.infer<typeof Stream>;
export type Tree = z.infer<typeof Tree>;

export const encodeTree = (tree: Tree): Buffer => Buffer.from(JSON.stringify(tree));

/** @throws FerryError E_STORE_CORRUPT */
export function decodeTree(body: Buffer, checkpoint: string): Tree {
  const where = `tree of ${checkpoint}`;
  const tree = parseObject(Tree, body, where);
  const wrong = (what: string): Error => ferryError("E_STORE_CORRUPT", `the ${where} is not as it must be: ${what}`);
  const names = new Set<string>();
  for (const stream of tree.streams) {
    if (names.has(stream.name)) throw wrong(`two streams are called ${JSON.stringify(stream.name)}`);
    names.add(stream.name);
    let last = -1;
    for (const { w, p, leaf, at } of stream.windows) {
      if (w <= last) throw wrong(`the windows of ${stream.name} are not in order`);
      if ((leaf === undefined) === (at === undefined)) throw wrong(`a window of ${stream.name} has no leaf, or two`);
      if ([...p, at?.[0] ?? 0].some((pack) => pack >= tree.packs.length)) throw wrong("a pack is not in its list");
      last = w;
    }
  }
  return tree;
}
