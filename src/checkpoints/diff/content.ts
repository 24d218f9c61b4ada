/** An image, whole. */
import { ferryError } from "../../model/failure.js";
import type { CheckpointReader } from "../../store/index.js";

/** No tree that Ferry can move has larger ones; an agent's memory is not for that. */
const MAX_BYTES = 64 * 1024 * 1024;

/** @throws FerryError E_STORE_CORRUPT: it is too large, or not as it was stored; E_CHECKPOINT_UNKNOWN: there is none */
export async function contentOf(reader: CheckpointReader, stream: string): Promise<Buffer> {
  const { bytes } = reader.stream(stream);
  if (bytes > MAX_BYTES)
    throw ferryError("E_STORE_CORRUPT", `${stream} has ${bytes} bytes, more than any workload needs`);
  return reader.content(stream);
}
