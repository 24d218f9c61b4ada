/** Peers that cost memory or time instead of sending something wrong: each is bounded, and nobody else waits for it. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect as connectTcp, createServer, type AddressInfo, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { KIND } from "../../src/transfer/link/frame.js";
import { dialLink, type DialOptions, type LinkIdentity } from "../../src/transfer/link/index.js";
import {
  dialTo,
  ending,
  frameBytes,
  makePki,
  pause,
  rawTcp,
  startListener,
  stopAll,
  until,
  welcomed,
  type Pki,
} from "./link-support.js";

let pki: Pki;
let a: LinkIdentity;
let b: LinkIdentity;
before(async () => {
  pki = await makePki();
  [a, b] = await Promise.all([pki.identity("node-a"), pki.identity("node-b")]);
});
after(async () => {
  await stopAll();
  pki.remove();
});

const to = (port: number, more: Partial<DialOptions> = {}): DialOptions => dialTo(a, port, more);

/** Bytes on their way to the listener, under a test's hand. */
async function wire(port: number): Promise<{
  port: number;
  sent: Buffer[];
  /** Changes what goes to the listener; undefined: nothing goes there. */
  filter: { pass: (chunk: Buffer) => Buffer | undefined };
  cut: () => void;
}> {
  const sent: Buffer[] = [];
  const filter = { pass: (chunk: Buffer): Buffer | undefined => chunk };
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connectTcp({ host: "127.0.0.1", port });
    sockets.add(near).add(far);
    near.on("error", () => far.destroy());
    far.on("error", () => near.destroy());
    near.on("data", (chunk: Buffer) => {
      sent.push(chunk);
      const passed = filter.pass(chunk);
      if (passed !== undefined) far.write(passed);
    });
    far.on("data", (chunk: Buffer) => {
      if (filter.pass(chunk) !== undefined) near.write(chunk);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const cut = (): void => {
    for (const socket of sockets) socket.destroy();
    server.close();
  };
  return { port: (server.address() as AddressInfo).port, sent, filter, cut };
}

test("a frame that comes byte by byte ends the session in bounded time, though there is always a sign of life", async () => {
  const listener = await startListener(b, { pingMs: 50, lostMs: 100 });
  const peer = await welcomed(listener.port, a);
  const far = await listener.session();
  far.onFrame(() => assert.fail("a part of a frame was delivered"));
  const end = ending(far);
  const frame = frameBytes(1, "pages", {}, Buffer.alloc(4_000_000));
  let at = 0;
  const drip = setInterval(() => peer.socket.write(frame.subarray(at, ++at)), 10);
  const failure = await end;
  clearInterval(drip);
  assert.equal(failure?.code, "E_LINK_LOST");
  assert.match(failure?.message ?? "", /only \d+ bytes of .* came in \d+ ms/);
  await peer.gone;
  await listener.stop();
});

test("slow but whole frames one after the other are no drip", async () => {
  const listener = await startListener(b, { pingMs: 30, lostMs: 60 });
  const peer = await welcomed(listener.port, a);
  const far = await listener.session();
  let frames = 0;
  far.onFrame(() => void (frames += 1));
  // always in the middle of a frame, for longer than one frame may take
  let rest: Buffer = Buffer.alloc(0);
  for (let sequence = 1; sequence <= 20; sequence += 1) {
    const bytes = frameBytes(sequence, "t", {}, Buffer.alloc(100));
    peer.socket.write(Buffer.concat([rest, bytes.subarray(0, 50)]));
    rest = bytes.subarray(50);
    await pause(40);
  }
  assert.ok(!far.closed);
  peer.socket.write(rest);
  await until(() => frames === 20, "all frames");
  peer.socket.destroy();
  await listener.stop();
});

test("a flood of tiny frames fills the window, not the memory, and other sessions go on", async () => {
  const windowBytes = 1 << 20;
  const listener = await startListener(b, { windowBytes });
  const peer = await welcomed(listener.port, a);
  const far = await listener.session();
  let open: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  let taken = 0;
  far.onFrame(async () => {
    taken += 1;
    await gate;
  });
  const count = 100_000;
  const flood = Array.from({ length: count }, (_, i) => frameBytes(i + 1, "t", {}));
  const offered = flood.reduce((sum, frame) => sum + frame.length, 0);
  peer.socket.write(Buffer.concat(flood));
  const other = await dialLink(to(listener.port));
  const served = await listener.session();
  let got = 0;
  served.onFrame(() => void (got += 1));
  await other.send("x", {});
  await until(() => got === 1, "another session's frame");
  await pause(100);
  assert.ok(far.bytesReceived < windowBytes / 2, `${far.bytesReceived} of ${offered} bytes were taken in`);
  open();
  await until(() => taken === count, "every frame", 20_000);
  peer.socket.destroy();
  await listener.stop();
});

test("pings without end, of a peer that reads no answer, are not piled up", async () => {
  const listener = await startListener(b);
  const peer = await welcomed(listener.port, a);
  const far = await listener.session();
  far.onFrame(() => undefined);
  peer.socket.pause();
  for (let block = 0; block < 20; block += 1) {
    const pings = Array.from({ length: 5000 }, (_, i) =>
      frameBytes(block * 5000 + i + 1, "", {}, undefined, KIND.ping),
    );
    if (!peer.socket.write(Buffer.concat(pings))) await once(peer.socket, "drain");
    assert.ok(far.bufferedBytes < 4096, `${far.bufferedBytes} bytes of answers wait`);
  }
  assert.ok(!far.closed);
  peer.socket.destroy();
  await listener.stop();
});

test("five hundred connections at once, from silence to rubbish: an honest dialer gets in, and all of them end", async () => {
  const listener = await startListener(b, { maxPending: 16, handshakeTimeoutMs: 1500 });
  const flood = await Promise.all(
    Array.from({ length: 500 }, async (_, i) => {
      const peer = await rawTcp(listener.port);
      if (i % 3 === 1) peer.socket.write(Buffer.from("160301020001000001fc0303", "hex"));
      if (i % 3 === 2) peer.socket.write("GET / HTTP/1.1\r\n\r\n");
      return peer;
    }),
  );
  const session = await dialLink(to(listener.port));
  session.destroy();
  await Promise.all(flood.map(({ gone }) => gone));
  await listener.stop();
});

test("a half-open connection: the other end is gone without a word; both notice, and a new session does not wait for it", async () => {
  const timing = { pingMs: 50, lostMs: 200 };
  const listener = await startListener(b, timing);
  const line = await wire(listener.port);
  const near = await dialLink(to(line.port, timing));
  const far = await listener.session();
  far.onFrame(() => undefined);
  const ends = [ending(near), ending(far)];
  line.filter.pass = () => undefined;
  near.send("lost", {}, Buffer.alloc(100_000)).catch(() => undefined);
  const again = await dialLink(to(listener.port, timing));
  assert.ok(!again.closed);
  for (const end of await Promise.all(ends)) {
    assert.equal(end?.code, "E_LINK_LOST");
    assert.match(end?.message ?? "", /no sign of life/);
  }
  again.destroy();
  line.cut();
  await listener.stop();
});

test("what was recorded on the wire is worth nothing: replayed whole it makes no session, replayed within it ends it", async () => {
  const listener = await startListener(b);
  const line = await wire(listener.port);
  const near = await dialLink(to(line.port));
  const far = await listener.session();
  let got = 0;
  far.onFrame(() => void (got += 1));
  await near.send("first", {}, Buffer.alloc(1000, 1));
  await until(() => got === 1, "the frame");
  const recorded = Buffer.concat(line.sent);

  const thief = await rawTcp(listener.port);
  thief.socket.write(recorded);
  assert.ok(["E_FRAME", "E_LINK_VERSION", "E_LINK_LOST"].includes((await listener.refusal()).code));
  await thief.gone;
  assert.equal(listener.sessions.length, 1);

  const end = ending(far);
  line.filter.pass = (chunk) => Buffer.concat([chunk, chunk]);
  await near.send("twice", {}, Buffer.alloc(1000, 2));
  assert.equal((await end)?.code, "E_FRAME");
  assert.ok(got <= 2, "a replayed frame was delivered");
  line.cut();
  await listener.stop();
});

test("records that change places on the wire end the session, and the later one is not delivered first", async () => {
  const listener = await startListener(b);
  const line = await wire(listener.port);
  const near = await dialLink(to(line.port));
  const far = await listener.session();
  const got: string[] = [];
  far.onFrame((frame) => void got.push(frame.type));
  const end = ending(far);
  let kept: Buffer | undefined;
  line.filter.pass = (chunk) => {
    if (kept !== undefined) return Buffer.concat([chunk, kept]);
    kept = chunk;
    return Buffer.alloc(0);
  };
  await near.send("one", {});
  await until(() => kept !== undefined, "the first record");
  await near.send("two", {});
  assert.equal((await end)?.code, "E_FRAME");
  assert.deepEqual(got, []);
  line.cut();
  await listener.stop();
});
