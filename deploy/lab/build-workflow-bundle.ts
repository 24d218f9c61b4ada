/**
 * Bundles the workflows once, at build time, into dist/workflows.bundle.js: a worker then starts at once. And a second time
 * for workers that encrypt histories, whose failures are encoded (src/keys/encoded-failures.ts).
 */
import { existsSync } from "node:fs";
import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { bundleWorkflowCode, type BundleOptions } from "@temporalio/worker";
import { packageRoot } from "../../src/host/package-root.js";

const dist = join(packageRoot(), "dist");
const workflowsPath = join(dist, "src", "workflows", "index.js");

async function bundle(name: string, more: Partial<BundleOptions> = {}): Promise<void> {
  const { code } = await bundleWorkflowCode({ workflowsPath, ...more });
  const file = join(dist, name);
  await writeFile(`${file}.new`, code);
  await rename(`${file}.new`, file);
}

if (existsSync(workflowsPath)) {
  await bundle("workflows.bundle.js");
  await bundle("workflows.encoded.bundle.js", {
    failureConverterPath: join(dist, "src", "keys", "encoded-failures.js"),
  });
}
