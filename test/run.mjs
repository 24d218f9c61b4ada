// Runs the compiled tests with node's own runner, one file after the other: the machine's namespaces, cgroups and
// cores are shared. Without arguments all of them; with arguments those whose path contains one of the words.
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const compiled = join(root, "dist", "test");
// The faults matrix, the tests in a guest and the like have commands of their own.
const APART = ["faults/matrix", "e2e/fence", "vm/"];
const words = process.argv.slice(2).filter((word) => !word.startsWith("--"));
const flags = process.argv.slice(2).filter((word) => word.startsWith("--"));
const files = readdirSync(compiled, { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".test.js"))
  .filter((name) =>
    words.length === 0 ? !APART.some((part) => name.includes(part)) : words.some((word) => name.includes(word)),
  )
  // Quick ones first: a slip shows before the lab comes up.
  .sort((a, b) => rank(a) - rank(b) || a.localeCompare(b))
  .map((name) => relative(process.cwd(), join(compiled, name)));

function rank(name) {
  return (
    [
      "model/",
      "agent/",
      "cli/",
      "client/",
      "host/",
      "transfer/",
      "workflows/",
      "replay/",
      "runtimes/",
      "lab/",
      "vm/",
    ].findIndex((part) => name.startsWith(part)) + (name.startsWith("e2e/") ? 100 : 0)
  );
}

if (files.length === 0) {
  console.error(`no compiled test matches ${words.join(" ")}; run \`npm run setup\` first?`);
  process.exit(2);
}
const child = spawn(process.execPath, ["--test", "--test-concurrency=1", ...flags, ...files], {
  stdio: "inherit",
  cwd: root,
});
process.on("SIGINT", () => child.kill("SIGINT"));
process.on("SIGTERM", () => child.kill("SIGTERM"));
child.on("exit", (code, signal) => process.exit(signal === null ? (code ?? 1) : 1));
