/** `ferry sign`: a person's or a pipeline's word that exactly this may be run. */
import { readFileSync } from "node:fs";
import { InvalidArgumentError, type Command } from "commander";
import { checkRun } from "../../client/requests.js";
import { specFrom } from "../../client/spec.js";
import { signSpec } from "../../keys/spec-signing.js";
import { ferryError, toFailure } from "../../model/failure.js";
import { nameProblem } from "../../model/names.js";
import type { CommandContext } from "../io.js";
import { parseCount, parseNodeNames, parseWorkloadName } from "../parse.js";
import { requestOf, withSpecFlags, type SpecFlags } from "./run.js";

interface SignFlags extends SpecFlags {
  ip: string;
  key: string;
  signer: string;
  days: number;
  for?: string[];
}

const DAY_MS = 86_400_000;

export function register(program: Command, context: CommandContext): void {
  const command = program
    .command("sign")
    .description("Sign a spec and print it, for ferry run --signed. Nothing is started, and no server is asked.")
    .argument("<name>", "what the workload is called", parseWorkloadName)
    .argument("<command...>", "program and arguments, after --")
    .requiredOption("--ip <address>", "its address with prefix length, like 10.77.0.100/24")
    .requiredOption("--key <file>", "the signing key, see ferry keygen")
    .requiredOption("--signer <name>", "the name under which the nodes' policy knows the key", parseSigner)
    .option("--days <days>", "it may be started for so long", parseCount("days", 1, 3650), 90)
    .option(
      "--for <node>",
      "it may run on this node only; may be given again and again (default: all)",
      parseNodeNames,
    );
  withSpecFlags(command)
    .addHelpText(
      "after",
      `
The signature covers all of the spec. A node whose policy has "requireSignature": true runs nothing else, whoever asks;
a migration carries the signature along, and the destination checks it against its own policy.

Examples:
  ferry sign web --ip 10.77.0.120/24 --user www-data --key alice.key --signer alice -- nginx -g "daemon off;" >web.json
  ferry run --signed web.json --node node-a`,
    )
    .action((name: string, words: string[], flags: SignFlags) => {
      const { key, signer, days, for: nodes, ip } = flags;
      if (!ip.includes("/")) {
        throw ferryError("E_REQUEST", `--ip ${ip.slice(0, 60)} has no prefix length, and no node is asked for it`, {
          remedy: `write it with one: --ip ${ip.slice(0, 60)}/24`,
        });
      }
      // The node is no part of a spec.
      const spec = specFrom(checkRun(requestOf(name, words, { ...flags, node: "any" })), ip);
      const signedAt = Date.now();
      const said = { signer, privatePem: readKey(key), signedAt, expiresAt: signedAt + days * DAY_MS };
      context.json(signSpec(spec, { ...said, ...(nodes !== undefined && { nodes }) }));
    });
}

function parseSigner(text: string): string {
  const problem = nameProblem("signer", text);
  if (problem !== undefined) throw new InvalidArgumentError(`${problem}.`);
  return text;
}

function readKey(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw ferryError("E_REQUEST", `the signing key can't be read: ${toFailure(error).message}`, {
      remedy: "name the file that ferry keygen signing has made",
    });
  }
}
