/** `ferry keygen`, `ferry sign` and `ferry run --signed`: what one writes the next one reads, and the node believes. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { parsePolicy } from "../../src/agent/policy.js";
import { checkPolicy } from "../../src/agent/policy-check.js";
import { readSigned, requestOfSpec } from "../../src/cli/signed.js";
import { checkRun } from "../../src/client/requests.js";
import { specFrom } from "../../src/client/spec.js";
import { parsePayloadKeys } from "../../src/keys/payload-keys.js";
import { ferry } from "./support.js";

const dir = mkdtempSync(join(tmpdir(), "ferry-signing-"));
after(() => rmSync(dir, { recursive: true }));
const file = (name: string): string => join(dir, name);
const modeOf = (path: string): number => statSync(path).mode & 0o777;

const SIGN = ["--ip", "10.77.0.120/24", "--key", file("alice.key"), "--signer", "alice"];
const MORE = ["--user", "nobody", "--env", "A=1", "--limit", "memory=64M,cpu=0.5", "--volume", "pg:/srv/pg"];

test("a key is made once, private; a spec is signed with it, and a node that knows the line takes it", async () => {
  const made = await ferry(["keygen", "signing", "--out", file("alice.key"), "--json"]);
  assert.equal(made.code, 0, made.stderr);
  assert.equal(modeOf(file("alice.key")), 0o600);
  const { publicKey } = JSON.parse(made.stdout) as { publicKey: string };
  const again = await ferry(["keygen", "signing", "--out", file("alice.key")]);
  assert.equal(again.code, 2);
  assert.match(again.stderr, /the key can't be written .*EEXIST/);

  const signed = await ferry(["sign", "web", ...SIGN, ...MORE, "--for", "node-a", "--", "serve", "--all"]);
  assert.equal(signed.code, 0, signed.stderr);
  writeFileSync(file("web.json"), signed.stdout);
  const spec = readSigned(file("web.json"));
  assert.deepEqual(spec.command, ["serve", "--all"]);
  const policy = parsePolicy(JSON.stringify({ trustedSigners: { alice: publicKey }, requireSignature: true }));
  const asked = { side: "source" as const, node: "node-a", nowMs: Date.now(), others: 0 };
  assert.deepEqual(checkPolicy(spec, policy, asked), []);
  assert.match(
    checkPolicy(spec, policy, { ...asked, nowMs: Date.now() + 91 * 86_400_000 })[0]?.message ?? "",
    /expired/,
  );
  // The way that `ferry run --signed` takes: nothing of it is changed.
  const checked = checkRun(requestOfSpec(spec, "node-a"));
  assert.deepEqual(specFrom(checked, checked.ip ?? ""), spec);
});

test("wrong use of sign and run --signed says what to do", async () => {
  writeFileSync(file("unsigned.json"), JSON.stringify({ ...readSigned(file("web.json")), signature: undefined }));
  writeFileSync(file("half.json"), "{");
  writeFileSync(file("other.json"), '{"name":"web"}');
  writeFileSync(file("no.key"), "secret words");
  const node = ["--node", "node-a"];
  const cases: [string[], RegExp][] = [
    [["sign", "web", ...SIGN, "--ip", "10.77.0.120", "--", "x"], /has no prefix length/],
    [["sign", "web", ...SIGN, "--key", file("none"), "--", "x"], /signing key can't be read/],
    [["sign", "web", ...SIGN, "--key", file("no.key"), "--", "x"], /not a PEM private key/],
    [["sign", "web", ...SIGN, "--days", "0", "--", "x"], /number of days/],
    [["sign", "web", ...SIGN, "--signer", "A B", "--", "x"], /signer name "A B" is not valid/],
    [["sign", "web", "--ip", "10.77.0.120/24", "--", "x"], /--key <file>/],
    [["run", ...node, "--signed", file("none")], /can't be read/],
    [["run", ...node, "--signed", file("half.json")], /can't be read/],
    [["run", ...node, "--signed", file("other.json")], /is not a spec: .*command is missing/],
    [["run", ...node, "--signed", file("unsigned.json")], /is not signed/],
    [["run", "web", ...node, "--signed", file("web.json"), "--", "x"], /goes without a name and a command/],
    [["run", ...node, "--signed", file("web.json"), "--user", "root"], /goes without --user/],
    [["run", ...node], /missing required argument 'name'/],
  ];
  for (const [argv, words] of cases) {
    const { code, stderr } = await ferry(argv);
    assert.equal(code, 2, `${argv.join(" ")}: ${stderr}`);
    assert.match(stderr, words);
    assert.match(stderr, /what to do: /);
    assert.doesNotMatch(stderr, /secret words/);
  }
});

test("keys of histories: a new one goes on top, and a file that is something else is left alone", async () => {
  const out = file("histories.keys");
  assert.equal((await ferry(["keygen", "histories", "--out", out, "--id", "one"])).code, 0);
  const { stdout } = await ferry(["keygen", "histories", "--out", out, "--id", "two"]);
  assert.match(stdout, /two, one; the first one encrypts, all decrypt/);
  const text = readFileSync(out, "utf8");
  assert.deepEqual(
    parsePayloadKeys(text, out).map(({ id }) => id),
    ["two", "one"],
  );
  assert.equal(modeOf(out), 0o600);
  assert.ok(!stdout.includes(text.split(/\s/)[1] ?? "?"), "the key is printed");
  const twice = await ferry(["keygen", "histories", "--out", out, "--id", "one"]);
  assert.match(twice.stderr, /the id one is there twice/);
  assert.match((await ferry(["keygen", "histories", "--out", file("web.json")])).stderr, /line 2 is not valid/);
  assert.equal(readFileSync(out, "utf8"), text);
});
