/** Workloads of the runtime's tests. */
import type { ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { HIDDEN_PROC } from "../../../src/runtimes/process/hidden.js";
import type { WorkloadSpec } from "../../../src/model/workload.js";
import type { Incarnation, OperationDirs } from "../../../src/runtimes/runtime.js";
import type { TestNet } from "../../support/node.js";

interface Options extends Partial<Pick<WorkloadSpec, "command" | "env" | "dir" | "user" | "limits">> {
  ip?: string;
}

export const incarnation = (name: string, options: Options = {}, epoch = 1): Incarnation => ({
  spec: {
    name,
    runtime: "process",
    command: options.command ?? ["sleep", "1000"],
    env: options.env ?? {},
    dir: options.dir ?? "/data",
    user: options.user ?? "root",
    limits: options.limits ?? {},
    network: {
      ip: options.ip ?? "10.79.0.100/24",
      mac: `02:fe:00:00:00:${Number(options.ip?.split(/[./]/)[3] ?? 100)
        .toString(16)
        .padStart(2, "0")}`,
    },
  },
  epoch,
});

export const dirs = (operation: string): OperationDirs => ({
  run: `/run/ferry/ops/${operation}/run`,
  images: `/run/ferry/ops/${operation}/images`,
});

/** For a shell as root: what there is to see in hidden parts of /proc, and whether they can be written. */
export const SEES_OF_PROC = `for p in ${HIDDEN_PROC.map((name) => `/proc/${name}`).join(" ")}; do
  [ -e $p ] || continue
  if [ -d $p ]; then seen=$(ls -A $p | wc -l); else seen=$(wc -c <$p); fi
  if [ -d $p ]; then to=$p/x; else to=$p; fi
  if (echo x >$to) 2>/dev/null; then can=writes; else can=reads; fi
  echo "in $p: $seen, $can"
done`;
export const seesNothingOf = (names: readonly string[]): string[] => names.map((name) => `in /proc/${name}: 0, reads`);

/** A redis that keeps nothing on disk and tells the digest of its keys. */
export const REDIS = [
  "redis-server",
  "--bind",
  "0.0.0.0",
  "--protected-mode",
  "no",
  "--save",
  "",
  "--enable-debug-command",
  "yes",
];

const IP = "10.79.0.100";

/** One command on a connection of its own. The answer, raw. */
export const redisCommand = (net: TestNet, ...words: string[]): Promise<string> =>
  net.clientRun(
    [
      process.execPath,
      "-e",
      `const s=require("net").connect(6379,"${IP}");let t;s.on("data",d=>{t??="";t+=d;if(/\\r\\n$/.test(t)){process.stdout.write(t);s.destroy()}});s.on("connect",()=>s.write(require("fs").readFileSync(0)))`,
    ],
    `*${words.length}\r\n${words.map((w) => `$${w.length}\r\n${w}\r\n`).join("")}`,
  );

/** A client that counts over one connection: every answer must be the one before plus one. */
export class Counter {
  value = 0;
  private missing = 0;
  private broken = false;
  private readonly child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.child = child;
    createInterface({ input: child.stdout! }).on("line", (line) => {
      const value = Number(line);
      if (!Number.isSafeInteger(value)) this.broken = true;
      else {
        if (value !== this.value + 1) this.missing++;
        this.value = value;
      }
    });
  }

  static async start(net: TestNet): Promise<Counter> {
    await redisCommand(net, "DEL", "ctr");
    return new Counter(
      net.client([
        process.execPath,
        "-e",
        `const s=require("net").connect(6379,"${IP}");s.setNoDelay(true);
         const go=()=>s.write("INCR ctr\\r\\n");s.on("connect",go);
         s.on("data",d=>{for(const m of String(d).matchAll(/:(\\d+)\\r\\n/g))console.log(m[1]);setTimeout(go,1)});
         s.on("error",e=>console.log(e.code));s.on("end",()=>console.log("end"));process.stdin.on("end",()=>process.exit()).resume()`,
      ]),
    );
  }

  async beyond(value: number): Promise<void> {
    for (let tries = 0; this.value <= value; tries++) {
      if (this.broken) throw new Error("the connection broke");
      if (tries > 1000) throw new Error(`the counter stays at ${this.value}`);
      await sleep(10);
    }
  }

  /** What came of the connection by now. */
  async end(): Promise<{ broken: boolean; missing: number }> {
    await sleep(20);
    const seen = { broken: this.broken, missing: this.missing };
    this.child.kill("SIGKILL");
    return seen;
  }
}

/** A parent with two children; checks everything it holds when it gets SIGUSR1 ("all well"). */
export const TREE = `
import fcntl, mmap, os, signal, socket, sys, tempfile, time
D = "/var/spool/tree"
upper = open(D + "/upper", "a+", buffering=1); upper.write("before\\n")
lower = open(D + "/lower"); assert lower.read(3) == "low"
mapped = mmap.mmap(os.open(sys.executable, os.O_RDONLY), 4096, prot=mmap.PROT_READ); head = mapped[:64]
gone = tempfile.TemporaryFile(dir=D); gone.write(b"x" * 300000); gone.flush()
shm = open("/dev/shm/s", "w+b"); shm.truncate(8192); shared = mmap.mmap(shm.fileno(), 8192); shared[0:3] = b"shm"
tmp = open("/tmp/t", "w+"); tmp.write("tmp"); tmp.flush()
lock = open("/tmp/lock", "w"); fcntl.flock(lock, fcntl.LOCK_EX)
unix = socket.socket(socket.AF_UNIX); unix.bind("/tmp/sock"); unix.listen()
inside = []
for n in range(2):
    mine, theirs = socket.socketpair()
    if os.fork() == 0:
        while True:
            word = theirs.recv(10)
            if not word: os._exit(0)
            shared[10 + n] += 1; theirs.sendall(word + b"!")
    inside.append(mine)
def check(*_):
    assert open(D + "/upper").read() == "before\\n"; upper.write("after\\n")
    assert lower.read() == "er\\n"
    assert mapped[:64] == head
    gone.seek(0); assert gone.read() == b"x" * 300000 and os.fstat(gone.fileno()).st_nlink == 0
    assert open("/tmp/t").read() == "tmp"
    try: fcntl.flock(open("/tmp/lock"), fcntl.LOCK_EX | fcntl.LOCK_NB); assert False, "the lock is lost"
    except BlockingIOError: pass
    for s in inside: s.sendall(b"hi"); assert s.recv(10) == b"hi!"
    assert shared[0:3] == b"shm" and shared[10] == 1 and shared[11] == 1
    c = socket.socket(socket.AF_UNIX); c.connect("/tmp/sock"); unix.accept()
    print("all well")
signal.signal(signal.SIGUSR1, check)
print("ready")
while True: time.sleep(60)
`;
