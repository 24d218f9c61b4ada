/**
 * The Temporal server for the lab, in this order: an address that was given, `temporal` on PATH, what set-up made
 * before, the SDK's own download, `go install`.
 */
import { spawn } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { copyFile, mkdir, readdir, rename, rm, chmod } from "node:fs/promises";
import { join } from "node:path";
import { packageRoot } from "../../src/host/package-root.js";
import { ferryError } from "../../src/model/failure.js";
import { isExecutable, whichProgram } from "./cache.js";
import { goInstall } from "./go.js";
import type { Progress } from "./progress.js";

/** Later releases of the command line program can't be had by `go install` (replace directives). */
const GO_PACKAGE = "github.com/temporalio/cli/cmd/temporal@v1.5.1";

export type TemporalSource = { how: "address"; address: string } | { how: "PATH" | "cache"; binary: string };

/** What is there already; undefined: nothing yet. */
export async function findTemporal(
  cache: string,
  env: NodeJS.ProcessEnv = process.env,
): Promise<TemporalSource | undefined> {
  const address = env["FERRY_TEMPORAL_ADDRESS"];
  if (address) return { how: "address", address };
  const onPath = await whichProgram("temporal");
  if (onPath !== undefined) return { how: "PATH", binary: onPath };
  const cached = join(cache, "bin", "temporal");
  return (await isExecutable(cached)) ? { how: "cache", binary: cached } : undefined;
}

/**
 * Makes sure that there is a server, and says what takes long meanwhile.
 * @throws FerryError E_TOOL that lists what was tried
 */
export async function ensureTemporal(
  cache: string,
  { say, during }: Progress,
): Promise<{ did: boolean; words: string }> {
  const found = await findTemporal(cache);
  if (found !== undefined) {
    return {
      did: false,
      words: found.how === "address" ? `address given: ${found.address}` : `${found.how}: ${found.binary}`,
    };
  }
  const binary = join(cache, "bin", "temporal");
  await mkdir(join(cache, "bin"), { recursive: true });
  const download = await during("downloading the Temporal server, which is not on PATH (up to 5 minutes)", () =>
    sdkDownload(join(cache, "download"), binary),
  );
  if (download === undefined) return { did: true, words: `the SDK's download: ${binary}` };
  const go = await whichProgram("go");
  if (go === undefined) {
    throw ferryError(
      "E_TOOL",
      `there is no Temporal server: not on PATH, ${download}, and no \`go\` on PATH to build one`,
      {
        remedy:
          "install the `temporal` program (https://docs.temporal.io/cli), or set FERRY_TEMPORAL_ADDRESS to a running server, or install Go",
      },
    );
  }
  say(`Temporal server: ${download}`);
  await during("building the Temporal server with go install (3 to 5 minutes)", () =>
    goInstall(go, GO_PACKAGE, cache, "temporal", {
      doing: "building the Temporal server",
      remedy: "install the `temporal` program by hand (https://docs.temporal.io/cli), or set FERRY_TEMPORAL_ADDRESS",
    }),
  );
  return { did: true, words: `go install ${GO_PACKAGE}` };
}

/** Without a first byte after this long there is no way to the internet. */
const FIRST_BYTE_MS = 20_000;
const WHOLE_MS = 5 * 60_000;

/** Why the download failed, or undefined when the program is at `binary`. */
async function sdkDownload(folder: string, binary: string): Promise<string | undefined> {
  if (!existsSync(join(packageRoot(), "node_modules", "@temporalio", "testing")))
    return "the SDK's testing package is not installed";
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  // In a process of its own: the SDK's download can't be called off.
  const child = spawn(process.execPath, [join(import.meta.dirname, "sdk-download.js"), folder], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let words = "";
  child.stderr.on("data", (chunk: Buffer) => (words = `${words}${chunk.toString()}`.slice(-2000)));
  const ended = new Promise<number | null>((resolve) => {
    child.once("error", () => resolve(null));
    child.once("exit", resolve);
  });
  const started = Date.now();
  const watch = setInterval(() => {
    void size(folder).then((bytes) => {
      const passed = Date.now() - started;
      if ((bytes === 0 && passed > FIRST_BYTE_MS) || passed > WHOLE_MS) child.kill("SIGKILL");
      return undefined;
    });
  }, 500);
  const code = await ended;
  clearInterval(watch);
  try {
    const program = (await readdir(folder)).find((name) => !/\.(lock|downloading|tmp)$/.test(name));
    if (code === 0 && program !== undefined) {
      await copyFile(join(folder, program), `${binary}.new`);
      await chmod(`${binary}.new`, 0o755);
      await rename(`${binary}.new`, binary);
      return undefined;
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  const waited = `no answer in ${Math.round((Date.now() - started) / 1000)} s`;
  return `the SDK's download failed (${code === null ? waited : downloadProblem(words)})`;
}

/** A few words for what the SDK's download said, which is an error inside of errors with an address in it. */
export function downloadProblem(said: string): string {
  const text = said.toLowerCase();
  if (/dns|resolve|lookup|name or service|enotfound|eai_again/.test(text)) return "its host's name can't be resolved";
  if (/certificate|tls|ssl/.test(text)) return "its host's certificate is not trusted";
  const status = /status(?: code| client error| server error)?[: ]*[("]*(\d{3})/.exec(text)?.[1];
  if (status !== undefined) return `its host answers with status ${status}`;
  if (/no space|enospc/.test(text)) return "no space is left on the disk";
  if (/sending request|connect|timed? ?out|unreachable|refused|reset/.test(text)) return "its host can't be reached";
  return "the server that it brought does not start";
}

async function size(folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(folder).catch(() => [])) {
    bytes += statSync(join(folder, name), { throwIfNoEntry: false })?.size ?? 0;
  }
  return bytes;
}
