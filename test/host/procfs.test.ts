/** The /proc parsers against hostile names, and the socket tables. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { buildIdInNotes } from "../../src/host/elf.js";
import { parseCpuFlags } from "../../src/host/facts.js";
import {
  kibBytes,
  mountOf,
  mountOption,
  parseFdInfo,
  parseKeyed,
  parseMaps,
  parseMountinfo,
  parseStat,
  shown,
  unescapeOctal,
} from "../../src/host/procfs.js";
import { decodeAddress, parseInet, parseSsUnix } from "../../src/host/sockets.js";

const tail = "S 1 7 9 34816 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 100 1 2";

test("stat: the command ends at the last parenthesis", () => {
  const expected = { pid: 7, state: "S", ppid: 1, session: 9, tty: 34816, threads: 3 };
  for (const comm of ["redis-server", "a) R 1 (b", "x\ny", "", ")"]) {
    assert.deepEqual(parseStat(`7 (${comm}) ${tail}\n`), { ...expected, comm });
  }
  for (const text of ["", "7", "7 (x", "x (y) S 1 7 9 0", "7 (x) S a b c d"]) assert.equal(parseStat(text), undefined);
});

test("octal escapes are bytes of UTF-8", () => {
  assert.equal(unescapeOctal("/a\\040b\\011c\\134d"), "/a b\tc\\d");
  assert.equal(unescapeOctal("\\303\\274"), "ü");
  assert.equal(unescapeOctal("/plain"), "/plain");
});

test("maps: paths with spaces and newlines, anonymous areas, devices", () => {
  const maps =
    parseMaps(`55d0c0000000-55d0c0001000 r-xp 00000000 fe:00 1234                       /usr/bin/a b (deleted)
00400000-00401000 r--p 00000000 fe:00 12 /x\\012y
7ffc00000000-7ffc00001000 rw-p 00000000 00:00 0                          [stack]
7f0000000000-7f0000001000 rw-p 00000000 00:00 0
nonsense
`);
  assert.deepEqual(
    maps.map(({ range, perms, inode, path }) => [range, perms, inode, path]),
    [
      ["55d0c0000000-55d0c0001000", "r-xp", "1234", "/usr/bin/a b (deleted)"],
      ["400000-401000", "r--p", "12", "/x\ny"],
      ["7ffc00000000-7ffc00001000", "rw-p", "0", "[stack]"],
      ["7f0000000000-7f0000001000", "rw-p", "0", ""],
    ],
  );
});

test("mountinfo: optional fields, escapes, the mount that a path lies on", () => {
  const mounts =
    parseMountinfo(`10 1 0:30 / / rw,relatime shared:1 master:2 - overlay overlay rw,lowerdir=/,upperdir=/v\\040w/up\\,per
11 10 0:31 / /proc rw - proc proc rw
12 10 8:1 /vol/data /data rw - ext4 /dev/sda1 rw
13 10 0:40 / /data\\040two rw - tmpfs tmpfs rw
`);
  assert.equal(mounts.length, 4);
  assert.equal(mountOption(mounts[0]?.superOptions ?? "", "upperdir"), "/v w/up,per");
  assert.equal(mountOption(mounts[0]?.superOptions ?? "", "workdir"), undefined);
  assert.deepEqual(
    ["/usr/bin/x", "/data", "/data/y", "/database", "/data two/z", "/proc/1"].map((path) => mountOf(mounts, path)?.id),
    [10, 12, 12, 10, 13, 11],
  );
});

test("status and fdinfo", () => {
  const status = parseKeyed("Name:\ta:b\\nc\nVmRSS:\t  1024 kB\nName:\tother\n");
  assert.equal(status.get("Name"), "a:b\\nc");
  assert.equal(kibBytes(status.get("VmRSS")), 1024 * 1024);
  assert.equal(kibBytes("many"), 0);
  const info = parseFdInfo(
    "pos:\t0\nflags:\t02102001\nmnt_id:\t24\nlock:\t1: FLOCK  ADVISORY  WRITE 7 fe:00:1 0 EOF\n",
  );
  assert.equal(info.flags & 3, 1);
  assert.equal(info.mountId, 24);
  assert.deepEqual(info.locks, ["1: FLOCK  ADVISORY  WRITE 7 fe:00:1 0 EOF"]);
});

test("what a workload wrote is shown on one line", () => {
  assert.equal(shown('a\nb\u001b[31m"q"'), 'a\\nb\\u001b[31m"q"');
  assert.equal(shown("x".repeat(500)).length, 200);
});

test("addresses in socket tables", () => {
  assert.equal(decodeAddress("0100007F"), "127.0.0.1");
  assert.equal(decodeAddress("0000000000000000FFFF000064004D0A"), "10.77.0.100");
  assert.equal(decodeAddress("00000000000000000000000001000000"), "0:0:0:0:0:0:0:1");
  const [socket] = parseInet(
    "tcp",
    "  sl  local_address\n   0: 64004D0A:18EB 01004D0A:C350 01 00000010:00000002 00:00000000 00000000  1000        0 4711 1 x\n",
  );
  assert.deepEqual(socket, {
    protocol: "tcp",
    inode: "4711",
    local: "10.77.0.100",
    localPort: 6379,
    remote: "10.77.0.1",
    remotePort: 50000,
    state: "ESTABLISHED",
    sendQueue: 16,
    receiveQueue: 2,
  });
});

test("unix sockets of ss, with spaces in their paths", () => {
  const sockets = parseSsUnix(`u_str ESTAB 0      0      * 1058 * 1057
u_str LISTEN 0 128 /run/a b.sock 20 * 0
u_dgr UNCONN 0 0 @abc 30 /dev/log 31
garbage
`);
  assert.deepEqual(
    sockets.map(({ type, inode, peer, path }) => [type, inode, peer, path]),
    [
      ["u_str", "1058", "1057", "*"],
      ["u_str", "20", "0", "/run/a b.sock"],
      ["u_dgr", "30", "31", "@abc"],
    ],
  );
});

test("build id notes: found among others, cut ones refused", () => {
  const note = (name: string, type: number, content: Buffer): Buffer => {
    const head = Buffer.alloc(12);
    head.writeUInt32LE(name.length, 0);
    head.writeUInt32LE(content.length, 4);
    head.writeUInt32LE(type, 8);
    const pad = (data: Buffer): Buffer => Buffer.concat([data, Buffer.alloc((4 - (data.length % 4)) % 4)]);
    return Buffer.concat([head, pad(Buffer.from(name)), pad(content)]);
  };
  const notes = Buffer.concat([note("GNU\0", 1, Buffer.alloc(16)), note("GNU\0", 3, Buffer.from("abcdef", "hex"))]);
  assert.equal(buildIdInNotes(notes, true), "abcdef");
  assert.equal(buildIdInNotes(notes.subarray(0, notes.length - 3), true), undefined);
  assert.equal(buildIdInNotes(Buffer.alloc(12, 0xff), true), undefined);
});

test("CPU flags of x86 and ARM", () => {
  assert.deepEqual(parseCpuFlags("processor\t: 0\nflags\t\t: fpu sse2  avx\nflags\t\t: other\n"), [
    "fpu",
    "sse2",
    "avx",
  ]);
  assert.deepEqual(parseCpuFlags("Features\t: fp asimd\n"), ["fp", "asimd"]);
  assert.deepEqual(parseCpuFlags(""), []);
});
