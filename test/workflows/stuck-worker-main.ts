/** Program of short-steps.test.ts: a worker of node NAME that takes the first question about a workload, says so, and never answers. */
import { DefaultLogger, NativeConnection, Runtime, Worker } from "@temporalio/worker";
import { createNodeActivities } from "../../src/activities/index.js";
import type { NodeAgent } from "../../src/model/contract.js";
import { nodeTaskQueue } from "../../src/model/names.js";

Runtime.install({ logger: new DefaultLogger("ERROR"), shutdownSignals: [] });
const [address = "", node = ""] = process.argv.slice(2);
const agent = {
  endings: () => Promise.resolve([]),
  observeWorkload: () => {
    process.send?.("taken");
    return new Promise(() => undefined);
  },
} as unknown as NodeAgent;
const worker = await Worker.create({
  connection: await NativeConnection.connect({ address }),
  taskQueue: nodeTaskQueue(node),
  activities: {
    ...createNodeActivities({
      agent,
      node,
      knownNodes: () => Promise.resolve([node]),
      fenceOf: () => Promise.resolve(null),
    }),
  },
});
await worker.run();
