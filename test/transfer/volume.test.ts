/** Both ends of the volume over a real link on loopback, with Debian's rsync. */
import assert from "node:assert/strict";
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { packageRoot } from "../../src/host/package-root.js";
import { createAuthority, issueNodeCertificate } from "../../src/host/pki.js";
import { dialLink, listenLink, type LinkIdentity, type LinkSession } from "../../src/transfer/link/index.js";
import { parseMeta } from "../../src/transfer/mover/process.js";
import { isFrameType } from "../../src/transfer/mover/messages.js";
import { VolumeReceiver } from "../../src/transfer/volume/receiver.js";
import { passResult, type PassEnd } from "../../src/transfer/volume/rsync.js";
import { VolumeSender } from "../../src/transfer/volume/sender.js";
import { sharedMappings, writesUnderWay } from "../../src/transfer/volume/touched.js";

const isRoot = process.getuid?.() === 0;
const skip = isRoot ? false : "needs root: owners, devices and attributes";
const root = mkdtempSync("/var/tmp/ferry-volume-");
let identities: Record<"node-a" | "node-b", LinkIdentity>;

before(async () => {
  await createAuthority(join(root, "ca"));
  const make = async (node: "node-a" | "node-b"): Promise<LinkIdentity> => {
    const outDir = join(root, "pki", node);
    await issueNodeCertificate({ authorityDir: join(root, "ca"), node, outDir });
    return {
      node,
      caFile: join(outDir, "ca.crt"),
      certFile: join(outDir, "node.crt"),
      keyFile: join(outDir, "node.key"),
    };
  };
  identities = { "node-a": await make("node-a"), "node-b": await make("node-b") };
});
after(() => rmSync(root, { recursive: true, force: true }));

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n$/;

interface Rig {
  from: string;
  to: string;
  sender: VolumeSender;
  receiver: VolumeReceiver;
  logs: { message: string; fields: object | undefined }[];
  /** What the destination calls its boot, instead of what it is. */
  boot?: string;
  cut(): void;
  close(): Promise<void>;
}

/** A sender and a receiver with one bulk session between them that can be cut. */
async function rig(name: string, to?: string): Promise<Rig> {
  const from = join(root, name, "from");
  const target = to ?? join(root, name, "to");
  mkdirSync(from, { recursive: true });
  const logs: Rig["logs"] = [];
  const receiver = new VolumeReceiver(
    { dir: target, onChange: () => undefined, log: (message, fields) => logs.push({ message, fields }) },
    false,
  );
  const listener = await listenLink({
    identity: identities["node-b"],
    host: "127.0.0.1",
    port: 0,
    lendPayloads: true,
    accept: () => undefined,
    onSession: (session) => {
      receiver.attach(session);
      session.onClose(() => receiver.close());
      session.onFrame(async ({ type, meta, payload }) => {
        assert.ok(isFrameType(type));
        if (type === "volume-open") receiver.open(parseMeta(type, meta));
        else if (type === "volume-data") await receiver.data(parseMeta(type, meta).stream, payload);
        else if (type === "volume-eof") receiver.eof(parseMeta(type, meta).stream);
        else if (type === "volume-final") receiver.final();
      });
    },
  });
  let session: LinkSession | undefined;
  const connect = async (): Promise<LinkSession> => {
    if (session !== undefined && !session.closed) return session;
    const hello = { purpose: "bulk", operation: "app.migrate.1", workload: "app", to: 2 } as const;
    const fresh = await dialLink({
      identity: identities["node-a"],
      host: "127.0.0.1",
      port: listener.port,
      peer: "node-b",
      hello,
    });
    session = fresh;
    fresh.onFrame(({ type, meta, payload }) => {
      if (type !== "volume-data" && type !== "volume-exit") return undefined;
      const said = made.boot !== undefined && UUID.test(payload.toString()) ? Buffer.from(made.boot) : payload;
      return sender.received(type, parseMeta(type, meta), said);
    });
    fresh.onClose(() => sender.detach(fresh));
    sender.attach(fresh);
    return fresh;
  };
  const sender = new VolumeSender({
    dir: from,
    take: () => Promise.resolve(),
    session: connect,
    onChange: () => undefined,
    log: (message, fields) => logs.push({ message, fields }),
  });
  const made: Rig = {
    from,
    to: target,
    sender,
    receiver,
    logs,
    cut: () => session?.destroy(),
    async close() {
      sender.close();
      await session?.close();
      receiver.close();
      await listener.close();
    },
  };
  return made;
}

