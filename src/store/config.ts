/**
 * The store's own settings (`store.json`) and its data keys (`keys/`). Data keys encrypt; master keys only wrap them, so
 * a new master key costs a few small objects. The id key (for ids of blocks) comes from the first data key and stays.
 */
import { randomBytes, type KeyObject } from "node:crypto";
import { z } from "zod";
import { ferryError, toFailure } from "../model/failure.js";
import type { Rotation, Wrapping } from "../model/store-report.js";
import { getExisting, noStore, type Backend } from "./backend.js";
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

const keyObject = (id: string, master: string): string => `keys/${id}/${master}`;
const wrappingOf = (key: string): Wrapping => {
  const [, dataKey = "", masterKey = ""] = key.split("/");
  return { dataKey, masterKey };
};

export class KeyRing {
  readonly cipher: Config["cipher"];
  /** Whose derived key makes the ids of new blocks. */
  readonly idKeyId: string;
  readonly #backend: Backend;
  readonly #masters: readonly MasterKey[];
  readonly #keys = new Map<string, DataKey>();
  /** Why the wrapping of a key could not be used. */
  readonly #damaged = new Map<string, unknown>();

  private constructor(
    backend: Backend,
    config: Pick<Config, "cipher" | "idKey">,
    masters: readonly MasterKey[],
    keys: Iterable<DataKey> = [],
  ) {
    this.#backend = backend;
    this.cipher = config.cipher;
    this.idKeyId = config.idKey;
    this.#masters = masters;
    for (const key of keys) this.#keys.set(key.id, key);
  }

