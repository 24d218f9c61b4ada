/**
 * Loaded by path, also into the workflows' sandbox, where keys of histories are configured: messages and stack traces of
 * failures go through the codec, too; in the clear remains "Encoded failure".
 */
import { DefaultFailureConverter } from "@temporalio/common";

export const failureConverter = new DefaultFailureConverter({ encodeCommonAttributes: true });
