/**
 * Encrypts what Temporal stores: arguments, results, heartbeats, memos, summaries, messages of failures. AES-256-GCM, with
 * the form that Temporal's own samples use, so that their codec servers can show it in the web console to whoever has the
 * keys.
 *
 * It keeps secrets; it is no authority. Whoever may write to the namespace can still copy an encrypted payload to another
 * place, so what a node does is decided by its policy and the spec's signature.
 */
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { defaultPayloadConverter, type Payload, type PayloadCodec } from "@temporalio/common";
import proto from "@temporalio/proto";
import { ferryError, type FerryError } from "../model/failure.js";
import { refusedPayload } from "../model/refused-payload.js";
import { cut, shown as shownValue } from "../model/words.js";
import { checkPayloadKeys, type PayloadKey } from "./payload-keys.js";

const ENCODING = "encoding";
const KEY_ID = "encryption-key-id";
const ENCRYPTED = "binary/encrypted";
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const { Payload: PayloadMessage } = proto.temporal.api.common.v1;

const text = (bytes: Uint8Array | null | undefined): string => Buffer.from(bytes ?? []).toString("utf8");
const shown = (word: string): string => shownValue(cut(word, 64));
const refused = (message: string, remedy: string): FerryError => ferryError("E_PAYLOAD", message, { remedy });

/**
 * What becomes of a payload that is not encrypted, or in a way that nobody knows.
 * `refuse`: an error. `mark`: its place is taken by a value that says so, see model/refused-payload.ts.
 */
export type Foreign = "refuse" | "mark";

export class EncryptingCodec implements PayloadCodec {
  private readonly keys: ReadonlyMap<string, Uint8Array>;
  private readonly newest: PayloadKey;
  private readonly foreign: Foreign;

  /** @param keys newest first. Throws E_REQUEST. */
  constructor(keys: readonly PayloadKey[], foreign: Foreign = "refuse") {
    const [newest] = checkPayloadKeys(keys);
    if (newest === undefined) throw new Error("no key");
    this.newest = newest;
    this.keys = new Map(keys.map(({ id, key }) => [id, key]));
    this.foreign = foreign;
  }

  encode(payloads: Payload[]): Promise<Payload[]> {
    return Promise.resolve(payloads.map((payload) => this.seal(payload)));
  }

  /** Throws E_PAYLOAD: plain, another encoding, a key that is not known, or not what was encrypted. */
  decode(payloads: Payload[]): Promise<Payload[]> {
    return Promise.resolve().then(() => payloads.map((payload) => this.open(payload)));
  }

  private seal(payload: Payload): Payload {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv("aes-256-gcm", this.newest.key, nonce);
    const plain = PayloadMessage.encode(payload).finish();
    return {
      metadata: { [ENCODING]: Buffer.from(ENCRYPTED), [KEY_ID]: Buffer.from(this.newest.id) },
      data: Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]),
    };
  }

  private open(payload: Payload): Payload {
    const encoding = text(payload.metadata?.[ENCODING]);
    if (encoding !== ENCRYPTED) {
      const why = `a payload in Temporal is not encrypted (its encoding is ${shown(encoding)}), and keys of histories are configured here`;
      if (this.foreign === "mark") return defaultPayloadConverter.toPayload(refusedPayload(why));
      throw refused(
        why,
        "configure the same keys for every worker and client; a namespace that has plain histories can't be read with keys",
      );
    }
    const id = text(payload.metadata?.[KEY_ID]);
    const key = this.keys.get(id);
    if (key === undefined) {
      throw refused(
        `a payload in Temporal was encrypted with key ${shown(id)}, which is not configured here (there are: ${[...this.keys.keys()].join(", ")})`,
        "add that key to the file of FERRY_PAYLOAD_KEYS_FILE, below the newest",
      );
    }
    const data = Buffer.from(payload.data ?? []);
    try {
      if (data.length < NONCE_BYTES + TAG_BYTES) throw new Error("too short");
      const decipher = createDecipheriv("aes-256-gcm", key, data.subarray(0, NONCE_BYTES), {
        authTagLength: TAG_BYTES,
      });
      decipher.setAuthTag(data.subarray(-TAG_BYTES));
      const plain = Buffer.concat([decipher.update(data.subarray(NONCE_BYTES, -TAG_BYTES)), decipher.final()]);
      return PayloadMessage.decode(plain);
    } catch {
      throw refused(
        `a payload in Temporal was changed, or encrypted with another key that is also called ${shown(id)}`,
        "see whether every worker and client has the same keys",
      );
    }
  }
}
