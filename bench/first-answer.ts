/**
 * `node first-answer.js HOST PORT KEY WITHIN_MS`: asks for KEY over new connections, one after the other and each for a moment only,
 * until a redis answers with its value, and prints when that was (Unix milliseconds). Run inside the lab's client host. A
 * redis that is still loading its file says so, and is asked again.
 */
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { encode, ReplyReader } from "../deploy/demo/resp.js";

const [host = "", port = "", key = "", within = "60000"] = process.argv.slice(2);
/** A connection to an address that nobody has waits for seconds; one to a workload whose link has just come up must not. */
const CONNECT_MS = 20;
const PAUSE_MS = 2;
/** Pages of what it needs for an answer may be under way. */
const ANSWER_MS = 30_000;

function ask(): Promise<boolean> {
  return new Promise((resolve) => {
    const reader = new ReplyReader();
    const socket = connect({ host, port: Number(port) });
    let timer = setTimeout(() => end(false), CONNECT_MS);
    const end = (answered: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answered);
    };
    socket.setNoDelay(true);
    socket.on("error", () => end(false));
    socket.on("close", () => end(false));
    socket.on("connect", () => {
      clearTimeout(timer);
      timer = setTimeout(() => end(false), ANSWER_MS);
      socket.write(encode(["GET", key]));
    });
    socket.on("data", (chunk) => {
      for (const reply of reader.feed(chunk)) end(typeof reply === "string");
    });
  });
}

const until = Date.now() + Number(within);
while (Date.now() < until) {
  if (await ask()) {
    process.stdout.write(`${performance.timeOrigin + performance.now()}\n`);
    process.exit(0);
  }
  await sleep(PAUSE_MS);
}
process.stderr.write(`${host} did not answer within ${within} ms\n`);
process.exit(1);
