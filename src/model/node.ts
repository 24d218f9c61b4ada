/** What a node says of itself. */
export interface NodeFacts {
  node: string;
  /** Version of the agent. */
  version: string;
  /** Address and port of the agent's link, as other nodes reach it. */
  linkHost: string;
  linkPort: number;
  kernel: string;
  arch: string;
  criuVersion: string;
  cpus: number;
  memoryTotalBytes: number;
  memoryAvailableBytes: number;
  diskAvailableBytes: number;
  bootId: string;
  /** Address of the bridge that workloads are attached to, with prefix length; absent: it has none, or is down. */
  network?: string;
  /** The node's wall clock when the facts were read, Unix milliseconds. */
  clockUnixMs?: number;
  /**
   * Workloads that run here, are held, or may come to run, by this node's journal. `ip`: with prefix length; agents of before
   * did not say it.
   */
  workloads: { name: string; epoch: number; state: string; ip?: string }[];
}
