/**
 * What criu's wrapper (deploy/hooks/answers.pl) is to answer in the kernel's place while it dumps a tree.
 *
 * The limits of other users' processes, where root may not read them. And that large areas are empty, where that is worth it:
 * criu puts every page of a lazy dump into pipes, though nobody reads them (docs/decisions/0015-criu-without-pages.md).
 */
import { readFileSync } from "node:fs";
import { kibBytes, parseKeyed } from "../../host/procfs.js";

/** Smaller areas are not worth an answer; most stacks of threads are smaller, too. */
const LEAST_BYTES = 16 * 2 ** 20;
/** Measured: what criu needs for a GiB in pipes, and what each question to the wrapper costs, in milliseconds. */
const PIPES_MS_PER_GIB = 100;
const QUESTION_MS = 0.06;

/** One process of the tree, as far as it matters here. */
export interface Asked {
  anonymousBytes: number;
  areas: number;
  /** It has a seccomp filter: criu must suspend that, which the kernel forbids to a process that has one itself. */
  filtered: boolean;
  /** Another user's: its limits are not root's to read without CAP_SYS_RESOURCE. */
  foreign: boolean;
}

export interface Answers {
  limits: boolean;
  leaveOut: boolean;
}

/** Pure. `sysResource`: root has CAP_SYS_RESOURCE. */
export function answersFor(tasks: readonly Asked[], sysResource: boolean): Answers {
  const limits = !sysResource && tasks.some((task) => task.foreign);
  const bytes = tasks.reduce((sum, task) => sum + task.anonymousBytes, 0);
  const questions = tasks.reduce((sum, task) => sum + task.areas, 0);
  const saves = (bytes / 2 ** 30) * PIPES_MS_PER_GIB > 2 * questions * QUESTION_MS;
  const some = tasks.some((task) => task.anonymousBytes >= LEAST_BYTES);
  return { limits, leaveOut: saves && some && !tasks.some((task) => task.filtered) };
}

/** undefined: it has ended. */
export function lookAt(pid: number): Asked | undefined {
  let status: Map<string, string>;
  let maps: string;
  try {
    status = parseKeyed(readFileSync(`/proc/${pid}/status`, "utf8"));
    maps = readFileSync(`/proc/${pid}/maps`, "utf8");
  } catch {
    return undefined;
  }
  let areas = 0;
  for (let at = maps.indexOf("\n"); at >= 0; at = maps.indexOf("\n", at + 1)) areas += 1;
  const isRoots = (key: string): boolean => /^0(\s+0)*$/.test(status.get(key) ?? "");
  return {
    anonymousBytes: kibBytes(status.get("RssAnon")),
    areas,
    filtered: (status.get("Seccomp") ?? "0") !== "0",
    foreign: !isRoots("Uid") || !isRoots("Gid"),
  };
}

/** The words in front of criu's command. `leftOut`, `stacks`: files that the wrapper writes, and the hook. */
export function wrapperWords(script: string, { limits, leaveOut }: Answers, leftOut: string, stacks: string): string[] {
  if (!limits && !leaveOut) return [];
  return [
    script,
    ...(limits ? ["--limits"] : []),
    ...(leaveOut ? ["--leave-out", leftOut, stacks, String(LEAST_BYTES)] : []),
    "--",
  ];
}
