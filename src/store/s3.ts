/**
 * The store in an S3 bucket. Big objects go up in parts, in parallel; nothing of them is seen before the last step.
 *
 * New objects are put with `If-None-Match: *` where the server knows it (asked once). Where it doesn't, put looks first:
 * good enough, since names are random but for the store's own settings and two writers of one session (docs/store.md).
 */
import { randomBytes } from "node:crypto";
import type * as sdkTypes from "@aws-sdk/client-s3";
import type { PutObjectCommandInput, S3Client } from "@aws-sdk/client-s3";
import { checkKey, tooShort, type Backend, type ObjectInfo, type Range } from "./backend.js";
import { statusOf, withPatience } from "./s3-retry.js";

export interface S3Options {
  bucket: string;
  /** Folder in the bucket, without slashes at its ends; "" is the whole bucket. */
  prefix?: string;
  /** For services other than AWS: "http://127.0.0.1:7070". */
  endpoint?: string;
  region?: string;
  /** Else as the SDK finds them: environment, profile, the machine's role. */
  credentials?: { accessKeyId: string; secretAccessKey: string };
  /** How long a server that is away is asked again. Default 60 s. */
  patienceMs?: number;
  /** Objects from this size on go up in parts of `partBytes`. Defaults 24 and 8 MiB; S3 wants 5 MiB at least. */
  multipartFromBytes?: number;
  partBytes?: number;
}

const PARTS_AT_ONCE = 4;

type Sdk = typeof sdkTypes;

/** The SDK is large: it is loaded by who uses S3 only. It warns of Node 20 on every start, which is no user's business. */
async function loadSdk(): Promise<Sdk> {
  process.env["AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED"] ??= "true";
  return import("@aws-sdk/client-s3");
}

/** @throws FerryError E_STORE: no such bucket, no right to look into it, no server */
export async function s3Backend(options: S3Options): Promise<Backend> {
  const sdk = await loadSdk();
  const client = new sdk.S3Client({
    region: options.region ?? "us-east-1",
    maxAttempts: 1,
    requestHandler: { connectionTimeout: 5000, requestTimeout: 60_000, httpsAgent: { maxSockets: 32 } },
    ...(options.endpoint === undefined ? {} : { endpoint: options.endpoint, forcePathStyle: true }),
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
  });
  const backend = new S3Backend(sdk, client, options);
  await backend.look();
  return backend;
}

class S3Backend implements Backend {
  readonly name: string;
  readonly #sdk: Sdk;
  readonly #client: S3Client;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #patienceMs: number;
  readonly #multipartFromBytes: number;
  readonly #partBytes: number;
  /** Whether the server keeps `If-None-Match: *`; asked at the first put. */
  #conditional: Promise<boolean> | undefined;

  constructor(sdk: Sdk, client: S3Client, options: S3Options) {
    this.#sdk = sdk;
    this.#client = client;
    this.#bucket = options.bucket;
    this.#prefix = options.prefix ? `${options.prefix}/` : "";
    this.#patienceMs = options.patienceMs ?? 60_000;
    this.#multipartFromBytes = options.multipartFromBytes ?? 24 * 1024 ** 2;
    this.#partBytes = options.partBytes ?? 8 * 1024 ** 2;
    this.name = `s3://${options.bucket}/${options.prefix ?? ""}`;
  }

