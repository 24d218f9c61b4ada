/**
 * The lab: N nodes, a client host and a Temporal server on one Linux machine, as namespaces inside a cgroup of their
 * own. The same lab serves the demo, the tests and the benchmarks.
 */
export { labUp, nodeName, type LabUpOptions } from "./up.js";
export { labDown } from "./down.js";
export {
  labAddress,
  labStatus,
  labStatusLines,
  type LabStatus,
  type HostStatus,
  type ServiceStatus,
} from "./status.js";
export { labExec, labNode, labRun, type LabExecOptions, type LabNode } from "./exec.js";
export { CLOCK_FILE } from "./services.js";
export { labKillNode, labLink, labServicePid, labStartNode } from "./faults.js";
export { defaultStateDir, patience, readLab, type LabHost, type LabState } from "./state.js";
