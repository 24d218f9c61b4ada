/** `ferry keygen`: keys for signing specs, and for encrypting histories. */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { Argument, InvalidArgumentError, type Command } from "commander";
import { newPayloadKeyLine, parsePayloadKeys } from "../../keys/payload-keys.js";
import { newSigningKey } from "../../keys/spec-signing.js";
import { ferryError, toFailure } from "../../model/failure.js";
import type { CommandContext } from "../io.js";

interface KeygenFlags {
  out: string;
  id?: string;
  json?: boolean;
}

export function register(program: Command, context: CommandContext): void {
  program
    .command("keygen")
    .description("Make a key: for signing specs (ferry sign), or for encrypting what Temporal stores.")
    .addArgument(new Argument("<what>", "which kind of key").choices(["signing", "histories"]))
    .requiredOption("--out <file>", "file for the secret, mode 0600; a new key of histories goes on top of those there")
    .option("--id <id>", "id of the key of histories (default: today's date)", parseId)
    .option("--json", "print what is public of it as JSON")
    .addHelpText(
      "after",
      `
The public line of a signing key belongs into trustedSigners of the nodes' policy; the file stays with who signs.
Keys of histories: give the same file to every worker and client, FERRY_PAYLOAD_KEYS_FILE=FILE. The topmost one encrypts.

Examples:
  ferry keygen signing --out alice.key
  ferry keygen histories --out histories.keys`,
    )
    .action((what: "signing" | "histories", flags: KeygenFlags) => {
      if (what === "signing") signing(flags, context);
      else histories(flags, context);
    });
}

function parseId(text: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(text)) return text;
  throw new InvalidArgumentError(`${JSON.stringify(text.slice(0, 60))} is not an id: letters, digits and . _ -.`);
}

function signing({ out, json }: KeygenFlags, context: CommandContext): void {
  const { privatePem, publicLine } = newSigningKey();
  try {
    // Never over a key that is there: what it has signed could not be renewed.
    writeFileSync(out, privatePem, { mode: 0o600, flag: "wx" });
  } catch (error) {
    throw notWritten(out, error);
  }
  if (json === true) context.json({ file: out, publicKey: publicLine });
  else {
    context.out(`${out}: the signing key, to be kept secret`);
    context.out(`for the policy of nodes:  "trustedSigners": {"NAME": "${publicLine}"}`);
  }
}

function histories(
  { out, json, id = new Date().toISOString().slice(0, 10) }: KeygenFlags,
  context: CommandContext,
): void {
  const before = existsSync(out) ? readFileSync(out, "utf8") : "";
  const text = `${newPayloadKeyLine(id)}\n${before}`;
  // Says when the id is there already, or when the file is something else.
  const keys = parsePayloadKeys(text, out).map((key) => key.id);
  try {
    writeFileSync(`${out}.new`, text, { mode: 0o600, flag: "wx" });
    renameSync(`${out}.new`, out);
  } catch (error) {
    throw notWritten(out, error);
  }
  if (json === true) context.json({ file: out, keys });
  else context.out(`${out}: ${keys.join(", ")}; the first one encrypts, all decrypt`);
}

const notWritten = (out: string, error: unknown): Error =>
  ferryError("E_REQUEST", `the key can't be written to ${out}: ${toFailure(error).message}`, {
    remedy: "name a new file in a directory that you may write to",
  });
