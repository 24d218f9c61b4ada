/** The link against everything that is not an honest peer: always a typed failure, always closed, the listener lives on. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { connect as connectTcp, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { createServer as createTlsServer, type TlsOptions } from "node:tls";
import type { FailureCode } from "../../src/model/failure.js";
import { encodeHead, FrameParser, HEADER_BYTES, KIND } from "../../src/transfer/link/frame.js";
import { readFailure, selectVersion } from "../../src/transfer/link/hello.js";
import { dialLink, type DialOptions, type LinkIdentity } from "../../src/transfer/link/index.js";
import {
  dialTo,
  ending,
  frameBytes,
  HELLO,
  helloBytes,
  makePki,
  pause,
  rawTcp,
  rawTls,
  startListener,
  stopAll,
  until,
  welcomed,
  type Pki,
} from "./link-support.js";

let pki: Pki;
let other: Pki;
let a: LinkIdentity;
let b: LinkIdentity;
let foreign: LinkIdentity;
let expired: LinkIdentity;
before(async () => {
  [pki, other] = await Promise.all([makePki(), makePki()]);
  [a, b, foreign, expired] = await Promise.all([
    pki.identity("node-a"),
    pki.identity("node-b"),
    other.identity("node-b"),
    pki.special("expired", { node: "node-b", days: -1 }),
  ]);
});
after(async () => {
  await stopAll();
  pki.remove();
  other.remove();
});

const to = (port: number, more: Partial<DialOptions> = {}): DialOptions => dialTo(a, port, more);

type Listener = Awaited<ReturnType<typeof startListener>>;
async function stillServes(listener: Listener): Promise<void> {
  const session = await dialLink(to(listener.port));
  const far = listener.sessions.at(-1);
  let got = false;
  far?.onFrame(() => {
    got = true;
  });
  await session.send("x", {});
  await until(() => got, "a frame through the listener that lives on");
  session.destroy();
}

const small = frameBytes(1, "t", { a: 1 }, Buffer.from("payload"));

test("a frame that is cut at any byte is E_STREAM_SHORT, and never delivered", async () => {
  const listener = await startListener(b);
  for (let cut = 1; cut < small.length; cut += 1) {
    const peer = await welcomed(listener.port, a);
    const far = await listener.session();
    far.onFrame(() => assert.fail("a cut frame was delivered"));
    const end = ending(far);
    peer.socket.end(small.subarray(0, cut));
    assert.equal((await end)?.code, "E_STREAM_SHORT", `cut at ${cut}`);
    await peer.gone;
  }
  await stillServes(listener);
  await listener.stop();
});

test("a frame with a flipped bit in any byte is E_FRAME, and never delivered", async () => {
  const listener = await startListener(b);
  for (let at = 0; at < small.length; at += 1) {
    const bytes = Buffer.from(small);
    bytes[at] = bytes[at]! ^ (1 << (at % 8));
    const peer = await welcomed(listener.port, a);
    const far = await listener.session();
    far.onFrame(() => assert.fail("an altered frame was delivered"));
    const end = ending(far);
    peer.socket.write(bytes);
    // a length that grew within the limits waits for bytes that never come: short, once the stream ends
    await pause(1);
    peer.socket.end();
    const code = (await end)?.code;
    const grown = at >= 4 && at < HEADER_BYTES - 4;
    assert.ok(code === "E_FRAME" || (grown && code === "E_STREAM_SHORT"), `byte ${at}: ${code}`);
    await peer.gone;
  }
  await stillServes(listener);
  await listener.stop();
});

test("every single bit flip of a small frame is caught by the parser", () => {
  const frame = frameBytes(0, "t", { a: 1 }, Buffer.from("payload"));
  for (let bit = 0; bit < frame.length * 8; bit += 1) {
    const bytes = Buffer.from(frame);
    bytes[bit >> 3] = bytes[bit >> 3]! ^ (1 << (bit & 7));
    const parser = new FrameParser({ meta: 100, payload: 100 });
    let taken = 0;
    try {
      parser.push(bytes, () => (taken += 1));
      assert.ok(parser.midFrame, `bit ${bit} was not noticed`);
    } catch (error) {
      assert.equal((error as { code?: unknown }).code, "E_FRAME");
    }
    assert.equal(taken, 0, `bit ${bit}`);
  }
});

test("frames are the same in whatever pieces they come", () => {
  const frames = [1, 2, 3].map((_, i) => frameBytes(i, `t${i}`, { i }, Buffer.alloc(i * 5000, i)));
  const stream = Buffer.concat(frames);
  for (const size of [1, 2, 7, 31, 32, 33, 1000, 16_384, stream.length]) {
    const parser = new FrameParser({ meta: 100, payload: 100_000 });
    const got: [string, unknown, number][] = [];
    for (let at = 0; at < stream.length; at += size) {
      parser.push(stream.subarray(at, at + size), (frame) => got.push([frame.type, frame.meta, frame.payload.length]));
    }
    assert.deepEqual(got, [
      ["t0", { i: 0 }, 0],
      ["t1", { i: 1 }, 5000],
      ["t2", { i: 2 }, 10_000],
    ]);
    assert.equal(parser.midFrame, false);
  }
});

/** A data frame whose header claims other lengths; nothing behind the header. */
function claiming(total: number, meta: number, payload: number): Buffer {
  const { head } = encodeHead(KIND.data, 1, "t", {}, []);
  head.writeUInt32BE(total, 4);
  head.writeUInt32BE(meta, 20);
  head.writeUInt32BE(payload, 24);
  return head.subarray(0, HEADER_BYTES);
}

