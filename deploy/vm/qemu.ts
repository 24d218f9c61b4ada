/** One guest: QEMU with a kernel and three disks, no network; its second serial port is what it says. Never outlives us. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export interface GuestPlan {
  qemu: string;
  kernelImage: string;
  rootDisk: string;
  modulesDisk: string;
  /** Writes the archive with /opt of the guest to this path. */
  pack(file: string): Promise<void>;
  accel: "tcg" | "kvm";
  memoryMib: number;
  cpus: number;
  /** Arguments of guest.sh. Words without spaces or quotes. */
  words: readonly string[];
  /** Until its first word: a machine on which KVM hangs never gets there. */
  bootMs: number;
  totalMs: number;
  /** Gets each line of the guest. */
  line(text: string): void;
}

export type GuestEnd = { exitCode: number } | { problem: string; console: string[] };

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * The kernel starts a shell, which makes what guest.sh needs. No initramfs: NVMe disks and ext4 are built into Debian's
 * kernels. Quotes can't be nested in a kernel's command line.
 */
function commandLine(words: readonly string[]): string {
  const first = [
    "mount -t devtmpfs dev /dev",
    "mount -t tmpfs -o mode=0755,size=75% opt /opt",
    "tar --extract --file=/dev/nvme0n3 --directory=/opt",
    "exec /usr/bin/tini -- sh /opt/ferry/deploy/vm/guest.sh $*",
  ].join("; ");
  const options = [
    "console=ttyS0",
    "quiet",
    "root=/dev/nvme0n1",
    "rootfstype=ext4",
    "ro",
    "panic=-1",
    "mitigations=off",
  ];
  return [...options, "init=/bin/sh", "--", "-c", `"${first}"`, "sh", ...words].join(" ");
}

function qemuArgs(plan: GuestPlan, dir: string, archive: string): string[] {
  const disks = [plan.rootDisk, plan.modulesDisk, archive].flatMap((file, index) => [
    ["-drive", `file=${file.replaceAll(",", ",,")},format=raw,if=none,id=disk${index},readonly=on`],
    ["-device", `nvme-ns,drive=disk${index},bus=nvme0,nsid=${index + 1}`],
  ]);
  const kvm = plan.accel === "kvm";
  return [
    ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"],
    ["-accel", kvm ? "kvm" : "tcg,thread=multi", "-cpu", kvm ? "host" : "max,la57=off"],
    ["-smp", String(plan.cpus), "-m", `${plan.memoryMib}M`],
    ["-kernel", plan.kernelImage, "-append", commandLine(plan.words)],
    ["-device", "nvme,id=nvme0,serial=ferry", ...disks.flat()],
    ["-serial", `file:${join(dir, "console.log")}`, "-serial", "stdio"],
  ].flat();
}

/** Runs it to its end. Whatever happens, QEMU has ended and its files are gone when this resolves. */
export async function runGuest(plan: GuestPlan): Promise<GuestEnd> {
  const dir = await mkdtemp(join(tmpdir(), "ferry-vm-"));
  let child: ChildProcess | undefined;
  const kill = (): void => void child?.kill("SIGKILL");
  const stop = (signal: NodeJS.Signals): void => {
    stopped = `stopped by ${signal}`;
    kill();
  };
  let stopped: string | undefined;
  // Also when an error ends this process in the middle.
  process.on("exit", kill);
  for (const signal of SIGNALS) process.on(signal, stop);
  try {
    const archive = join(dir, "opt.tar");
    await plan.pack(archive);
    if (stopped !== undefined) return { problem: stopped, console: [] };
    const errors = openSync(join(dir, "errors"), "w");
    child = spawn(plan.qemu, qemuArgs(plan, dir, archive), { cwd: dir, stdio: ["ignore", "pipe", errors] });
    closeSync(errors);
    const exit = once(child, "close").catch((error: unknown) => {
      stopped ??= `QEMU can't be started: ${String(error)}`;
    });
    let exitCode: number | undefined;
    const giveUp = (why: string, ms: number): NodeJS.Timeout =>
      setTimeout(() => {
        stopped ??= why;
        kill();
      }, ms);
    const boot = giveUp(`the guest did not come up in ${plan.bootMs / 1000} s`, plan.bootMs);
    const total = giveUp(`the guest had not ended after ${plan.totalMs / 60_000} minutes`, plan.totalMs);
    if (child.stdout !== null) {
      createInterface({ input: child.stdout }).on("line", (text) => {
        clearTimeout(boot);
        const ended = /^ferry-vm: ended with exit code (\d+)$/.exec(text);
        if (ended === null) plan.line(text);
        else exitCode = Number(ended[1]);
      });
    }
    await exit;
    clearTimeout(boot);
    clearTimeout(total);
    if (exitCode !== undefined) return { exitCode };
    const texts = await Promise.all(
      ["errors", "console.log"].map((name) => readFile(join(dir, name), "utf8").catch(() => "")),
    );
    const lines = texts.flatMap((text) => text.split(/\r?\n/).filter((line) => line.trim() !== ""));
    return { problem: stopped ?? "the guest went out in the middle", console: lines.slice(-40) };
  } finally {
    kill();
    process.off("exit", kill);
    for (const signal of SIGNALS) process.off(signal, stop);
    await rm(dir, { recursive: true, force: true });
  }
}
