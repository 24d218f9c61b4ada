/**
 * Strict parsers of what people type: sizes, durations, rates, limits, names. Each throws InvalidArgumentError with a
 * sentence that names the value and the rule; commander prints it with the option's name and exits with 2.
 */
import { InvalidArgumentError } from "commander";
import { nameProblem } from "../model/names.js";
import { cut, shown as shownValue } from "../model/words.js";
import type { WorkloadLimits } from "../model/workload.js";
import { VOLUME_KINDS, volumesProblems, type VolumeSpec } from "../model/volumes.js";
import { ASKED_MODES, type AskedMode } from "../model/plan.js";

const shown = (text: string): string => shownValue(cut(text, 60));

const SIZE_UNITS: Readonly<Record<string, number>> = {
  b: 1,
  k: 1024,
  kib: 1024,
  kb: 1000,
  m: 1024 ** 2,
  mib: 1024 ** 2,
  mb: 1000 ** 2,
  g: 1024 ** 3,
  gib: 1024 ** 3,
  gb: 1000 ** 3,
  t: 1024 ** 4,
  tib: 1024 ** 4,
  tb: 1000 ** 4,
};

/** "512M", "1.5GiB" (powers of 1024), "100MB" (powers of 1000), "4096" (bytes). Whole bytes, more than zero. */
export function parseSize(text: string): number {
  const match = /^(\d{1,15}(?:\.\d{1,6})?)([A-Za-z]*)$/.exec(text.trim());
  const unit = match?.[2] === "" ? 1 : SIZE_UNITS[match?.[2]?.toLowerCase() ?? "?"];
  if (match === null || unit === undefined) {
    throw new InvalidArgumentError(
      `${shown(text)} is not a size. Write a number with a unit, like 512M, 1.5GiB or 100MB.`,
    );
  }
  const bytes = Math.round(Number(match[1]) * unit);
  if (bytes < 1) throw new InvalidArgumentError(`${shown(text)} is not a size: it must be at least one byte.`);
  if (!Number.isSafeInteger(bytes)) throw new InvalidArgumentError(`${shown(text)} is too large for a size.`);
  return bytes;
}

/** "100MB/s" or "100MB": bytes per second. */
export function parseRate(text: string): number {
  try {
    return parseSize(text.trim().replace(/\/s$/, ""));
  } catch {
    throw new InvalidArgumentError(`${shown(text)} is not a rate. Write a size per second, like 100MB/s or 1GiB/s.`);
  }
}

const TIME_UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000 };

/** "250ms", "1.5s", "2m", "1h": milliseconds. A bare number is refused: nobody knows its unit. */
export function parseDuration(text: string): number {
  const match = /^(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|min|h)$/.exec(text.trim());
  const unit = TIME_UNITS[match?.[2] ?? "?"];
  if (match === null || unit === undefined) {
    throw new InvalidArgumentError(
      `${shown(text)} is not a duration. Write a number with a unit, like 250ms, 1.5s or 2m.`,
    );
  }
  const ms = Math.round(Number(match[1]) * unit);
  if (ms < 1) throw new InvalidArgumentError(`${shown(text)} is too short: at least 1ms.`);
  if (ms > 7 * 24 * 3_600_000) throw new InvalidArgumentError(`${shown(text)} is too long: at most seven days.`);
  return ms;
}

/** "memory=512M,cpu=1.5" into limits; merges with what earlier --limit options said. */
export function parseLimits(text: string, before: WorkloadLimits = {}): WorkloadLimits {
  const limits: WorkloadLimits = { ...before };
  for (const part of text.split(",")) {
    const at = part.indexOf("=");
    const key = at < 0 ? part : part.slice(0, at);
    const value = at < 0 ? "" : part.slice(at + 1);
    if (key === "memory") {
      limits.memoryBytes = parseSize(value);
    } else if (key === "cpu" || key === "cpus") {
      const cpus = /^\d{1,4}(?:\.\d{1,3})?$/.test(value) ? Number(value) : Number.NaN;
      if (!(cpus > 0)) {
        throw new InvalidArgumentError(
          `cpu=${shown(value)} is not a number of cores. Write cpu=1.5 for one and a half.`,
        );
      }
      limits.cpus = cpus;
    } else {
      throw new InvalidArgumentError(`${shown(part)} is not a limit. Known: memory=SIZE, cpu=CORES.`);
    }
  }
  return limits;
}

/** "KEY=VALUE" into an environment; may be given again and again. */
export function parseEnv(text: string, before: Record<string, string> = {}): Record<string, string> {
  const at = text.indexOf("=");
  const key = at < 0 ? text : text.slice(0, at);
  if (at < 0 || !/^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) {
    throw new InvalidArgumentError(`${shown(text)} is not KEY=VALUE (KEY: letters, digits and _, no digit first).`);
  }
  return Object.fromEntries([...Object.entries(before), [key, text.slice(at + 1)]]);
}

/** A node's name; may be given again and again. */
export const parseNodeNames = (text: string, before: string[] = []): string[] => [...before, parseNodeName(text)];

/** "NAME:/path" or "NAME:/path:copy|shared"; may be given again and again. */
export function parseVolume(text: string, before: VolumeSpec[] = []): VolumeSpec[] {
  const [name = "", path, kind = "copy", ...rest] = text.split(":");
  const known = VOLUME_KINDS.find((one) => one === kind);
  if (path === undefined || known === undefined || rest.length > 0) {
    throw new InvalidArgumentError(`${shown(text)} is not NAME:/path, NAME:/path:copy or NAME:/path:shared.`);
  }
  const volumes = [...before, { name, path, kind: known }];
  const problem = volumesProblems(volumes)[0];
  if (problem !== undefined) throw new InvalidArgumentError(`${problem.replace(/^volumes\[\d+\]: /, "")}.`);
  return volumes;
}

export function parseMode(text: string): AskedMode {
  const mode = ASKED_MODES.find((known) => known === text);
  if (mode === undefined) {
    throw new InvalidArgumentError(`${shown(text)} is not a mode. Known: ${ASKED_MODES.join(", ")}.`);
  }
  return mode;
}

/** "HOST:PORT"; an IPv6 host stands in brackets. */
export function parseAddress(text: string): string {
  const match = /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})$/.exec(text);
  const port = Number(match?.[2]);
  if (match === null || port < 1 || port > 65_535) {
    throw new InvalidArgumentError(`${shown(text)} is not HOST:PORT, like 127.0.0.1:7233.`);
  }
  return text;
}

function parseName(kind: "workload" | "node", text: string): string {
  const problem = nameProblem(kind, text);
  if (problem !== undefined) throw new InvalidArgumentError(`${problem}.`);
  return text;
}
export const parseWorkloadName = (text: string): string => parseName("workload", text);
export const parseNodeName = (text: string): string => parseName("node", text);

export const parseCount =
  (what: string, min: number, max: number) =>
  (text: string): number => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= min && value <= max)) {
      throw new InvalidArgumentError(`${shown(text)} is not a number of ${what} (${min} to ${max}).`);
    }
    return value;
  };
