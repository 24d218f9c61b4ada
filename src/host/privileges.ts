/** Starting our own programs with less than we have. */
import { existsSync } from "node:fs";
import { setprivArgs, SETPRIV, type BOUNDING_SETS } from "../model/privileges.js";

/**
 * Program and arguments that run `command` with the capabilities of that part. As it is where we are not root (there is
 * nothing to drop), or where there is no setpriv: doctor says that it is missing.
 */
export function withCapabilitiesOf(part: keyof typeof BOUNDING_SETS, command: readonly string[]): [string, string[]] {
  const [file = "", ...args] = command;
  if (process.getuid?.() !== 0 || !existsSync(SETPRIV)) return [file, args];
  return [SETPRIV, [...setprivArgs(part), "--", ...command]];
}
