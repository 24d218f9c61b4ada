/** What another node, or somebody who reaches the link's port, sends. Certificates are real, as are the connections. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { crc32 } from "node:zlib";
import { FerryError, type FailureCode, type FailureData } from "../../src/model/failure.js";
import { FrameParser, KIND } from "../../src/transfer/link/frame.js";
import { readOffer, readWelcome } from "../../src/transfer/link/hello.js";
import { dialLink, type LinkIdentity } from "../../src/transfer/link/index.js";
import { signReceipt, verifyReceipt } from "../../src/transfer/link/receipt.js";
import { signToken, verifyToken } from "../../src/transfer/link/token.js";
import { parseMeta } from "../../src/transfer/mover/process.js";
import { RegionMap } from "../../src/transfer/pages/regions.js";
import { frameBytes, HELLO, helloBytes, makePki, rawTls, startListener, type Pki } from "../transfer/link-support.js";
import { refused, taken, type Refused, type Room } from "./entry.js";
import { DEEP_FAILURE } from "./mutate.js";
import { DIGEST } from "./samples.js";

let pki: Pki;
let other: Pki;
const nodes: Record<string, LinkIdentity> = {};
const node = (name: string): LinkIdentity => nodes[name]!;

/** The certificates that the entries show. */
export async function makeCertificates(): Promise<void> {
  [pki, other] = await Promise.all([makePki(), makePki()]);
  const special = pki.special("expired", { node: "node-a", days: -1 });
  const made = [
    pki.identity("node-a"),
    pki.identity("node-b"),
    pki.identity("node-c"),
    other.identity("node-a"),
    special,
  ];
  for (const [index, identity] of (await Promise.all(made)).entries()) {
    nodes[["a", "b", "c", "foreign", "expired"][index]!] = identity;
  }
}
export function removeCertificates(): void {
  pki.remove();
  other.remove();
}

const LIMITS = { meta: 1000, payload: 5000 };
const parse = (bytes: Buffer): void => {
  const parser = new FrameParser({ ...LIMITS });
  parser.push(bytes, () => undefined);
  if (parser.midFrame)
    throw new FerryError({ code: "E_STREAM_SHORT", message: `the stream ends: ${parser.describe()}` });
};
const GOOD = frameBytes(0, "t", { a: 1 }, Buffer.from("payload"));
const frame = (input: string, says: string, change: (bytes: Buffer) => Buffer | void): Refused =>
  refused(input, "E_FRAME", says, () => {
    const bytes = Buffer.from(GOOD);
    parse(change(bytes) ?? bytes);
  });
const meta = (input: string, says: string, type: Parameters<typeof parseMeta>[0], value: unknown): Refused =>
  refused(input, "E_FRAME", says, () => parseMeta(type, value));
const region = (input: string, says: string, ...regions: [number, number, number, number][]): Refused =>
  refused(input, "E_FRAME", says, () => {
    const map = new RegionMap();
    for (const [vpid, start, pages, slot] of regions) map.add({ vpid, start, pages, slot });
  });

/** Says `bytes` to a listener that knows nodes of one CA; throws what it refuses them with. */
async function say(bytes: Buffer, identity?: LinkIdentity): Promise<never> {
  const listener = await startListener(node("b"), {
    accept: ({ workload }, peer): FailureData | undefined =>
      peer === "node-a" && workload === "redis"
        ? undefined
        : { code: "E_PEER_ID", message: `node ${peer} is not the source of ${workload} here` },
    handshakeTimeoutMs: 500,
  });
  try {
    const peer = await rawTls(listener.port, identity);
    peer.socket.write(bytes);
    const failure = await listener.refusal();
    peer.socket.destroy();
    throw new FerryError(failure);
  } finally {
    await listener.stop();
  }
}
/** Dials what is not the peer. */
async function dial(answer: Buffer): Promise<unknown> {
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.once("data", () => socket.end(answer));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const dialed = dialLink({
    identity: node("a"),
    host: "127.0.0.1",
    port,
    peer: "node-b",
    hello: HELLO,
    timeoutMs: 2000,
  });
  return dialed.finally(() => server.close());
}

