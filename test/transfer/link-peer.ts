/** A peer in a process of its own, for tests that stop it: listens, sums what it gets, tells its parent. */
import { createHash } from "node:crypto";
import { listenLink, type LinkIdentity } from "../../src/transfer/link/index.js";

const identity = JSON.parse(process.argv[2] ?? "{}") as LinkIdentity;
const lostMs = Number(process.argv[3]);
const tell = (message: object): void => {
  process.send?.(message);
};

const listener = await listenLink({
  identity,
  host: "127.0.0.1",
  port: 0,
  lostMs,
  pingMs: Math.min(2000, lostMs / 3),
  lendPayloads: true,
  accept: () => undefined,
  onSession: (session) => {
    const hash = createHash("sha256");
    let bytes = 0;
    session.onFrame((frame) => {
      hash.update(frame.payload);
      bytes += frame.payload.length;
      if (frame.type === "report") tell({ bytes });
    });
    session.onClose((failure) => tell({ bytes, sha256: hash.digest("hex"), failure: failure?.code ?? "bye" }));
  },
});
process.once("disconnect", () => process.exit(0));
tell({ port: listener.port });
