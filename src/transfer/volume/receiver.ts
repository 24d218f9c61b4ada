/** The destination's end of the volume: rsync servers with our own arguments, one per stream of the bulk session. */
import { execFile } from "node:child_process";
import { mkdirSync } from "node:fs";
import { once } from "node:events";
import { SYSTEM_PATH } from "../../host/exec.js";
import { ferryError } from "../../model/failure.js";
import type { LinkSession } from "../link/index.js";
import type { FrameMeta } from "../mover/messages.js";
import { collectLines, startServer, type RsyncServer } from "./rsync.js";

/** The source opens one pass or look, arms two, and ends one that it cut: many more is not Ferry. */
const MAX_STREAMS = 8;

export interface VolumeReceiverOptions {
  dir: string;
  onChange: (urgent: boolean) => void;
  log: (message: string, fields?: object) => void;
}

export class VolumeReceiver {
  readonly #options: VolumeReceiverOptions;
  readonly #servers = new Map<number, RsyncServer>();
  #session: LinkSession | undefined;
  bytesReceived = 0;
  finalDone = false;
  durable = false;

  constructor(options: VolumeReceiverOptions, finalDone: boolean) {
    this.#options = options;
    if (finalDone) this.final();
  }

  /** A new bulk session: servers of the old one are of no use any more. */
  attach(session: LinkSession): void {
    this.close();
    this.#session = session;
  }

  open({ stream, kind, gentle }: FrameMeta<"volume-open">): void {
    const session = this.#session;
    if (session === undefined) return;
    if (this.#servers.has(stream) || this.#servers.size >= MAX_STREAMS) {
      throw ferryError("E_FRAME", `volume stream ${stream}: in use, or too many`);
    }
    mkdirSync(this.#options.dir, { recursive: true, mode: 0o700 });
    const server = startServer(kind, gentle, this.#options.dir);
    this.#servers.set(stream, server);
    const lines = collectLines(server.errors);
    server.input.on("error", () => undefined);
    const pumped = this.#pump(session, stream, server);
    const tell = (exitCode: number | null, signal: string | null, more: string[] = []): void => {
      if (this.#servers.get(stream) === server) this.#servers.delete(stream);
      void pumped.then(() =>
        session.send("volume-exit", { stream, exitCode, signal, lines: [...lines, ...more] }).catch(() => undefined),
      );
    };
    server.child.once("close", tell);
    server.child.once("error", (error) => tell(null, null, [`rsync could not be started: ${error.message}`]));
  }

  async #pump(session: LinkSession, stream: number, server: RsyncServer): Promise<void> {
    try {
      for await (const chunk of server.output as AsyncIterable<Buffer>) {
        await session.send("volume-data", { stream }, chunk);
      }
    } catch {
      server.child.kill("SIGKILL");
    }
  }

  /** Resolves when the payload has been handed to rsync, so its memory may be used again. */
  async data(stream: number, payload: Buffer): Promise<void> {
    const server = this.#servers.get(stream);
    if (server === undefined || server.input.destroyed) return;
    this.bytesReceived += payload.length;
    this.#options.onChange(false);
    await new Promise<void>((resolve) => {
      server.input.once("close", resolve);
      server.input.write(payload, () => {
        server.input.off("close", resolve);
        resolve();
      });
    });
  }

  eof(stream: number): void {
    this.#servers.get(stream)?.input.end();
  }

  /** The final pass is done: flush, in the background. RUNNING need not wait for it, OWNER must: then the source forgets. */
  final(): void {
    if (this.finalDone) return;
    this.finalDone = true;
    const child = execFile("sync", ["--file-system", this.#options.dir], { env: { PATH: SYSTEM_PATH } }, (error) => {
      if (error === null) this.durable = true;
      else this.#options.log("volume: could not be flushed", { problem: error.message });
      this.#options.onChange(true);
    });
    void once(child, "spawn").catch(() => undefined);
  }

  close(): void {
    for (const server of this.#servers.values()) server.child.kill("SIGKILL");
    this.#servers.clear();
    this.#session = undefined;
  }
}