const ATTRIBUTES = `
import os
for d, ds, fs in sorted(os.walk(b".")):
    for n in sorted(ds + fs):
        p = os.path.join(d, n)
        print(p, [(a, os.getxattr(p, a, follow_symlinks=False)) for a in sorted(os.listxattr(p, follow_symlinks=False))])
`;

/** Everything that find and sha256sum say of a tree, except change times and inode numbers. */
function describe(dir: string): string {
  const list = execFileSync("find", [".", "-printf", String.raw`%P %y %m %U:%G %n %l\0`], { cwd: dir });
  // rsync does not set the times of links, pipes and devices
  const times = [
    ".",
    "(",
    "-type",
    "f",
    "-printf",
    String.raw`%P %s %T@\0`,
    "-o",
    "-type",
    "d",
    "-printf",
    String.raw`%P %T@\0`,
    ")",
  ];
  const sizes = execFileSync("find", times, { cwd: dir });
  const sums = execFileSync("sh", ["-c", "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum -z"], {
    cwd: dir,
  });
  const attributes = execFileSync("python3", ["-c", ATTRIBUTES], { cwd: dir }).toString("latin1");
  const sort = (buffer: Buffer): string => buffer.toString("latin1").split("\0").toSorted().join("\n");
  return [sort(list), sort(sizes), sums.toString("latin1"), attributes].join("\n---\n");
}

function fill(dir: string): void {
  writeFileSync(join(dir, "plain"), "hello");
  writeFileSync(join(dir, "with space"), "1");
  writeFileSync(join(dir, "with\nnewline"), "2");
  writeFileSync(join(dir, "ünï\u{1f6a2}"), "3");
  writeFileSync(join(dir, "-rf *[x]?"), "4");
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0x66, 0xff, 0xfe])]), "not UTF-8");
  mkdirSync(join(dir, "sub/deep"), { recursive: true });
  writeFileSync(join(dir, "sub/deep/file"), Buffer.alloc(300_000, "abc"));
  linkSync(join(dir, "sub/deep/file"), join(dir, "hard"));
  linkSync(join(dir, "plain"), join(dir, "sub/twin"));
  symlinkSync("/etc/passwd", join(dir, "link"));
  symlinkSync("nowhere", join(dir, "dangling"));
  execFileSync("mkfifo", [join(dir, "fifo")]);
  execFileSync("mknod", [join(dir, "whiteout"), "c", "0", "0"]);
  writeFileSync(join(dir, "sparse"), "start");
  truncateSync(join(dir, "sparse"), 50_000_000);
  writeFileSync(join(dir, "owned"), "x");
  execFileSync("chown", ["1234:5678", join(dir, "owned")]);
  execFileSync("chmod", ["4711", join(dir, "owned")]);
  const attribute = "import os,sys; os.setxattr(sys.argv[1], sys.argv[2], b'a b')";
  execFileSync("python3", ["-c", attribute, join(dir, "plain"), "user.note"]);
  execFileSync("python3", ["-c", attribute, join(dir, "sub"), "trusted.overlay.opaque"]);
  utimesSync(join(dir, "plain"), 1_000_000, 1_000_000);
}

test(
  "a volume arrives exactly: links, holes, attributes, odd names, deletions",
  { skip, timeout: 60_000 },
  async () => {
    const r = await rig("exact");
    fill(r.from);
    await r.sender.presync([]);
    assert.equal(describe(r.to), describe(r.from));
    assert.ok(statSync(join(r.to, "sparse")).blocks < 1000, "holes stay holes");

    // the workload goes on: deletes, renames, breaks a link, grows a file
    unlinkSync(join(r.from, "with space"));
    rmSync(join(r.from, "sub/deep"), { recursive: true });
    writeFileSync(join(r.from, "new"), "n");
    renameSync(join(r.from, "new"), join(r.from, "plain")); // sub/twin keeps the old content
    writeFileSync(join(r.from, "log"), "one\n");
    await r.sender.presync([]);
    writeFileSync(join(r.from, "log"), "one\ntwo\n");
    await r.sender.finalSync([]);
    assert.equal(describe(r.to), describe(r.from));
    assert.equal(readFileSync(join(r.to, "sub/twin"), "utf8"), "hello");
    for (let i = 0; i < 500 && !r.receiver.durable; i += 1) await sleep(10);
    assert.ok(r.receiver.finalDone && r.receiver.durable);
    await r.close();
  },
);

