/** Volumes: copied ones move with everything that a file can be, shared ones are the same storage on both nodes. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { labRun } from "../../deploy/lab/index.js";
import { FerryError } from "../../src/client/index.js";
import type { WorkloadHandle } from "../../src/client/types.js";
import { andRemove, wholeLog } from "./on-the-move.js";
import { assertMoved, migrate, startLab, until, type E2eLab } from "./support.js";

const skip = process.getuid?.() === 0 ? false : "needs root";
let e2e: E2eLab;
before(async () => {
  if (skip === false) e2e = await startLab();
});
after(async () => {
  if (skip === false) await e2e.down();
});

/** Makes files of every kind in a directory, keeps some of them open, and goes on writing. */
const WRITER = `
import os, sys, time, mmap, socket
d = "/srv/files"
os.makedirs(d + "/deep/er", exist_ok=True)
with open(d + "/sparse", "wb") as f:
    f.truncate(256 << 20); f.seek(128 << 20); f.write(b"middle")
for n in range(3):
    with open(d + "/holes%d" % n, "wb") as f:
        f.truncate(64 << 20)
        for at in range(n, 64, 16): f.seek(at << 20); f.write(os.urandom(1 << 16))
with open(d + "/deep/one", "wb") as f: f.write(os.urandom(300000))
os.link(d + "/deep/one", d + "/deep/er/two")
large = open(d + "/large", "w+b", buffering=0); large.write(os.urandom(24 << 20))
os.symlink("/etc/hostname", d + "/absolute"); os.symlink("../../out", d + "/relative")
os.setxattr(d + "/deep/one", "user.colour", b"green")
os.setxattr(d + "/deep", "user.dir", b"yes")
os.mkfifo(d + "/pipe", 0o640)
os.chown(d + "/sparse", 1234, 4321); os.chmod(d + "/sparse", 0o4750)
gone = open(d + "/gone", "w+b"); gone.write(b"still here" * 1000); gone.flush(); os.unlink(d + "/gone")
mapped = open(d + "/mapped", "w+b"); mapped.truncate(1 << 20); m = mmap.mmap(mapped.fileno(), 1 << 20)
shared = open("/srv/both/journal", "ab", buffering=0)
journal = open(d + "/journal", "ab", buffering=0)
print("ready", flush=True)
n = 0
while True:
    n += 1
    m[(n * 4099) % (1 << 20)] = n & 255
    line = b"%d\\n" % n
    journal.write(line); shared.write(line)
    large.seek((n * 65537) % (24 << 20)); large.write(line)
    gone.seek(0); assert gone.read(10) == b"still here"
    if n % 100 == 0: print("n", n, flush=True)
    time.sleep(0.004)
`;

const VOLUMES = [
  { name: "files", path: "/srv/files" },
  { name: "shared", path: "/srv/both", kind: "shared" },
] as const;

const said = async (workload: WorkloadHandle): Promise<number> =>
  Number(/.*\nn (\d+)\n/s.exec(await wholeLog(workload))?.[1] ?? 0);

async function goesOn(workload: WorkloadHandle): Promise<void> {
  const start = await said(workload);
  await until("it goes on", 20_000, async () => (await said(workload)) > start + 100);
}

/** Each line of a journal is the one before plus one. */
function assertWhole(text: string): number {
  const numbers = text.trimEnd().split("\n").map(Number);
  assert.deepEqual(
    numbers.findIndex((n, i) => n !== i + 1),
    -1,
    "no line is missing or twice",
  );
  return numbers.length;
}

const inVolume = (node: string, script: string): Promise<string> =>
  labRun(e2e.state, node, ["sh", "-c", `cd /var/lib/ferry/volumes/vols/volumes/files && ${script}`]).then(
    (r) => r.stdout,
  );

/** Where the data of a file lies, and where holes are. */
const HOLES = `
import os, sys
for name in sys.argv[1:]:
    f = os.open(name, os.O_RDONLY); size = os.fstat(f).st_size; at = 0; parts = []
    while True:
        try: start = os.lseek(f, at, os.SEEK_DATA)
        except OSError: break
        at = os.lseek(f, start, os.SEEK_HOLE); parts.append((start >> 10, at >> 10))
    print(name, size, parts)
`;
/** What copiers forget, as the node sees it. */
const KEPT = `getfacl -npR acl; getfattr -d -m - -e hex acl/program; python3 -c '${HOLES}' sparse holes0 holes1 holes2`;

