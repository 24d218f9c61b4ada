/** Files and options that administrators write. */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readLab } from "../../deploy/lab/state.js";
import { parseAgentConfig } from "../../src/agent/config.js";
import { parsePolicy } from "../../src/agent/policy.js";
import { readConfig } from "../../src/cli/commands/fence.js";
import { connectOptions } from "../../src/cli/connection.js";
import type { FailureCode } from "../../src/model/failure.js";
import { credentialsOf } from "../../src/transfer/link/index.js";
import { parseWorkerConfig } from "../../src/workers/config.js";
import { refused, type Refused, type Room } from "./entry.js";
import { LAB } from "./samples.js";

/** A file of its own in a directory of its own, for as long as `use` takes. */
export async function withFile<T>(
  name: string,
  text: string | Buffer,
  use: (path: string, dir: string) => T,
): Promise<Awaited<T>> {
  const dir = mkdtempSync("/dev/shm/ferry-hostile-");
  try {
    writeFileSync(join(dir, name), text);
    return await use(join(dir, name), dir);
  } finally {
    rmSync(dir, { recursive: true });
  }
}
const file = (
  input: string,
  code: FailureCode,
  says: string,
  text: string,
  use: (path: string, dir: string) => unknown,
): Refused => refused(input, code, says, () => withFile(input.split(":")[0] ?? "", text, use));

const policy = (input: string, says: string, text: string): Refused =>
  refused(`policy.json: ${input}`, "E_POLICY", says, () => parsePolicy(text));
const fence = (input: string, says: string, text: string): Refused =>
  file(`fence.json: ${input}`, "E_REQUEST", says, text, readConfig);
const lab = (input: string, says: string, text: string): Refused =>
  file(`lab.json: ${input}`, "E_REQUEST", says, text, (_path, dir) => readLab(dir));
const AGENT = { node: "node-a", linkHost: "192.0.2.1" };
const agent = (input: string, says: string, change: object): Refused =>
  refused(`ferry agent: ${input}`, "E_REQUEST", says, () => parseAgentConfig({ ...AGENT, ...change }));
const worker = (input: string, says: string, change: object): Refused =>
  refused(`ferry worker: ${input}`, "E_REQUEST", says, () =>
    parseWorkerConfig({ node: "node-a", agentSocket: "/s", address: "h:7233", ...change }),
  );

export const CONFIG: Room = {
  title: "Configuration",
  entries: [
    policy("cut short", "is not JSON", '{"users": ["redis"'),
    policy("a field that nobody knows", "is not valid", '{"user": ["redis"]}'),
    policy("a list", "is not valid", "[]"),
    policy("a network that is none", "is not valid", '{"subnets": ["10.77.0.0/33"]}'),
    policy("a shared volume with `..`", "is not valid", '{"sharedVolumes": {"files": "/srv/../etc"}}'),
    fence("cut short", "can't be read as JSON", '{"command": ["off"'),
    fence("a string for a shell", "command: Invalid input: expected array", '{"command": "ipmitool off; reboot"}'),
    fence("no program", "command: Too small", '{"command": []}'),
    fence("a NUL in an argument", "must not contain a NUL character", '{"command": ["off", "a\\u0000"]}'),
    fence("a time limit of 10^12 ms", "timeoutMs: Too big", '{"command": ["off"], "timeoutMs": 1e12}'),
    refused("fence.json: a directory", "E_REQUEST", "can't be read as JSON", () => readConfig("/tmp")),
    lab("cut short", "is not the state of a lab of this version: it is not JSON", '{"schema": 1'),
    lab("of a later version", "schema: Invalid input: expected 1", JSON.stringify({ ...LAB, schema: 2 })),
    lab("a cgroup `../..`", "cgroup: is not a cgroup of a lab", JSON.stringify({ ...LAB, cgroup: "../.." })),
    lab(
      "a host `../x`",
      "hosts.0.name: is not a valid node name",
      JSON.stringify({ ...LAB, hosts: [{ name: "../x", kind: "node", octet: 1, ip: "x" }] }),
    ),
    lab(
      "pid 1 as a node",
      "hosts.0.init.pid: Too small",
      JSON.stringify({ ...LAB, hosts: [{ name: "a", kind: "node", octet: 1, ip: "x", init: { pid: 1, ticks: "1" } }] }),
    ),
    refused("lab.json: a directory", "E_REQUEST", "lab.json can't be read", () =>
      withFile("x", "", (_path, dir) => {
        mkdirSync(join(dir, "lab.json"));
        return readLab(dir);
      }),
    ),
    agent("node `../x`", "node: is not a valid node name", { node: "../x" }),
    agent("a cgroup `../../x`", "cgroupParent: must not contain . or ..", { cgroupParent: "../../x" }),
    agent("a bridge `..`", "bridge: must not be . or ..", { bridge: ".." }),
    agent("a relative state directory", "stateDir: must be an absolute path", { stateDir: "ferry" }),
    agent("a NUL in a path", "without NUL characters", { runDir: "/run/\0" }),
    agent("port 0", "linkPort: Too small", { linkPort: 0 }),
    worker("an address without a port", "address: must be host:port", { address: "temporal" }),
    worker("port 99999", "the port from 1 to 65535", { address: "temporal:99999" }),
    refused("a PEM file that is not there", "E_REQUEST", "can't read /nonexistent (FERRY_TEMPORAL_TLS_CA)", () =>
      connectOptions({ address: "h:1", access: { caFile: "/nonexistent" } }),
    ),
    refused("a certificate that is none", "E_PEER_CERT", "is not a certificate", () =>
      withFile("node.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", (path) =>
        credentialsOf({ node: "node-a", caFile: path, certFile: path, keyFile: path }).current(),
      ),
    ),
  ],
};

/** A FIFO where a file is expected: who opens it waits for ever. */
export const makeFifo = (path: string): void => void execFileSync("mkfifo", [path]);
