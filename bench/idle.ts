/**
 * `node idle.js HOST PORT COUNT`: so many connections that are idle most of the time. Each speaks once a second (PING), one
 * after the other, so that in a blackout some of them speak for the first time in a while: nothing of theirs is on its way
 * when it begins. On SIGTERM it prints one JSON line: connections, breaks, and every answer as [sent at (Unix ms), latency
 * (ms)]. Run as a program on the client's host, and read by `startIdle`.
 */
import { connect } from "node:net";
import { encode, ReplyReader } from "../deploy/demo/resp.js";

const PERIOD_MS = 1000;
const [host = "", port = "", count = "50"] = process.argv.slice(2);
const many = Number(count);
const request = encode(["PING"]);
const answers: [number, number][] = [];
let breaks = 0;
let connected = 0;

for (let i = 0; i < many; i += 1) {
  const reader = new ReplyReader();
  const socket = connect({ host, port: Number(port), noDelay: true });
  let sentAt: number | undefined;
  socket.on("connect", () => {
    connected += 1;
    const speak = (): void => {
      // One that still waits for its answer is the one that is measured.
      if (sentAt === undefined) {
        sentAt = performance.now();
        socket.write(request);
      }
    };
    setTimeout(() => setInterval(speak, PERIOD_MS), (i * PERIOD_MS) / many);
  });
  socket.on("data", (chunk) => {
    const at = performance.now();
    for (const _ of reader.feed(chunk)) {
      if (sentAt === undefined) continue;
      answers.push([performance.timeOrigin + sentAt, at - sentAt]);
      sentAt = undefined;
    }
  });
  socket.on("error", () => (breaks += 1));
  socket.on("close", () => (breaks += 1));
}
process.on("SIGTERM", () => {
  process.stdout.write(`${JSON.stringify({ connected, breaks, answers })}\n`, () => process.exit(0));
});