const nextFrames: [string, () => Buffer, RegExp][] = [
  ["a payload of 2^32-1", () => claiming(0xffffffff, 2, 0xffffffff), /4294967295 bytes of payload/],
  ["a payload one over the limit", () => claiming(HEADER_BYTES + 3 + 4194305, 2, 4194305), /limit 4194304/],
  ["meta of 2^32-1", () => claiming(HEADER_BYTES, 0xffffffff, 0), /bytes of meta/],
  ["a total of 0", () => claiming(0, 2, 0), /not the sum/],
  ["a total of 2^32-1", () => claiming(0xffffffff, 2, 0), /not the sum/],
  ["the hello again", () => helloBytes(), /came again/],
  ["a replayed frame", () => Buffer.concat([small, small]), /frame 1 came again/],
  ["a frame too early", () => frameBytes(2, "t", {}), /came before/],
  ["sequence 2^53", () => frameBytes(2 ** 53 - 1, "t", {}), /came before/],
  ["meta that is an array", () => frameBytes(1, "t", []), /not a JSON object/],
  ["an empty type", () => metaOf(Buffer.from("{}"), ""), /type is not valid/],
  ["meta that is not JSON", () => metaOf(Buffer.from("{]")), /not JSON/],
  ["meta that is not UTF-8", () => metaOf(Buffer.from([0x22, 0xff, 0xfe, 0x22])), /not JSON/],
  ["no meta at all", () => metaOf(Buffer.alloc(0)), /not JSON/],
  ["HTTP inside TLS", () => Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), /not a link's bytes/],
  ["zeros", () => Buffer.alloc(100), /not a link's bytes/],
];

/** A frame whose sums are right and whose meta is these bytes. */
function metaOf(meta: Buffer, type = "t"): Buffer {
  // a JSON text of the same length, replaced, and the checksum made again by way of the payload's place
  const { head } = encodeHead(KIND.hello, 1, "", {}, []);
  const bytes = Buffer.concat([head.subarray(0, HEADER_BYTES), Buffer.from(type), meta]);
  bytes.writeUInt32BE(bytes.length, 4);
  bytes.writeUInt8(KIND.data, 16);
  bytes.writeUInt8(type.length, 17);
  bytes.writeUInt32BE(meta.length, 20);
  bytes.writeUInt32BE(crcOf(bytes), 28);
  return bytes;
}
function crcOf(bytes: Buffer): number {
  let crc = 0xffffffff;
  for (const [at, byte] of bytes.entries()) {
    if (at >= 28 && at < 32) continue;
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return ~crc >>> 0;
}

test("oversize, replayed, reordered and malformed frames are E_FRAME, told to the peer, and the listener lives on", async () => {
  const listener = await startListener(b);
  for (const [name, make, why] of nextFrames) {
    const peer = await welcomed(listener.port, a);
    const far = await listener.session();
    far.onFrame(() => undefined);
    const end = ending(far);
    peer.socket.write(make());
    const failure = await end;
    assert.equal(failure?.code, "E_FRAME", name);
    assert.match(failure?.message ?? "", why, name);
    await peer.gone;
    const told = peer.frames.find((frame) => frame.kind === KIND.abort);
    assert.equal(readFailure(told?.meta["failure"])?.code, "E_FRAME", name);
  }
  await stillServes(listener);
  await listener.stop();
});

test("wrong hellos are refused with the reason", async () => {
  const listener = await startListener(b);
  const hellos: [string, Buffer, FailureCode][] = [
    ["a newer version", helloBytes({ versions: [8, 9], hello: { anything: true } }), "E_LINK_VERSION"],
    ["no versions", helloBytes({ versions: [], hello: HELLO }), "E_FRAME"],
    ["no hello", helloBytes({ versions: [1] }), "E_FRAME"],
    ["another purpose", helloBytes({ versions: [1], hello: { ...HELLO, purpose: "root" } }), "E_FRAME"],
    ["a path as operation", helloBytes({ versions: [1], hello: { ...HELLO, operation: "../x" } }), "E_FRAME"],
    ["a workload with a slash", helloBytes({ versions: [1], hello: { ...HELLO, workload: "a/b" } }), "E_FRAME"],
    ["epoch 0", helloBytes({ versions: [1], hello: { ...HELLO, to: 0 } }), "E_FRAME"],
    ["an unknown key", helloBytes({ versions: [1], hello: { ...HELLO, admin: true } }), "E_FRAME"],
    ["data first", frameBytes(0, "t", {}), "E_FRAME"],
    ["a hello with a payload", frameBytes(0, "", {}, Buffer.alloc(9), KIND.hello), "E_FRAME"],
    ["a large hello", helloBytes({ versions: [1], hello: HELLO, pad: "x".repeat(20_000) }), "E_FRAME"],
  ];
  for (const [name, bytes, code] of hellos) {
    const peer = await rawTls(listener.port, a);
    peer.socket.write(bytes);
    assert.equal((await listener.refusal()).code, code, name);
    await peer.gone;
    const told = peer.frames.find((frame) => frame.kind === KIND.refuse || frame.kind === KIND.abort);
    assert.equal(readFailure(told?.meta["failure"])?.code, code, name);
  }
  assert.equal(listener.sessions.length, 0);
  await stillServes(listener);
  await listener.stop();
});

test("dialers that are not a node of the CA are E_PEER_CERT or E_PEER_ID, and are told", async () => {
  const listener = await startListener(b);
  const [nameless, dns, two, leaf] = await Promise.all([
    pki.special("nameless", { node: "x", san: "DNS:localhost" }),
    pki.special("odd", { node: "x", san: "URI:ferry://node/../a" }),
    pki.special("two", { node: "x", san: "URI:ferry://node/node-a,URI:ferry://node/node-b" }),
    // signed by a node's key instead of the CA's
    pki.special("leaf", { node: "node-b", issuer: a.certFile.replace(/\.crt$/, "") }),
  ]);
  const dialers: [string, LinkIdentity | undefined, FailureCode][] = [
    ["no certificate", undefined, "E_PEER_CERT"],
    ["another CA", foreign, "E_PEER_CERT"],
    ["expired", expired, "E_PEER_CERT"],
    ["issued by a node", leaf, "E_PEER_CERT"],
    ["a host name only", nameless, "E_PEER_ID"],
    ["a name that is none", dns, "E_PEER_ID"],
    ["two names", two, "E_PEER_ID"],
  ];
  for (const [name, identity, code] of dialers) {
    const peer = await rawTls(listener.port, identity);
    peer.socket.write(helloBytes());
    const failure = await listener.refusal();
    assert.equal(failure.code, code, `${name}: ${failure.message}`);
    await peer.gone;
    assert.equal(readFailure(peer.frames[0]?.meta["failure"])?.code, code, name);
  }
  await assert.rejects(
    dialLink(to(listener.port, { identity: { ...expired, node: "node-b" } })),
    (error: { data: { code: string; cause?: { code: string } } }) => error.data.cause?.code === "E_PEER_CERT",
  );
  assert.equal(listener.sessions.length, 0);
  await stillServes(listener);
  await listener.stop();
});

test("what is not TLS 1.3 with ferry/1 is E_LINK_VERSION", async () => {
  const listener = await startListener(b);
  for (const bytes of ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "SSH-2.0-OpenSSH_9\r\n", "\0".repeat(600), small]) {
    const peer = await rawTcp(listener.port);
    peer.socket.write(bytes);
    assert.equal((await listener.refusal()).code, "E_LINK_VERSION", JSON.stringify(bytes));
    await peer.gone;
  }
  const older = await rawTls(listener.port, a, { maxVersion: "TLSv1.2" });
  assert.equal((await listener.refusal()).code, "E_LINK_VERSION");
  await older.gone;
  const alpn = await rawTls(listener.port, a, { ALPNProtocols: ["h2"] });
  assert.equal((await listener.refusal()).code, "E_LINK_VERSION");
  await alpn.gone;
  const none = await rawTls(listener.port, a, { ALPNProtocols: [] });
  assert.equal((await listener.refusal()).code, "E_LINK_VERSION");
  await none.gone;
  await stillServes(listener);
  await listener.stop();
});

test("TLS sessions are not resumed: certificates are shown every time", async () => {
  const listener = await startListener(b);
  const first = await rawTls(listener.port, a);
  const tickets: Buffer[] = [];
  first.socket.on("session", (ticket: Buffer) => tickets.push(ticket));
  first.socket.write(helloBytes());
  await until(() => first.frames.length > 0 && tickets.length > 0, "the welcome and a ticket");
  const second = await rawTls(listener.port, undefined, { session: tickets[0]! });
  assert.equal(second.socket.isSessionReused(), false);
  assert.equal((await listener.refusal()).code, "E_PEER_CERT");
  first.socket.destroy();
  await Promise.all([first.gone, second.gone]);
  await listener.stop();
});

test("slow peers are cut: silent TCP, half a TLS hello, TLS without a hello, one byte at a time", async () => {
  const listener = await startListener(b, { handshakeTimeoutMs: 300 });
  const started = performance.now();
  const silent = await rawTcp(listener.port);
  const half = await rawTcp(listener.port);
  half.socket.write(Buffer.from("160301020001000001fc0303", "hex"));
  const mute = await rawTls(listener.port, a);
  const drip = await rawTls(listener.port, a);
  const dripping = setInterval(() => drip.socket.write(helloBytes().subarray(0, 1)), 40);
  await Promise.all([silent.gone, half.gone, mute.gone, drip.gone]);
  clearInterval(dripping);
  assert.ok(performance.now() - started < 2000);
  await until(() => listener.refused.length === 4, "four refusals");
  assert.equal(listener.sessions.length, 0);
  await stillServes(listener);
  await listener.stop();
});

test("a flood of 200 pending connections does not keep an honest dialer out", async () => {
  const listener = await startListener(b, { maxPending: 32 });
  const flood: { socket: Socket; gone: Promise<void> }[] = [];
  for (let i = 0; i < 200; i += 1) flood.push(await rawTcp(listener.port));
  await until(() => listener.refused.length === 168, "all but 32 to be dropped");
  await stillServes(listener);
  for (const { socket } of flood) socket.destroy();
  await Promise.all(flood.map(({ gone }) => gone));
  await listener.stop();
});

async function listening(server: Server): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

test("the dialer meets what is not the peer: typed failures, bounded", async () => {
  const tlsOf = async (identity: LinkIdentity, more: TlsOptions = {}): Promise<TlsOptions> => ({
    cert: await readFile(identity.certFile),
    key: await readFile(identity.keyFile),
    ALPNProtocols: ["ferry/1"],
    ...more,
  });
  const c = await pki.identity("node-c");
  const answer = (bytes: Buffer) => (socket: Socket) => {
    socket.on("error", () => undefined);
    socket.once("data", () => socket.end(bytes));
  };
  const say = (meta: object, kind: (typeof KIND)[keyof typeof KIND]): Buffer =>
    frameBytes(0, "", meta, undefined, kind);
  const welcome = say({ version: 1 }, KIND.welcome);
  const servers: [string, Server, FailureCode][] = [
    ["HTTP", createServer(answer(Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"))), "E_LINK_VERSION"],
    ["silent TCP", createServer(() => undefined), "E_LINK_LOST"],
    ["hangs up", createServer((socket) => socket.destroy()), "E_LINK_LOST"],
    ["another CA", createTlsServer(await tlsOf(foreign), answer(welcome)), "E_PEER_CERT"],
    ["expired", createTlsServer(await tlsOf(expired), answer(welcome)), "E_PEER_CERT"],
    ["another node", createTlsServer(await tlsOf(c), answer(welcome)), "E_PEER_ID"],
    ["TLS 1.2", createTlsServer(await tlsOf(b, { maxVersion: "TLSv1.2" }), answer(welcome)), "E_LINK_VERSION"],
    ["no ALPN", createTlsServer(await tlsOf(b, { ALPNProtocols: [] }), answer(welcome)), "E_LINK_VERSION"],
    ["version 9", createTlsServer(await tlsOf(b), answer(say({ version: 9 }, KIND.welcome))), "E_LINK_VERSION"],
    ["garbage", createTlsServer(await tlsOf(b), answer(Buffer.from("garbage, garbage, garbage"))), "E_FRAME"],
    ["data", createTlsServer(await tlsOf(b), answer(frameBytes(0, "t", {}))), "E_FRAME"],
    ["half a welcome", createTlsServer(await tlsOf(b), answer(welcome.subarray(0, 40))), "E_STREAM_SHORT"],
    ["silent TLS", createTlsServer(await tlsOf(b), () => undefined), "E_LINK_LOST"],
    ["an empty refusal", createTlsServer(await tlsOf(b), answer(say({}, KIND.refuse))), "E_LINK_LOST"],
  ];
  for (const [name, server, code] of servers) {
    const open = new Set<Socket>();
    server.on("connection", (socket: Socket) => open.add(socket));
    const port = await listening(server);
    await assert.rejects(dialLink(to(port, { timeoutMs: 400 })), (error: { code?: unknown; message: string }) => {
      assert.equal(error.code, code, `${name}: ${error.message}`);
      return true;
    });
    for (const socket of open) socket.destroy();
    server.close();
  }
});

test("bytes that are altered on the wire end the session on both sides, and nothing wrong is delivered", async () => {
  const listener = await startListener(b);
  let alter = false;
  const proxy = createServer((near) => {
    const far = connectTcp({ host: "127.0.0.1", port: listener.port });
    near.on("error", () => far.destroy());
    far.on("error", () => near.destroy());
    near.on("data", (chunk: Buffer) => {
      if (alter) chunk[chunk.length >> 1] = chunk[chunk.length >> 1]! ^ 1;
      far.write(chunk);
    });
    far.pipe(near);
    near.on("close", () => far.destroy());
    far.on("close", () => near.destroy());
  });
  const session = await dialLink(to(await listening(proxy)));
  const far = await listener.session();
  const got: Buffer[] = [];
  far.onFrame((frame) => void got.push(frame.payload));
  await session.send("pages", {}, Buffer.alloc(50_000, 7));
  await until(() => got.length === 1, "the first frame");
  const ends = [ending(far), ending(session)];
  alter = true;
  session.send("pages", {}, Buffer.alloc(50_000, 7)).catch(() => undefined);
  const [end] = await Promise.all(ends);
  assert.equal(end?.code, "E_FRAME", end?.message);
  assert.ok(got.length === 1 && got[0]!.equals(Buffer.alloc(50_000, 7)));
  proxy.close();
  await listener.stop();
});

test("own files that are missing or not one's own are told before anything is dialed", async () => {
  await assert.rejects(dialLink(to(1, { identity: { ...a, keyFile: "/nonexistent" } })), { code: "E_PEER_CERT" });
  await assert.rejects(dialLink(to(1, { identity: { ...a, node: "node-z" } })), { code: "E_PEER_CERT" });
  await assert.rejects(dialLink(to(1, { hello: { ...HELLO, workload: "No Name" } })), { code: "E_REQUEST" });
});

test("the newest common version is selected", () => {
  assert.equal(selectVersion([1, 2, 3], [4, 2, 1]), 2);
  assert.equal(selectVersion([1], [1]), 1);
  assert.equal(selectVersion([5], [4, 2]), undefined);
});
