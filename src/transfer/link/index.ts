/** The link between nodes: TLS 1.3, both sides named by certificates of one CA, framed, with back-pressure. */
export { credentialsOf } from "./credentials.js";
export { dialLink, redial, type RedialLimits } from "./dial.js";
export { readFailure } from "./hello.js";
export { listenLink } from "./listen.js";
export { refusalLog } from "./refusal-log.js";
export { signReceipt, verifyReceipt, type ReceiptFields } from "./receipt.js";
export { signToken, verifyToken, type TokenExpectation } from "./token.js";
export {
  MAX_META_BYTES,
  MAX_PAYLOAD_BYTES,
  type DialOptions,
  type Frame,
  type Hello,
  type LinkIdentity,
  type LinkListener,
  type LinkSession,
  type ListenOptions,
  type SessionTuning,
} from "./types.js";
