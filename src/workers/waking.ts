/**
 * Wakes workloads that sleep on this node when something comes for them: the agent says which, their entities are asked to restore
 * them. The agent says it until they run, so it may be asked again by any worker, at any time.
 */
import { WorkflowNotFoundError, type Client } from "@temporalio/client";
import type { Logger as Pino } from "pino";
import { CONTRACT_SCHEMA, type NodeAgent, type Sleeper } from "../model/contract.js";
import { QUERY, UPDATE, type Restored, type RestoreRequest } from "../model/messages.js";
import { workloadWorkflowId } from "../model/names.js";
import type { WorkloadStatus } from "../model/workload.js";
import { refusalOf } from "./refusals.js";
import { sleep } from "./sleep.js";

/** The agent is asked with patience while nothing is wanted. */
const WAIT_MS = 10_000;
const PAUSE_MS = 100;
const AWAY_MS = 1_000;
/** A wake that failed is tried again after this, longer each time: what can't be restored is not tried all day long. */
const FIRST_AGAIN_MS = 300;
const LONGEST_AGAIN_MS = 60_000;
/** More than that are not woken at once: somebody who scans the network would have everything restored. */
const AT_ONCE = 4;

interface Known {
  sleeper: Sleeper;
  /** The answer to its wake was lost: its entity does not know whether it runs, whatever the agent says. */
  doubt: boolean;
  /** Its entity has said that it sleeps here. */
  sure: boolean;
  failures: number;
  notBefore: number;
  /** Somebody else answers for its address: its entity is asked again after that. */
  askAfter: number;
}

const keyOf = ({ workload, epoch }: Sleeper): string => `${workload} ${epoch}`;

/** Until `stop`. */
export async function wakeSleepers(
  client: Client,
  agent: NodeAgent,
  node: string,
  stop: AbortSignal,
  log: Pino,
): Promise<void> {
  const waking = new Waking(client, agent, node, log);
  while (!stop.aborted) {
    let pause = AWAY_MS;
    try {
      // An agent of before this, or one that is away, is asked again.
      const sleepers = await agent.sleepers({ waitMs: waking.idle ? WAIT_MS : 0 });
      waking.look(sleepers);
      if (sleepers.some(({ wanted }) => wanted)) pause = PAUSE_MS;
      else if (waking.idle) pause = 0;
    } catch (error) {
      log.debug({ error: String(error) }, "the agent does not say who sleeps");
    }
    await sleep(pause, stop);
  }
}

class Waking {
  private readonly known = new Map<string, Known>();
  private readonly underWay = new Set<string>();
  private readonly client: Client;
  private readonly agent: NodeAgent;
  private readonly node: string;
  private readonly log: Pino;

  constructor(client: Client, agent: NodeAgent, node: string, log: Pino) {
    this.client = client;
    this.agent = agent;
    this.node = node;
    this.log = log;
  }

  /** There is nothing to do but to wait for traffic. */
  get idle(): boolean {
    return this.underWay.size === 0 && [...this.known.values()].every(({ sure, doubt }) => sure && !doubt);
  }

  look(sleepers: readonly Sleeper[]): void {
    const there = new Set(sleepers.map(keyOf));
    for (const [key, { doubt }] of this.known) {
      if (!doubt && !there.has(key) && !this.underWay.has(key)) this.known.delete(key);
    }
    const now = performance.now();
    const doubtful = [...this.known].flatMap(([key, { sleeper }]) =>
      there.has(key) ? [] : [{ ...sleeper, wanted: true }],
    );
    for (const sleeper of [...sleepers, ...doubtful]) {
      const key = keyOf(sleeper);
      const known = this.known.get(key) ?? {
        sleeper,
        doubt: false,
        sure: false,
        failures: 0,
        notBefore: 0,
        askAfter: 0,
      };
      this.known.set(key, known);
      if (this.underWay.has(key) || known.notBefore > now || this.underWay.size >= AT_ONCE) continue;
      if (sleeper.wanted) this.begin(key, known, () => this.wake(sleeper, known));
      else if (!known.sure || (sleeper.disputed && known.askAfter < now)) {
        known.askAfter = now + LONGEST_AGAIN_MS;
        this.begin(key, known, () => this.ask(sleeper));
      }
    }
  }

  private begin(key: string, known: Known, work: () => Promise<boolean>): void {
    this.underWay.add(key);
    void work()
      .catch((error: unknown) => {
        this.log.warn({ sleeper: key, error: String(error) }, "it sleeps, and its workflow could not be asked");
        return false;
      })
      .then((done) => {
        known.failures = done ? 0 : known.failures + 1;
        known.sure ||= done;
        const againMs = Math.min(FIRST_AGAIN_MS * 2 ** Math.min(known.failures - 1, 10), LONGEST_AGAIN_MS);
        known.notBefore = done ? 0 : performance.now() + againMs;
        this.underWay.delete(key);
      });
  }

  private entity(workload: string) {
    return this.client.workflow.getHandle(workloadWorkflowId(workload));
  }

  /** True: it runs. */
  private async wake(sleeper: Sleeper, known: Known): Promise<boolean> {
    const { workload, epoch } = sleeper;
    const { node, log } = this;
    const request: RestoreRequest = { wake: { node, epoch }, lazy: true };
    try {
      const { message } = await this.entity(workload).executeUpdate<Restored, [RestoreRequest]>(UPDATE.restore, {
        args: [request],
      });
      known.doubt = false;
      log.info({ workload, epoch }, `woken: ${message}`);
      return true;
    } catch (error) {
      const why = refusalOf(error);
      if (why === undefined && !(error instanceof WorkflowNotFoundError)) throw error;
      const level = why?.code === "E_BUSY" ? "debug" : "warn";
      log[level](
        { workload, epoch, failure: why ?? String(error) },
        "something came for it, and it could not be woken",
      );
      if (why?.code !== "E_BUSY") known.doubt = why?.code === "E_NODE_UNREACHABLE" || why?.code === "E_AGENT_DOWN";
      if (why?.code === "E_STATE") await this.ask(sleeper);
      return false;
    }
  }

  /** Does it sleep here? True: its entity says so. Where it says for certain that it does not, its address is let go. */
  private async ask(sleeper: Sleeper): Promise<boolean> {
    const { workload, epoch } = sleeper;
    const { node, log } = this;
    const status = await this.entity(workload).query<WorkloadStatus>(QUERY.status);
    if (status.state === "sleeping" && status.node === node && status.epoch === epoch) return true;
    const unsettled = status.operation !== undefined || status.state === "in-doubt" || status.state === "stuck";
    if (unsettled || status.epoch < epoch) return false;
    log.info({ workload, epoch, state: status.state, at: status.node }, "it does not sleep here any more");
    await this.agent.stopWorkload({ schema: CONTRACT_SCHEMA, workload, epoch, graceMs: 0 });
    return true;
  }
}
