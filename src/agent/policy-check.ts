/**
 * What a node's policy has against a spec, or against a peer. Pure; every reason at once, each with what to do. Asked by
 * the agent (gate.ts), which is the only one that can act: whatever the worker, the workflow or a client has checked before
 * could be left out by somebody who talks to Temporal, or to the agent's socket, himself.
 */
import { isGenuine, isOfSpec, readPublicLine } from "../keys/spec-signing.js";
import type { Side } from "../model/failure.js";
import type { Finding } from "../model/plan.js";
import type { WorkloadSpec } from "../model/workload.js";
import type { Policy } from "./policy.js";
import { inSubnet, parseSubnet } from "./subnet.js";

/** Names that load code into the engine, the agent's tools or the workload's first steps as root: refused everywhere. */
const FORBIDDEN_ENV: readonly string[] = ["LD_PRELOAD", "LD_AUDIT", "NODE_OPTIONS", "CRIU_CONFIG_FILE", "BASH_ENV"];
/** Where a policy names the programs, the environment must not bring in other code than theirs. */
const CODE_ENV =
  /^(?:PATH|LD_.*|GLIBC_TUNABLES|GCONV_PATH|ENV|PYTHON(?:PATH|HOME|STARTUP)|PERL5(?:LIB|OPT|DB)|RUBY(?:LIB|OPT)|JAVA_TOOL_OPTIONS|NODE_PATH)$/;

/** Under which circumstances a spec is looked at. */
export interface Asked {
  side: Side;
  node: string;
  /** Wall clock, Unix milliseconds. */
  nowMs: number;
  /** Other workloads that run, are held or arrive here. */
  others: number;
  /** It comes from that node; missing: it is to be started here. */
  from?: string;
}

const glob = (pattern: string): RegExp =>
  new RegExp(`^${pattern.replaceAll(/[.+?^${}()|[\]\\]/g, "\\$&").replaceAll("*", "[^/]*")}$`, "s");
export const matches = (text: string, patterns: readonly string[]): boolean =>
  patterns.some((pattern) => glob(pattern).test(text));
const list = (names: readonly string[]): string => names.join(", ") || "none";

type Problem = [message: string, remedy: string];

function commandProblems({ command, env }: WorkloadSpec, allowed: readonly string[]): Problem[] {
  const [program = ""] = command;
  const plain = !program.includes("/");
  const problems: Problem[] = [];
  const clean = plain || (/^(?:\/[^/]+)+$/.test(program) && !/\/\.{1,2}(?:\/|$)/.test(program));
  if (!clean) {
    problems.push([
      `command ${JSON.stringify(program)} is not allowed on this node: it must be a plain name or an absolute path without . and ..`,
      "name the program by its absolute path",
    ]);
  } else if (!matches(program, allowed)) {
    problems.push([
      `command ${JSON.stringify(program)} is not allowed on this node (allowed: ${list(allowed)})`,
      "choose an allowed program, or let the administrator extend commands in the node's policy",
    ]);
  }
  const names = Object.keys(env).filter((name) => CODE_ENV.test(name));
  if (names.length > 0) {
    problems.push([
      `environment ${names.join(", ")} is not allowed on this node: its policy names the programs, and that could run another`,
      "leave it out of --env",
    ]);
  }
  return problems;
}

/** Highest values; where there is one, the spec must have a limit. */
function limitProblem(what: string, unit: string, limit: number | undefined, max: number | undefined): Problem[] {
  if (max === undefined || (limit !== undefined && limit <= max)) return [];
  return limit === undefined
    ? [[`this node wants a ${what} limit of at most ${max} ${unit}`, `run it with --limit ${what}=...`]]
    : [
        [
          `the ${what} limit of ${limit} ${unit} is over this node's ${max}`,
          `lower --limit ${what}, or choose another node`,
        ],
      ];
}

