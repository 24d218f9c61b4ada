/** The checkpoint store, for the agent: docs/store.md. */
export type { Backend } from "./backend.js";
export { BlockIds, diffCheckpoints, differingBlocks, type StreamDiff } from "./diff.js";
export { ARCHIVE_MAGIC, wrongFile } from "./archive.js";
export { exportCheckpoint, type ExportOptions } from "./export.js";
export { fsck } from "./fsck.js";
export { collect } from "./gc.js";
export { importCheckpoint, type ImportOptions } from "./import.js";
export { loadKey, type KeySource, type MasterKey } from "./keys.js";
export { localBackend } from "./local.js";
export { CheckpointFacts, isStoredId, type Manifest } from "./manifest.js";
export type { CheckpointReader, Chunk, StreamRange } from "./reader.js";
export { demandPacks } from "./packs-there.js";
export { s3Backend, type S3Options } from "./s3.js";
export { Store, type BeginOptions, type Listed, type StoreOptions } from "./store.js";
export type { StreamWriter } from "./stream-writer.js";
export type { StreamKind, StreamMeta, TreeStream } from "./tree.js";
export type { CheckpointWriter, StreamOptions } from "./writer.js";
export { keepWorkingSet, readWorkingSet, type TouchedRun } from "./working-set.js";
