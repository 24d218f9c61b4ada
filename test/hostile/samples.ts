/** Whole, valid inputs that the properties break. */
import { image, inventory, mm, number, bytes, pagemap, pstree } from "../support/criu-images.js";

export const BASE = 0x7f0000000000;
const PRIVATE_ANONYMOUS = 0x22;

export const SPEC = {
  name: "redis-1",
  runtime: "process",
  command: ["redis-server", "--port", "6379"],
  env: { A: "1", PATH: "/bin" },
  dir: "/data",
  user: "redis",
  limits: { memoryBytes: 256 * 2 ** 20, cpus: 1.5 },
  volumes: [{ name: "files", path: "/srv/files", kind: "copy" }],
  network: { ip: "10.77.0.100/24", mac: "02:fe:00:00:00:64", gateway: "10.77.0.1" },
};
export const OPTIONS = { mode: "precopy", dryRun: false, maxBlackoutMs: 30_000, onStall: "hybrid", maxRounds: 10 };
export const REF = {
  schema: 1,
  operation: "redis-1.migrate.3",
  workload: "redis-1",
  epoch: 1,
  to: 2,
  source: "node-a",
  destination: "node-b",
};
export const FAILURE = {
  code: "E_DUMP",
  message: "criu could not dump the tree",
  side: "source",
  evidence: { command: ["criu", "dump"], exitCode: 1, lines: ["Error (criu/cr-dump.c)"] },
  cause: { code: "E_TOOL", message: "inner", remedy: "look at the log" },
};
export const DIGEST = "a".repeat(64);

/** An image set that is whole: one task, eight lazy pages in two areas, two present ones. */
export const IMAGES: Readonly<Record<string, Buffer>> = {
  "inventory.img": inventory(),
  "pstree.img": pstree([1, 7]),
  "mm-1.img": mm([
    { start: 0x400000, end: 0x402000, flags: 2 },
    { start: BASE, end: BASE + 0x4000, flags: PRIVATE_ANONYMOUS },
    { start: BASE + 0x4000, end: BASE + 0x8000, flags: PRIVATE_ANONYMOUS },
    { start: 0xffffffffff600000n, end: 0xffffffffff601000n, flags: PRIVATE_ANONYMOUS },
  ]),
  "pagemap-1.img": pagemap(1, [
    { start: 0x400000, pages: 2, flags: 4 },
    { start: BASE, pages: 8, flags: 2 },
  ]),
  "pages-1.img": Buffer.alloc(2 * 4096, 1),
};
/** files.img with one timer that has fired while nobody read it. */
export const FILES_IMAGE = image("files", [
  Buffer.concat([
    number(1, 3),
    number(2, 17),
    bytes(12, Buffer.concat([1, 1, 0, 0, 3, 0, 0, 0, 1, 0].map((value, index) => number(index + 1, value)))),
  ]),
]);

export const PROC = {
  stat: "7 (redis-server) S 1 7 9 34816 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 100 1 2\n",
  status: "Name:\tredis\nState:\tS (sleeping)\nNSpid:\t812\t1\nVmRSS:\t  1024 kB\nSigPnd:\t0000000000000000\n",
  maps: `55d0c0000000-55d0c0001000 r-xp 00000000 fe:00 1234                       /usr/bin/a b (deleted)
7ffc00000000-7ffc00001000 rw-p 00000000 00:00 0                          [stack]
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
`,
  smaps: `7f0000000000-7f0000002000 rw-p 00000000 00:00 0 
Size:                  8 kB
Anonymous:             8 kB
Swap:                  0 kB
VmFlags: rd wr mr mw me ac sd
`,
  mountinfo: `10 1 0:30 / / rw,relatime shared:1 master:2 - overlay overlay rw,lowerdir=/,upperdir=/v\\040w/up\\,per
12 10 8:1 /vol/data /data rw - ext4 /dev/sda1 rw
`,
  fdinfo: "pos:\t0\nflags:\t02102001\nmnt_id:\t24\nino:\t7\nlock:\t1: FLOCK  ADVISORY  WRITE 7 fe:00:1 0 EOF\n",
  tcp: "  sl  local_address\n   0: 64004D0A:18EB 01004D0A:C350 01 00000010:00000002 00:00000000 00000000  1000        0 4711 1 x\n",
  ss: "u_str LISTEN 0 128 /run/a b.sock 20 * 0\nu_dgr UNCONN 0 0 @abc 30 /dev/log 31\n",
  cpuinfo: "processor\t: 0\nflags\t\t: fpu vme avx512f\n",
} as const;

export const TOOLS = {
  links: JSON.stringify([
    {
      ifname: "br0",
      flags: ["UP", "BROADCAST"],
      linkinfo: { info_kind: "bridge" },
      addr_info: [{ family: "inet", local: "10.77.0.1", prefixlen: 24 }],
    },
  ]),
  arping: "ARPING 10.77.0.100 from 0.0.0.0 br0\nUnicast reply from 10.77.0.100 [02:FE:00:00:00:64]  0.7ms\n",
  walk: "f 1 1234 17 a b/c\0d 2 77 4096 sub\0",
  rsync: ['rsync: [sender] file has vanished: "/x"', "rsync error: some files vanished (code 24)"],
} as const;

/** The lab.json of a lab without hosts. */
export const LAB = {
  schema: 1,
  id: "0123abcd",
  createdAt: "now",
  phase: "up",
  directory: "/d",
  prefix: "10.77.0",
  services: true,
  cgroup: "ferry-0123abcd",
  cgroupRoot: "/sys/fs/cgroup",
  rootfs: "/r",
  temporal: { how: "none" },
  hosts: [],
};
