/** Whether this node can restore a checkpoint: looked at before anything is touched. */
import { z } from "zod";
import { SPEC_STREAM } from "../../checkpoints/format.js";
import { criuVersion } from "../../host/facts.js";
import { parseJson } from "../../host/issues.js";
import { ferryError } from "../../model/failure.js";
import { letGoWith } from "../../model/let-go.js";
import type { Hold } from "../../model/ownership.js";
import type { WorkloadSpec } from "../../model/workload.js";
import type { CheckpointReader, Manifest, Store } from "../../store/index.js";
import { compareVersions } from "../preflight/engine.js";
import { specSchema } from "../schemas.js";

const MAX_SPEC_BYTES = 1024 * 1024;
const PACKS_AT_ONCE = 8;

const storedSchema = z.strictObject({ format: z.literal(1), spec: specSchema });

/** The spec that it ran with. Throws E_STORE_CORRUPT. */
export async function storedSpec(reader: CheckpointReader): Promise<WorkloadSpec> {
  const { id } = reader.manifest;
  const { bytes } = reader.stream(SPEC_STREAM);
  if (bytes > MAX_SPEC_BYTES) throw ferryError("E_STORE_CORRUPT", `the spec in checkpoint ${id} is ${bytes} bytes`);
  const read = parseJson((await reader.content(SPEC_STREAM)).toString("utf8"), storedSchema);
  if ("data" in read) return read.data.spec;
  throw ferryError("E_STORE_CORRUPT", `the spec in checkpoint ${id} can't be read: ${read.why}`);
}

/** Answers the spec that it ran with. Throws E_RESTORE that says what does not fit, E_STORE_CORRUPT, E_STORE when a part of it can't be read. */
export async function demandRestorable(
  store: Store,
  reader: CheckpointReader,
  node: string,
  spec: WorkloadSpec,
): Promise<WorkloadSpec> {
  const { manifest } = reader;
  const problem = (what: string, remedy: string): Error =>
    ferryError("E_RESTORE", `checkpoint ${manifest.id} of ${manifest.workload} can't be restored on ${node}: ${what}`, {
      node,
      workload: spec.name,
      phase: "preflight",
      remedy,
    });
  if (manifest.arch !== process.arch) {
    throw problem(`it was taken on ${manifest.arch}, this is ${process.arch}`, "restore it on a node of that kind");
  }
  const criu = await criuVersion();
  if (criu === "") throw problem("criu is not installed here", "install criu");
  if (manifest.criuVersion !== "" && compareVersions(criu, manifest.criuVersion) < 0) {
    throw problem(
      `criu ${criu} is older than ${manifest.criuVersion}, which wrote it: images are read by the same or a newer version only`,
      `upgrade criu on ${node} to ${manifest.criuVersion} or later, or restore it on another node`,
    );
  }
  const before = await storedSpec(reader);
  if (before.runtime !== spec.runtime) {
    throw problem(`it is a checkpoint of runtime ${before.runtime}, not ${spec.runtime}`, "give it the same runtime");
  }
  const volumes = (of: WorkloadSpec): string =>
    (of.volumes ?? [])
      .map(({ name, path }) => `${name}:${path}`)
      .sort()
      .join(" ");
  if (volumes(before) !== volumes(spec)) {
    throw problem(
      `it had the volumes [${volumes(before)}], now they are [${volumes(spec)}]`,
      "give it the volumes that it had, at the same places",
    );
  }
  const { packs } = reader.tree;
  for (let at = 0; at < packs.length; at += PACKS_AT_ONCE) {
    await Promise.all(packs.slice(at, at + PACKS_AT_ONCE).map((pack) => store.packs.freshIndex(pack)));
  }
  return before;
}

/**
 * Else whoever was connected then has heard of what came later, and is not connected any more. Both must say so: the workflow
 * knows of other nodes, this node's journal of what nobody has answered.
 */
export function didNothingLater(
  { id, epoch, stopped }: Pick<Manifest, "id" | "epoch" | "stopped">,
  asked: { last?: number; letGoWith?: string | undefined },
  holds: readonly Hold[],
): boolean {
  if (stopped !== true || epoch !== asked.last || id !== asked.letGoWith) return false;
  return letGoWith({ id, epoch }, holds) !== "no";
}