/** Everything but the signature. */
function* specAgainst(spec: WorkloadSpec, policy: Policy, asked: Asked): Generator<Problem> {
  const forbidden = new Set([...FORBIDDEN_ENV, ...(policy.forbiddenEnv ?? [])]);
  const names = Object.keys(spec.env).filter((name) => forbidden.has(name));
  if (names.length > 0) {
    yield [
      `environment ${names.join(", ")} is not allowed: it would load code`,
      "leave it out of --env; set it inside a script",
    ];
  }
  const { workloads, runtimes, users, subnets, commands, maxWorkloads, peers } = policy;
  if (workloads !== undefined && !matches(spec.name, workloads)) {
    yield [
      `a workload named ${spec.name} is not allowed on this node (allowed: ${list(workloads)})`,
      "choose another name or node",
    ];
  }
  if (runtimes !== undefined && !runtimes.includes(spec.runtime)) {
    yield [`runtime ${spec.runtime} is not allowed on this node (allowed: ${list(runtimes)})`, "choose another node"];
  }
  if (commands !== undefined) yield* commandProblems(spec, commands);
  if (users !== undefined && !users.includes(spec.user)) {
    yield [
      `user ${spec.user} is not allowed on this node (allowed: ${list(users)})`,
      "choose an allowed user, or let the administrator extend the node's policy",
    ];
  }
  if (subnets !== undefined && !subnets.map(parseSubnet).some((net) => inSubnet(spec.network.ip, net))) {
    yield [
      `address ${spec.network.ip} is not allowed on this node (allowed: ${list(subnets)})`,
      "choose an address in an allowed network",
    ];
  }
  yield* limitProblem("memory", "bytes", spec.limits.memoryBytes, policy.maxMemoryBytes);
  yield* limitProblem("cpu", "cores", spec.limits.cpus, policy.maxCpus);
  if (maxWorkloads !== undefined && asked.others >= maxWorkloads) {
    yield [
      `this node takes at most ${maxWorkloads} at a time, and has ${asked.others}`,
      "choose another node, or move something away first",
    ];
  }
  if (asked.from !== undefined && peers?.sources !== undefined && !matches(asked.from, peers.sources)) {
    yield [
      `workloads from ${asked.from} are not allowed on this node (allowed: ${list(peers.sources)})`,
      "choose another destination",
    ];
  }
  const shared = policy.sharedVolumes ?? {};
  for (const { name, kind } of spec.volumes ?? []) {
    if (kind !== "shared" || Object.hasOwn(shared, name)) continue;
    yield [
      `this node has no shared volume ${name} (it has: ${list(Object.keys(shared))})`,
      `let the administrator name its directory in the node's policy: "sharedVolumes": {"${name}": "/path"}`,
    ];
  }
}

/** What is said of the spec's signature. An expiry is about starts: what runs may go on moving. */
function signatureFindings(spec: WorkloadSpec, policy: Policy, asked: Asked): Finding[] {
  const { side, node, nowMs, from } = asked;
  const say = (level: Finding["level"], message: string, remedy: string): Finding[] => [
    { level, check: "signature", side, message, remedy },
  ];
  const again = "let it be signed (again): ferry sign";
  const { trustedSigners } = policy;
  if (trustedSigners === undefined) return [];
  const { signature } = spec;
  if (signature === undefined) {
    return policy.requireSignature === true
      ? say(
          "block",
          `the spec is not signed, and this node takes signed ones only (signers: ${list(Object.keys(trustedSigners))})`,
          again,
        )
      : [];
  }
  const { signer, signedAt, expiresAt, nodes } = signature;
  const lines = Object.hasOwn(trustedSigners, signer) ? [trustedSigners[signer] ?? []].flat() : [];
  if (lines.length === 0) {
    return say(
      "block",
      `the spec is signed by ${signer}, whom this node does not know (signers: ${list(Object.keys(trustedSigners))})`,
      "let somebody sign it who is in trustedSigners of the node's policy",
    );
  }
  const keys = lines.flatMap((line) => readPublicLine(line) ?? []);
  if (!isGenuine(signature, keys)) {
    return say(
      "block",
      `the spec's signature was not made with a key of ${signer} that this node knows, or was changed since`,
      again,
    );
  }
  if (!isOfSpec(spec, signature)) {
    return say("block", `the signature by ${signer} is of another spec`, `run exactly what was signed, or ${again}`);
  }
  const on = (ms: number): string => new Date(ms).toISOString();
  if (nodes !== undefined && !nodes.includes(node)) {
    return say(
      "block",
      `the spec is signed for ${list(nodes)}, not for ${node}`,
      `choose one of those nodes, or ${again}`,
    );
  }
  if (nowMs < signedAt - CLOCK_SLACK_MS) {
    return say("block", `the spec's signature holds from ${on(signedAt)} on`, "synchronise the clocks (NTP)");
  }
  if (nowMs <= expiresAt) return [];
  return from === undefined
    ? say("block", `the spec's signature by ${signer} has expired on ${on(expiresAt)}`, again)
    : say(
        "warn",
        `the spec's signature by ${signer} has expired on ${on(expiresAt)}: once stopped it can't be started`,
        again,
      );
}
/** Clocks of signer and node may differ by this much. */
const CLOCK_SLACK_MS = 300_000;

/** What this node's policy has against a spec: all of it. */
export function checkPolicy(spec: WorkloadSpec, policy: Policy, asked: Asked): Finding[] {
  const blocked = [...specAgainst(spec, policy, asked)].map(([message, remedy]): Finding => ({
    level: "block",
    check: "policy",
    side: asked.side,
    message,
    remedy,
  }));
  return [...blocked, ...signatureFindings(spec, policy, asked)];
}

/** What the source's policy has against where it goes. */
export function checkDestination(destination: string, policy: Policy): Finding[] {
  const allowed = policy.peers?.destinations;
  if (allowed === undefined || matches(destination, allowed)) return [];
  return [
    {
      level: "block",
      check: "policy",
      side: "source",
      message: `the policy of the source does not let workloads go to ${destination} (allowed: ${list(allowed)})`,
      remedy: "choose another destination, or let the administrator extend peers.destinations in the source's policy",
    },
  ];
}
