/**
 * The node's own policy: what its administrator lets run here, whoever asks. Temporal and peers are input; this file is
 * authority. Without a file everything that the spec allows is allowed, except what is never allowed: directories of the
 * node, devices, capabilities and namespaces beyond a workload's own can't be asked for at all.
 */
import { readFileSync, statSync } from "node:fs";
import { z } from "zod";
import { readPublicLine } from "../keys/spec-signing.js";
import { issuesOf } from "../host/issues.js";
import { ferryError, type FerryError } from "../model/failure.js";
import { nameProblem } from "../model/names.js";
import { RUNTIMES } from "../model/workload.js";
import { parseSubnet } from "./subnet.js";

export const POLICY_FILE = "/etc/ferry/policy.json";

const subnet = z.string().refine((text) => parseSubnet(text) !== undefined, "must be a network such as 10.77.0.0/24");

const volumeName = z.string().refine((name) => nameProblem("volume", name) === undefined, "is not a valid volume name");
const directory = z
  .string()
  .refine(
    (path) => /^(?:\/[^/\0]+)+$/.test(path) && !/\/\.{1,2}(?:\/|$)/.test(path),
    "must be an absolute path without . and ..",
  );
/** `*` stands for any run of characters but a slash. */
const namePattern = z.string().regex(/^[a-z0-9*-]{1,80}$/, "must be a name, in which * stands for any characters");
const commandPattern = z
  .string()
  .refine(
    (text) => /^[^/\0]+$/.test(text) || (/^(?:\/[^/\0]+)+$/.test(text) && !/\/\.{1,2}(?:\/|$)/.test(text)),
    "must be a plain name or an absolute path without . and .., in which * stands for any characters but a slash",
  );
const publicLine = z
  .string()
  .refine(
    (line) => readPublicLine(line) !== undefined,
    "must be an Ed25519 public key as one line of base64 (ferry keygen signing prints it)",
  );
const signerName = z.string().refine((name) => nameProblem("signer", name) === undefined, "is not a valid signer name");

const policySchema = z
  .strictObject({
    /** Names that workloads may have. */
    workloads: z.array(namePattern).optional(),
    /** Programs that may be run: plain names are looked up in the system's directories. */
    commands: z.array(commandPattern).optional(),
    runtimes: z.array(z.enum(RUNTIMES)).optional(),
    /** User names or numbers that workloads may run as. */
    users: z.array(z.string().min(1)).optional(),
    /** Networks that workloads' addresses must lie in. */
    subnets: z.array(subnet).optional(),
    /** Highest memory limit; with it every workload must have one. */
    maxMemoryBytes: z.int().positive().optional(),
    /** Highest limit of cores; with it every workload must have one. */
    maxCpus: z.number().positive().optional(),
    /** Workloads that may run, be held or arrive here at one time. */
    maxWorkloads: z.int().min(0).optional(),
    /** Shared volumes of this node: name and directory. A workload can name no other directory of the node. */
    sharedVolumes: z.record(volumeName, directory).optional(),
    /** Files and directories of the node that no workload sees, besides the usual ones; read when the agent starts. */
    hidden: z.array(directory).optional(),
    /** Environment names that are refused besides the ones that always are. */
    forbiddenEnv: z.array(z.string().min(1)).optional(),
    /** Nodes that workloads may come from, and go to. */
    peers: z
      .strictObject({ sources: z.array(namePattern).optional(), destinations: z.array(namePattern).optional() })
      .optional(),
    /** Who may sign specs: name and public key, or keys while one is replaced. With it a signature that is there must be good. */
    trustedSigners: z.record(signerName, z.union([publicLine, z.array(publicLine).min(1)])).optional(),
    /** Only signed specs may be started here, or arrive. */
    requireSignature: z.boolean().optional(),
  })
  .refine(({ requireSignature, trustedSigners }) => requireSignature !== true || trustedSigners !== undefined, {
    path: ["requireSignature"],
    message: "needs trustedSigners",
  });
export type Policy = z.infer<typeof policySchema>;

const broken = (file: string, why: string): FerryError =>
  ferryError("E_POLICY", `the node's policy ${file} ${why}`, {
    remedy: "correct the file; nothing is started on this node, and nothing arrives, until then",
  });

/**
 * Read anew each time: an administrator's change holds at once. No file: no restrictions of this node's own. Throws E_POLICY
 * when the file is there and not readable, not valid, or can be written by others than root and the agent's user.
 */
export function loadPolicy(file: string): Policy {
  let text: string;
  try {
    const { mode, uid } = statSync(file);
    if ((mode & 0o022) !== 0 || (uid !== 0 && uid !== process.getuid?.())) {
      throw broken(
        file,
        `can be written by others (owner ${uid}, mode ${(mode & 0o777).toString(8)}): chown root, chmod 644`,
      );
    }
    text = readFileSync(file, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return {};
    if (code === "E_POLICY") throw error;
    throw broken(file, `can't be read: ${String(error)}`);
  }
  return parsePolicy(text, file);
}

/** Throws E_POLICY with every reason when `text` is not a policy. */
export function parsePolicy(text: string, file: string = POLICY_FILE): Policy {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw broken(file, `is not JSON: ${error instanceof Error ? error.message : ""}`);
  }
  const parsed = policySchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw broken(file, `is not valid: ${issuesOf(parsed.error, "(file)")}`);
}

/** The directory of a shared volume on this node, by its policy as it is now. Throws E_POLICY. */
export function sharedVolumeDir(name: string, file: string): string {
  const shared = loadPolicy(file).sharedVolumes ?? {};
  const dir = Object.hasOwn(shared, name) ? shared[name] : undefined;
  if (dir === undefined) {
    throw ferryError("E_POLICY", `this node has no shared volume ${name}`, {
      remedy: `let the administrator name its directory in ${file}: "sharedVolumes": {"${name}": "/path"}`,
    });
  }
  return dir;
}
