/**
 * The store's own settings (`store.json`) and its data keys (`keys/`). Data keys encrypt; master keys only wrap them, so
 * a new master key costs a few small objects. The id key (for ids of blocks) comes from the first data key and stays.
 */
import { randomBytes, type KeyObject } from "node:crypto";
import { z } from "zod";
import { ferryError } from "../model/failure.js";
import { getExisting, type Backend } from "./backend.js";
import { decodeObject, encodeObject } from "./objects.js";
import { deriveKey, KEY_BYTES, unwrapKey, wrapKey, type MasterKey } from "./keys.js";

const CONFIG = "store.json";
const HEX_ID = z.string().regex(/^[0-9a-f]{32}$/);

const Config = z.strictObject({
  format: z.literal(1),
  cipher: z.enum(["aes-256-gcm", "none"]),
  idKey: HEX_ID,
  createdAt: z.iso.datetime(),
});
type Config = z.infer<typeof Config>;

const KeyFile = z.strictObject({
  format: z.literal(1),
  dataKey: HEX_ID,
  /** "plain" in a store without encryption. */
  masterKey: z.string().regex(/^([0-9a-f]{16}|plain)$/),
  wrapped: z.string().max(200),
  /** "read": it came with an imported checkpoint. */
  use: z.enum(["write", "read"]),
  createdAt: z.iso.datetime(),
});

interface DataKey {
  id: string;
  raw: Buffer;
  createdAt: string;
  use: "write" | "read";
}

export class KeyRing {
  readonly cipher: Config["cipher"];
  /** Whose derived key makes the ids of new blocks. */
  readonly idKeyId: string;
  readonly #backend: Backend;
  readonly #masters: readonly MasterKey[];
  readonly #keys = new Map<string, DataKey>();

  private constructor(backend: Backend, config: Config, masters: readonly MasterKey[]) {
    this.#backend = backend;
    this.cipher = config.cipher;
    this.idKeyId = config.idKey;
    this.#masters = masters;
  }

