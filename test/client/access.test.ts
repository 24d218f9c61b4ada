/**
 * TLS with a certificate of our own, and API keys, for real: a gateway (HTTP/2 over TLS, client certificates, a bearer key)
 * stands before a Temporal dev server, and client and worker are configured as people do it, by environment and files.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect as connectHttp2, constants, createSecureServer, type Http2SecureServer } from "node:http2";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { connectOptions, targetOf } from "../../src/cli/connection.js";
import { connect, FerryError, type FailureCode } from "../../src/client/index.js";
import { createSimulatedAgent } from "../../src/runtimes/simulated/agent.js";
import { SimulatedWorld } from "../../src/runtimes/simulated/world.js";
import { runWorker } from "../../src/workers/worker.js";
import { skipWithoutTemporal, startTemporal, type TestServer } from "../support/temporal.js";
import { until } from "../workflows/support.js";

const API_KEY = "key-0123456789-of-the-test";
const NAME = "temporal.test";
const dir = mkdtempSync(join(tmpdir(), "ferry-access-"));
const file = (name: string): string => join(dir, name);
const openssl = (...args: string[]): void => void execFileSync("openssl", args, { stdio: "pipe", cwd: dir });

/** A CA, and below it a pair for each name; all with the same CA unless said. */
function makeCa(ca: string): void {
  openssl(
    "req",
    "-x509",
    "-newkey",
    "ed25519",
    "-nodes",
    "-days",
    "2",
    "-subj",
    `/CN=${ca}`,
    "-keyout",
    `${ca}.key`,
    "-out",
    `${ca}.crt`,
  );
}
function makePair(ca: string, name: string, san: string): void {
  writeFileSync(file("ext"), `subjectAltName=${san}\n`);
  openssl(
    "req",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
    "-subj",
    `/CN=${name}`,
    "-keyout",
    `${name}.key`,
    "-out",
    "csr",
  );
  openssl(
    "x509",
    "-req",
    "-in",
    "csr",
    "-days",
    "2",
    "-CA",
    `${ca}.crt`,
    "-CAkey",
    `${ca}.key`,
    "-CAcreateserial",
    "-extfile",
    "ext",
    "-out",
    `${name}.crt`,
  );
}

interface Gateway {
  address: string;
  /** Subjects of clients and their authorization, as they came. */
  seen: Set<string>;
  close(): Promise<void>;
}

/** Forwards gRPC to `upstream`, from clients with a certificate of `ca` and the right key only. */
async function startGateway(upstream: string): Promise<Gateway> {
  const seen = new Set<string>();
  const behind = connectHttp2(`http://${upstream}`);
  behind.on("error", () => undefined);
  const server: Http2SecureServer = createSecureServer({
    cert: readFileSync(file("server.crt")),
    key: readFileSync(file("server.key")),
    ca: readFileSync(file("ca.crt")),
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: "TLSv1.3",
  });
  const sessions = new Set<{ destroy(): void }>();
  server.on("session", (session) => {
    sessions.add(session);
    session.on("close", () => sessions.delete(session));
    session.on("error", () => undefined);
  });
  server.on("stream", (stream, headers) => {
    const socket = stream.session?.socket as unknown as { getPeerCertificate(): { subject: { CN: string } } };
    seen.add(`${socket.getPeerCertificate().subject.CN} ${headers.authorization ?? "-"}`);
    stream.on("error", () => undefined);
    if (headers.authorization !== `Bearer ${API_KEY}`) {
      stream.respond(
        { ":status": 200, "content-type": "application/grpc", "grpc-status": "16", "grpc-message": "no such key" },
        { endStream: true },
      );
      return;
    }
    const { ":authority": _, ":scheme": __, ...rest } = headers;
    const request = behind.request(rest);
    let trailers = {};
    request.on("error", () => stream.destroy());
    stream.on("close", () => request.close());
    request.on("trailers", (last) => (trailers = last));
    request.on("response", (answer, flags) => {
      if (stream.destroyed) return;
      if ((flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0) return stream.respond(answer, { endStream: true });
      stream.respond(answer, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers(trailers));
      request.pipe(stream);
    });
    stream.pipe(request);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const session of sessions) session.destroy();
        behind.destroy();
      }),
  };
}

const optionsOf = async (env: Record<string, string>, address?: string) =>
  connectOptions(await targetOf(address === undefined ? {} : { address }, env));

async function fails(code: FailureCode, words: RegExp, act: () => Promise<unknown>): Promise<void> {
  const error = await act().then(
    () => assert.fail("it was let in"),
    (caught: unknown) => caught,
  );
  assert.ok(error instanceof FerryError, String(error));
  assert.equal(error.code, code, error.message);
  assert.match(error.message, words);
  assert.ok(!JSON.stringify(error.data).includes(API_KEY), "the key is in the error");
}

