/** A real S3 server on a directory of its own, for one test file; or why there is none. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { cacheDir } from "../../deploy/setup/cache.js";
import { findS3Server } from "../../deploy/setup/s3-server.js";
import type { S3Options } from "../../src/store/index.js";

export const NO_S3 =
  (await findS3Server(cacheDir())) === undefined ? "no S3 server: `npm run setup` builds one where Go is" : false;

const CREDENTIALS = { accessKeyId: "ferry", secretAccessKey: "ferry-secret" };
const BUCKET = "ferry-tests";
const START_MS = 20_000;

export class S3Server {
  readonly #program: string;
  readonly #port: number;
  readonly folder: string;
  #child: ChildProcess | undefined;

  private constructor(program: string, port: number, folder: string) {
    this.#program = program;
    this.#port = port;
    this.folder = folder;
  }

  static async start(): Promise<S3Server> {
    const program = await findS3Server(cacheDir());
    if (program === undefined) throw new Error("no S3 server");
    const probe = createServer().listen(0, "127.0.0.1");
    await once(probe, "listening");
    const { port } = probe.address() as AddressInfo;
    probe.close();
    const folder = await mkdtemp(join(tmpdir(), "ferry-s3-"));
    // A directory of its root is a bucket.
    await mkdir(join(folder, "root", BUCKET), { recursive: true });
    const server = new S3Server(program, port, folder);
    await server.up();
    return server;
  }

  options(prefix: string, more: Partial<S3Options> = {}): S3Options {
    const endpoint = `http://127.0.0.1:${this.#port}`;
    return { bucket: BUCKET, prefix, endpoint, credentials: CREDENTIALS, ...more };
  }

  /** The store's configuration of a node, and what its processes need in their environment. */
  config(prefix: string): { s3: object; env: Record<string, string> } {
    const { bucket, endpoint } = this.options(prefix);
    const { accessKeyId, secretAccessKey } = CREDENTIALS;
    const env = { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey };
    return { s3: { bucket, prefix, endpoint }, env };
  }

  /** Path of an object as the server keeps it. */
  path(prefix: string, key: string): string {
    return join(this.folder, "root", BUCKET, prefix, key);
  }

  async up(): Promise<void> {
    const args = ["--access", CREDENTIALS.accessKeyId, "--secret", CREDENTIALS.secretAccessKey, "--quiet"];
    const child = spawn(
      this.#program,
      [...args, "--port", `127.0.0.1:${this.#port}`, "posix", join(this.folder, "root")],
      { stdio: "ignore" },
    );
    this.#child = child;
    for (const end = Date.now() + START_MS; Date.now() < end; await sleep(50)) {
      if (child.exitCode !== null) break;
      const answer = await fetch(`http://127.0.0.1:${this.#port}/`).catch(() => undefined);
      if (answer !== undefined) return;
    }
    throw new Error("the S3 server does not answer");
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  }

  async stop(): Promise<void> {
    await this.kill();
    await rm(this.folder, { recursive: true, force: true });
  }
}
