/** What people type. */
import assert from "node:assert/strict";
import { FerryError, type FailureData } from "../../src/model/failure.js";
import { ferry } from "../cli/support.js";
import { refused, type Refused, type Room } from "./entry.js";

/** Runs the real `main()`; it must end with 2, in words on standard error and as JSON. */
async function typed(argv: readonly string[]): Promise<never> {
  const end = argv.includes("--") ? argv.indexOf("--") : argv.length;
  const { code, stdout, stderr } = await ferry([...argv.slice(0, end), "--json", ...argv.slice(end)]);
  assert.equal(code, 2, stderr);
  assert.match(stderr, /^ferry: .+\n(?:.*\n)* {2}what to do: .+\n$/);
  assert.doesNotMatch(stderr, /\n\s+at .*:\d+/, "a stack trace");
  // oxlint-disable-next-line no-control-regex -- what a terminal would obey
  assert.doesNotMatch(stdout + stderr, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
  throw new FerryError((JSON.parse(stdout) as { error: FailureData }).error);
}
const bad = (input: string, says: string, ...[command = "", ...rest]: string[]): Refused =>
  refused(input, "E_REQUEST", says, () => typed([command, ...rest]));
const run = (...words: string[]): string[] => ["run", "web", "--node", "node-a", ...words, "--", "true"];

export const CLI: Room = {
  title: "Commands",
  entries: [
    bad(
      "name `../../etc/cron.d/x`",
      "use lower case letters, digits and inner hyphens",
      "inspect",
      "../../etc/cron.d/x",
    ),
    bad("name `/etc/passwd`", 'workload name "/etc/passwd" is not valid', "stop", "/etc/passwd"),
    bad("name with a NUL", 'workload name "a\\u0000b" is not valid', "inspect", "a\0b"),
    bad("name with an escape sequence", 'workload name "\\u001b[31mred" is not valid', "logs", "\u001b[31mred"),
    bad(
      "name with DEL and an eight-bit CSI",
      'workload name "a\\u007f\\u009b31m" is not valid',
      "logs",
      "a\u007f\u009b31m",
    ),
    bad("name of 300 characters", "has 300 characters, at most 40 are allowed", "rm", "a".repeat(300)),
    bad("name `-rf` behind `--`", 'workload name "-rf" is not valid', "rm", "--", "-rf"),
    bad("name `a;reboot`", 'workload name "a;reboot" is not valid', "cancel", "a;reboot"),
    bad("node `$(id)`", 'node name "$(id)" is not valid', "migrate", "web", "--to", "$(id)"),
    bad("empty name", "workload name is empty", "inspect", ""),
    bad(
      "an option for criu",
      "unknown option '--action-script'",
      "migrate",
      "web",
      "--to",
      "b",
      "--action-script",
      "/x",
    ),
    bad("a command that is none", "unknown command 'mirgate'", "mirgate"),
    bad("mode `hot`", '"hot" is not a mode', "migrate", "web", "--to", "node-b", "--mode", "hot"),
    bad("duration without a unit", '"30" is not a duration', "migrate", "web", "--to", "b", "--max-blackout", "30"),
    bad("duration 0", '"0s" is too short', "migrate", "web", "--to", "b", "--max-blackout", "0s"),
    bad("duration of 200 hours", '"200h" is too long', "migrate", "web", "--to", "b", "--max-blackout", "200h"),
    bad("negative rate", '"-1MB/s" is not a rate', "migrate", "web", "--to", "b", "--bandwidth=-1MB/s"),
    bad("size above 2^53", '"99999999999999T" is too large', ...run("--limit", "memory=99999999999999T")),
    bad("size in wide digits", '"５M" is not a size', ...run("--limit", "memory=５M")),
    bad("cpu `NaN`", 'cpu="NaN" is not a number of cores', ...run("--limit", "cpu=NaN")),
    bad("limit `__proto__`", '"__proto__=1" is not a limit', ...run("--limit", "__proto__=1")),
    bad("variable `1A=x`", '"1A=x" is not KEY=VALUE', ...run("--env", "1A=x")),
    bad("volume in /proc", 'path "/proc/x" lies in /proc', ...run("--volume", "files:/proc/x")),
    bad("volume with `..`", 'path "/srv/../etc" must not contain . or ..', ...run("--volume", "files:/srv/../etc")),
    bad("volume that is the root", "is the whole root", ...run("--volume", "files:/")),
    bad("the same volume twice", "is given twice", ...run("--volume", "a:/srv/a", "--volume", "a:/srv/b")),
    bad("volumes in each other", "lie in each other", ...run("--volume", "a:/srv/a", "--volume", "b:/srv/a/b")),
    bad("address with a scheme", '"http://x:1" is not HOST:PORT', "ps", "--address", "http://x:1"),
    bad("port 65536", '"x:65536" is not HOST:PORT', "ps", "--address", "x:65536"),
    bad("checkpoint `../../x`", "is not a checkpoint's id", "checkpoints", "rm", "web", "../../x"),
    bad("checkpoint with an escape sequence", "is not a checkpoint's id", "checkpoints", "pin", "web", "\u001b[2J"),
    bad("label `__proto__`", 'label "__proto__" is not valid', "checkpoint", "web", "--label", "__proto__=1"),
    bad("a label without a value", '"release" is not NAME=VALUE', "checkpoint", "web", "--label", "release"),
    bad(
      "a reason of a megabyte",
      "a reason has at most 1000 characters",
      "checkpoint",
      "web",
      "--reason",
      "x".repeat(2 ** 20),
    ),
    bad("time `yesterday`", '"yesterday" is not a time', "restore", "web", "--at", "yesterday"),
    bad("30 February", '"2026-02-30" is not a time', "restore", "web", "--at", "2026-02-30"),
    bad("30 February, ten in the morning", "is not a time", "restore", "web", "--at", "2026-02-30T10:00Z"),
    bad("a time before 1970", '"1969-12-31" is not a time', "restore", "web", "--at", "1969-12-31"),
    bad(
      "an age of a million weeks",
      '"1000000w" is too long',
      "checkpoints",
      "prune",
      "web",
      "--older-than",
      "1000000w",
    ),
    bad("a million clones", "is not a number of clones", "clone", "web", "--as", "x", "--count", "1000000"),
    bad("a clone called `..`", 'workload name ".." is not valid', "clone", "web", "--as", ".."),
    bad(
      "a clone at `010.0.0.1`",
      '"010.0.0.1" is not an IPv4 address',
      "clone",
      "web",
      "--as",
      "x",
      "--ip",
      "010.0.0.1",
    ),
    bad("keep no checkpoint", '"0" is not a number of checkpoints', "checkpoints", "prune", "web", "--keep", "0"),
    bad("a million nodes", '"1000000" is not a number of nodes', "lab", "up", "--nodes", "1000000"),
  ],
};
