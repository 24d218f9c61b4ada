// Runs the compiled tests with node's own runner: without arguments all of them; with arguments those whose path contains one
// of the words. One file after the other, since the machine's namespaces, cgroups and cores are shared. In the whole run those
// that need none of these go first, as many at once as there are cores: most of them wait for a Temporal server; and those
// with a lab of their own go last, two at once.
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { stripVTControlCharacters } from "node:util";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const compiled = join(root, "dist", "test");
// The faults matrix, the tests in a guest and the like have commands of their own.
const APART = ["faults/matrix", "e2e/fence", "vm/"];
const BESIDE_EACH_OTHER = [
  "model/",
  "cli/",
  "client/",
  "docs/",
  "hostile/",
  "keys/",
  "lint/",
  "replay/",
  "store/",
  "workflows/",
];
/** What they expect goes by how fast memory changes and is read: not beside another lab. */
const BY_THE_CLOCK = ["e2e/migrate", "e2e/rounds"];
const words = process.argv.slice(2).filter((word) => !word.startsWith("--"));
const flags = process.argv.slice(2).filter((word) => word.startsWith("--"));
const names = readdirSync(compiled, { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".test.js"))
  .filter((name) =>
    words.length === 0 ? !APART.some((part) => name.includes(part)) : words.some((word) => name.includes(word)),
  )
  // Quick ones first: a slip shows before the lab comes up.
  .sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));

function rank(name) {
  return (
    [
      "model/",
      "keys/",
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

if (names.length === 0) {
  console.error(`no compiled test matches ${words.join(" ")}; run \`npm run setup\` first?`);
  process.exit(2);
}

let child;
process.on("SIGINT", () => child?.kill("SIGINT"));
process.on("SIGTERM", () => child?.kill("SIGTERM"));

/** What the runner counted, and how it ended. */
function run(some, atOnce) {
  const files = some.map((name) => relative(process.cwd(), join(compiled, name)));
  const reporter = process.stdout.isTTY ? "spec" : "tap";
  const counts = {};
  return new Promise((resolve) => {
    child = spawn(
      process.execPath,
      ["--test", `--test-concurrency=${atOnce}`, `--test-reporter=${reporter}`, ...flags, ...files],
      { stdio: ["inherit", "pipe", "inherit"], cwd: root },
    );
    let rest = "";
    child.stdout.setEncoding("utf8");
    child.stdout.on("data", (text) => {
      process.stdout.write(text);
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const found = /^[#\u2139] (tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) ([\d.]+)$/.exec(
          stripVTControlCharacters(line),
        );
        if (found !== null) counts[found[1]] = Number(found[2]);
      }
    });
    child.on("close", (code, signal) => resolve({ counts, code: signal === null ? (code ?? 1) : 1 }));
  });
}

if (words.length > 0) {
  process.exit((await run(names, 1)).code);
}
const light = names.filter((name) => BESIDE_EACH_OTHER.some((room) => name.startsWith(room)));
const labs = names.filter((name) => name.startsWith("e2e/") && !BY_THE_CLOCK.some((part) => name.startsWith(part)));
const alone = names.filter((name) => !light.includes(name) && !labs.includes(name));
const cores = availableParallelism();
// Each lab has its own namespaces, network and services, and waits most of the time, too.
const groups = [
  [light, cores],
  [alone, 1],
  [labs, Math.min(cores, 2)],
];
// All together, as the runner says it of one.
const totals = {};
let code = 0;
for (const [some, atOnce] of groups) {
  const ended = await run(some, atOnce);
  for (const [name, count] of Object.entries(ended.counts)) totals[name] = count + (totals[name] ?? 0);
  code ||= ended.code;
}
for (const [name, count] of Object.entries(totals)) console.log(`# ${name} ${count}`);
process.exit(code);