test("a change that leaves size and time alone is found", { skip, timeout: 60_000 }, async () => {
  const r = await rig("quiet");
  const file = join(r.from, "db");
  const old = join(r.from, "untouched");
  writeFileSync(old, "long ago");
  writeFileSync(file, Buffer.alloc(1_000_000, 1));
  linkSync(file, join(r.from, "other name"));
  utimesSync(file, 1_000_000, 1_000_000);
  await sleep(20);
  await r.sender.presync([]);
  const data = Buffer.alloc(1_000_000, 1);
  data[500_000] = 2;
  writeFileSync(file, data);
  utimesSync(file, 1_000_000, 1_000_000);
  await r.sender.finalSync([]);
  assert.equal(readFileSync(join(r.to, "db"))[500_000], 2);
  assert.equal(describe(r.to), describe(r.from));
  await r.close();
});

test("stores through a shared mapping are found, though they change no time", { skip, timeout: 60_000 }, async () => {
  const r = await rig("mapped");
  const file = join(r.from, "mapped [1]*");
  writeFileSync(file, Buffer.alloc(64 * 4096, 1));
  const program = [
    "import mmap,sys,os",
    "f=open(sys.argv[1],'r+b'); m=mmap.mmap(f.fileno(),0); f.close()",
    "m[0]=7",
    "print('a',flush=True); sys.stdin.readline()",
    "m[100]=9; m[1]=8",
    "print('b',flush=True); sys.stdin.readline()",
  ].join("\n");
  const child = spawn("python3", ["-c", program, file], { stdio: ["pipe", "pipe", "inherit"] });
  await once(child.stdout, "data");
  // the margin of the change time must not be what finds it
  await sleep(500);
  await r.sender.presync([child.pid!]);
  const before = statSync(file, { bigint: true });
  child.stdin.write("\n");
  await once(child.stdout, "data");
  child.kill("SIGSTOP");
  assert.equal(statSync(file, { bigint: true }).mtimeNs, before.mtimeNs, "the premise: no time has changed");
  await r.sender.finalSync([child.pid!]);
  child.kill("SIGKILL");
  assert.equal(readFileSync(join(r.to, "mapped [1]*"))[100], 9);
  assert.equal(describe(r.to), describe(r.from));
  await r.close();
});

test("the final pass of a small unchanged volume is fast", { skip, timeout: 60_000 }, async () => {
  const r = await rig("fast");
  for (let i = 0; i < 200; i += 1) writeFileSync(join(r.from, `f${i}`), Buffer.alloc(10_000, i));
  await sleep(2300);
  await r.sender.presync([]);
  await sleep(500);
  const start = performance.now();
  await r.sender.finalSync([]);
  const ms = performance.now() - start;
  console.log(`final pass of 200 unchanged files: ${ms.toFixed(0)} ms`, JSON.stringify(r.logs.at(-1)?.fields));
  assert.ok(ms < 2000, `${ms} ms`);
  await r.close();
});

test("a link that is cut in a pass: the pass is done again", { skip, timeout: 60_000 }, async () => {
  const r = await rig("cut");
  for (let i = 0; i < 20; i += 1) writeFileSync(join(r.from, `f${i}`), Buffer.alloc(4_000_000, i));
  const done = r.sender.presync([]);
  while (r.receiver.bytesReceived < 1_000_000) await sleep(1);
  r.cut();
  await done;
  await r.sender.finalSync([]);
  assert.equal(describe(r.to), describe(r.from));
  await r.close();
});

test("a full disk is E_NO_SPACE in the destination's words", { skip, timeout: 60_000 }, async () => {
  const to = join(root, "full", "to");
  mkdirSync(to, { recursive: true });
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", to]);
  try {
    const r = await rig("full", to);
    writeFileSync(join(r.from, "big"), Buffer.alloc(5_000_000, 1));
    await assert.rejects(r.sender.presync([]), (error: { data?: { code: string; side: string; message: string } }) => {
      assert.equal(error.data?.code, "E_NO_SPACE");
      assert.equal(error.data.side, "destination");
      assert.match(error.data.message, /No space left on device/);
      return true;
    });
    assert.ok(!existsSync(join(to, "big")));
    await r.close();
  } finally {
    execFileSync("umount", [to]);
  }
});