  /**
   * @param masters the first one wraps new keys; none: a store without encryption
   * @param make a store where there is none
   * @throws FerryError E_STORE_KEY: the wrong key, or the store is not encrypted as asked for; E_STORE: there is none
   */
  static async open(backend: Backend, masters: readonly MasterKey[], make = true): Promise<KeyRing> {
    const cipher = masters.length === 0 ? "none" : "aes-256-gcm";
    const found = await backend.get(CONFIG);
    if (found === undefined && !make) throw noStore(backend.name);
    const body = found ?? (await create(backend, cipher, masters));
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
   * Wraps every data key with the first master key and forgets the other wrappings; goes on where it was interrupted. What
   * a given key does not open stays as it is.
   * @param fresh also makes a new data key, for what is written from now on
   */
  async rotate(fresh: boolean): Promise<Rotation> {
    const [first] = this.#masters;
    if (first === undefined) {
      throw ferryError("E_STORE_KEY", "a store without encryption has no key to rotate", {
        remedy: "make a new store with a key, and import what is worth keeping",
      });
    }
    const found = await this.wrappings();
    await this.#load();
    const done: Rotation = { wrapped: 0, forgotten: 0, left: [] };
    for (const [id, masters] of found) {
      const key = this.#keys.get(id);
      if (key === undefined) {
        done.left.push(...masters.map((masterKey) => ({ dataKey: id, masterKey })));
        continue;
      }
      if ((await this.#wrap(key, first)) === "stored") done.wrapped += 1;
      const others = masters.filter((masterKey) => masterKey !== first.id);
      for (const masterKey of others) await this.#backend.delete(keyObject(id, masterKey));
      done.forgotten += others.length;
      // A rotation to another key beside this one may have taken ours for an old one: who is last to look leaves his.
      if (others.length > 0) await this.#wrap(key, first);
    }
    if (fresh) done.fresh = await addDataKey(this.#backend, first, this.#keys.get(this.current)?.createdAt);
    return done;
  }

  /** Ids of the master keys that open each data key, as they lie in the store. */
  async wrappings(): Promise<Map<string, string[]>> {
    const found = new Map<string, string[]>();
    for await (const { key } of this.#backend.list("keys/")) {
      const { dataKey, masterKey } = wrappingOf(key);
      found.set(dataKey, [...(found.get(dataKey) ?? []), masterKey]);
    }
    return found;
  }

  /** Whether a given master key opens it: it was opened when the store was. */
  opens(dataKeyId: string): boolean {
    return this.#keys.has(dataKeyId);
  }

  /**
   * Every wrapping that a given master key should open is opened.
   * @returns what is wrong, by data key
   */
  async check(): Promise<Map<string, unknown>> {
    const wrong = new Map<string, unknown>();
    for await (const { key } of this.#backend.list("keys/")) {
      try {
        await this.#read(key);
      } catch (error) {
        if (toFailure(error).code === "E_STORE") throw error;
        wrong.set(wrappingOf(key).dataKey, error);
      }
    }
    return wrong;
  }

  /**
   * A data key for an exported checkpoint, wrapped with the store's master key or for somebody else's.
   * @throws FerryError E_STORE_KEY
   */
  async exportedKey(id: string, master = this.#masters[0]): Promise<{ key: string; body: Buffer }> {
    const raw = await this.#dataKey(id);
    const object = keyObject(id, master?.id ?? "plain");
    const { createdAt } = this.#keys.get(id) ?? { createdAt: new Date().toISOString() };
    return { key: object, body: encodeKey({ id, raw, createdAt, use: "read" }, master) };
  }

  /**
   * This ring and the data keys that an exported checkpoint brings, for looking at it; nothing is stored.
   * @param objects name and content
   * @param more master keys besides the store's
   * @throws FerryError E_STORE_CORRUPT, E_STORE_KEY
   */
  withImported(objects: readonly { key: string; body: Buffer }[], more: readonly MasterKey[]): KeyRing {
    const masters = [...this.#masters, ...more];
    const ring = new KeyRing(this.#backend, { cipher: this.cipher, idKey: this.idKeyId }, masters, this.#keys.values());
    for (const { key, body } of objects) {
      if ((wrappingOf(key).masterKey === "plain") !== (this.cipher === "none")) throw otherKind();
      const found = openKey(key, body, masters);
      if (found === undefined) continue;
      const known = ring.#keys.get(found.id);
      if (known === undefined) ring.#keys.set(found.id, { ...found, use: "read" });
      else if (!known.raw.equals(found.raw)) {
        throw ferryError("E_STORE_CORRUPT", `data key ${found.id} is another one in the store ${this.#backend.name}`);
      }
    }
    const closed = objects.map(({ key }) => wrappingOf(key)).filter(({ dataKey }) => !ring.#keys.has(dataKey));
    if (closed.length === 0) return ring;
    const needed = [...new Set(closed.map(({ masterKey }) => masterKey))].join(" or ");
    throw ferryError(
      "E_STORE_KEY",
      `the checkpoint is encrypted with the key ${needed}; given is ${masters.map(({ id }) => id).join(", ") || "none"}`,
      { remedy: "give the key of the store that it was exported from: --key FILE, or `oldKeys` of the configuration" },
    );
  }

  /** Takes these data keys of the other ring in, for reading, wrapped with this store's own master key. */
  async adopt(other: KeyRing, ids: Iterable<string>): Promise<void> {
    for (const id of ids) {
      const key = other.#keys.get(id);
      if (key === undefined || this.#keys.has(id)) continue;
      await this.#wrap(key, this.#masters[0]);
      this.#keys.set(id, key);
    }
  }

  /** Stores it, and is sure that what lies there gives it back. */
  async #wrap(key: DataKey, master: MasterKey | undefined): Promise<"stored" | "exists"> {
    const object = keyObject(key.id, master?.id ?? "plain");
    const stored = await this.#backend.put(object, encodeKey(key, master));
    const there = async (): Promise<boolean> => {
      try {
        return (await this.#read(object))?.raw.equals(key.raw) === true;
      } catch (error) {
        if (toFailure(error).code === "E_STORE") throw error;
        return false;
      }
    };
    if (await there()) return stored;
    // It was damaged: the only copy must not be.
    await this.#backend.replace(object, encodeKey(key, master));
    if (await there()) return "stored";
    throw ferryError("E_STORE", `${this.#backend.name} does not keep what is put into it: ${object}`);
  }

  /** Undefined: gone, or of no master key that is given. @throws FerryError E_STORE_CORRUPT */
  async #read(key: string): Promise<DataKey | undefined> {
    const { masterKey } = wrappingOf(key);
    if (masterKey !== "plain" && !this.#masters.some(({ id }) => id === masterKey)) return undefined;
    if ((masterKey === "plain") !== (this.cipher === "none")) return undefined;
    // A rotation beside this one takes old wrappings away.
    const body = await this.#backend.get(key);
    return body === undefined ? undefined : openKey(key, body, this.#masters);
  }

  async #load(): Promise<void> {
    for await (const { key } of this.#backend.list("keys/")) {
      const { dataKey } = wrappingOf(key);
      if (this.#keys.has(dataKey)) continue;
      try {
        const found = await this.#read(key);
        if (found !== undefined) this.#keys.set(dataKey, found);
      } catch (error) {
        if (toFailure(error).code !== "E_STORE_CORRUPT") throw error;
        // Another wrapping may be whole; and the store is open for what needs another key.
        this.#damaged.set(dataKey, error);
      }
    }
  }

  async #noKey(id: string): Promise<Error> {
    const damaged = this.#damaged.get(id);
    if (damaged instanceof Error) return damaged;
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

/** @param newest when the newest of the others was made: this one is newer, whatever the clock says */
async function addDataKey(backend: Backend, master: MasterKey | undefined, newest?: string): Promise<string> {
  const id = randomBytes(16).toString("hex");
  const after = newest === undefined ? 0 : Date.parse(newest) + 1;
  const createdAt = new Date(Math.max(Date.now(), after)).toISOString();
  const key: DataKey = { id, raw: randomBytes(KEY_BYTES), createdAt, use: "write" };
  await backend.put(keyObject(id, master?.id ?? "plain"), encodeKey(key, master));
  return id;
}

const encodeKey = (key: DataKey, master: MasterKey | undefined): Buffer =>
  encodeObject({
    format: 1,
    dataKey: key.id,
    masterKey: master?.id ?? "plain",
    wrapped: (master === undefined ? key.raw : wrapKey(master, key.raw, key.id)).toString("base64"),
    use: key.use,
    createdAt: key.createdAt,
  } satisfies z.infer<typeof KeyFile>);

/** Undefined: none of these opens it. @throws FerryError E_STORE_CORRUPT */
function openKey(key: string, body: Buffer, masters: readonly MasterKey[]): DataKey | undefined {
  const { dataKey: id, masterKey } = wrappingOf(key);
  const file = decodeObject(KeyFile, body, key);
  if (file.dataKey !== id || file.masterKey !== masterKey) {
    throw ferryError("E_STORE_CORRUPT", `object ${key} of the store holds another key than its name says`);
  }
  const wrapped = Buffer.from(file.wrapped, "base64");
  const master = masters.find((one) => one.id === masterKey);
  if (master === undefined && masterKey !== "plain") return undefined;
  const raw = master === undefined ? wrapped : unwrapKey(master, wrapped, id);
  if (raw.length !== KEY_BYTES) throw ferryError("E_STORE_CORRUPT", `object ${key} of the store holds no key`);
  return { id, raw, createdAt: file.createdAt, use: file.use };
}

/** An exported checkpoint whose store was encrypted where this one is not, or the other way round. */
export const otherKind = (): Error =>
  ferryError("E_STORE_KEY", "the checkpoint is encrypted and the store is not, or the other way round", {
    remedy: "import it into a store of its own kind",
  });
