/** What a person can do about a kind of failure, where the failure itself does not say it better. */
import type { FailureCode } from "./failure.js";

const AGAIN = "nothing was changed by it: migrate again, and if it comes again look at both agents' logs";
const REQUEST = "correct what is named and ask again; how it is used: ferry COMMAND --help";
const PEER = "check that both nodes have certificates of the same CA, each with its own name, and run the same Ferry";

export const REMEDIES: Readonly<Partial<Record<FailureCode, string>>> = {
  E_NAME: REQUEST,
  E_SPEC: REQUEST,
  E_REQUEST: REQUEST,
  E_STATE: "see how it stands: ferry inspect NAME",
  E_STALE_EPOCH: "it is an old message or a copied journal: nothing was done; see who holds it: ferry inspect NAME",
  E_TOMBSTONED: "this hand-over was refused for good: migrate again, that is a new one",
  E_BURNED: "this hand-over was called back: migrate again, that is a new one",
  E_PAST_COMMIT: "it can only go forward: see how it stands with ferry inspect NAME",
  E_TOKEN: "nothing was started from it: see how the migration stands with ferry inspect NAME",
  E_PEER_CERT: PEER,
  E_PEER_ID: PEER,
  E_LINK_VERSION: PEER,
  E_FRAME: AGAIN,
  E_LINK_LOST: AGAIN,
  E_STREAM_SHORT: AGAIN,
  E_PAGES: AGAIN,
  E_IMAGE_DIGEST: AGAIN,
  E_IMAGE_INCOMPLETE: AGAIN,
  E_TOOL: "see that the program is installed and works on that node: ferry doctor",
  E_STORE_CORRUPT:
    "see what else is hurt: ferry checkpoints fsck --store FILE; restore from another checkpoint, or import one",
  E_JOURNAL_CORRUPT:
    "put back an intact copy of the journal and start the agent again; nothing is started from a damaged one",
};