test("files that come and go while the workload runs do not fail a pass", { skip, timeout: 60_000 }, async () => {
  const r = await rig("busy");
  const script = `i=0; while :; do i=$((i+1)); echo $i > f$i; rm -f f$((i-50)); mv -f f$((i-20)) g 2>/dev/null; done`;
  const child = spawn("sh", ["-c", script], { cwd: r.from, stdio: "ignore" });
  await sleep(200);
  for (let i = 0; i < 3; i += 1) await r.sender.presync([child.pid!]);
  child.kill("SIGKILL");
  await once(child, "close");
  await sleep(50);
  await r.sender.finalSync([]);
  assert.equal(describe(r.to), describe(r.from));
  await r.close();
});

/** A task that stands still: no call of it is under way. */
async function stop(child: ChildProcess): Promise<void> {
  child.kill("SIGSTOP");
  while (!/\) T /.test(readFileSync(`/proc/${child.pid}/stat`, "latin1"))) await sleep(1);
}

/** What the log says of the final pass. */
function saysOf(r: Rig, expected: object): void {
  const { fields } = r.logs.findLast(({ message }) => message === "volume: final pass") ?? {};
  assert.deepEqual({ ...fields, ...expected }, fields);
}

test("nothing changed: the final pass starts nothing and sends nothing", { skip, timeout: 60_000 }, async () => {
  const r = await rig("still");
  fill(r.from);
  writeFileSync(join(r.from, "big"), Buffer.alloc(20_000_000, 7));
  await r.sender.presync([process.pid]);
  await sleep(500);
  await r.sender.presync([process.pid]);
  await sleep(200);
  const before = r.sender.bytesSent;
  await r.sender.finalSync([process.pid]);
  saysOf(r, { inPlace: 0, anew: 0, tree: false });
  assert.equal(r.sender.bytesSent, before);
  assert.equal(describe(r.to), describe(r.from));
  await r.close();
});

test("each pass compares only what changed since the one before", { skip, timeout: 60_000 }, async () => {
  const r = await rig("onward");
  for (const name of ["first", "second", "third"]) writeFileSync(join(r.from, name), Buffer.alloc(9_000_000, name));
  await sleep(500);
  await r.sender.presync([process.pid]);
  const change = (name: string): void => {
    const { atime, mtime } = statSync(join(r.from, name));
    writeFileSync(join(r.from, name), "x", { flag: "r+" });
    utimesSync(join(r.from, name), atime, mtime);
  };
  change("first");
  await r.sender.presync([process.pid]);
  assert.equal(r.sender.last.comparedBytes, 9_000_000);
  await sleep(500);
  await r.sender.presync([process.pid]);
  change("second");
  await r.sender.presync([process.pid]);
  assert.equal(r.sender.last.comparedBytes, 9_000_000, "the first is done with");
  await sleep(500);
  await r.sender.presync([process.pid]);
  change("third");
  const before = r.sender.bytesSent;
  const { ino } = statSync(join(r.to, "third"));
  await r.sender.finalSync([process.pid]);
  saysOf(r, { inPlace: 1, anew: 0, tree: false, bytes: 9_000_000 });
  assert.ok(r.sender.bytesSent - before < 200_000, "one block, not the file");
  assert.equal(statSync(join(r.to, "third")).ino, ino, "in place");
  assert.equal(describe(r.to), describe(r.from));
  await r.close();
});

test("holes that come and go stay holes, in place as well", { skip, timeout: 60_000 }, async () => {
  const r = await rig("holes");
  const names = ["a", "b", "c"].map((name) => join(r.from, name));
  for (const name of names) {
    writeFileSync(name, Buffer.alloc(20 << 20, 5));
    truncateSync(name, 200 << 20);
  }
  await r.sender.presync([]);
  const [a = "", b = "", c = ""] = names;
  execFileSync("fallocate", ["--punch-hole", "--offset", String(4 << 20), "--length", String(10 << 20), a]);
  execFileSync("fallocate", ["--zero-range", "--offset", String(1 << 20), "--length", String(3 << 20), b]);
  execFileSync("dd", ["if=/dev/urandom", `of=${c}`, "bs=1M", "count=1", "seek=150", "conv=notrunc"], {
    stdio: "ignore",
  });
  await r.sender.finalSync([]);
  assert.equal(describe(r.to), describe(r.from));
  for (const name of ["a", "b", "c"]) {
    const [there, here] = [statSync(join(r.to, name)).blocks, statSync(join(r.from, name)).blocks];
    assert.ok(there <= here + 64, `${name}: ${there} blocks, ${here} at the source`);
  }
  await r.close();
});

