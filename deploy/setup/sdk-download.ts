/** Child of temporal.ts: lets the Temporal SDK download its dev server into the directory of its first argument. */
import { TestWorkflowEnvironment } from "@temporalio/testing";

const folder = process.argv[2];
if (folder === undefined) throw new Error("usage: sdk-download.js DIRECTORY");
const environment = await TestWorkflowEnvironment.createLocal({
  server: { executable: { type: "cached-download", downloadDir: folder, version: "default" } },
});
await environment.teardown();
