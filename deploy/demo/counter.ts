/**
 * The demo's witness: `node counter.js HOST PORT KEY FILE [PAUSE]` counts with INCR over ONE connection, one request at a
 * time, PAUSE milliseconds (one) after the answer before, and writes down every answer: `value <tab> sent at (Unix ms) <tab> latency (ms)`.
 *
 * It never hides a broken connection: it says so, connects again and goes on, so that the verdict can count it.
 * Orders come on standard input, one a line: pause, resume, stop. Events go to standard output as JSON lines:
 * connected, paused, resumed, disconnected {why}, stopped {answers, connections, breaks, errors}.
 */
import { createWriteStream } from "node:fs";
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { encode, ReplyReader } from "./resp.js";

const [host = "", port = "", key = "", file = "", pauseMs = "1"] = process.argv.slice(2);
const out = createWriteStream(file);
const request = encode(["INCR", key]);
const say = (event: string, more: object = {}): void => {
  process.stdout.write(`${JSON.stringify({ event, at: now(), ...more })}\n`);
};
const now = (): number => performance.timeOrigin + performance.now();

let answers = 0;
let connections = 0;
let breaks = 0;
let errors = 0;
let state: "counting" | "pausing" | "paused" | "stopping" = "counting";
let sentAt: number | undefined;
let socket: Socket | undefined;

function ask(): void {
  if (state === "pausing") {
    state = "paused";
    say("paused", { answers });
  }
  if (state === "stopping") return finish();
  if (state !== "counting" || socket === undefined || sentAt !== undefined) return;
  sentAt = performance.now();
  socket.write(request);
}

function open(): void {
  const reader = new ReplyReader();
  const mine = connect({ host, port: Number(port), noDelay: true });
  let ended = false;
  mine.on("connect", () => {
    connections += 1;
    socket = mine;
    say("connected", { connections, localPort: mine.localPort });
    ask();
  });
  mine.on("data", (chunk) => {
    const receivedAt = performance.now();
    for (const reply of reader.feed(chunk)) {
      if (sentAt === undefined || typeof reply !== "number") {
        errors += 1;
        say("error", { reply: String(reply) });
      } else {
        answers += 1;
        out.write(`${reply}\t${(performance.timeOrigin + sentAt).toFixed(3)}\t${(receivedAt - sentAt).toFixed(3)}\n`);
      }
      sentAt = undefined;
      setTimeout(ask, Number(pauseMs));
    }
  });
  const end = (why: string): void => {
    if (ended || state === "stopping") return;
    ended = true;
    breaks += 1;
    socket = undefined;
    sentAt = undefined;
    say("disconnected", { why });
    setTimeout(open, 100);
  };
  mine.on("error", (error) => end(error.message));
  mine.on("close", () => end("the server closed the connection"));
}

function finish(): void {
  out.end(() => {
    say("stopped", { answers, connections, breaks, errors });
    process.stdout.write("", () => process.exit(0));
  });
}

createInterface({ input: process.stdin })
  .on("line", (line) => {
    if (line === "pause" && state === "counting") {
      state = "pausing";
      if (sentAt === undefined) ask();
    } else if (line === "resume" && (state === "paused" || state === "pausing")) {
      state = "counting";
      say("resumed");
      ask();
    } else if (line === "stop") {
      const waiting = sentAt !== undefined;
      state = "stopping";
      // an answer that is still out is waited for, but not for ever
      if (waiting) setTimeout(finish, 5000);
      else finish();
    }
  })
  // whoever started us is gone
  .on("close", () => {
    if (state !== "stopping") process.exit(1);
  });

open();
