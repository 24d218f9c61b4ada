/** Names of a checkpoint's streams, format 1 (docs/checkpoints.md). */
export const SPEC_STREAM = "spec";
export const imageStream = (name: string): string => `images/${name}`;
/** Offset in it is address. */
export const memoryStream = (vpid: number): string => `memory/${vpid}`;
/** The workload's images lie under it. */
export const IMAGES_PREFIX = "images/";
