/** What is said of a store itself: whether it is whole, which keys it needs, what was moved in and out. */
import type { FailureData } from "./failure.js";

export interface FsckProblem {
  /** "workload/id" of every checkpoint that needs it. */
  checkpoints: string[];
  failure: FailureData;
}

/** A wrapped data key as it lies in the store. */
export interface Wrapping {
  dataKey: string;
  /** Id of the master key that opens it; "plain" in a store without encryption. */
  masterKey: string;
}

/** A data key, who opens it, and what was written with it. */
export interface FsckKey {
  dataKey: string;
  /** Ids of the master keys that it is wrapped with; "plain" in a store without encryption. */
  masterKeys: string[];
  /** By a key that was given. */
  opened: boolean;
  /** What is written now is written with it. */
  current: boolean;
  /** That checkpoints need. */
  packs: number;
  bytes: number;
}

export interface FsckReport {
  checkpoints: number;
  packs: number;
  bytes: number;
  /** Packs that no checkpoint needs: of writers at work, or for the collector. */
  unusedPacks: number;
  unusedBytes: number;
  keys: FsckKey[];
  problems: FsckProblem[];
}

export interface Rotation {
  /** Data keys that the first master key did not open before. */
  wrapped: number;
  /** Wrappings with other master keys that are gone now. */
  forgotten: number;
  /** Data keys that no given master key opens: they stay as they are. */
  left: Wrapping[];
  /** Made for what is written from now on. */
  fresh?: string;
}

export interface Collected {
  packs: number;
  bytes: number;
  /** Of no use, but not for long enough. */
  waitingPacks: number;
  waitingBytes: number;
}

/** A checkpoint that was written to a file. */
export interface ExportedFile {
  workload: string;
  checkpoint: string;
  /** "-": standard output. */
  file: string;
  bytes: number;
}

/** A checkpoint that was taken in from a file. */
export interface ImportedFile {
  workload: string;
  checkpoint: string;
  /** The node that has taken it; its signature was checked. */
  node: string;
  /** It was there before, and needed nothing. */
  already: boolean;
  /** What the store did not have. */
  newPacks: number;
  newBytes: number;
  /** Objects that were damaged in the store, and are whole again. */
  mended: number;
}
