/** Real certificates, listeners and raw TLS peers for the link's tests. */
import { once } from "node:events";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { connect as connectTcp, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, type ConnectionOptions, type TLSSocket } from "node:tls";
import type { FailureData } from "../../src/model/failure.js";
import { run } from "../../src/host/exec.js";
import { createAuthority, issueNodeCertificate } from "../../src/host/pki.js";
import { encodeHead, FrameParser, KIND, type RawFrame } from "../../src/transfer/link/frame.js";
import { listenLink, type Hello, type LinkIdentity, type LinkSession } from "../../src/transfer/link/index.js";
import type { DialOptions, ListenOptions } from "../../src/transfer/link/index.js";

export const HELLO: Hello = { purpose: "bulk", operation: "redis.migrate.1", workload: "redis", to: 2 };

/** A hand-over's token as node-a signs it, and what node-b expects of it. */
export const TOKEN = {
  workload: "redis",
  operation: "redis.migrate.1",
  from: 1,
  to: 2,
  source: "node-a",
  destination: "node-b",
  digest: "sha256:abc",
};
const { from: _from, ...expected } = TOKEN;
export const TOKEN_EXPECTED = expected;

/** Options that dial node-b on this machine. */
export const dialTo = (identity: LinkIdentity, port: number, more: Partial<DialOptions> = {}): DialOptions => ({
  identity,
  host: "127.0.0.1",
  port,
  peer: "node-b",
  hello: HELLO,
  timeoutMs: 3000,
  ...more,
});

export interface Pki {
  dir: string;
  identity(node: string): Promise<LinkIdentity>;
  /** A certificate of the same CA made by hand. */
  special(name: string, options: { node: string; san?: string; days?: number; issuer?: string }): Promise<LinkIdentity>;
  /** A revocation list of the CA over what it has revoked so far and `certFiles`, as a person would make it; PEM. */
  revoke(certFiles: readonly string[], until?: string): Promise<string>;
  remove(): void;
}