test("a workload with a copied and a shared volume moves there and back", { skip, timeout: 240_000 }, async () => {
  const workload = await e2e.client.workloads.run({
    name: "vols",
    node: "node-a",
    command: ["python3", "-u", "-c", WRITER],
    volumes: [...VOLUMES],
  });
  await andRemove(workload, async () => {
    await until("it is ready", 20_000, async () => (await wholeLog(workload)).includes("ready"));
    await inVolume(
      "node-a",
      `mkdir acl acl/dir; touch acl/file acl/program; setfacl -m u:1234:rw-,g:4321:r--,m::rwx acl/file
       setfacl -m u:77:rwx -m d:u:77:r-x,d:g:88:--- acl/dir; setfattr -n user.note -v plain acl/program
       python3 -c 'import os; os.setxattr("acl/program", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))'`,
    );
    const kept = await inVolume("node-a", KEPT);
    assert.match(kept, /user:1234:rw-/);
    assert.match(kept, /default:user:77:r-x/);
    assert.match(kept, /security\.capability=0x01000002/);
    const digest = await inVolume("node-a", "sha256sum sparse holes? deep/one deep/er/two");
    for (const [to, mode] of [
      ["node-b", "cold"],
      ["node-a", "postcopy"],
      ["node-b", "precopy"],
      ["node-a", "hybrid"],
    ] as const) {
      const report = await migrate(workload, to, mode);
      assertMoved(report);
      await goesOn(workload);
      assert.equal(await inVolume(to, "sha256sum sparse holes? deep/one deep/er/two"), digest);
      assert.equal(await inVolume(to, KEPT), kept, `after ${mode}`);
      assert.equal(
        await inVolume(
          to,
          `stat -c '%n %a %u:%g %h %F %s' sparse deep/one pipe; test deep/one -ef deep/er/two && echo linked
           readlink absolute relative; getfattr --only-values -n user.colour deep/one 2>/dev/null || python3 -c 'import os; print(os.getxattr("deep/one", "user.colour").decode(), end="")'
           test ! -e gone && test $(stat -c %b sparse) -lt 1000 && echo; python3 -c 'import os; print(os.getxattr("deep", "user.dir"))'`,
        ),
        [
          "sparse 4750 1234:4321 1 regular file 268435456",
          "deep/one 644 0:0 2 regular file 300000",
          "pipe 640 0:0 1 fifo 0",
          "linked",
          "/etc/hostname",
          "../../out",
          "green",
          "b'yes'",
        ].join("\n"),
      );
      assertWhole(await inVolume(to, "cat journal"));
    }
    const log = await wholeLog(workload);
    assert.doesNotMatch(log, /Error|Traceback/);
    const { stdout } = await labRun(e2e.state, "node-b", ["cat", "/srv/shared/journal"]);
    assertWhole(stdout);
    const left = await labRun(e2e.state, "node-a", ["find", "/srv/shared", "-name", ".ferry-same-*"]);
    assert.equal(left.stdout, "");
  });
});

test(
  "storage that is not the same on both nodes is refused before anything is touched",
  { skip, timeout: 60_000 },
  async () => {
    const alone = JSON.stringify({ sharedVolumes: { shared: "/srv/alone" } });
    await labRun(e2e.state, "node-b", [
      "sh",
      "-c",
      `mkdir -p /srv/alone && cp /etc/ferry/policy.json /root/policy && echo '${alone}' > /etc/ferry/policy.json`,
    ]);
    const workload = await e2e.client.workloads.run({
      name: "lonely",
      node: "node-a",
      command: ["sleep", "1000"],
      volumes: [{ name: "shared", path: "/srv/both", kind: "shared" }],
    });
    await andRemove(workload, async () => {
      const report = await migrate(workload, "node-b", "cold");
      assert.equal(report.outcome, "refused");
      assert.match(report.failure?.message ?? "", /volume shared is not the same storage on both nodes/);
      await labRun(e2e.state, "node-b", ["sh", "-c", "echo '{}' > /etc/ferry/policy.json"]);
      const unknown = await migrate(workload, "node-b", "cold");
      assert.equal(unknown.outcome, "refused");
      assert.match(unknown.failure?.message ?? "", /has no shared volume shared/);
    });
    await labRun(e2e.state, "node-b", ["mv", "/root/policy", "/etc/ferry/policy.json"]);
  },
);

test("volumes that can't be are refused in words, and leave nothing", { skip, timeout: 60_000 }, async () => {
  const refused = async (
    volumes: { name: string; path: string; kind?: "copy" | "shared" }[],
    why: RegExp,
  ): Promise<void> => {
    await assert.rejects(
      e2e.client.workloads.run({ name: "wrong", node: "node-a", command: ["sleep", "1000"], volumes }),
      (error) => error instanceof FerryError && why.test(JSON.stringify(error.data)),
    );
  };
  await refused([{ name: "a", path: "/srv/../etc" }], /must not contain/);
  await refused([{ name: "a", path: "/var/lib/ferry/volumes" }], /Ferry keeps all workloads' files/);
  await refused([{ name: "a", path: "/var/run/a" }], /symbolic link/);
  await refused([{ name: "a", path: "/etc/hostname" }], /not a directory/);
  await refused([{ name: "other", path: "/srv/a", kind: "shared" }], /has no shared volume other/);
  // The log of a first run that failed is kept.
  const { stdout } = await labRun(e2e.state, "node-a", [
    "sh",
    "-c",
    "ls -d /var/lib/ferry/volumes/*/volumes/* || true",
  ]);
  assert.equal(stdout.trim(), "");
});
