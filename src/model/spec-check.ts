/**
 * Is something a workload's spec? Pure and without libraries, so that the SDK, the entity's validator and the agent ask the
 * very same question. Every problem names the field, the value and the rule; all of them are listed at once.
 */
import { ON_NODE_LOSS } from "./checkpoints.js";
import { nameProblem } from "./names.js";
import { signatureProblems } from "./spec-signature.js";
import { volumesProblems } from "./volumes.js";
import { cut, firstProblems, shown } from "./words.js";
import { RUNTIMES, type WorkloadSpec } from "./workload.js";

export const MAX_ARGUMENTS = 256;
export const MAX_COMMAND_BYTES = 128 * 1024;
export const MAX_ENV = 1024;
const MIN_MEMORY_BYTES = 1024 * 1024;
const MAX_MEMORY_BYTES = 2 ** 50;
const MAX_CPUS = 4096;
const MAX_PATH = 4095;

const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;
const USER = /^(?:[a-z_][a-z0-9_-]{0,31}\$?|\d{1,10}(?::\d{1,10})?)$/;
/** The highest number that means a user: 2^32 - 1 means "unchanged". */
const MAX_ID = 2 ** 32 - 2;

type Fields = Record<string, unknown>;
const isObject = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Fields that are missing (unless optional) or that nobody knows. `__proto__` as an own key is one nobody knows. */
function shape(at: string, value: Fields, required: readonly string[], optional: readonly string[] = []): string[] {
  const problems: string[] = [];
  for (const key of Object.keys(value)) {
    if (!required.includes(key) && !optional.includes(key)) problems.push(`${at}${shown(key)} is not a known field`);
  }
  for (const key of required) {
    if (!Object.hasOwn(value, key)) problems.push(`${at}${key} is missing`);
  }
  return problems;
}

/** UTF-8 bytes without TextEncoder: the model has no platform. */
function utf8Bytes(text: string): number {
  let bytes = 0;
  for (const char of text) {
    const code = char.codePointAt(0) ?? 0;
    bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  }
  return bytes;
}

function commandProblems(command: unknown): string[] {
  if (!Array.isArray(command)) return [`command must be a list of arguments, got ${shown(command)}`];
  const problems: string[] = [];
  if (command.length === 0) problems.push("command is empty: name the program to run");
  if (command.length > MAX_ARGUMENTS) {
    problems.push(`command has ${command.length} arguments, at most ${MAX_ARGUMENTS} are allowed`);
  }
  let bytes = 0;
  for (const [index, argument] of command.slice(0, MAX_ARGUMENTS).entries()) {
    if (typeof argument !== "string") {
      problems.push(`command[${index}] must be a string, got ${shown(argument)}`);
      continue;
    }
    bytes += utf8Bytes(argument) + 1;
    if (argument.includes("\0")) problems.push(`command[${index}] ${shown(argument)} contains a NUL character`);
    if (index === 0 && argument === "") problems.push("command[0] is empty: name the program to run");
  }
  if (bytes > MAX_COMMAND_BYTES) problems.push(`command has ${bytes} bytes, at most ${MAX_COMMAND_BYTES} are allowed`);
  return problems;
}

/** What a value is, without what is in it. */
const kindOf = (value: unknown): string =>
  value === null ? "null" : Array.isArray(value) ? "a list" : `a ${typeof value}`;

function envProblems(env: unknown): string[] {
  // values are secrets now and then, and this text goes far: logs, answers, Temporal
  if (!isObject(env)) return [`env must be an object of names and values, got ${kindOf(env)}`];
  const problems: string[] = [];
  const entries = Object.entries(env);
  if (entries.length > MAX_ENV) problems.push(`env has ${entries.length} entries, at most ${MAX_ENV} are allowed`);
  let bytes = 0;
  for (const [name, value] of entries.slice(0, MAX_ENV)) {
    // A name of the right form, but one that would change the object instead of naming a value.
    if (!ENV_NAME.test(name) || name === "__proto__") {
      problems.push(`env name ${shown(name)} is not valid: use letters, digits and _, not starting with a digit`);
    }
    const said = ENV_NAME.test(name) ? cut(name) : shown(name);
    if (typeof value !== "string") problems.push(`env ${said} must be a string, got ${kindOf(value)}`);
    else if (value.includes("\0")) problems.push(`env ${said} contains a NUL character`);
    else bytes += utf8Bytes(name) + utf8Bytes(value) + 2;
  }
  if (bytes > MAX_COMMAND_BYTES) problems.push(`env has ${bytes} bytes, at most ${MAX_COMMAND_BYTES} are allowed`);
  return problems;
}

