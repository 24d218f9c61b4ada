/** The destination's page side: the store, and the service that answers userfaultfds from it. */
export { StageStore } from "./stage.js";
export { createStore, openStore } from "./store.js";
export {
  destroyFaultService,
  startFaultService,
  startFaultService as resumeFaultService,
  type FaultServiceOptions,
} from "./service.js";
export { SpareDaemon } from "./spare.js";
export { readTouched, wantTouched } from "./touched.js";
