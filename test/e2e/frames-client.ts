/**
 * `node frames-client.js HOST PORT CONNECTIONS`: opens the connections and says nothing on them. Orders on standard input:
 * `tcp WORD` sends `WORD.i` on each connection i, `udp WORD` a datagram. Prints every answer, `tcp` or `udp` before it.
 */
import { createSocket } from "node:dgram";
import { connect } from "node:net";
import { createInterface } from "node:readline";

const [host = "", port = "", connections = "1"] = process.argv.slice(2);
const print = (line: string): void => void process.stdout.write(`${line}\n`);

const datagrams = createSocket("udp4");
datagrams.on("message", (bytes) => print(`udp ${bytes.toString("utf8").trim()}`));
let open = 0;
const sockets = Array.from({ length: Number(connections) }, () => {
  const socket = connect({ host, port: Number(port), noDelay: true });
  let rest = "";
  socket.setEncoding("utf8");
  socket.on("connect", () => {
    open += 1;
    if (open === sockets.length) print("connected");
  });
  socket.on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) print(`tcp ${line}`);
  });
  socket.on("error", (error) => print(`error ${error.message}`));
  socket.on("close", () => print("error a connection was closed"));
  return socket;
});

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const [order = "", word = ""] = line.split(" ");
    if (order === "udp") datagrams.send(word, Number(port), host);
    else for (const [i, socket] of sockets.entries()) socket.write(`${word}.${i}\n`);
  })
  .on("close", () => process.exit(0));