/** Problems of a working directory inside the workload. */
export function dirProblems(dir: unknown): string[] {
  if (typeof dir !== "string") return [`dir must be a path, got ${shown(dir)}`];
  if (!dir.startsWith("/")) return [`dir ${shown(dir)} must be an absolute path`];
  if (dir.includes("\0")) return [`dir ${shown(dir)} contains a NUL character`];
  if (dir.length > MAX_PATH) return [`dir has ${dir.length} characters, at most ${MAX_PATH} are allowed`];
  if (dir.split("/").includes("..")) return [`dir ${shown(dir)} must not contain ..`];
  if (/^\/+proc(?:\/|$)/.test(dir)) return [`dir ${shown(dir)} must not lie in /proc: it would name another process`];
  return [];
}

function userProblems(user: unknown): string[] {
  if (typeof user !== "string" || !USER.test(user)) {
    return [`user ${shown(user)} is not valid: use a name (lower case), a number, or uid:gid`];
  }
  const large = /^\d/.test(user) && user.split(":").some((id) => Number(id) > MAX_ID);
  return large ? [`user ${shown(user)} is not valid: numbers go up to ${MAX_ID}`] : [];
}

function limitProblems(limits: unknown): string[] {
  if (!isObject(limits)) return [`limits must be an object, got ${shown(limits)}`];
  const problems = shape("limits.", limits, [], ["memoryBytes", "cpus"]);
  const { memoryBytes, cpus } = limits;
  if (
    memoryBytes !== undefined &&
    (typeof memoryBytes !== "number" ||
      !Number.isSafeInteger(memoryBytes) ||
      memoryBytes < MIN_MEMORY_BYTES ||
      memoryBytes > MAX_MEMORY_BYTES)
  ) {
    problems.push(
      `limits.memoryBytes ${shown(memoryBytes)} must be whole bytes from ${MIN_MEMORY_BYTES} to ${MAX_MEMORY_BYTES}`,
    );
  }
  if (cpus !== undefined && (typeof cpus !== "number" || !Number.isFinite(cpus) || cpus < 0.01 || cpus > MAX_CPUS)) {
    problems.push(`limits.cpus ${shown(cpus)} must be cores from 0.01 to ${MAX_CPUS}`);
  }
  return problems;
}

/** Strict dotted quad as a number: no leading zeros, nothing around it. */
export function parseIpv4(text: string): number | undefined {
  const octets = text.split(".");
  if (octets.length !== 4 || octets.some((octet) => !/^(?:0|[1-9]\d{0,2})$/.test(octet) || Number(octet) > 255)) {
    return undefined;
  }
  return octets.reduce((sum, octet) => sum * 256 + Number(octet), 0);
}

/** Why this address can't belong to one host, or undefined. */
function hostProblem(address: number): string | undefined {
  const first = Math.floor(address / 2 ** 24);
  if (address === 0xffffffff) return "is the broadcast address";
  if (first === 0) return "is not an address of a host (0.0.0.0/8)";
  if (first === 127) return "is a loopback address";
  if (first >= 224 && first <= 239) return "is a multicast address";
  if (first >= 240) return "is a reserved address (240.0.0.0/4)";
  return undefined;
}