  /** Whether the bucket is there: later a HEAD would say of every object that it is not. */
  async look(): Promise<void> {
    await this.#ask("looking for the bucket", () =>
      this.#client.send(new this.#sdk.ListObjectsV2Command({ Bucket: this.#bucket, MaxKeys: 1 })),
    );
  }

  async put(key: string, body: Buffer): Promise<"stored" | "exists"> {
    const conditional = await (this.#conditional ??= this.#probe());
    if (!conditional && (await this.stat(key)) !== undefined) return "exists";
    const condition = conditional ? { IfNoneMatch: "*" } : {};
    return this.#ask(`storing ${key}`, async (attempt) => {
      try {
        await this.#upload(key, body, condition);
        return "stored";
      } catch (error) {
        if (statusOf(error) !== 412) throw error;
        // The answer to our own first try may have been lost.
        if (attempt > 0 && (await this.get(key))?.equals(body)) return "stored";
        return "exists";
      }
    });
  }

  async replace(key: string, body: Buffer): Promise<void> {
    await this.#ask(`storing ${key}`, () => this.#upload(key, body, {}));
  }

  async get(key: string, range?: Range): Promise<Buffer | undefined> {
    if (range?.bytes === 0) return Buffer.alloc(0);
    const at = range === undefined ? {} : { Range: `bytes=${range.offset}-${range.offset + range.bytes - 1}` };
    const body = await this.#ask(`reading ${key}`, async () => {
      try {
        const answer = await this.#client.send(new this.#sdk.GetObjectCommand({ ...this.#named(key), ...at }));
        return Buffer.from((await answer.Body?.transformToByteArray()) ?? []);
      } catch (error) {
        // Other things than the object may not be found: the bucket, with some servers the access key.
        if ((error as Error).name === "NoSuchKey") return undefined;
        if (statusOf(error) === 416) return Buffer.alloc(0);
        throw error;
      }
    });
    if (body !== undefined && range !== undefined && body.length !== range.bytes) {
      throw tooShort(this, key, range, body.length);
    }
    return body;
  }

  async stat(key: string): Promise<ObjectInfo | undefined> {
    return this.#ask(`looking at ${key}`, async () => {
      try {
        const answer = await this.#client.send(new this.#sdk.HeadObjectCommand(this.#named(key)));
        return { key, bytes: answer.ContentLength ?? 0, modifiedMs: answer.LastModified?.getTime() ?? 0 };
      } catch (error) {
        if (statusOf(error) === 404) return undefined;
        throw error;
      }
    });
  }

  async *list(prefix: string): AsyncGenerator<ObjectInfo> {
    let token: string | undefined;
    do {
      const from = token === undefined ? {} : { ContinuationToken: token };
      const page = await this.#ask(`listing ${prefix}`, () =>
        this.#client.send(
          new this.#sdk.ListObjectsV2Command({ Bucket: this.#bucket, Prefix: this.#prefix + prefix, ...from }),
        ),
      );
      for (const { Key, Size, LastModified } of page.Contents ?? []) {
        if (Key === undefined || Key.endsWith("/")) continue;
        yield { key: Key.slice(this.#prefix.length), bytes: Size ?? 0, modifiedMs: LastModified?.getTime() ?? 0 };
      }
      token = page.NextContinuationToken;
    } while (token !== undefined);
  }

  async delete(key: string): Promise<void> {
    await this.#ask(`deleting ${key}`, () => this.#client.send(new this.#sdk.DeleteObjectCommand(this.#named(key))));
  }

  /** Uploads in parts that nobody finished or called off: their process is gone. */
  async sweep(olderThanMs: number): Promise<void> {
    const { Uploads } = await this.#ask("listing uploads", () =>
      this.#client.send(new this.#sdk.ListMultipartUploadsCommand({ Bucket: this.#bucket, Prefix: this.#prefix })),
    );
    for (const { Key, UploadId, Initiated } of Uploads ?? []) {
      if (Key === undefined || UploadId === undefined || Date.now() - (Initiated?.getTime() ?? 0) < olderThanMs)
        continue;
      await this.#abort(Key, UploadId);
    }
  }

  close(): void {
    this.#client.destroy();
  }

  #named(key: string): { Bucket: string; Key: string } {
    checkKey(key);
    return { Bucket: this.#bucket, Key: this.#prefix + key };
  }

  #ask<T>(doing: string, work: (attempt: number) => Promise<T>): Promise<T> {
    return withPatience(`${doing} in ${this.name}`, this.#patienceMs, work);
  }

  async #upload(key: string, body: Buffer, condition: Pick<PutObjectCommandInput, "IfNoneMatch">): Promise<void> {
    if (body.length < this.#multipartFromBytes) {
      await this.#client.send(new this.#sdk.PutObjectCommand({ ...this.#named(key), ...condition, Body: body }));
      return;
    }
    const named = this.#named(key);
    const { UploadId } = await this.#client.send(new this.#sdk.CreateMultipartUploadCommand(named));
    if (UploadId === undefined) throw new Error("the server gave the upload no id");
    try {
      const Parts = await this.#parts(key, UploadId, body);
      await this.#client.send(
        new this.#sdk.CompleteMultipartUploadCommand({ ...named, ...condition, UploadId, MultipartUpload: { Parts } }),
      );
    } catch (error) {
      await this.#abort(named.Key, UploadId).catch(() => undefined);
      throw error;
    }
  }

  /** A part that fails is sent again by itself: an interrupted upload goes on where it was. */
  async #parts(key: string, UploadId: string, body: Buffer): Promise<{ PartNumber: number; ETag: string }[]> {
    const parts: { PartNumber: number; ETag: string }[] = [];
    const count = Math.ceil(body.length / this.#partBytes);
    let next = 0;
    const sender = async (): Promise<void> => {
      while (next < count) {
        const index = next++;
        const Body = body.subarray(index * this.#partBytes, (index + 1) * this.#partBytes);
        const part = { ...this.#named(key), UploadId, PartNumber: index + 1, Body };
        const { ETag } = await this.#ask(`storing part ${index + 1} of ${key}`, () =>
          this.#client.send(new this.#sdk.UploadPartCommand(part)),
        );
        parts[index] = { PartNumber: index + 1, ETag: ETag ?? "" };
      }
    };
    await Promise.all(Array.from({ length: Math.min(PARTS_AT_ONCE, count) }, sender));
    return parts;
  }

  async #abort(Key: string, UploadId: string): Promise<void> {
    await this.#client.send(new this.#sdk.AbortMultipartUploadCommand({ Bucket: this.#bucket, Key, UploadId }));
  }

  /** Servers that don't know the condition ignore it, silently: so it is tried. */
  async #probe(): Promise<boolean> {
    const key = `probe/${randomBytes(8).toString("hex")}`;
    const body = Buffer.from("does this server keep If-None-Match?\n");
    return this.#ask("asking for conditional puts", async () => {
      await this.#upload(key, body, {});
      try {
        await this.#upload(key, body, { IfNoneMatch: "*" });
        return false;
      } catch (error) {
        if (statusOf(error) === 412) return true;
        // 501: the header is not implemented.
        if (statusOf(error) === 501 || statusOf(error) === 400) return false;
        throw error;
      } finally {
        await this.delete(key);
      }
    });
  }
}
