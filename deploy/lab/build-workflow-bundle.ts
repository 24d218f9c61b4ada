/** Bundles the workflows once, at build time, into dist/workflows.bundle.js: a worker then starts at once. */
import { existsSync } from "node:fs";
import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { bundleWorkflowCode } from "@temporalio/worker";
import { packageRoot } from "../../src/host/package-root.js";

const workflows = join(packageRoot(), "dist", "src", "workflows", "index.js");
if (existsSync(workflows)) {
  const { code } = await bundleWorkflowCode({ workflowsPath: workflows });
  const bundle = join(packageRoot(), "dist", "workflows.bundle.js");
  await writeFile(`${bundle}.new`, code);
  await rename(`${bundle}.new`, bundle);
}
