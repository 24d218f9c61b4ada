/** How Temporal's SDK converts data for us: as it is, or encrypted where keys of histories are configured. */
import { fileURLToPath } from "node:url";
import type { DataConverter } from "@temporalio/common";
import { EncryptingCodec, type Foreign } from "./payload-codec.js";
import type { PayloadKey } from "./payload-keys.js";

export const ENCODED_FAILURES = fileURLToPath(new URL("./encoded-failures.js", import.meta.url));

/** Nothing to spread where there are no keys. Throws E_REQUEST when a key is none. */
export function dataConverterOf(
  keys: readonly PayloadKey[] | undefined,
  foreign: Foreign = "refuse",
): { dataConverter?: DataConverter } {
  if (keys === undefined) return {};
  return {
    dataConverter: {
      failureConverterPath: ENCODED_FAILURES,
      payloadCodecs: [new EncryptingCodec(keys, foreign)],
    },
  };
}
