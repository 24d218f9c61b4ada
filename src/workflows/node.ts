/**
 * The entity `node/<name>`: started (or told) by the node's worker at every boot, so that a visibility query is the
 * registry of nodes. Reads on the node go through it, so that the histories of workloads and migrations stay short;
 * its own is cut by continue-as-new.
 */
import {
  ApplicationFailure,
  CancellationScope,
  allHandlersFinished,
  condition,
  continueAsNew,
  defineQuery,
  defineSignal,
  defineUpdate,
  patched,
  proxyActivities,
  setCurrentDetails,
  setHandler,
} from "@temporalio/workflow";
import { CONTRACT_SCHEMA, type LogChunk, type NodeActivities, type Observation } from "../model/contract.js";
import {
  QUERY,
  SIGNAL,
  UPDATE,
  type AskRequest,
  type FenceRequest,
  type NodeInput,
  type NodeState,
} from "../model/messages.js";
import { nodeTaskQueue } from "../model/names.js";
import type { NodeFacts } from "../model/node.js";
import { DEFAULT_WATCH, firstSeen, nodeWord, type Presence, type Watch } from "../model/presence.js";
import { askProblems, fenceProblems, watchingProblems } from "../model/request-check.js";
import { acceptInput, refuseUnless } from "./accept.js";
import { failure, nobodyThere, readFailure } from "./calls.js";
import { attributes } from "./console.js";
import { measure } from "./length.js";
import { askStore, isStoreRequest, type StoreAnswer } from "./node-store.js";
import { keepWatch } from "./presence.js";

/** A node that can't answer a question within this long is out of reach. */
const PROBE_MS = 3_000;
/** Updates that one run of a workflow takes (the server's limit is 2000, this leaves room). */
const MAX_ASKS = 1_000;

export async function node(input: NodeInput): Promise<void> {
  acceptInput("node", input);
  const state: NodeState = input.carried ?? { online: true, since: Date.now() };
  const long = measure(undefined, "entity");
  const show = attributes();
  let asks = 0;
  let watch: Watch = { ...DEFAULT_WATCH, ...input.watch };
  const tell = (): void => {
    show({ FerryNode: input.node, FerryState: nodeWord(state) });
    setCurrentDetails(details(input.node, state));
  };
  let watched = false;
  const startWatch = (): void => {
    // An entity of before the watch takes it up when its worker comes back.
    if (watched || !patched("a node is watched")) return;
    watched = true;
    state.presence ??= firstSeen(Date.now());
    void keepWatch({
      name: input.node,
      watch: () => watch,
      presence: () => state.presence ?? firstSeen(Date.now()),
      tell: (presence, back) => {
        state.presence = presence;
        // It is there: whatever was said of it is over, also when its worker was never restarted.
        if (back) delete state.fence;
        tell();
      },
    });
  };

  setHandler(defineQuery<NodeState>(QUERY.status), () => state);
  setHandler(defineSignal<[NodeFacts | null, Partial<Watch>?]>(SIGNAL.online), (facts, wanted) => {
    if (wanted !== undefined && watchingProblems(wanted).length === 0) watch = { ...DEFAULT_WATCH, ...wanted };
    startWatch();
    Object.assign(state, { online: true, since: Date.now(), ...(facts === null ? {} : { facts }) });
    // It is back: what was said of it is over.
    delete state.fence;
    tell();
  });
  setHandler(defineSignal(SIGNAL.offline), () => {
    Object.assign(state, { online: false, since: Date.now() });
    tell();
  });
  setHandler(defineSignal(SIGNAL.knock), () => undefined);
  setHandler(
    defineUpdate<Told, [AskRequest]>(UPDATE.ask),
    async (request) => {
      asks += 1;
      const answer = await CancellationScope.nonCancellable(() => ask(input.node, request));
      // It answers: whatever was said of it is over, also when its worker was never restarted.
      if (state.fence !== undefined) {
        delete state.fence;
        tell();
      }
      if (request.ask === "describe") state.facts = answer as NodeFacts;
      return answer;
    },
    {
      validator: (request) => refuseUnless(`the question to ${input.node}`, askProblems(request)),
    },
  );

  setHandler(
    defineUpdate<NodeState, [FenceRequest]>(UPDATE.fence),
    async ({ evidence }) => {
      asks += 1;
      const { since } = state;
      await CancellationScope.nonCancellable(() => demandSilence(input.node, "fenced"));
      if (state.online && state.since !== since) throw answers(input.node, "fenced");
      Object.assign(state, { online: false, fence: { at: Date.now(), evidence } });
      tell();
      return state;
    },
    {
      validator: (request) => refuseUnless(`the word that ${input.node} is off`, fenceProblems(request)),
    },
  );

  let forgotten = false;
  setHandler(defineUpdate<void, []>(UPDATE.forget), async () => {
    asks += 1;
    await CancellationScope.nonCancellable(() => demandSilence(input.node, "forgotten"));
    // Nobody asks it for its copies any more: one that is only out of reach may run some.
    if (state.fence === undefined && patched("what is forgotten was fenced")) throw notFenced(input.node);
    forgotten = true;
  });

  startWatch();
  tell();
  await CancellationScope.nonCancellable(() =>
    condition(() => forgotten || ((long() || asks >= MAX_ASKS) && allHandlersFinished())),
  );
  if (forgotten) {
    await CancellationScope.nonCancellable(() => condition(allHandlersFinished));
    return;
  }
  await continueAsNew<typeof node>({ node: input.node, carried: state, watch });
}

