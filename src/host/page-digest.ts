/**
 * 128-bit digests of pages, for a table that says whether a page has changed: GMAC under a random key that never leaves the
 * process. Two different pages have the same digest with probability 257 / 2^128 at most, whoever wrote them, since nobody knows
 * the key nor ever sees a digest; that the nonce is always the same gives away only what the digests would.
 *
 * Measured per core (AVX-512, Node.js 20): GMAC 4.8 GB/s through OpenSSL inside node, SHA-256 1.1 to 1.4 GB/s, BLAKE2b 0.8 GB/s.
 */
import { createHash } from "node:crypto";
import koffi from "koffi";
import { mapAnonymous } from "./syscall.js";

const GET_TAG = 0x10;
export const DIGEST_BYTES = 16;
/** Offsets in the scratch page: key, nonce, length written, output. */
const [KEY, NONCE, LENGTH, OUTPUT] = [0, 32, 64, 128];

export interface PageDigest {
  readonly name: "gmac" | "sha256";
  /** Digest of `length` bytes at `offset` of the mapping, as four words of `words`; good until the next call. */
  digest(offset: number, length: number): void;
  readonly words: Uint32Array;
}

type Fn = (...args: number[]) => number;

/** Digests of what lies in `memory`, which must not move (mapAnonymous). `key`: 16 random bytes. */
export function pageDigest(memory: { address: number; bytes: Buffer }, key: Buffer): PageDigest {
  return gmac(memory, key) ?? sha256(memory, key);
}

function openssl(): Record<"create" | "cipher" | "init" | "update" | "final" | "control", Fn> | undefined {
  // node carries OpenSSL and shows its functions (addons use them); Debian's node has it beside
  for (const name of [null, "libcrypto.so.3"]) {
    try {
      const lib = koffi.load(name);
      const fn = (definition: string): Fn => lib.func(definition) as Fn;
      return {
        create: fn("uint64 EVP_CIPHER_CTX_new()"),
        cipher: fn("uint64 EVP_aes_128_gcm()"),
        init: fn("int EVP_EncryptInit_ex(uint64 context, uint64 cipher, uint64 engine, uint64 key, uint64 nonce)"),
        update: fn("int EVP_EncryptUpdate(uint64 context, uint64 out, uint64 length, uint64 data, int bytes)"),
        final: fn("int EVP_EncryptFinal_ex(uint64 context, uint64 out, uint64 length)"),
        control: fn("int EVP_CIPHER_CTX_ctrl(uint64 context, int what, int argument, uint64 pointer)"),
      };
    } catch {
      // not there
    }
  }
  return undefined;
}

function gmac(memory: { address: number }, key: Buffer): PageDigest | undefined {
  const c = openssl();
  if (c === undefined) return undefined;
  const { address, bytes } = mapAnonymous(4096);
  key.copy(bytes, KEY, 0, 16);
  const context = c.create();
  const started = c.init(context, c.cipher(), 0, address + KEY, address + NONCE);
  bytes.fill(0, KEY, KEY + 16);
  if (context === 0 || started !== 1) return undefined;
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset + OUTPUT, DIGEST_BYTES / 4);
  return {
    name: "gmac",
    words,
    digest(offset, length) {
      const done =
        c.init(context, 0, 0, 0, address + NONCE) &
        c.update(context, 0, address + LENGTH, memory.address + offset, length) &
        c.final(context, address + OUTPUT + 32, address + LENGTH) &
        c.control(context, GET_TAG, DIGEST_BYTES, address + OUTPUT);
      if (done !== 1) throw new Error("OpenSSL can't make a GMAC any more");
    },
  };
}

function sha256(memory: { bytes: Buffer }, key: Buffer): PageDigest {
  const words = new Uint32Array(DIGEST_BYTES / 4);
  const bytes = Buffer.from(words.buffer);
  return {
    name: "sha256",
    words,
    digest(offset, length) {
      const page = memory.bytes.subarray(offset, offset + length);
      createHash("sha256").update(key).update(page).digest().copy(bytes, 0, 0, DIGEST_BYTES);
    },
  };
}
