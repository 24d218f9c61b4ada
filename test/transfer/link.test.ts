/** The link between honest peers: order, back-pressure, ends, signs of life. Real sockets and certificates. */
import assert from "node:assert/strict";
import { fork, type ChildProcess } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:net";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { FerryError, type FailureData } from "../../src/model/failure.js";
import { dialLink, listenLink, MAX_PAYLOAD_BYTES, redial, type LinkIdentity } from "../../src/transfer/link/index.js";
import type { DialOptions, Frame, LinkSession, ListenOptions } from "../../src/transfer/link/index.js";
import { dialTo, ending, HELLO, makePki, pause, startListener, stopAll, until, type Pki } from "./link-support.js";

let pki: Pki;
let a: LinkIdentity;
let b: LinkIdentity;
before(async () => {
  pki = await makePki();
  [a, b] = [await pki.identity("node-a"), await pki.identity("node-b")];
});
after(async () => {
  await stopAll();
  pki.remove();
});

const to = (port: number, more: Partial<DialOptions> = {}): DialOptions => dialTo(a, port, more);

/** A session and its other end. */
async function pair(
  dial: Partial<DialOptions> = {},
  listen: Partial<ListenOptions> = {},
): Promise<{ near: LinkSession; far: LinkSession; stop: () => Promise<void> }> {
  const listener = await startListener(b, listen);
  const near = await dialLink(to(listener.port, dial));
  const far = await listener.session();
  return {
    near,
    far,
    async stop() {
      near.destroy();
      await listener.stop();
    },
  };
}

test("both ends know each other's name and the hello", async () => {
  const seen: unknown[] = [];
  const { near, far, stop } = await pair({}, { accept: (hello, peer) => void seen.push(hello, peer) });
  assert.equal(near.peer, "node-b");
  assert.equal(far.peer, "node-a");
  assert.deepEqual(seen, [HELLO, "node-a"]);
  assert.deepEqual(far.hello, HELLO);
  await stop();
});

test("frames arrive in order with meta and payload, one at a time, also those that came before the listener", async () => {
  const { near, far, stop } = await pair();
  const sent = Array.from({ length: 200 }, (_, i) => ({ i, payload: randomBytes((i * 977) % 70_000) }));
  for (const { i, payload } of sent) {
    const cut = payload.length >> 1;
    await near.send(
      "pages",
      { i, text: "häfen ⚓" },
      i % 2 ? payload : [payload.subarray(0, cut), payload.subarray(cut)],
    );
    if (i === 100) await pause(20);
    if (i === 50) break;
  }
  const got: Frame[] = [];
  let inside = 0;
  far.onFrame(async (frame) => {
    inside += 1;
    assert.equal(inside, 1);
    if (got.length % 10 === 0) await pause(1);
    got.push(frame);
    inside -= 1;
  });
  for (const { i, payload } of sent.slice(51)) await near.send("pages", { i, text: "häfen ⚓" }, payload);
  await until(() => got.length === 200, "200 frames");
  for (const [i, frame] of got.entries()) {
    assert.deepEqual(frame.meta, { i, text: "häfen ⚓" });
    assert.ok(frame.payload.equals(sent[i]!.payload));
  }
  assert.equal(near.bufferedBytes, 0);
  assert.ok(far.bytesReceived >= near.bytesSent);
  await stop();
});

test("close says bye after everything that was sent: both ends hear undefined, then send rejects", async () => {
  const { near, far, stop } = await pair();
  const ends = [ending(near), ending(far)];
  let got = 0;
  far.onFrame(async () => {
    await pause(5);
    got += 1;
  });
  for (let i = 0; i < 20; i += 1) void near.send("x", {}, Buffer.alloc(100_000));
  await near.close();
  assert.deepEqual(await Promise.all(ends), [undefined, undefined]);
  assert.equal(got, 20);
  assert.ok(near.closed && far.closed);
  await assert.rejects(near.send("x", {}), { code: "E_LINK_LOST" });
  await assert.rejects(far.send("x", {}), { code: "E_LINK_LOST" });
  await stop();
});

test("a cut link is E_LINK_LOST on both ends, and what waits to be sent rejects", async () => {
  const { near, far, stop } = await pair();
  const ends = [ending(near), ending(far)];
  far.onFrame(() => undefined);
  near.destroy();
  for (const end of await Promise.all(ends)) assert.equal(end?.code, "E_LINK_LOST");
  await assert.rejects(near.send("x", {}), { code: "E_LINK_LOST" });
  await stop();
});