export async function makePki(): Promise<Pki> {
  const dir = mkdtempSync(join(tmpdir(), "ferry-link-"));
  const authorityDir = join(dir, "ca");
  await createAuthority(authorityDir);
  return {
    dir,
    async identity(node) {
      return { node, ...(await issueNodeCertificate({ authorityDir, node, outDir: join(dir, node) })) };
    },
    async special(name, { node, san, days, issuer }) {
      const base = join(dir, name);
      const issuerBase = issuer ?? join(authorityDir, "ca");
      await run("openssl", ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", `${base}.key`]);
      await run("openssl", ["req", "-new", "-key", `${base}.key`, "-subj", "/CN=special", "-out", `${base}.csr`]);
      writeFileSync(`${base}.ext`, `subjectAltName=${san ?? `URI:ferry://node/${node}`}\n`);
      await run("openssl", [
        "x509",
        "-req",
        "-in",
        `${base}.csr`,
        "-out",
        `${base}.crt`,
        "-set_serial",
        "7",
        "-CA",
        `${issuerBase}.crt`,
        "-CAkey",
        `${issuerBase}.key`,
        "-days",
        String(days ?? 30),
        "-extfile",
        `${base}.ext`,
      ]);
      chmodSync(`${base}.key`, 0o600);
      return { node, caFile: join(authorityDir, "ca.crt"), certFile: `${base}.crt`, keyFile: `${base}.key` };
    },
    async revoke(certFiles, until) {
      const [config, out] = [join(dir, "crl.cnf"), join(dir, "made.crl")];
      writeFileSync(
        config,
        `[ca]\ndefault_ca=ferry\n[ferry]\ndatabase=${join(dir, "revoked.txt")}\ndefault_md=sha256\nunique_subject=no\n`,
      );
      writeFileSync(join(dir, "revoked.txt"), "", { flag: "a" });
      const ca = [
        "ca",
        "-config",
        config,
        "-cert",
        join(authorityDir, "ca.crt"),
        "-keyfile",
        join(authorityDir, "ca.key"),
      ];
      for (const file of certFiles) await run("openssl", [...ca, "-revoke", file]);
      const last =
        until === undefined ? ["-crldays", "90"] : ["-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", until];
      await run("openssl", [...ca, "-gencrl", "-out", out, ...last]);
      return readFile(out, "utf8");
    },
    remove() {
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

const running = new Set<() => Promise<void>>();
/** Stops what a failed test left, so that it fails and does not hang. */
export async function stopAll(): Promise<void> {
  for (const stop of running) await stop();
}

/** A listener that keeps what it met. */
export async function startListener(
  identity: LinkIdentity,
  more: Partial<ListenOptions> = {},
): Promise<{
  port: number;
  refused: FailureData[];
  sessions: LinkSession[];
  session(): Promise<LinkSession>;
  refusal(): Promise<FailureData>;
  stop: () => Promise<void>;
}> {
  const refused: FailureData[] = [];
  const sessions: LinkSession[] = [];
  const { onSession, ...rest } = more;
  const listener = await listenLink({
    identity,
    host: "127.0.0.1",
    port: 0,
    accept: () => undefined,
    onRefused: (failure) => refused.push(failure),
    onSession: (session) => {
      onSession?.(session);
      sessions.push(session);
    },
    ...rest,
  });
  const stop = async (): Promise<void> => {
    running.delete(stop);
    for (const session of sessions) session.destroy();
    await listener.close();
  };
  running.add(stop);
  let seenSessions = 0;
  let seenRefusals = 0;
  return {
    port: listener.port,
    refused,
    sessions,
    async session() {
      await until(() => sessions.length > seenSessions, "a session");
      return sessions[seenSessions++]!;
    },
    async refusal() {
      await until(() => refused.length > seenRefusals, "a refusal");
      return refused[seenRefusals++]!;
    },
    stop,
  };
}

/** Waits for a level, bounded. */
export async function until(level: () => boolean, what: string, timeoutMs = 5000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!level()) {
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs} ms for ${what}`);
    await pause(3);
  }
}

export const pause = (ms: number): Promise<void> =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });

/** The end of a session, bounded. */
export function ending(session: LinkSession, timeoutMs = 5000): Promise<FailureData | undefined> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`the session did not end in ${timeoutMs} ms`)), timeoutMs);
    session.onClose((failure) => {
      clearTimeout(timer);
      resolve(failure);
    });
  });
}

/** One frame as bytes. */
export function frameBytes(
  sequence: number,
  type: string,
  meta: object,
  payload: Buffer = Buffer.alloc(0),
  kind: (typeof KIND)[keyof typeof KIND] = KIND.data,
): Buffer {
  return Buffer.concat([encodeHead(kind, sequence, type, meta, [payload]).head, payload]);
}

export const helloBytes = (meta: object = { versions: [1], hello: HELLO }): Buffer =>
  frameBytes(0, "", meta, undefined, KIND.hello);

/** TLS of the link without the link: for peers that say what they should not. */
export async function rawTls(
  port: number,
  identity: LinkIdentity | undefined,
  more: ConnectionOptions = {},
): Promise<{ socket: TLSSocket; frames: RawFrame[]; gone: Promise<void> }> {
  const socket = connect({
    host: "127.0.0.1",
    port,
    ALPNProtocols: ["ferry/1"],
    rejectUnauthorized: false,
    ...(identity === undefined
      ? {}
      : { cert: await readFile(identity.certFile), key: await readFile(identity.keyFile) }),
    ...more,
  });
  const frames: RawFrame[] = [];
  const parser = new FrameParser({ meta: 1_000_000, payload: 5_000_000 });
  socket.on("error", () => undefined);
  socket.on("data", (chunk: Buffer) => {
    parser.push(chunk, (frame) => frames.push(frame));
  });
  const gone = new Promise<void>((resolve) => {
    socket.once("close", () => {
      resolve();
    });
  });
  await Promise.race([once(socket, "secureConnect"), gone]).catch(() => undefined);
  return { socket, frames, gone };
}

/** A raw peer that has been welcomed: its next frame is sequence 1. */
export async function welcomed(port: number, identity: LinkIdentity): Promise<Awaited<ReturnType<typeof rawTls>>> {
  const peer = await rawTls(port, identity);
  peer.socket.write(helloBytes());
  await until(() => peer.frames.length > 0, "the welcome");
  return peer;
}

export async function rawTcp(port: number): Promise<{ socket: Socket; gone: Promise<void> }> {
  const socket = connectTcp({ host: "127.0.0.1", port });
  socket.on("error", () => undefined);
  socket.resume();
  const gone = new Promise<void>((resolve) => {
    socket.once("close", () => {
      resolve();
    });
  });
  await once(socket, "connect");
  return { socket, gone };
}

/** A signed statement is bound to each of its fields: expected otherwise, changed in it, or both. */
export function refusesEachField<T extends object>(
  what: string,
  statement: object,
  expect: T,
  others: Partial<Record<keyof T, string | number>>,
  refused: (statement: unknown, why: RegExp, want?: T) => void,
): void {
  for (const [field, value] of Object.entries(others)) {
    refused(statement, new RegExp(`${what}'s ${field} is`), { ...expect, [field]: value });
    const changed = { ...statement, [field]: value };
    refused(changed, new RegExp(`${what}'s ${field} is`));
    refused(changed, /signature is wrong|certificate names/, { ...expect, [field]: value });
  }
}
