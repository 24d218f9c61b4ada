/**
 * Volumes of a workload: a name, where it lies inside, and what becomes of it in a move. Pure: asked by the SDK, the entity's
 * validator and the agent.
 *
 * Paths are narrow on purpose (plain ASCII, no `..`, nothing below what Ferry or the system needs): they become mount points
 * in a root file system, and parts of the engine's command line.
 */
import { nameProblem } from "./names.js";
import { firstProblems, shown } from "./words.js";

/** copy: belongs to the workload and moves with it. shared: the same storage on every node, nothing is copied. */
export const VOLUME_KINDS = ["copy", "shared"] as const;
export type VolumeKind = (typeof VOLUME_KINDS)[number];

export interface VolumeSpec {
  name: string;
  /** Where it is mounted inside the workload. */
  path: string;
  kind: VolumeKind;
}

export const MAX_VOLUMES = 16;
const MAX_PATH = 1024;
const MAX_COMPONENT = 255;

const PLAIN = /^(?:\/[A-Za-z0-9._+@=~-]+)+$/;
/** Nothing may be mounted here or below. */
const TAKEN: readonly (readonly [string, string])[] = [
  ["/proc", "the kernel's"],
  ["/sys", "the kernel's"],
  ["/dev", "the workload's devices"],
  ["/run", "in the workload's memory"],
  ["/tmp", "in the workload's memory"],
  ["/data", "a volume already: it moves with every workload"],
  ["/bin", "the system's programs"],
  ["/sbin", "the system's programs"],
  ["/lib", "the system's libraries"],
  ["/lib32", "the system's libraries"],
  ["/lib64", "the system's libraries"],
  ["/usr/bin", "the system's programs"],
  ["/usr/sbin", "the system's programs"],
  ["/usr/lib", "the system's libraries"],
  ["/usr/lib64", "the system's libraries"],
];
/** Not these themselves; a directory below is fine. */
const WHOLE = ["/usr", "/etc", "/var", "/var/lib", "/usr/share"];

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Is `inner` the directory `outer` or below it? */
export const liesIn = (inner: string, outer: string): boolean => inner === outer || inner.startsWith(`${outer}/`);

/** Why no volume can be mounted there, or undefined. */
export function volumePathProblem(path: unknown): string | undefined {
  if (typeof path !== "string") return `path must be a string, got ${shown(path)}`;
  const said = `path ${shown(path)}`;
  if (!path.startsWith("/")) return `${said} must be an absolute path`;
  if (path === "/") return `${said} is the whole root: name a directory`;
  const parts = path.split("/").slice(1);
  if (parts.includes("..") || parts.includes(".")) return `${said} must not contain . or ..`;
  if (parts.includes("")) return `${said} has an empty part: write it without // and without a / at the end`;
  if (!PLAIN.test(path)) return `${said} is not plain: use letters (a-z), digits and . _ + @ = ~ - between slashes`;
  if (path.length > MAX_PATH || parts.some((part) => part.length > MAX_COMPONENT)) {
    return `${said} is too long: ${MAX_PATH} characters in all, ${MAX_COMPONENT} between slashes`;
  }
  const taken = TAKEN.find(([dir]) => liesIn(path, dir));
  if (taken !== undefined) return `${said} lies in ${taken[0]}, which is ${taken[1]}`;
  if (WHOLE.includes(path)) return `${said} would hide the system's own files: name a directory below it`;
  return undefined;
}

/** Everything that is wrong with a list of volumes, in words. */
export function volumesProblems(volumes: unknown): string[] {
  if (!Array.isArray(volumes)) return [`volumes must be a list, got ${shown(volumes)}`];
  if (volumes.length > MAX_VOLUMES)
    return [`volumes has ${volumes.length} entries, at most ${MAX_VOLUMES} are allowed`];
  const problems: string[] = [];
  const seen: { name: string; path: string }[] = [];
  for (const [index, volume] of (volumes as unknown[]).entries()) {
    const at = `volumes[${index}]`;
    if (!isObject(volume)) {
      problems.push(`${at} must be an object, got ${shown(volume)}`);
      continue;
    }
    for (const key of Object.keys(volume)) {
      if (!["name", "path", "kind"].includes(key)) problems.push(`${at}.${shown(key)} is not a known field`);
    }
    const { name, path, kind } = volume;
    const badName = nameProblem("volume", name);
    if (badName !== undefined) problems.push(`${at}: ${badName}`);
    const badPath = volumePathProblem(path);
    if (badPath !== undefined) problems.push(`${at}: ${badPath}`);
    if (!(VOLUME_KINDS as readonly unknown[]).includes(kind)) {
      problems.push(`${at}: kind ${shown(kind)} is not known: use ${VOLUME_KINDS.join(" or ")}`);
    }
    if (badName !== undefined || badPath !== undefined) continue;
    const own = { name: String(name), path: String(path) };
    for (const other of seen) {
      if (other.name === own.name) problems.push(`${at}: the name ${own.name} is given twice`);
      if (liesIn(own.path, other.path) || liesIn(other.path, own.path)) {
        problems.push(`${at}: ${own.path} and ${other.path} lie in each other`);
      }
    }
    seen.push(own);
  }
  return firstProblems(problems);
}
