/** Runs the real main() with streams that are kept, and compares texts with files under golden/. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { main } from "../../src/cli/main.js";
import { packageRoot } from "../../src/host/package-root.js";

const GOLDEN = join(packageRoot(), "test", "cli", "golden");

/** Compares with golden/NAME; UPDATE_GOLDEN=1 writes it anew. */
export function golden(name: string, text: string): void {
  const file = join(GOLDEN, name);
  const kept = text.endsWith("\n") ? text : `${text}\n`;
  if (process.env["UPDATE_GOLDEN"] === "1") {
    mkdirSync(GOLDEN, { recursive: true });
    writeFileSync(file, kept);
    return;
  }
  assert.ok(existsSync(file), `${file} is missing: run with UPDATE_GOLDEN=1 and look at it`);
  assert.equal(kept, readFileSync(file, "utf8"), `differs from golden/${name} (UPDATE_GOLDEN=1 writes it anew)`);
}

export interface Run {
  code: number;
  stdout: string;
  stderr: string;
}

/** `ferry ARGV` in this process. The environment is empty unless given: no lab of this machine is ever found. */
export async function ferry(
  argv: readonly string[],
  env: Record<string, string> = {},
  terminal: { isTTY?: boolean; columns?: number } = {},
): Promise<Run> {
  let stdout = "";
  let stderr = "";
  const code = await main(argv, {
    stdout: { write: (text: string) => (stdout += text), ...terminal },
    stderr: { write: (text: string) => (stderr += text) },
    env: { FERRY_STATE: "/nonexistent/ferry-lab", ...env },
  });
  return { code, stdout, stderr };
}
