/** Preflight of the process runtime: everything that can be known before the freeze, every reason at once. */
export { collectNodeFacts, type NodeIdentity } from "../../host/facts.js";
export { preflightSource, type SourceContext } from "./source.js";
export { preflightDestination, type DestinationContext } from "./destination.js";
