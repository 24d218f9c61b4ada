import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { ferry, golden } from "./support.js";

const COMMANDS = [
  "run",
  "sign",
  "keygen",
  "ps",
  "inspect",
  "logs",
  "migrate",
  "steer",
  "cancel",
  "stop",
  "rm",
  "nodes",
  "fence",
  "resolve",
  "checkpoint",
  "restore",
  "clone",
  "checkpoints",
  "protect",
  "schedule",
  "recover",
  "doctor",
  "lab",
  "demo",
  "ui",
  "node",
  "agent",
  "worker",
];

describe("help", () => {
  test("ferry --help lists every command", async () => {
    const { code, stdout } = await ferry(["--help"]);
    assert.equal(code, 0);
    golden("help.txt", stdout);
    for (const command of COMMANDS) assert.match(stdout, new RegExp(`^  ${command} `, "m"));
  });
  for (const command of COMMANDS) {
    test(`ferry ${command} --help has examples`, async () => {
      const { code, stdout, stderr } = await ferry([command, "--help"]);
      assert.deepEqual([code, stderr], [0, ""]);
      assert.match(stdout, /Examples:/);
      golden(`help-${command}.txt`, stdout);
    });
  }
  test("no arguments: help and exit code 2", async () => {
    assert.equal((await ferry([])).code, 2);
  });
  test("--version", async () => {
    const { code, stdout } = await ferry(["--version"]);
    assert.equal(code, 0);
    assert.match(stdout, /^\d+\.\d+\.\d+/);
  });
});

