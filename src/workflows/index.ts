/** Everything that the worker registers on queue `ferry`. The names of these exports are the workflow types. */
export { workload } from "./workload.js";
export { migrate } from "./migrate.js";
export { settle } from "./orphan.js";
export { sweep } from "./settle.js";
export { supersede } from "./recover.js";
export { checkpoint } from "./checkpoint.js";
export { idle, protect, scale } from "./scheduled.js";
export { node } from "./node.js";
