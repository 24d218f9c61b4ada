/** A client that is closed while its server is out of reach must not take the user's process with it. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { connect as dial, createServer, type Socket } from "node:net";
import { once } from "node:events";
import { test } from "node:test";
import { startTemporal, skipWithoutTemporal } from "../support/temporal.js";

const SDK = new URL("../../src/client/index.js", import.meta.url).href;
/** Asks when the line is cut, closes while the request is being tried again, and lives on for a moment. */
const PROGRAM = `
import { connect } from ${JSON.stringify(SDK)};
const ferry = await connect({ address: process.argv[1] });
process.stdout.write("connected\\n");
await new Promise((resolve) => process.stdin.once("data", resolve));
process.stdin.destroy();
const asked = ferry.workloads.list().then(() => "answered", (error) => error.code);
await new Promise((resolve) => setTimeout(resolve, 700));
await ferry.close();
process.stdout.write(await asked + "\\n");
setTimeout(() => process.stdout.write("alive\\n"), 3000);
`;

test(
  "closing while a request is tried again ends the request, not the process",
  { skip: skipWithoutTemporal },
  async () => {
    const server = await startTemporal();
    const lines = new Set<Socket>();
    const relay = createServer((socket) => {
      const [host, port] = server.address.split(":");
      const far = dial(Number(port), host);
      for (const end of [socket, far]) {
        lines.add(end);
        end.on("error", () => undefined);
      }
      socket.pipe(far).pipe(socket);
    }).listen(0, "127.0.0.1");
    try {
      await once(relay, "listening");
      const address = relay.address();
      assert.ok(address !== null && typeof address === "object");
      const child = execFile(process.execPath, ["--input-type=module", "-e", PROGRAM, `127.0.0.1:${address.port}`]);
      let said = "";
      let wrong = "";
      child.stderr?.on("data", (text: string) => (wrong += text));
      const connected = new Promise<void>((resolve) => {
        child.stdout?.on("data", (text: string) => {
          said += text;
          if (said.includes("connected\n")) resolve();
        });
      });
      const ended = once(child, "exit") as Promise<[number | null]>;
      await Promise.race([connected, ended]);
      relay.close();
      for (const line of lines) line.destroy();
      child.stdin?.end("go\n");
      const [code] = await ended;
      assert.equal(code, 0, wrong);
      assert.equal(said, "connected\nE_TEMPORAL_DOWN\nalive\n");
    } finally {
      relay.close();
      await server.stop();
    }
  },
);