describe("wrong use ends with 2, a sentence and what to do", () => {
  const cases: [string, string[], RegExp][] = [
    ["unknown command", ["mirgate"], /unknown command 'mirgate'/],
    ["unknown option", ["ps", "--colour"], /unknown option '--colour'/],
    ["missing name", ["inspect"], /missing required argument 'name'/],
    ["missing destination", ["migrate", "redis"], /--to <node>/],
    ["missing node", ["run", "redis", "--", "redis-server"], /--node <node>/],
    ["missing command", ["run", "redis", "--node", "node-a"], /missing required argument 'command'/],
    ["too many arguments", ["inspect", "a", "b"], /too many arguments/],
    ["a bad mode", ["migrate", "redis", "--to", "node-b", "--mode", "hot"], /"hot" is not a mode/],
    [
      "a bare number as a duration",
      ["migrate", "redis", "--to", "node-b", "--max-blackout", "30"],
      /"30" is not a duration/,
    ],
    ["a bad rate", ["migrate", "redis", "--to", "node-b", "--bandwidth", "fast"], /"fast" is not a rate/],
    ["a bad limit", ["run", "r", "--node", "node-a", "--limit", "memory=lots", "--", "x"], /"lots" is not a size/],
    ["a bad variable", ["run", "r", "--node", "node-a", "--env", "1A=x", "--", "x"], /is not KEY=VALUE/],
    ["a bad address", ["ps", "--address", "nowhere"], /is not HOST:PORT/],
    ["json and follow", ["logs", "redis", "--follow", "--json"], /don't go together/],
    ["bad number of nodes", ["lab", "up", "--nodes", "0"], /number of nodes/],
    ["a label without a value", ["checkpoint", "redis", "--label", "release"], /is not NAME=VALUE/],
    ["a time that is none", ["restore", "redis", "--at", "yesterday"], /"yesterday" is not a time/],
    ["an id and a time", ["restore", "redis", "--checkpoint", "x", "--at", "2h"], /don't go together/],
    ["a clone without a name", ["clone", "redis"], /--as <new>/],
    [
      "more addresses than clones",
      ["clone", "r", "--as", "s", "--ip", "10.0.0.1", "--ip", "10.0.0.2"],
      /more addresses/,
    ],
    ["prune for no reason", ["checkpoints", "prune", "redis"], /one of --keep, --older-than and --max-size/],
    ["a bad age", ["checkpoints", "prune", "redis", "--older-than", "7"], /"7" is not an age/],
    ["a checkpoint's id with a slash", ["checkpoints", "rm", "redis", "a/b"], /is not a checkpoint's id/],
    ["a node without a name", ["node", "--link-host", "192.0.2.1"], /--name <name>/],
  ];
  for (const [what, argv, words] of cases) {
    test(what, async () => {
      const { code, stderr } = await ferry(argv);
      assert.equal(code, 2, stderr);
      assert.match(stderr, words);
      assert.match(stderr, /what to do: /);
      assert.doesNotMatch(stderr, /\n\s+at /, "no stack trace");
    });
  }
});

describe("names that can't be names", () => {
  const names = [
    "",
    " ",
    ".",
    "..",
    "../etc",
    "a/b",
    "a b",
    "Redis",
    "-redis",
    "redis-",
    "réd",
    "日本",
    "a\nb",
    "a\u0000b",
    "\u001b[31mred",
    "a".repeat(300),
    "workload/redis",
    "__proto__",
    "a;b",
    "$(id)",
    "%2e%2e",
  ];
  for (const name of names) {
    test(`${JSON.stringify(name.slice(0, 30))} as a workload and as a node`, async () => {
      for (const argv of [
        ["inspect", "--", name],
        ["logs", "--", name],
        ["stop", "--", name],
        ["rm", "--", name],
        ["cancel", "--", name],
        ["checkpoint", "--", name],
        ["restore", "--", name],
        ["clone", "redis", `--as=${name}`],
        ["checkpoints", "ls", "--", name],
        ["checkpoints", "prune", "--keep", "1", "--", name],
        ["restore", "redis", `--node=${name}`],
        ["migrate", "--to", "node-b", "--", name],
        ["migrate", "redis", `--to=${name}`],
        ["run", "--node", "node-a", "--", name, "true"],
        ["run", "redis", `--node=${name}`, "--", "true"],
      ]) {
        const { code, stderr } = await ferry(argv);
        assert.equal(code, 2, `${JSON.stringify(argv)}: ${stderr}`);
        assert.match(stderr, /^ferry: .*(workload|node) name .*/);
        // oxlint-disable-next-line no-control-regex -- nothing of the name may steer the terminal
        assert.doesNotMatch(stderr, /[\u0000-\u0009\u000b-\u001f]/);
        assert.ok(stderr.length < 600, "the message stays short");
      }
    });
  }
});

describe("errors with --json", () => {
  test("are one JSON document on standard output", async () => {
    const { code, stdout } = await ferry(["migrate", "a/b", "--to", "node-b", "--json"]);
    assert.equal(code, 2);
    const { error } = JSON.parse(stdout) as { error: { code: string; message: string } };
    assert.equal(error.code, "E_REQUEST");
    assert.match(error.message, /workload name/);
  });
  test("--json behind -- belongs to the workload", async () => {
    const { stdout } = await ferry(["run", "a/b", "--node", "node-a", "--", "x", "--json"]);
    assert.equal(stdout, "");
  });
});

describe("no lab, no server", () => {
  test("no lab: a sentence with what to do", async () => {
    const { code, stderr } = await ferry(["ps"]);
    assert.notEqual(code, 0);
    assert.match(stderr, /lab/);
    assert.match(stderr, /ferry lab up/);
  });
  test("nobody listens at the address: a sentence, no stack trace", async () => {
    const { code, stdout, stderr } = await ferry(["ps", "--address", "127.0.0.1:1", "--json"]);
    assert.equal(code, 1, stderr);
    assert.match(stderr, /127\.0\.0\.1:1/);
    assert.match(stderr, /what to do: /);
    assert.doesNotMatch(stderr, /\n\s+at /);
    const { error } = JSON.parse(stdout) as { error: { code: string } };
    assert.match(error.code, /^E_/);
  });
});