const FIELDS = { workload: "redis", operation: "redis.migrate.1", digest: DIGEST };
const HAND_OVER = { ...FIELDS, from: 1, to: 2, source: "node-a", destination: "node-b" };
const { from: _from, ...EXPECTED } = HAND_OVER;
const token = (input: string, says: string, change: object, by = "a"): Refused =>
  refused(input, "E_TOKEN", says, () =>
    verifyToken({ ...signToken({ ...HAND_OVER, source: node(by).node }, node(by)), ...change }, node("b"), EXPECTED),
  );
/** Signed as it says, for another hand-over than the one that is asked for. */
const reused = (input: string, says: string, change: object): Refused =>
  refused(input, "E_TOKEN", says, () =>
    verifyToken(signToken({ ...HAND_OVER, ...change }, node("a")), node("b"), EXPECTED),
  );

const certificate = (input: string, code: FailureCode, says: string, identity: string | undefined): Refused =>
  refused(input, code, says, () => say(helloBytes(), identity === undefined ? undefined : node(identity)));

export const LINK: Room = {
  title: "The link",
  entries: [
    frame("HTTP", "these are not a link's bytes", () => Buffer.from("GET / HTTP/1.1\r\n\r\n")),
    frame("a flipped bit", "checksum is", (bytes) => void (bytes[40]! ^= 1)),
    frame(
      "a payload of 4 GiB",
      "4294967295 bytes of payload, limit 5000",
      (bytes) => void bytes.writeUInt32BE(0xffff_ffff, 24),
    ),
    frame(
      "a meta of 4 GiB",
      "4294967295 bytes of meta, limit 1000",
      (bytes) => void bytes.writeUInt32BE(0xffff_ffff, 20),
    ),
    frame("a length that is not the sum", "is not the sum of its parts", (bytes) => void bytes.writeUInt32BE(7, 4)),
    frame("a frame that came before", "frame 0 came again, expected 1", (bytes) => Buffer.concat([bytes, bytes])),
    frame("a frame from the future", "came before frame 0", (bytes) => void bytes.writeUInt32BE(9, 12)),
    frame("a sequence above 2^53", "came before frame 0", (bytes) => void bytes.writeUInt32BE(0xffff_ffff, 8)),
    frame("an unknown kind", "unknown kind 99", (bytes) => void bytes.writeUInt8(99, 16)),
    frame("a type that is no word", "its type is not valid", () => rawFrame("../x", "{}")),
    frame("a meta that is a list", "its meta is not a JSON object", () => rawFrame("t", "[]")),
    frame("a meta that is not UTF-8", "its meta is not JSON", () => rawFrame("t", Buffer.from([0x7b, 0xff, 0x7d]))),
    refused("a stream that ends within a frame", "E_STREAM_SHORT", "the stream ends: 20 bytes", () =>
      parse(GOOD.subarray(0, 20)),
    ),

    refused("an unknown version of the protocol", "E_LINK_VERSION", "no common version of the link: offered 9", () =>
      readOffer({ versions: [9], hello: HELLO }),
    ),
    refused("a version that was not offered", "E_LINK_VERSION", "which was not offered", () =>
      readWelcome({ version: 9 }),
    ),
    refused("a hello for operation `../x`", "E_FRAME", "hello.operation: not an operation id", () =>
      readOffer({ versions: [1], hello: { ...HELLO, operation: "../x" } }),
    ),
    refused("a hello for epoch 0", "E_FRAME", "hello.to: Too small", () =>
      readOffer({ versions: [1], hello: { ...HELLO, to: 0 } }),
    ),
    certificate("no certificate", "E_PEER_CERT", "certificate", undefined),
    certificate("a certificate of another CA", "E_PEER_CERT", "certificate", "foreign"),
    certificate("an expired certificate", "E_PEER_CERT", "CERT_HAS_EXPIRED", "expired"),
    certificate("the right CA, another node", "E_PEER_ID", "node node-c is not the source of redis here", "c"),
    refused("the right node, another workload", "E_PEER_ID", "is not the source of other here", () =>
      say(helloBytes({ versions: [1], hello: { ...HELLO, workload: "other" } }), node("a")),
    ),
    refused("a hello that is no frame", "E_FRAME", "these are not a link's bytes", () =>
      say(Buffer.alloc(64, 7), node("a")),
    ),
    refused("data before the hello", "E_FRAME", "hello", () => say(frameBytes(0, "pages", {}), node("a"))),
    refused("a server that speaks HTTP", "E_LINK_VERSION", "does not speak Ferry's link", () =>
      dial(Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n")),
    ),

    meta("pages in an unknown protocol", "frame pages is not valid", "pages", {
      slot: 1,
      compressed: "zstd",
      runs: [],
    }),
    meta("a fault at slot -1", "slot: Too small", "fault", { slot: -1, pages: 1 }),
    meta("credit for 2^53 frames", "frames: ", "credit", { frames: 2 ** 53 }),
    meta("half a page", "slot: Invalid input", "pages", { slot: 0.5, runs: [1] }),
    meta("100,000 runs in one frame", "runs: Too big", "pages", {
      slot: 0,
      runs: Array.from({ length: 100_000 }, () => 1),
    }),
    meta("an rsync with arguments of its own", "frame volume-open is not valid", "volume-open", {
      stream: 1,
      kind: "tree",
      gentle: true,
      args: ["--delete"],
    }),
    meta("a volume stream that is none", "kind: Invalid option", "volume-open", {
      stream: 1,
      kind: "shell",
      gentle: true,
    }),
    taken("a refusal with 20,000 causes", "eight causes are kept", () => {
      const { failure } = parseMeta("refused", { what: "pages", failure: JSON.parse(DEEP_FAILURE) as unknown });
      let depth = 0;
      for (let at = failure.cause; at !== undefined; at = at.cause) depth += 1;
      assert.equal(depth, 8);
    }),
    region("a region of no task", "regions: pid 0", [0, 0x200000, 512, 0]),
    region("a region outside the address space", "pages at 140737488355328", [7, 2 ** 47, 512, 0]),
    region("regions that overlap", "in a region already", [7, 0x200000, 1024, 0], [7, 0x400000, 512, 1024]),
    region("a region with another slot", "slot 512 where 0 was expected", [7, 0x200000, 512, 512]),
    region("a region of 2^53 pages", "pages", [7, 0, Number.MAX_SAFE_INTEGER, 0]),
    region("a region of -512 pages", "-512 pages", [7, 0, -512, 0]),

    reused("a token of an earlier epoch", "the token's to is 1, expected 2", { from: 1, to: 1 }),
    reused("a token for another workload", "the token's workload is other, expected redis", { workload: "other" }),
    reused("a token for another node", "the token's destination is node-c, expected node-b", { destination: "node-c" }),
    reused("a token for another hand-over", "the token's operation is redis.migrate.9", {
      operation: "redis.migrate.9",
    }),
    reused("a token for other images", "the token's digest is", { digest: "b".repeat(64) }),
    reused("a token that goes back", "the token goes from epoch 5 to 2", { from: 5 }),
    token("a token with one field changed", "the token's signature is wrong", { from: 1, signature: "AAAA" }),
    token("a token of a node of another CA", "was not issued by this node's CA", {}, "foreign"),
    token("a token with an expired certificate", "certificate is valid from", {}, "expired"),
    token("a token with two certificates", "not one PEM certificate", { certificate: "x" }),
    token("a token with a field more", 'Unrecognized key: "force"', { force: true }),
    refused("a receipt taken for a token", "E_TOKEN", "the token is not valid", () =>
      verifyToken(signReceipt({ ...FIELDS, epoch: 2 }, node("a")), node("b"), EXPECTED),
    ),
    refused("a receipt of another owner", "E_TOKEN", "the receipt's owner is node-a, expected node-b", () =>
      verifyReceipt(signReceipt({ ...FIELDS, epoch: 2 }, node("a")), node("b"), {
        ...FIELDS,
        epoch: 2,
        owner: "node-b",
      }),
    ),
  ],
};

/** A frame with a right checksum whose type and meta nobody would send. */
function rawFrame(type: string, text: string | Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(type), typeof text === "string" ? Buffer.from(text) : text]);
  const head = Buffer.alloc(32);
  head.write("FRY1", 0, "latin1");
  head.writeUInt32BE(32 + rest.length, 4);
  head.writeUInt8(KIND.data, 16);
  head.writeUInt8(type.length, 17);
  head.writeUInt32BE(rest.length - type.length, 20);
  head.writeUInt32BE(crc32(rest, crc32(head.subarray(0, 28))), 28);
  return Buffer.concat([head, rest]);
}
