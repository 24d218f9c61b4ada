/** A checkpoint as lists and reports show it, from its manifest. */
import type { StoredCheckpoint } from "../model/checkpoints.js";
import type { Manifest } from "../store/index.js";

/** @param where the store, in words */
export function describeCheckpoint(manifest: Manifest, where: string, pinned: boolean): StoredCheckpoint {
  const { id, workload, epoch, node, runtime, criuVersion, kernel, arch, cpu, reason, requestedBy } = manifest;
  return {
    id,
    workload,
    epoch,
    takenAt: Date.parse(manifest.takenAt ?? manifest.createdAt),
    where,
    node,
    runtime,
    criuVersion,
    kernel,
    arch,
    cpu,
    reason,
    requestedBy,
    labels: manifest.labels,
    ...(manifest.parent === null ? {} : { parent: manifest.parent }),
    pinned,
    dataBytes: manifest.dataBytes,
    newBytes: manifest.newBytes,
  };
}