describe("getting into Temporal", { skip: skipWithoutTemporal }, () => {
  let server: TestServer;
  let gateway: Gateway;
  let env: Record<string, string>;

  before(async () => {
    makeCa("ca");
    makeCa("other");
    makePair("ca", "server", `DNS:${NAME}`);
    makePair("ca", "client", "DNS:client.test");
    makePair("other", "stranger", "DNS:client.test");
    writeFileSync(file("api-key"), `${API_KEY}\n`, { mode: 0o600 });
    server = await startTemporal();
    gateway = await startGateway(server.address);
    env = {
      FERRY_TEMPORAL_ADDRESS: gateway.address,
      FERRY_TEMPORAL_TLS_CA: file("ca.crt"),
      FERRY_TEMPORAL_TLS_CERT: file("client.crt"),
      FERRY_TEMPORAL_TLS_KEY: file("client.key"),
      FERRY_TEMPORAL_TLS_SERVER_NAME: NAME,
      FERRY_TEMPORAL_API_KEY_FILE: file("api-key"),
    };
  });
  after(async () => {
    await gateway.close();
    await server.stop();
    rmSync(dir, { recursive: true });
  });

  test("client and worker get in with certificate and key, every call has them, and no log does", async () => {
    const world = new SimulatedWorld({ nodes: ["node-a"] });
    const stop = new AbortController();
    const logFile = file("worker.log");
    const options = await optionsOf(env);
    const worker = runWorker(
      { node: "node-a", agentSocket: "unused", ...options, logFile, logLevel: "trace" },
      { agent: createSimulatedAgent(world, "node-a"), signal: stop.signal, embedded: true },
    );
    const ferry = await connect(options);
    try {
      const nodes = await until(
        () => ferry.nodes.list(),
        (all) => all.length === 1 && all[0]?.reachable === true,
        30_000,
      );
      assert.equal(nodes[0]?.name, "node-a");
      assert.deepEqual([...gateway.seen], [`client Bearer ${API_KEY}`]);
    } finally {
      await ferry.close();
      stop.abort();
      await worker;
      world.close();
    }
    const log = readFileSync(logFile, "utf8");
    assert.match(log, /node is registered/);
    assert.ok(!log.includes(API_KEY));
    assert.ok(!log.includes("PRIVATE KEY"));
  });

  // Each waits five seconds for an answer.
  describe("what gets no answer", { concurrency: true }, () => {
    test("without a certificate, with another CA's, under another name: nobody gets in", async () => {
      const { FERRY_TEMPORAL_TLS_CERT: _, FERRY_TEMPORAL_TLS_KEY: __, ...without } = env;
      const wrong = [
        without,
        { ...env, FERRY_TEMPORAL_TLS_CERT: file("stranger.crt"), FERRY_TEMPORAL_TLS_KEY: file("stranger.key") },
        { ...env, FERRY_TEMPORAL_TLS_CA: file("other.crt") },
        { ...env, FERRY_TEMPORAL_TLS_SERVER_NAME: "another.test" },
      ];
      gateway.seen.clear();
      // Each one tries for five seconds: together.
      await Promise.all(
        wrong.map((one) => fails("E_TEMPORAL_DOWN", /does not answer/, async () => connect(await optionsOf(one)))),
      );
      assert.deepEqual([...gateway.seen], []);
    });

    test("an API key is never sent in the clear", async () => {
      const heard: Buffer[] = [];
      const plain = createServer((socket) => {
        socket.on("data", (bytes) => {
          heard.push(bytes);
          socket.destroy();
        });
        socket.on("error", () => undefined);
      });
      await new Promise<void>((resolve) => plain.listen(0, "127.0.0.1", resolve));
      const address = `127.0.0.1:${(plain.address() as AddressInfo).port}`;
      const options = await optionsOf({ FERRY_TEMPORAL_API_KEY_FILE: file("api-key") }, address);
      await fails("E_TEMPORAL_DOWN", /does not answer/, () => connect(options));
      plain.close();
      const bytes = Buffer.concat(heard);
      assert.equal(bytes[0], 0x16, "what comes first is a TLS handshake");
      assert.ok(!bytes.includes(API_KEY));
    });
  });

  test("a wrong API key is a refusal, not an outage", async () => {
    const { FERRY_TEMPORAL_API_KEY_FILE: _, ...rest } = env;
    await fails("E_TEMPORAL_DENIED", /does not allow it \(no such key\)/, async () =>
      connect(await optionsOf({ ...rest, FERRY_TEMPORAL_API_KEY: "another" })),
    );
  });

  test("what is configured wrongly is named, without a secret", async () => {
    const wrong: [Record<string, string>, RegExp][] = [
      [{ FERRY_TEMPORAL_TLS_CERT: file("none.crt") }, /none\.crt \(FERRY_TEMPORAL_TLS_CERT\)/],
      [{ FERRY_TEMPORAL_API_KEY: API_KEY }, /FERRY_TEMPORAL_API_KEY and FERRY_TEMPORAL_API_KEY_FILE are both set/],
      [{ FERRY_TEMPORAL_API_KEY_FILE: file("bad") }, /not one word/],
      [{ FERRY_TEMPORAL_TLS: "yes" }, /FERRY_TEMPORAL_TLS is "yes"/],
      [{ FERRY_PAYLOAD_KEYS: `a ${API_KEY}` }, /keys of histories in FERRY_PAYLOAD_KEYS .*line 1/],
    ];
    writeFileSync(file("bad"), `${API_KEY}\n${API_KEY}\n`, { mode: 0o600 });
    for (const [more, words] of wrong) await fails("E_REQUEST", words, () => optionsOf({ ...env, ...more }));
    const { FERRY_TEMPORAL_TLS_KEY: _, ...half } = env;
    await fails("E_REQUEST", /there is a client certificate, and no key/, async () => connect(await optionsOf(half)));
    chmodSync(file("api-key"), 0o644);
    await fails("E_REQUEST", /api-key \(FERRY_TEMPORAL_API_KEY_FILE\) can be read by everybody, mode 644/, () =>
      optionsOf(env),
    );
    chmodSync(file("api-key"), 0o600);
  });
});
