/**
 * zstd, where the platform has it: libzstd through koffi (Node has none before 22.15, and dpkg and systemd need the
 * library, so that it is on every Debian), in koffi's threads.
 */
import koffi from "koffi";
import { atMost } from "./limit.js";

/** In a thread of koffi's; the callback gets an error or what the function returned. */
interface Threaded {
  async: (...args: unknown[]) => void;
}

interface Zstd {
  compress: Threaded;
  decompress: Threaded;
  isError: (code: number | bigint) => number;
  bound: (bytes: number) => number | bigint;
}

let library: Zstd | null | undefined;

function load(): Zstd | null {
  try {
    const lib = koffi.load("libzstd.so.1");
    return {
      compress: lib.func("size_t ZSTD_compress(void *to, size_t toBytes, const void *from, size_t bytes, int level)"),
      decompress: lib.func("size_t ZSTD_decompress(void *to, size_t toBytes, const void *from, size_t bytes)"),
      isError: lib.func("unsigned int ZSTD_isError(size_t code)") as Zstd["isError"],
      bound: lib.func("size_t ZSTD_compressBound(size_t bytes)") as Zstd["bound"],
    };
  } catch {
    return null;
  }
}

const zstd = (): Zstd | null => (library === undefined ? (library = load()) : library);

export const hasZstd = (): boolean => zstd() !== null;

/** koffi keeps memory for two calls at once in a process; every further one costs it 0.4 ms to get some (measured). */
const inTurn = atMost(2);

const call = (fn: Threaded, ...args: unknown[]): Promise<number> =>
  inTurn(
    () =>
      new Promise((resolve, reject) => {
        fn.async(...args, (error: unknown, result: number | bigint) => {
          if (error) reject(error instanceof Error ? error : new Error("libzstd can't be called"));
          else resolve(Number(result));
        });
      }),
  );

function need(): Zstd {
  const lib = zstd();
  if (lib === null) throw new Error("libzstd.so.1 is not on this machine");
  return lib;
}

/** One zstd frame. `from` must stay as it is until it resolves. */
export async function zstdCompress(from: Buffer, level: number): Promise<Buffer> {
  const lib = need();
  const to = Buffer.allocUnsafeSlow(Number(lib.bound(from.length)));
  const bytes = await call(lib.compress, to, to.length, from, from.length, level);
  if (lib.isError(bytes)) throw new Error(`zstd does not compress ${from.length} bytes`);
  return to.subarray(0, bytes);
}

/** @throws Error when `from` is not one frame of exactly `bytes` bytes */
export async function zstdDecompress(from: Buffer, bytes: number): Promise<Buffer> {
  const lib = need();
  const to = Buffer.allocUnsafeSlow(bytes);
  const got = await call(lib.decompress, to, bytes, from, from.length);
  if (lib.isError(got) || got !== bytes) throw new Error(`${from.length} bytes are no zstd frame of ${bytes}`);
  return to;
}
