/**
 * `node redis.js HOST PORT '[["PING"],["GET","key"]]'`: runs commands one after the other over one connection and prints
 * the replies as a JSON array. Run by the demo inside the lab's client host. Exit code 1 with a sentence when it fails.
 */
import { connect } from "node:net";
import { encode, ReplyReader, type Reply } from "./resp.js";

const [host = "", port = "", json = "[]"] = process.argv.slice(2);
const commands = JSON.parse(json) as string[][];
const replies: Reply[] = [];
const reader = new ReplyReader();
const fail = (why: string): never => {
  process.stderr.write(`${why}\n`);
  process.exit(1);
};
const socket = connect({ host, port: Number(port) });
const timer = setTimeout(() => fail(`redis at ${host}:${port} did not answer within 60 s`), 60_000);
const next = (): void => {
  const command = commands[replies.length];
  if (command !== undefined) {
    socket.write(encode(command));
    return;
  }
  clearTimeout(timer);
  process.stdout.write(`${JSON.stringify(replies)}\n`, () => socket.end());
};
socket.setNoDelay(true);
socket.on("connect", next);
socket.on("error", (error) => fail(`redis at ${host}:${port}: ${error.message}`));
socket.on("data", (chunk) => {
  for (const reply of reader.feed(chunk)) {
    if (reply instanceof Error) fail(`redis refused ${commands[replies.length]?.join(" ") ?? "?"}: ${reply.message}`);
    replies.push(reply);
    next();
  }
});