/** Problems of "address/prefix" as the address of one host. */
export function ipProblems(at: string, ip: unknown): string[] {
  const form = `${at} ${shown(ip)} is not valid: use an IPv4 address with prefix length, e.g. 10.77.0.100/24`;
  if (typeof ip !== "string") return [form];
  const [address = "", prefix = "", ...rest] = ip.split("/");
  const value = parseIpv4(address);
  if (value === undefined || rest.length > 0 || !/^(?:[1-9]|[12]\d|3[0-2])$/.test(prefix)) return [form];
  const host = hostProblem(value);
  if (host !== undefined) return [`${at} ${shown(ip)} ${host}`];
  const size = 2 ** (32 - Number(prefix));
  if (size > 2 && value % size === 0) return [`${at} ${shown(ip)} is the address of the network itself`];
  if (size > 2 && value % size === size - 1) return [`${at} ${shown(ip)} is the network's broadcast address`];
  return [];
}

function macProblems(mac: unknown): string[] {
  if (typeof mac !== "string" || !/^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/.test(mac)) {
    return [`network.mac ${shown(mac)} is not valid: use six octets in lower case, e.g. 02:fe:00:00:00:64`];
  }
  if (mac === "00:00:00:00:00:00") return [`network.mac ${mac} is all zeros`];
  if ((Number.parseInt(mac.slice(0, 2), 16) & 1) === 1) return [`network.mac ${mac} is a multicast address`];
  return [];
}

function networkProblems(network: unknown): string[] {
  if (!isObject(network)) return [`network must be an object, got ${shown(network)}`];
  const problems = [
    ...shape("network.", network, ["ip", "mac"], ["gateway"]),
    ...ipProblems("network.ip", network["ip"]),
    ...macProblems(network["mac"]),
  ];
  const { gateway, ip } = network;
  if (gateway === undefined) return problems;
  const value = typeof gateway === "string" ? parseIpv4(gateway) : undefined;
  const host = value === undefined ? "is not an IPv4 address" : hostProblem(value);
  if (host !== undefined) return [...problems, `network.gateway ${shown(gateway)} ${host}`];
  if (value !== undefined && typeof ip === "string" && ipProblems("", ip).length === 0) {
    const [address = "", prefix = ""] = ip.split("/");
    const size = 2 ** (32 - Number(prefix));
    const own = parseIpv4(address) ?? 0;
    if (own === value) problems.push(`network.gateway ${shown(gateway)} is the workload's own address`);
    else if (Math.floor(own / size) !== Math.floor(value / size)) {
      problems.push(`network.gateway ${shown(gateway)} is not in the network of ${ip}`);
    }
  }
  return problems;
}

const FIELDS = ["name", "runtime", "command", "env", "dir", "user", "limits", "network"] as const;

/** Everything that is wrong with a spec, in words; empty: it is one (see `isSpec`). */
export function specProblems(spec: unknown): string[] {
  if (!isObject(spec)) return [`a spec must be an object, got ${shown(spec)}`];
  const problems = shape("", spec, FIELDS, ["volumes", "onNodeLoss", "signature"]);
  const check = (
    field: (typeof FIELDS)[number] | "volumes" | "onNodeLoss" | "signature",
    problemsOf: (value: unknown) => string[],
  ): void => {
    if (Object.hasOwn(spec, field)) problems.push(...problemsOf(spec[field]));
  };
  check("name", (name) => [nameProblem("workload", name)].filter((problem) => problem !== undefined));
  check("runtime", (runtime) =>
    (RUNTIMES as readonly unknown[]).includes(runtime)
      ? []
      : [`runtime ${shown(runtime)} is not known: use ${RUNTIMES.join(" or ")}`],
  );
  check("command", commandProblems);
  check("env", envProblems);
  check("dir", dirProblems);
  check("user", userProblems);
  check("limits", limitProblems);
  check("network", networkProblems);
  check("volumes", volumesProblems);
  check("onNodeLoss", (policy) =>
    (ON_NODE_LOSS as readonly unknown[]).includes(policy)
      ? []
      : [`onNodeLoss ${shown(policy)} is not known: use ${ON_NODE_LOSS.join(" or ")}`],
  );
  check("signature", signatureProblems);
  return firstProblems(problems);
}

export const isSpec = (spec: unknown): spec is WorkloadSpec => specProblems(spec).length === 0;
