/** Doctor's checks, on the machine that runs the tests. */
import assert from "node:assert/strict";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { LAB_CHECKS } from "../../deploy/setup/checks.js";
import { cgroup2Root } from "../../src/host/checks-system.js";
import { healthy, renderChecks, runChecks, type Check } from "../../src/host/checks.js";
import { issueNodeCertificate } from "../../src/host/pki.js";
import { ferryError } from "../../src/model/failure.js";

test("every check has an answer and leaves nothing behind", async () => {
  const checks = await runChecks({ more: LAB_CHECKS });
  assert.deepEqual(
    checks.map((check) => check.name),
    [
      ["system", "Node.js", "rights", "processor", "memory", "disk", "namespaces", "bridge", "overlay", "cgroup v2"],
      ["cgroup controllers", "criu", "criu check", "userfaultfd", "page tracking", "soft-dirty", "nftables"],
      [
        "rsync",
        "openssl",
        "certificate",
        "programs",
        "Temporal",
        "lab: programs",
        "lab: node root fs",
        "lab: Temporal server",
      ],
    ].flat(),
  );
  for (const check of checks) {
    assert.notEqual(check.value, "", check.name);
    assert.notEqual(check.value, "could not be checked", `${check.name}: ${check.detail}`);
    if (check.status === "fail" || check.status === "warn") {
      assert.notEqual(check.remedy, "", `${check.name} must say what to do`);
    }
  }
  const root = await cgroup2Root();
  if (root !== undefined) {
    assert.deepEqual(
      (await readdir(root)).filter((name) => name.startsWith(`ferry-doctor-${process.pid}-`)),
      [],
    );
  }
});

test("only the checks that were asked for are run", async () => {
  assert.deepEqual(
    (await runChecks({ only: ["disk", "system"], directory: "/no/such/folder/yet" })).map((check) => check.name),
    ["system", "disk"],
  );
});

test("Temporal is asked, and a wrong address is named", async () => {
  const temporal = async (address?: string, ask?: () => Promise<string>): Promise<Check> => {
    const given = { ...(address && { temporalAddress: address }), ...(ask && { askTemporal: ask }) };
    return (await runChecks({ only: ["Temporal"], ...given }))[0]!;
  };
  assert.equal((await temporal()).status, "skip");
  for (const wrong of ["nonsense", ":7233", "host:", "host:0", "host:99999", "host:1e3x"]) {
    assert.equal((await temporal(wrong)).status, "fail", wrong);
  }
  const good = await temporal("host:7233", () => Promise.resolve("1.29.1"));
  assert.deepEqual([good.status, /^host:7233, version 1\.29\.1, answers in \d+ ms$/.test(good.value)], ["ok", true]);
  const down = await temporal("host:7233", () => Promise.reject(ferryError("E_TEMPORAL_DOWN", "no answer")));
  assert.deepEqual([down.status, down.detail], ["fail", "no answer"]);
});

test("a node's certificate: good, another's key, files that are missing, none", async () => {
  const dir = mkdtempSync(join(tmpdir(), "ferry-checks-"));
  try {
    const issue = (name: string): ReturnType<typeof issueNodeCertificate> =>
      issueNodeCertificate({ authorityDir: join(dir, "ca"), node: "node-a", outDir: join(dir, name) });
    const one = await issue("one");
    const two = await issue("two");
    const look = async (tlsDir: string): Promise<Check> => (await runChecks({ only: ["certificate"], tlsDir }))[0]!;
    assert.deepEqual([(await look(dir)).status, (await look(dirname(one.certFile))).status], ["skip", "ok"]);
    copyFileSync(two.keyFile, one.keyFile);
    assert.deepEqual((await look(dirname(one.certFile))).value, "not a pair");
    rmSync(two.caFile);
    assert.equal((await look(dirname(two.certFile))).status, "fail");
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("the table shows what to do right below what fails", () => {
  const lines = renderChecks([
    { name: "disk", status: "ok", value: "9 GiB", detail: "", remedy: "" },
    { name: "rights", status: "fail", value: "uid 7", detail: "needs root", remedy: "use sudo" },
  ]);
  assert.deepEqual(lines, [
    "ok    disk    9 GiB",
    "fail  rights  uid 7",
    "              needs root",
    "              what to do: use sudo",
    "",
    "1 ok, 0 to know, 1 missing, 0 skipped",
  ]);
  assert.equal(healthy([{ name: "x", status: "warn", value: "", detail: "", remedy: "" }]), true);
  assert.equal(healthy([{ name: "x", status: "fail", value: "", detail: "", remedy: "" }]), false);
});
