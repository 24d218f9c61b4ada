/** Compression of segments. Level and library were chosen by measurement: docs/decisions/0020-store.md. */
import { promisify } from "node:util";
import { deflateRaw, inflateRaw } from "node:zlib";
import { hasZstd, zstdCompress, zstdDecompress } from "../host/zstd.js";
import { ferryError } from "../model/failure.js";

/** As written into a pack's directory. */
export const CODEC = { raw: 0, zstd: 1, deflate: 2 } as const;
export type Codec = keyof typeof CODEC;

export interface Compression {
  codec: Codec;
  level: number;
}

const deflating = promisify<Buffer, { level: number }, Buffer>(deflateRaw);
const inflating = promisify<Buffer, { maxOutputLength: number }, Buffer>(inflateRaw);

export const bestCompression = (): Compression => ({ codec: hasZstd() ? "zstd" : "deflate", level: 1 });

/** What gains less than this is stored as it is: reading it back costs nothing then. */
const WORTH_IT = 0.95;

export async function compress(raw: Buffer, { codec, level }: Compression): Promise<{ codec: number; body: Buffer }> {
  if (codec === "raw") return { codec: CODEC.raw, body: raw };
  const body = codec === "zstd" ? await zstdCompress(raw, level) : await deflating(raw, { level });
  return body.length > raw.length * WORTH_IT ? { codec: CODEC.raw, body: raw } : { codec: CODEC[codec], body };
}

/** @throws Error when the body is not that; FerryError E_TOOL when this machine can't read the codec */
export async function decompress(codec: number, body: Buffer, rawBytes: number): Promise<Buffer> {
  let raw = body;
  if (codec === CODEC.zstd) {
    if (!hasZstd()) {
      throw ferryError("E_TOOL", "the checkpoint is compressed with zstd, which this machine has not", {
        remedy: "install libzstd1",
      });
    }
    raw = await zstdDecompress(body, rawBytes);
  } else if (codec === CODEC.deflate) {
    raw = await inflating(body, { maxOutputLength: Math.max(rawBytes, 1) });
  } else if (codec !== CODEC.raw) {
    throw new Error(`codec ${codec} is not known`);
  }
  if (raw.length !== rawBytes) throw new Error(`${raw.length} bytes instead of ${rawBytes}`);
  return raw;
}
