/**
 * `node lines-client.js HOST PORT CONNECTIONS lines|http`: keeps that many connections busy, one request at a time on each,
 * and checks every answer. Never connects again: a connection that ends is a break. Orders on standard input: `ask WORD`
 * (sent on the first connection; prints the answer), `stop` (prints what was seen as JSON, and ends).
 */
import { connect } from "node:net";
import { createInterface } from "node:readline";

const [host = "", port = "", connections = "1", kind = "lines"] = process.argv.slice(2);
const PAUSE_MS = 5;
const seen = { answers: 0, breaks: 0, wrong: [] as string[], longestMs: 0 };
const asked: string[] = [];
let stopping = false;
let open = 0;

const print = (line: string): void => void process.stdout.write(`${line}\n`);
const end = (): void => {
  print(JSON.stringify(seen));
  process.exit(0);
};

function start(first: boolean): void {
  const socket = connect({ host, port: Number(port), noDelay: true });
  let sent = 0;
  let sentAt = 0;
  let word = "";
  let rest = "";
  const next = (): void => {
    if (stopping) {
      socket.destroy();
      open -= 1;
      if (open === 0) end();
      return;
    }
    sent += 1;
    word = (first ? asked.shift() : undefined) ?? String(sent);
    sentAt = performance.now();
    socket.write(kind === "http" ? `GET /?${word} HTTP/1.1\r\nHost: ferry\r\n\r\n` : `${word}\n`);
  };
  const answered = (answer: string): void => {
    seen.answers += 1;
    seen.longestMs = Math.max(seen.longestMs, performance.now() - sentAt);
    if (word !== String(sent)) print(answer);
    else if (answer !== (kind === "http" ? "hello" : `${word} ${sent}`)) seen.wrong.push(answer.slice(0, 200));
    setTimeout(next, PAUSE_MS);
  };
  socket.setEncoding("utf8");
  socket.on("connect", () => {
    open += 1;
    if (open === Number(connections)) print("connected");
    next();
  });
  socket.on("data", (text: string) => {
    rest += text;
    if (kind === "http") {
      const match = /^HTTP\/1\.1 200 OK\r\n[^]*?\r\n\r\n([^\n]*)\n$/.exec(rest);
      if (match === null) return;
      rest = "";
      answered(match[1] ?? "");
    } else if (rest.endsWith("\n")) {
      const line = rest.slice(0, -1);
      rest = "";
      answered(line);
    }
  });
  socket.on("error", (error) => seen.wrong.push(error.message));
  socket.on("close", () => {
    if (stopping) return;
    seen.breaks += 1;
    open -= 1;
    if (first) print(JSON.stringify({ bad: ["the connection broke", ...seen.wrong.slice(-3)] }));
    if (open === 0) end();
  });
}

for (let n = 0; n < Number(connections); n += 1) start(n === 0);
createInterface({ input: process.stdin }).on("line", (line) => {
  if (line.startsWith("ask ")) asked.push(line.slice(4));
  else if (open > 0) stopping = true;
  else end();
});
