/** Not a test: run by preflight-destination.test.ts inside a throw-away network namespace; prints the findings. */
import { readFileSync } from "node:fs";
import { preflightDestination, type DestinationContext } from "../../src/agent/preflight/index.js";

const context = JSON.parse(readFileSync(process.argv[2] ?? "", "utf8")) as DestinationContext;
const started = performance.now();
const findings = await preflightDestination(context);
console.log(JSON.stringify({ findings, tookMs: performance.now() - started }));
