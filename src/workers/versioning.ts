/** Workers with a build id: Temporal gives their workflows to the version that an operator has made current, and to no other. */
import type { WorkerOptions } from "@temporalio/worker";

/** Name of Ferry's worker deployment in Temporal. */
export const DEPLOYMENT = "ferry";

/** Options of the workflow worker; none without a build id. Open workflows go along when another version becomes current. */
export const versioned = (buildId: string | undefined): Pick<WorkerOptions, "workerDeploymentOptions"> =>
  buildId === undefined
    ? {}
    : {
        workerDeploymentOptions: {
          version: { deploymentName: DEPLOYMENT, buildId },
          useWorkerVersioning: true,
          defaultVersioningBehavior: "AUTO_UPGRADE",
        },
      };
