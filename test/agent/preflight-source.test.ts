/** Preflight on the source against real processes: each thing that can't move is found before anything is frozen. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync, existsSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { blocked, said, skip, startProbe, type Probe, type ProbeOptions } from "./preflight-support.js";

async function withProbe(
  code: string,
  use: (probe: Probe) => Promise<void>,
  options: ProbeOptions = {},
): Promise<void> {
  const probe = await startProbe(code, options);
  try {
    await use(probe);
  } finally {
    await probe.stop();
  }
}

test(
  "a plain server with a child, sockets and open files has nothing against it, and is described",
  { skip },
  async () => {
    const code = `
listener=socket.socket(); listener.bind(('0.0.0.0',9000)); listener.listen()
unbound=socket.socket(); a,b=socket.socketpair(); r,w=os.pipe()
small=open('/tmp/x'+str(os.getpid()),'w+'); os.unlink(small.name); small.write('x'*1000); small.flush()
block=bytearray(30*1024*1024)
if os.fork()==0: wait()
ready(); wait()`;
    await withProbe(code, async (probe) => {
      const started = performance.now();
      const facts = await probe.preflight();
      const tookMs = performance.now() - started;
      assert.deepEqual(blocked(facts.findings), []);
      assert.equal(facts.processes, 2);
      assert.equal(facts.threads, 2);
      assert.ok(facts.memoryBytes > 30 * 1024 * 1024, `memory ${facts.memoryBytes}`);
      assert.ok(facts.cpuFlags.length > 10);
      const programs = facts.files.filter((file) => file.mapped);
      assert.ok(programs.some((file) => /python3[.0-9]*$/.test(file.path)));
      assert.ok(
        programs.some((file) => /libc\.so|libc-/.test(file.path) && /^[0-9a-f]{16,}$/.test(file.buildId ?? "")),
      );
      assert.ok(facts.files.every((file) => file.path.startsWith("/") && file.mode > 0));
      assert.deepEqual(facts.userIds, { uid: 0, gid: 0 });
      assert.match(said(facts.findings, "deleted file").join(), /info: .*moves with the images/);
      assert.ok(tookMs < 1500, `took ${tookMs} ms`);
    });
  },
);

test("a deleted file that is too large to travel in the images blocks, with its size", { skip }, async () => {
  const code = `
f=open(DIR+'/big file) \\n(deleted)','w+b'); os.posix_fallocate(f.fileno(),0,65<<20); os.unlink(f.name)
g=open(DIR+'/moves','w+b'); os.posix_fallocate(g.fileno(),0,50<<20); os.unlink(g.name)
ready(); wait()`;
  await withProbe(code, async (probe) => {
    const { findings } = await probe.preflight();
    const [message = "", moves = ""] = said(findings, "deleted file");
    assert.match(
      message,
      /^block: python3?[^ ]* \(pid 1\), descriptor \d+: .*big file\) \\n\(deleted\) is deleted .*65\.0 MiB.*64\.0 MiB/,
    );
    assert.match(moves, /^info: .*moves is deleted .*50\.0 MiB.*moves with the images/);
  });
});

test("a deleted file that has another name blocks: the engine could not open it again", { skip }, async () => {
  const code = `
f=open(DIR+'/one','w+b'); f.write(b'x'); f.flush(); os.link(DIR+'/one',DIR+'/two'); os.unlink(DIR+'/one')
ready(); wait()`;
  await withProbe(code, async (probe) => {
    const { findings } = await probe.preflight();
    assert.match(said(findings, "deleted file").join(), /^block: .*\/one is deleted .* the file has another name/);
  });
});

test("a descriptor on what hides a part of /proc blocks: the engine leaves that mount out", { skip }, async () => {
  const code = `
import ctypes
ctypes.CDLL(None).mount(b'tmpfs',b'/proc/fs',b'tmpfs',0,None)
held=os.open('/proc/fs',os.O_RDONLY); os.chdir('/proc/fs'); ready(); wait()`;
  await withProbe(code, async (probe) => {
    const { findings } = await probe.preflight();
    const found = said(findings, "open files");
    assert.match(found.join("\n"), /block: .*descriptor \d+: is open on \/proc\/fs, which is hidden/);
    assert.match(found.join("\n"), /block: .*cwd: is open on \/proc\/fs, which is hidden/);
  });
});

test("io_uring blocks", { skip }, async (t) => {
  const code = `
import ctypes
fd=ctypes.CDLL(None).syscall(425,8,ctypes.create_string_buffer(120))
open(DIR+'/uring','w').write(str(fd)); ready(); wait()`;
  await withProbe(code, async (probe) => {
    const fds = await probe.preflight();
    const uring = said(fds.findings, "io_uring");
    if (uring.length === 0 && existsSync(join(probe.dir, "uring"))) {
      const { readFileSync } = await import("node:fs");
      if (readFileSync(join(probe.dir, "uring"), "utf8") === "-1") return t.skip("this kernel refuses io_uring");
    }
    assert.match(uring.join(), /block: .*uses io_uring, which the engine can't dump/);
  });
});

test(
  "a connected unix socket whose peer is outside blocks and names the peer; an inherited one, too",
  { skip },
  async () => {
    const dir = mkdtempSync(join(tmpdir(), "ferry-peer-"));
    const server = createServer().listen(join(dir, "log.sock"));
    await once(server, "listening");
    const code = `
s=socket.socket(socket.AF_UNIX); s.connect('${join(dir, "log.sock")}')
ready(); wait()`;
    try {
      await withProbe(code, async (probe) => {
        const { findings } = await probe.preflight();
        assert.match(
          said(findings, "unix socket").join(),
          /block: .*is connected to .*\(process \d+ of the node\) outside/,
        );
      });
    } finally {
      server.close();
      rmSync(dir, { recursive: true });
    }
  },
);

test("a pipe to a process outside blocks and names it", { skip }, async () => {
  await withProbe(
    "ready(); wait()",
    async (probe) => {
      const { findings } = await probe.preflight();
      // Node gives a socket pair where a shell gives a pipe.
      const found = [...said(findings, "pipe"), ...said(findings, "unix socket")].join();
      assert.match(found, /block: .*descriptor 0: .*(outside of the workload)/);
    },
    { stdin: "pipe" },
  );
});

test("a traced process blocks", { skip }, async (t) => {
  await withProbe("ready(); wait()", async (probe) => {
    const tracer = spawn("strace", ["-q", "-o", "/dev/null", "-p", String(probe.pid)], { stdio: "ignore" });
    const failed = await Promise.race([
      once(tracer, "error").then(() => true),
      once(tracer, "spawn").then(() => false),
    ]);
    if (failed) return t.skip("strace is missing");
    try {
      await sleep(300);
      const { findings } = await probe.preflight();
      assert.match(said(findings, "ptrace").join(), new RegExp(`block: .*traced by process ${tracer.pid}`));
    } finally {
      tracer.kill("SIGKILL");
      await once(tracer, "exit");
    }
  });
});

test("a terminal whose other side is outside blocks; one whose master is inside does not", { skip }, async () => {
  // The master stays in the first process; the tree that is asked about is the child alone, or both.
  const code = `
import pty
pid,master=pty.fork()
if pid==0: ready(); wait()
wait()`;
  await withProbe(code, async (probe) => {
    const whole = await probe.preflight();
    assert.deepEqual(said(whole.findings, "terminal"), []);
    const pids = Object.fromEntries(Object.entries(probe.pids()).filter(([, pid]) => pid !== probe.pid));
    const child = await probe.preflight({ pids });
    assert.match(said(child.findings, "terminal").join(), /block: .*terminal \/dev\/pts\/\d+ is open/);
  });
});

test("a session leader outside blocks", { skip }, async () => {
  await withProbe(
    "ready(); wait()",
    async (probe) => {
      const { findings } = await probe.preflight();
      assert.match(said(findings, "session").join(), /block: .*session leader is outside/);
    },
    { sameSession: true },
  );
});

test("file locks are told; without the engine's help they block", { skip }, async () => {
  const code = `
f=open(DIR+'/db.lock','w'); fcntl.flock(f,fcntl.LOCK_EX); ready(); wait()`;
  await withProbe(code, async (probe) => {
    assert.match(said((await probe.preflight()).findings, "file locks").join(), /^info: .*db\.lock/);
    const without = await probe.preflight({ movesLocks: false });
    assert.match(said(without.findings, "file locks").join(), /^block: .*db\.lock/);
  });
});

test("devices, foreign sockets and kernel objects each block with their name", { skip }, async () => {
  const code = `
import ctypes
def syscall(*a): return ctypes.CDLL(None).syscall(*a)
tun=open('/dev/net/tun','rb') if os.path.exists('/dev/net/tun') else None
fine=[open('/dev/'+d,'rb') for d in ('null','zero','urandom')]
try: mptcp=socket.socket(socket.AF_INET,socket.SOCK_STREAM,262)
except OSError: mptcp=None
uffd=syscall(323,0o2000001)
ready(); wait()`;
  await withProbe(code, async (probe) => {
    const { findings } = await probe.preflight();
    if (existsSync("/dev/net/tun"))
      assert.match(said(findings, "device").join(), /block: .*\/dev\/net\/tun \(10:200\)/);
    assert.equal(said(findings, "device").length, existsSync("/dev/net/tun") ? 1 : 0);
    const mptcp = said(findings, "mptcp");
    if (mptcp.length > 0) assert.match(mptcp.join(), /block: .*Multipath TCP/);
    assert.match(said(findings, "open files").join(), /block: .*userfaultfd/);
  });
});

test(
  "a name with ) and newlines is read and shown on one line; nested namespaces and stopped holds block",
  { skip },
  async () => {
    const code = `
import ctypes
l=ctypes.CDLL(None); l.prctl(15,b'a) R 1\\n(x',0,0,0)
if os.fork()==0: l.unshare(0x40000000); ready(); wait()
wait()`;
    await withProbe(code, async (probe) => {
      const facts = await probe.preflight({ holds: [{ workload: "probe", epoch: 3, state: "FROZEN" }] });
      assert.equal(facts.processes, 2);
      assert.match(
        said(facts.findings, "namespaces").join(),
        /block: a\) R 1\\n\(x \(pid 2\): has a network namespace/,
      );
      assert.match(said(facts.findings, "ownership").join(), /block: .*says FROZEN/);
    });
  },
);

test("an address that is not the workload's, a waiting and a half-closed connection are told", { skip }, async () => {
  const code = `
import subprocess
for c in ('link set lo up','addr add 10.9.9.9/32 dev lo'): subprocess.run(['ip',*c.split()],check=True)
s=socket.socket(); s.bind(('10.9.9.9',9100)); s.listen()
c=socket.create_connection(('10.9.9.9',9100)); p,_=s.accept(); p.shutdown(socket.SHUT_WR)
d=socket.create_connection(('10.9.9.9',9100))
ready(); wait()`;
  await withProbe(code, async (probe) => {
    const { findings } = await probe.preflight();
    assert.match(said(findings, "address").join(), /block: .*bound to 10\.9\.9\.9, which is not/);
    const connections = said(findings, "connections").join("\n");
    assert.match(connections, /warn: .*1 connections to port 9100 wait to be accepted/);
    assert.match(connections, /info: 2 half-closed/);
  });
});

test("a workload that is gone is a finding, not an exception", { skip }, async () => {
  await withProbe("ready(); wait()", async (probe) => {
    const { findings } = await probe.preflight({ pids: { "1": 2 ** 22 - 1 } });
    assert.match(said(findings, "processes").join(), /block: no process of the workload is alive/);
  });
});

test("a shared network namespace and a huge deleted mapping are told", { skip }, async () => {
  const file = join(mkdtempSync(join(tmpdir(), "ferry-map-")), "library");
  writeFileSync(file, Buffer.alloc(65 * 1024 * 1024, 1));
  const fd = openSync(file, "r");
  try {
    const code = `
import mmap
f=open('${file}','rb'); m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ,flags=mmap.MAP_PRIVATE); f.close(); os.unlink('${file}'); ready(); wait()`;
    await withProbe(code, async (probe) => {
      const { findings } = await probe.preflight({ pids: { ...probe.pids(), "99": process.pid } });
      assert.match(said(findings, "deleted file").join(), /block: .*mapped: .*library is deleted/);
      assert.match(said(findings, "process tree").join() + said(findings, "namespaces").join(), /block/);
    });
  } finally {
    closeSync(fd);
    rmSync(join(file, ".."), { recursive: true });
  }
});