/** A node that answers is not off. */
async function demandSilence(name: string, done: "fenced" | "forgotten"): Promise<void> {
  const there = proxyActivities<NodeActivities>({
    taskQueue: nodeTaskQueue(name),
    scheduleToStartTimeout: PROBE_MS,
    startToCloseTimeout: PROBE_MS,
    retry: { maximumAttempts: 1 },
    summary: `is it off? @ ${name}`,
  });
  try {
    await there.describeNode();
  } catch (error) {
    // Whatever else went wrong, its worker was there to say so.
    if (nobodyThere(readFailure(error, name))) return;
  }
  throw answers(name, done);
}

const answers = (name: string, done: "fenced" | "forgotten") =>
  failure({
    code: "E_STATE",
    message: `${name} answers: it is not off, so it can't be ${done}`,
    node: name,
    remedy: "switch it off first; a node that answers settles what is in doubt by itself",
  });

const notFenced = (name: string) =>
  failure({
    code: "E_STATE",
    message: `${name} does not answer, and nobody has fenced it: it may run workloads`,
    node: name,
    remedy: `switch it off, then say so: ferry fence ${name} --i-have-powered-it-off; then it can be forgotten`,
  });

type Told = NodeFacts | Observation | LogChunk | StoreAnswer;

async function ask(name: string, request: AskRequest): Promise<Told> {
  const timeout = request.ask === "describe" ? (request.timeoutMs ?? PROBE_MS) : PROBE_MS * 3;
  const there = proxyActivities<NodeActivities>({
    taskQueue: nodeTaskQueue(name),
    scheduleToCloseTimeout: timeout,
    scheduleToStartTimeout: Math.min(timeout, PROBE_MS),
    retry: { maximumAttempts: 1 },
    summary: `${request.ask} @ ${name}`,
  });
  try {
    if (request.ask === "describe") return await there.describeNode();
    if (isStoreRequest(request)) return await askStore(name, request, PROBE_MS);
    const { workload } = request;
    if (request.ask === "observe") return await there.observeWorkload({ schema: CONTRACT_SCHEMA, workload });
    const { offset, maxBytes } = request;
    return await there.readLog({ schema: CONTRACT_SCHEMA, workload, offset, maxBytes });
  } catch (error) {
    if (error instanceof ApplicationFailure) throw error;
    throw failure(readFailure(error, name));
  }
}

const presenceWords = ({ state, since, heardAt, problem }: Presence): string => {
  const at = new Date(since).toISOString();
  if (state === "up") return `**Up** since ${at}.`;
  return `**${state === "lost" ? "Lost" : "Silent"}** since ${at}, heard of last at ${new Date(heardAt).toISOString()}: ${problem ?? ""}. Its workloads may well run: nothing is started elsewhere because of this.`;
};

function details(name: string, state: NodeState): string {
  const since = new Date(state.since).toISOString();
  const lines = [`### ${name}: its worker ${state.online ? "came up" : "went down"} at ${since}`];
  const { facts, fence, presence } = state;
  if (presence !== undefined) lines.push("", presenceWords(presence));
  if (fence !== undefined) lines.push("", `**Fenced** at ${new Date(fence.at).toISOString()}: ${fence.evidence}`);
  if (facts !== undefined) {
    lines.push(
      "",
      "| | |",
      "|---|---|",
      `| kernel | ${facts.kernel} (${facts.arch}) |`,
      `| criu | ${facts.criuVersion} |`,
      `| cpus | ${facts.cpus} |`,
      `| memory | ${Math.round(facts.memoryAvailableBytes / 2 ** 20)} of ${Math.round(facts.memoryTotalBytes / 2 ** 20)} MiB free |`,
      `| link | ${facts.linkHost}:${facts.linkPort} |`,
      `| agent | ${facts.version} |`,
    );
  }
  return lines.join("\n");
}