  /**
   * @param masters the first one wraps new keys; none: a store without encryption
   * @throws FerryError E_STORE_KEY: the wrong key, or the store is not encrypted as asked for
   */
  static async open(backend: Backend, masters: readonly MasterKey[]): Promise<KeyRing> {
    const cipher = masters.length === 0 ? "none" : "aes-256-gcm";
    const body = (await backend.get(CONFIG)) ?? (await create(backend, cipher, masters));
    const config = decodeObject(Config, body, CONFIG);
    if (config.cipher !== cipher) {
      throw cipher === "none"
        ? ferryError("E_STORE_KEY", `the store ${backend.name} is encrypted, and no key is given`, {
            remedy: "give the store's key: a file, an environment variable or a command",
          })
        : ferryError("E_STORE_KEY", `a key is given, but the store ${backend.name} is not encrypted`, {
            remedy: "use a new, empty directory or prefix for an encrypted store",
          });
    }
    const ring = new KeyRing(backend, config, masters);
    await ring.#load();
    if (!ring.#keys.has(config.idKey)) throw await ring.#noKey(config.idKey);
    return ring;
  }

  /** The data key for new objects: the newest. */
  get current(): string {
    let newest: DataKey | undefined;
    for (const key of this.#keys.values()) {
      if (key.use === "write" && (newest === undefined || key.createdAt > newest.createdAt)) newest = key;
    }
    return newest?.id ?? this.idKeyId;
  }

  /** Key of one object. Loads keys that were made since. @throws FerryError E_STORE_KEY */
  async objectKey(dataKeyId: string, objectId: Buffer): Promise<KeyObject> {
    return deriveKey(await this.#dataKey(dataKeyId), objectId, "object");
  }

  async idKey(dataKeyId: string): Promise<KeyObject> {
    return deriveKey(await this.#dataKey(dataKeyId), Buffer.alloc(0), "ids of blocks");
  }

  async #dataKey(id: string): Promise<Buffer> {
    if (!this.#keys.has(id)) await this.#load();
    const key = this.#keys.get(id);
    if (key === undefined) throw await this.#noKey(id);
    return key.raw;
  }

  /**
   * Wraps every data key with the first master key and forgets the other wrappings; goes on where it was interrupted.
   * @param fresh also makes a new data key, for what is written from now on
   * @returns how many were wrapped anew
   */
  async rotate(fresh: boolean): Promise<number> {
    const [first] = this.#masters;
    if (first === undefined) throw ferryError("E_STORE_KEY", "a store without encryption has no key to rotate");
    if (fresh) await addDataKey(this.#backend, first);
    let count = 0;
    await this.#load();
    for (const key of this.#keys.values()) {
      const { id } = key;
      const stored = await storeDataKey(this.#backend, first, key);
      if (stored === "stored") count += 1;
      for await (const wrapping of this.#backend.list(`keys/${id}/`)) {
        if (wrapping.key !== `keys/${id}/${first.id}`) await this.#backend.delete(wrapping.key);
      }
    }
    return count;
  }

  async #load(): Promise<void> {
    const byId = new Map(this.#masters.map((master) => [master.id, master]));
    for await (const { key } of this.#backend.list("keys/")) {
      const [, id = "", masterId = ""] = key.split("/");
      const master = byId.get(masterId);
      if (this.#keys.has(id) || (master === undefined && masterId !== "plain")) continue;
      if ((masterId === "plain") !== (this.cipher === "none")) continue;
      const body = await this.#backend.get(key);
      // A rotation beside this one takes old wrappings away.
      if (body === undefined) continue;
      const file = decodeObject(KeyFile, body, key);
      if (file.dataKey !== id || file.masterKey !== masterId) {
        throw ferryError("E_STORE_CORRUPT", `object ${key} of the store holds another key than its name says`);
      }
      const wrapped = Buffer.from(file.wrapped, "base64");
      const raw = master === undefined ? wrapped : unwrapKey(master, wrapped, id);
      if (raw.length !== KEY_BYTES) throw ferryError("E_STORE_CORRUPT", `object ${key} of the store holds no key`);
      this.#keys.set(id, { id, raw, createdAt: file.createdAt, use: file.use });
    }
  }

  async #noKey(id: string): Promise<Error> {
    const others = [];
    for await (const { key } of this.#backend.list(`keys/${id}/`)) others.push(key.split("/")[2]);
    const given = this.#masters.map((master) => master.id).join(", ");
    if (others.length === 0) return ferryError("E_STORE_CORRUPT", `data key ${id} is missing in ${this.#backend.name}`);
    return ferryError(
      "E_STORE_KEY",
      `the wrong key for the store ${this.#backend.name}: it needs ${others.join(" or ")}, given is ${given}`,
      { remedy: "give the key that the store was last rotated to; `keys/` in the store names it by its id" },
    );
  }
}

async function create(backend: Backend, cipher: Config["cipher"], masters: readonly MasterKey[]): Promise<Buffer> {
  const idKey = await addDataKey(backend, masters[0]);
  const config: Config = { format: 1, cipher, idKey, createdAt: new Date().toISOString() };
  await backend.put(CONFIG, encodeObject(config));
  // Whoever was first: two may start at once. The key that lost is wrapped with the same master key and harms nobody.
  return getExisting(backend, CONFIG);
}

async function addDataKey(backend: Backend, master: MasterKey | undefined): Promise<string> {
  const id = randomBytes(16).toString("hex");
  const createdAt = new Date().toISOString();
  await storeDataKey(backend, master, { id, raw: randomBytes(KEY_BYTES), createdAt, use: "write" });
  return id;
}

async function storeDataKey(backend: Backend, master: MasterKey | undefined, key: DataKey): Promise<string> {
  const file: z.infer<typeof KeyFile> = {
    format: 1,
    dataKey: key.id,
    masterKey: master?.id ?? "plain",
    wrapped: (master === undefined ? key.raw : wrapKey(master, key.raw, key.id)).toString("base64"),
    use: key.use,
    createdAt: key.createdAt,
  };
  return backend.put(`keys/${key.id}/${file.masterKey}`, encodeObject(file));
}

/** A data key's object as an imported checkpoint brings it: good for reading only. @throws FerryError E_STORE_CORRUPT */
export const importedKey = (body: Buffer, key: string): Buffer =>
  encodeObject({ ...decodeObject(KeyFile, body, key), use: "read" });
