#!/usr/bin/env node
// The entry of the `ferry` command: says what is missing in words, then hands over to the compiled code.
import { existsSync } from "node:fs";

const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  process.stderr.write(`ferry: needs Node.js 20.19 or newer, this is ${process.versions.node}\n`);
  process.exit(2);
}
const main = new URL("../dist/src/cli/main.js", import.meta.url);
if (!existsSync(main)) {
  process.stderr.write("ferry: not built yet: run `npm run setup` in the checkout, then try again\n");
  process.exit(2);
}
// `ferry ps | head`: a reader that has seen enough is no error.
process.stdout.on("error", (error) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(process.exitCode ?? 0);
});
const { main: run } = await import(main.href);
process.exitCode = await run(process.argv.slice(2));