test("a frame listener that throws ends the session, the peer is told why", async () => {
  const { near, far, stop } = await pair();
  const ends = [ending(near), ending(far)];
  let after = 0;
  far.onFrame((frame) => {
    if (frame.type === "bad") throw new FerryError({ code: "E_PAGES", message: "slot 7 was written twice" });
    if (frame.type === "after") after += 1;
  });
  await near.send("bad", {});
  await near.send("after", {}).catch(() => undefined);
  const [told, own] = await Promise.all(ends);
  assert.equal(own?.code, "E_PAGES");
  assert.equal(told?.code, "E_PAGES");
  assert.equal(told?.cause?.message, "slot 7 was written twice");
  assert.equal(after, 0);
  await stop();
});

test("frames over the limits are refused at the sender and the session goes on", async () => {
  const { near, far, stop } = await pair();
  const got: Frame[] = [];
  far.onFrame((frame) => void got.push(frame));
  await assert.rejects(near.send("x", {}, Buffer.alloc(MAX_PAYLOAD_BYTES + 1)), { code: "E_FRAME" });
  await assert.rejects(near.send("x", { text: "y".repeat(1024 * 1024) }), { code: "E_FRAME" });
  await assert.rejects(near.send("not a type", {}), { code: "E_FRAME" });
  await near.send("x", {}, Buffer.alloc(MAX_PAYLOAD_BYTES, 1));
  await until(() => got.length === 1, "the frame of the largest size");
  assert.equal(got[0]?.payload.length, MAX_PAYLOAD_BYTES);
  await stop();
});

test("a slow receiver holds the sender back, without losing the link, and nothing is lost", async () => {
  const tuning = { pingMs: 50, lostMs: 200, windowBytes: 1024 * 1024 };
  const { near, far, stop } = await pair(tuning, tuning);
  let open = (): void => undefined;
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  const order: number[] = [];
  far.onFrame(async (frame) => {
    order.push((frame.meta as { i: number }).i);
    await gate;
  });
  const before = process.memoryUsage().rss;
  const payload = Buffer.alloc(256 * 1024);
  let sent = 0;
  const all = 400;
  const sending = (async () => {
    for (let i = 0; i < all; i += 1) {
      await near.send("pages", { i }, payload);
      sent += 1;
    }
  })();
  await pause(1000);
  // what fits into the window and both kernels' buffers
  assert.ok(sent * payload.length < 40e6, `${sent} frames were taken from the sender`);
  assert.ok(near.bufferedBytes < 300_000, `${near.bufferedBytes} bytes are buffered`);
  assert.ok(process.memoryUsage().rss - before < 120e6);
  assert.deepEqual([near.closed, far.closed, order.length], [false, false, 1]);
  open();
  await sending;
  await until(() => order.length === all, "all frames");
  assert.ok(order.every((value, i) => value === i));
  await stop();
});

test("the listener may speak first: its frames follow the welcome at once", async () => {
  const payload = randomBytes(300_000);
  const listener = await startListener(b, {
    onSession: (session) => {
      void session.send("first", {}, [payload, payload]);
      void session.send("second", {}, Buffer.alloc(0));
      void session.close();
    },
  });
  const near = await dialLink(to(listener.port));
  const got: Frame[] = [];
  near.onFrame((frame) => void got.push(frame));
  assert.equal(await ending(near), undefined);
  assert.deepEqual(
    got.map((frame) => frame.type),
    ["first", "second"],
  );
  assert.ok(got[0]!.payload.equals(Buffer.concat([payload, payload])));
  await listener.stop();
});

test("destroy ends a session whose frame listener hangs", async () => {
  const { near, far, stop } = await pair();
  let entered = false;
  far.onFrame(() => {
    entered = true;
    return new Promise(() => undefined);
  });
  await near.send("x", {});
  await until(() => entered, "the listener");
  const end = ending(far);
  far.destroy();
  assert.equal((await end)?.code, "E_LINK_LOST");
  await stop();
});

test("lent payloads are right while the listener has them", async () => {
  const { near, far, stop } = await pair({}, { lendPayloads: true });
  let right = 0;
  far.onFrame(async (frame) => {
    const { i } = frame.meta as { i: number };
    if (i % 5 === 0) await pause(2);
    if (frame.payload.length === 1000 * i && frame.payload.every((byte) => byte === i % 256)) right += 1;
  });
  for (let i = 0; i < 100; i += 1) void near.send("x", { i }, Buffer.alloc(1000 * i, i % 256));
  await until(() => right === 100, "100 right payloads");
  await stop();
});

test("an idle link stays, by pings", async () => {
  const { near, far, stop } = await pair({ pingMs: 60, lostMs: 200 }, { pingMs: 5000, lostMs: 200 });
  await pause(700);
  assert.deepEqual([near.closed, far.closed], [false, false]);
  await stop();
});