test("names that are no longer one file are no longer one file there", { skip, timeout: 60_000 }, async () => {
  const r = await rig("separated");
  const at = (name: string): string => join(r.from, name);
  for (const [a, b, size] of [
    ["small", "sub/small", 1000],
    ["large", "sub/large", 10_000_000],
    ["same", "sub/same", 1000],
  ] as const) {
    mkdirSync(at("sub"), { recursive: true });
    writeFileSync(at(a), Buffer.alloc(size, 1));
    linkSync(at(a), at(b));
  }
  await sleep(500);
  await r.sender.presync([]);
  assert.equal(describe(r.to), describe(r.from));
  for (const name of ["small", "large", "same"]) {
    // the same size and time, mostly another content
    execFileSync("cp", ["-p", at(name), at("copy")]);
    const { atime, mtime } = statSync(at(name));
    if (name !== "same") writeFileSync(at("copy"), "2", { flag: "r+" });
    utimesSync(at("copy"), atime, mtime);
    renameSync(at("copy"), at(`sub/${name}`));
  }
  await r.sender.finalSync([]);
  assert.equal(describe(r.to), describe(r.from));
  await r.close();
});

test(
  "a renamed directory takes its files along, though none of them has changed",
  { skip, timeout: 60_000 },
  async () => {
    const r = await rig("renamed");
    for (const dir of ["one", "two"]) {
      mkdirSync(join(r.from, dir, "deep"), { recursive: true });
      writeFileSync(join(r.from, dir, "deep/file"), dir);
      utimesSync(join(r.from, dir, "deep/file"), 1_000_000, 1_000_000);
    }
    await sleep(500);
    await r.sender.presync([]);
    renameSync(join(r.from, "one"), join(r.from, "three"));
    renameSync(join(r.from, "two"), join(r.from, "one"));
    renameSync(join(r.from, "three"), join(r.from, "two"));
    await r.sender.finalSync([]);
    assert.equal(describe(r.to), describe(r.from));
    await r.close();
  },
);

test("a pass that is cut ends soon, and what it left is done later", { skip, timeout: 60_000 }, async () => {
  const r = await rig("cut-short");
  for (let i = 0; i < 30; i += 1) writeFileSync(join(r.from, `f${i}`), Buffer.alloc(8_000_000, i));
  const done = r.sender.presync([]);
  while (r.receiver.bytesReceived < 1_000_000) await sleep(1);
  r.sender.cut();
  await done;
  assert.equal(r.sender.passes, 0);
  await r.sender.finalSync([]);
  assert.equal(describe(r.to), describe(r.from));
  await r.close();
});

test("what was left of an older copy is not trusted", { skip, timeout: 60_000 }, async () => {
  const r = await rig("leftover");
  mkdirSync(r.to, { recursive: true });
  writeFileSync(join(r.from, "file"), "new");
  writeFileSync(join(r.to, "file"), "old");
  for (const dir of [r.from, r.to]) utimesSync(join(dir, "file"), 1_000_000, 1_000_000);
  await sleep(500);
  await r.sender.presync([]);
  await r.sender.finalSync([]);
  assert.equal(describe(r.to), describe(r.from));
  await r.close();
});

test("a destination that was started anew is not trusted to have what it had", { skip, timeout: 60_000 }, async () => {
  const r = await rig("boot");
  writeFileSync(join(r.from, "file"), Buffer.alloc(100_000, 1));
  await sleep(500);
  await r.sender.presync([process.pid]);
  // What a machine that lost power may have left of it.
  const { atime, mtime } = statSync(join(r.to, "file"));
  writeFileSync(join(r.to, "file"), Buffer.alloc(100_000));
  utimesSync(join(r.to, "file"), atime, mtime);
  r.boot = "another";
  r.cut();
  await r.sender.finalSync([process.pid]);
  assert.equal(describe(r.to), describe(r.from));
  await r.close();
});

