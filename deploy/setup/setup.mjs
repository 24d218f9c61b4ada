/**
 * Set-up, first half: what must work in a fresh clone, where neither node_modules nor dist exist. So this file uses
 * Node's own modules only. It checks the machine, installs node modules and compiles, then hands over to the compiled
 * second half (main.ts: packages, root file system, Temporal server).
 *
 *   node deploy/setup/setup.mjs [--until modules|build|all]
 *
 * Every step is idempotent and says in one line on standard error what it did and how long it took. Exit codes: 0
 * ready; 1 a step failed; 2 this machine lacks something (the sentence says what, and what to do).
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { makeProgress } from "./progress.mjs";

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const UNTIL = ["modules", "build", "all"];

const progress = makeProgress(process.stderr, { dumb: process.env.TERM === "dumb" });
const { say, during } = progress;
function stop(code, problem, remedy) {
  progress.quit();
  say(problem);
  if (remedy !== undefined) say(`what to do: ${remedy}`);
  process.exit(code);
}
const lastLines = (text) =>
  text
    .split("\n")
    .filter((line) => line.trim() !== "")
    .slice(-8)
    .map((line) => `  | ${line}`)
    .join("\n");

/** Runs one step and prints its line: `work` answers whether there was anything to do. */
async function step(name, work) {
  const started = Date.now();
  const did = await work();
  say(`${name.padEnd(22)} ${did ? "done" : "ready"} (${((Date.now() - started) / 1000).toFixed(1)} s)`);
}
/** Not spawnSync: what is under way is told meanwhile. */
function run(file, args) {
  return new Promise((resolve) => {
    const child = spawn(file, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    const said = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"]) child[name].setEncoding("utf8").on("data", (text) => (said[name] += text));
    child.once("error", (error) => resolve({ ...said, why: error.message }));
    child.once("close", (code, signal) =>
      resolve({ ...said, why: code === 0 ? undefined : `exit code ${code ?? signal}` }),
    );
  });
}
async function runOrStop(doing, file, args, remedy) {
  const { why, stdout, stderr } = await run(file, args);
  if (why === undefined) return;
  stop(1, `${doing} failed: ${[file, ...args].join(" ")}: ${why}\n${lastLines(`${stdout}\n${stderr}`)}`, remedy);
}

const wanted = process.argv.indexOf("--until");
const until = wanted === -1 ? "all" : process.argv[wanted + 1];
if (!UNTIL.includes(until)) stop(2, `--until takes one of ${UNTIL.join(", ")}, not ${JSON.stringify(until)}`);

// --- the machine -------------------------------------------------------------------------------------------------
const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  stop(2, `Ferry needs Node.js 20.19 or newer, this is ${process.versions.node}`, "install a newer Node.js");
}
if (until === "all" && process.platform !== "linux") {
  stop(2, `Ferry moves Linux workloads: it can't run on ${process.platform}`, "use a Linux machine or virtual machine");
}
if (until === "all" && process.getuid() !== 0) {
  stop(
    2,
    "Ferry's lab makes namespaces, mounts and cgroups, for which it must be root",
    "run the same command as root (sudo)",
  );
}

// --- one set-up at a time: the kernel drops the lock when we end, however we end -----------------------------------
const cache =
  process.env.FERRY_CACHE ||
  (process.env.XDG_CACHE_HOME && join(process.env.XDG_CACHE_HOME, "ferry")) ||
  (process.getuid?.() === 0 ? "/var/cache/ferry" : join(homedir(), ".cache", "ferry"));
if (process.env.FERRY_SETUP_LOCKED !== "1" && process.platform === "linux") {
  try {
    mkdirSync(cache, { recursive: true });
  } catch (error) {
    stop(
      2,
      `the cache directory ${cache} can't be made: ${error.message}`,
      "set FERRY_CACHE to a directory that can be written",
    );
  }
  const again = [join(cache, "setup.lock"), process.execPath, ...process.argv.slice(1)];
  const options = { stdio: "inherit", env: { ...process.env, FERRY_SETUP_LOCKED: "1" } };
  const BUSY = 75;
  let result = spawnSync("flock", ["--nonblock", "--conflict-exit-code", String(BUSY), ...again], options);
  if (result.status === BUSY) {
    say("another set-up is at work: waiting for it");
    result = spawnSync("flock", again, options);
  }
  if (result.error) stop(2, `flock can't be run: ${result.error.message}`, "install util-linux");
  process.exit(result.status ?? 1);
}

// --- node modules --------------------------------------------------------------------------------------------------
const mtime = (path) => (existsSync(path) ? statSync(path).mtimeMs : 0);
await step("node modules", async () => {
  // npm writes this file last, so it also tells a broken installation.
  if (mtime(join(root, "node_modules", ".package-lock.json")) >= mtime(join(root, "package-lock.json"))) return false;
  // A registry without the optional packages of other platforms makes `npm ci` call a good lock out of sync. Then the
  // plain installation takes the versions of the lock, leaves it as it is, and passes over what is not to be had.
  return during("installing node modules (10 seconds to 2 minutes)", async () => {
    const ci = await run("npm", ["ci", "--no-audit", "--no-fund"]);
    if (ci.why === undefined) return true;
    await runOrStop(
      ci.stderr.includes("EUSAGE") ? "installing node modules" : "installing node modules (npm ci failed too)",
      "npm",
      ["install", "--no-save", "--no-audit", "--no-fund"],
      "a package registry must be reachable (npm ping; npm config get registry), then try again",
    );
    return true;
  });
});
if (until === "modules") process.exit(0);

// --- compile -------------------------------------------------------------------------------------------------------
/** Every source file with its size and time: the same list means that dist is up to date. */
function sources() {
  const files = [];
  const walk = (folder) => {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) walk(path);
      else if (/\.(ts|json)$/.test(entry.name)) {
        const { size, mtimeMs } = statSync(join(root, path));
        files.push(`${path} ${size} ${mtimeMs}`);
      }
    }
  };
  for (const folder of ["src", "test", "deploy", "bench"]) if (existsSync(join(root, folder))) walk(folder);
  for (const file of ["tsconfig.json", "package-lock.json"]) files.push(`${file} ${mtime(join(root, file))}`);
  return `${files.sort().join("\n")}\n`;
}
await step("compile", async () => {
  const dist = join(root, "dist");
  const stamp = join(dist, "built");
  const before = existsSync(stamp) ? readFileSync(stamp, "utf8") : "";
  const now = sources();
  if (before === now) return false;
  // What was compiled from a file that is gone would be run as a test: start over.
  const names = (list) => list.split("\n").map((line) => line.split(" ")[0]);
  const present = new Set(names(now));
  if (before === "" || names(before).some((name) => !present.has(name))) rmSync(dist, { recursive: true, force: true });
  rmSync(stamp, { force: true });
  await during("compiling (5 to 30 seconds)", async () => {
    const tsc = join("node_modules", "typescript", "bin", "tsc");
    await runOrStop("compiling", process.execPath, [tsc, "-p", "tsconfig.json"]);
    const bundle = join("dist", "deploy", "lab", "build-workflow-bundle.js");
    await runOrStop("bundling the workflows", process.execPath, [bundle]);
  });
  writeFileSync(stamp, now);
  return true;
});
if (until === "build") process.exit(0);

const { main } = await import("../../dist/deploy/setup/main.js");
process.exitCode = await main(cache, progress);