test("refused by the owner: the dialer gets the reason, the listener lives on", async () => {
  const refusal: FailureData = {
    code: "E_TOMBSTONED",
    message: "epoch 2 was refused for ever",
    remedy: "migrate again",
  };
  let first = true;
  const listener = await startListener(b, {
    accept: () => {
      const answer = first ? refusal : undefined;
      first = false;
      return answer;
    },
  });
  await assert.rejects(dialLink(to(listener.port)), (error: FerryError) => {
    assert.equal(error.code, "E_TOMBSTONED");
    assert.deepEqual(error.data.cause, refusal);
    return true;
  });
  (await dialLink(to(listener.port))).destroy();
  await listener.stop();
});

test("redial waits for a listener, is bounded, can be cancelled, and does not repeat answers", async () => {
  const probe = createServer();
  probe.listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as { port: number };
  probe.close();
  await once(probe, "close");

  await assert.rejects(redial(to(port), { attempts: 3 }), { code: "E_LINK_LOST" });
  const started = performance.now();
  await assert.rejects(redial(to(port), { untilMs: 300 }), { code: "E_LINK_LOST" });
  assert.ok(performance.now() - started < 1500);
  const abort = new AbortController();
  setTimeout(() => abort.abort(), 120);
  await assert.rejects(redial(to(port), { signal: abort.signal }), { code: "E_CANCELLED" });

  let retries = 0;
  const dialing = redial(to(port), { untilMs: 5000, onRetry: () => (retries += 1) });
  await pause(200);
  const late = await listenLink({
    identity: b,
    host: "127.0.0.1",
    port,
    accept: () => undefined,
    onSession: () => undefined,
  });
  const session = await dialing;
  assert.ok(retries >= 1);
  session.destroy();
  retries = 0;
  await assert.rejects(redial(to(port, { peer: "node-c" }), { onRetry: () => (retries += 1) }), { code: "E_PEER_ID" });
  assert.equal(retries, 0);
  await late.close();
});

/** A peer in a process of its own. */
async function forkPeer(
  lostMs: number,
): Promise<{ child: ChildProcess; port: number; told: Record<string, unknown>[] }> {
  const file = fileURLToPath(new URL("./link-peer.js", import.meta.url));
  const child = fork(file, [JSON.stringify(b), String(lostMs)], { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const told: Record<string, unknown>[] = [];
  child.on("message", (message) => told.push(message as Record<string, unknown>));
  await until(() => told.length > 0, "the peer's port");
  return { child, port: told[0]!["port"] as number, told };
}
async function endPeer(child: ChildProcess): Promise<void> {
  child.kill("SIGKILL");
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
}

test("300 MB arrive with equal sha256, also when the receiver is stopped and continued in the middle", async () => {
  const { child, port, told } = await forkPeer(400);
  try {
    const near = await dialLink(to(port, { lostMs: 20_000 }));
    const end = ending(near, 20_000);
    const hash = createHash("sha256");
    const payload = randomBytes(1024 * 1024);
    const count = 300;
    for (let i = 0; i < count; i += 1) {
      // the receiver calls the sender lost after 400 ms: its own stop of 700 ms must not count
      if (i === 100) {
        child.kill("SIGSTOP");
        setTimeout(() => child.kill("SIGCONT"), 700);
      }
      payload.writeUInt32LE(i, 0);
      hash.update(payload);
      await near.send("pages", { i }, payload);
    }
    await near.close();
    assert.equal(await end, undefined);
    await until(() => told.length > 1, "the receiver's sum");
    assert.deepEqual(told[1], { bytes: count * payload.length, sha256: hash.digest("hex"), failure: "bye" });
  } finally {
    await endPeer(child);
  }
});

test("a peer that stops is noticed: idle, and in the middle of a transfer", async () => {
  const { child, port } = await forkPeer(20_000);
  try {
    const idle = await dialLink(to(port, { pingMs: 100, lostMs: 400 }));
    const busy = await dialLink(to(port, { pingMs: 100, lostMs: 400 }));
    const ends = [ending(idle), ending(busy)];
    const failed: unknown[] = [];
    const payload = Buffer.alloc(1024 * 1024);
    const sending = (async () => {
      for (;;) await busy.send("pages", {}, payload);
    })().catch((error: unknown) => failed.push(error));
    await pause(50);
    const stopped = performance.now();
    child.kill("SIGSTOP");
    for (const end of await Promise.all(ends)) {
      assert.equal(end?.code, "E_LINK_LOST");
      assert.match(end?.message ?? "", /no sign of life/);
    }
    assert.ok(performance.now() - stopped < 2000);
    await sending;
    assert.equal((failed[0] as FerryError).code, "E_LINK_LOST");
  } finally {
    await endPeer(child);
  }
});

test("a peer that is killed is noticed at once", async () => {
  const { child, port } = await forkPeer(20_000);
  const near = await dialLink(to(port));
  const end = ending(near, 2000);
  await endPeer(child);
  assert.equal((await end)?.code, "E_LINK_LOST");
});
