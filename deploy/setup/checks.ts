/** Doctor's checks of what set-up makes for the lab. What is missing is no failure: set-up brings it. */
import { existsSync } from "node:fs";
import { ok, warn, type Finding, type Probe } from "../../src/host/check.js";
import { cacheDir, whichProgram } from "./cache.js";
import { rootfsPath } from "./rootfs.js";
import { findTemporal } from "./temporal.js";

const REMEDY = "npm run setup";

async function programs(): Promise<Finding> {
  const wanted = ["mmdebstrap", "pivot_root", "flock"];
  const found = await Promise.all(wanted.map(whichProgram));
  const missing = wanted.filter((_, at) => found[at] === undefined);
  if (missing.length === 0) return ok(wanted.join(", "));
  return warn(`without ${missing.join(", ")}`, "set-up and the lab call them", REMEDY);
}

function rootfs(): Finding {
  const path = rootfsPath(cacheDir());
  return existsSync(path) ? ok(path) : warn("not built yet", `it will be in ${path}`, REMEDY);
}

/** Where the lab's server would come from. */
async function server(): Promise<Finding> {
  const found = await findTemporal(cacheDir());
  if (found?.how === "address") return ok(`FERRY_TEMPORAL_ADDRESS: ${found.address}`);
  if (found !== undefined) return ok(`${found.how}: ${found.binary}`);
  const go = await whichProgram("go");
  const way = go === undefined ? "" : `, else go install by ${go}`;
  return warn("none yet", `set-up would take the SDK's download${way}`, REMEDY);
}

export const LAB_CHECKS: Readonly<Record<string, Probe>> = {
  "lab: programs": programs,
  "lab: node root fs": rootfs,
  "lab: Temporal server": server,
};