test("a file that becomes a pipe under rsync does not hold it up", { skip, timeout: 60_000 }, async () => {
  const r = await rig("pipe");
  writeFileSync(join(r.from, "first"), Buffer.alloc(60_000_000, 3));
  writeFileSync(join(r.from, "second"), Buffer.alloc(1_000_000, 4));
  const done = r.sender.presync([process.pid]);
  // It is in the list, and not open yet.
  while (r.receiver.bytesReceived < 100_000) await sleep(1);
  unlinkSync(join(r.from, "second"));
  execFileSync("mkfifo", [join(r.from, "second")]);
  await done;
  await r.sender.finalSync([process.pid]);
  assert.equal(describe(r.to), describe(r.from));
  await r.close();
});

test("mappings of children and calls that take long are found", { skip, timeout: 60_000 }, async () => {
  const dir = join(root, "touched");
  mkdirSync(dir);
  writeFileSync(join(dir, "mapped"), Buffer.alloc(4096));
  execFileSync("mkfifo", [join(dir, "slow")]);
  const program = [
    "import mmap,os,sys,time",
    "if os.fork() == 0:",
    "  f=open('mapped','r+b'); m=mmap.mmap(f.fileno(),0); time.sleep(100)",
    "if os.fork() == 0:",
    "  idle=open('idle','wb'); os.write(1,b'2')",
    "  while True: pass",
    "f=os.open('slow',os.O_RDWR); time.sleep(0.3); os.write(1,b'1'); os.write(f, bytes(1<<20))",
  ].join("\n");
  const child = spawn("python3", ["-c", program], { cwd: dir, stdio: ["ignore", "pipe", "inherit"], detached: true });
  try {
    for (let said = ""; said.length < 2;) said += String((await once(child.stdout, "data"))[0]);
    await sleep(100);
    assert.ok(sharedMappings([child.pid ?? 0]).has("mapped"));
    assert.deepEqual([...(await writesUnderWay([child.pid ?? 0]))], ["slow"]);
  } finally {
    process.kill(-(child.pid ?? 0), "SIGKILL");
  }
});

test("what rsync refuses in a race is tried again; what it always refuses is a failure, and so is a full disk", () => {
  const end = (exitCode: number, ...lines: string[]): PassEnd => ({ exitCode, signal: null, lines, serverLines: [] });
  for (const code of [2, 12]) {
    assert.equal(passResult(end(code, "rsync error: protocol incompatibility"), true), "partial");
    assert.equal(passResult(end(code), false), "failed");
  }
  assert.equal(passResult(end(23, "file has vanished: x"), true), "done");
  assert.equal(passResult(end(23, "rsync: [receiver] mkstemp failed: Permission denied (13)"), true), "partial");
  for (const code of [2, 11, 12, 23])
    assert.equal(passResult(end(code, "write failed: No space left on device (28)"), true), "failed");
});

const PROGRAM = join(packageRoot(), "test/transfer/volume-writer.py");
for (const seed of (process.env["FERRY_SEEDS"] ?? "1 2 3 4").split(" ").map(Number)) {
  test(`nothing that a hostile writer does is missed (${seed})`, { skip, timeout: 120_000 }, async () => {
    const r = await rig(`hostile-${seed}`);
    const child = spawn("python3", [PROGRAM, r.from, String(seed)], { stdio: ["ignore", "pipe", "inherit"] });
    try {
      await once(child.stdout, "data");
      let wrote = 0;
      child.stdout.on("data", (chunk: Buffer) => (wrote += chunk.length));
      const pids = [child.pid ?? 0];
      await r.sender.presync(pids);
      void sleep(60).then(() => r.sender.cut());
      await r.sender.presync(pids);
      await sleep(seed % 2 === 0 ? 500 : 50);
      await r.sender.presync(pids);
      if (seed > 2) await r.sender.presync(pids);
      const before = wrote;
      await once(child.stdout, "data");
      assert.ok(wrote > before, "it goes on");
      await stop(child);
      await r.sender.finalSync(pids);
      assert.equal(describe(r.to), describe(r.from));
    } catch (error) {
      console.log(JSON.stringify(r.logs));
      throw error;
    } finally {
      if (process.env["FERRY_SEEDS"] !== undefined) console.log(JSON.stringify(r.logs));
      child.kill("SIGKILL");
      await r.close();
    }
  });
}
