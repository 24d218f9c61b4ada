/** The agent's verbs: one row each, with the schema of its input. Server and client both read this table. */
import { z } from "zod";
import {
  acknowledgeSchema,
  checkpointRefSchema,
  checkpointsSchema,
  deliverSchema,
  diffSchema,
  emptySchema,
  handOverSchema,
  idleSchema,
  logsSchema,
  pinSchema,
  preflightDestinationSchema,
  preflightSchema,
  recoverSchema,
  refSchema,
  reserveSchema,
  resolveSchema,
  restoreSchema,
  saveSchema,
  startSchema,
  steerSchema,
  stopSchema,
  takeOverSchema,
  workloadRefSchema,
} from "./schemas.js";

const waitMs = z.number().min(0).max(30_000);

export const VERBS = {
  describeNode: emptySchema,
  endings: emptySchema,
  sleepers: z.strictObject({ waitMs }),
  idleWorkload: idleSchema,
  startWorkload: startSchema,
  stopWorkload: stopSchema,
  removeWorkload: workloadRefSchema,
  observeWorkload: workloadRefSchema,
  newestCheckpoint: workloadRefSchema,
  recoverWorkload: recoverSchema,
  saveCheckpoint: z.strictObject({ input: saveSchema, waitMs }),
  restoreWorkload: restoreSchema,
  listCheckpoints: checkpointsSchema,
  pinCheckpoint: pinSchema,
  removeCheckpoint: checkpointRefSchema,
  verifyCheckpoint: checkpointRefSchema,
  diffCheckpoints: diffSchema,
  readLog: logsSchema,
  preflightSource: preflightSchema,
  preflightDestination: preflightDestinationSchema,
  reserve: reserveSchema,
  takeOver: z.strictObject({ input: takeOverSchema, waitMs }),
  handOver: z.strictObject({ input: handOverSchema, waitMs }),
  inquire: refSchema,
  burn: refSchema,
  refuse: refSchema,
  deliver: deliverSchema,
  steer: steerSchema,
  acknowledge: acknowledgeSchema,
  retake: resolveSchema,
  claim: resolveSchema,
  supersede: acknowledgeSchema,
  cleanup: refSchema,
} as const;

export type Verb = keyof typeof VERBS;
export const isVerb = (name: string): name is Verb => Object.hasOwn(VERBS, name);
/** Largest request body. */
export const MAX_REQUEST_BYTES = 4 * 1024 * 1024;
