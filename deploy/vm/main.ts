/**
 * npm run test:vm [-- WORD...]: tests that need a kernel which this machine may not have (soft-dirty bits, and an older one
 * than PAGEMAP_SCAN), in a QEMU guest with Debian's stock kernel. Emulated by default, so it is slow and apart from npm test.
 *
 *   FERRY_VM_ACCEL=kvm      hardware virtualization instead; it is not tried unless asked for
 *   FERRY_VM_KERNEL=NAME    another kernel package (default: linux-image-cloud-amd64)
 *   FERRY_VM_MINUTES=N      how long the guest may take (default 30)
 *
 * Prints what the tests print, node:test's closing lines last. Exit codes: 0 passed, or skipped with the reason; 1 failed.
 */
import { accessSync, constants } from "node:fs";
import { realpath } from "node:fs/promises";
import { arch } from "node:os";
import { packageRoot } from "../../src/host/package-root.js";
import { describeFailure, toFailure } from "../../src/model/failure.js";
import { cacheDir } from "../setup/cache.js";
import { findTemporal } from "../setup/temporal.js";
import { ensureKernel, ensureQemu, ensureRootDisk, Missing, packCheckout } from "./parts.js";
import { runGuest, type GuestPlan } from "./qemu.js";

const TESTS = ["transfer/trackers/", "transfer/precopy.test", "vm/"];
const KERNEL = "linux-image-cloud-amd64";

const say = (line: string): void => void process.stderr.write(`vm: ${line}\n`);

async function prepare(words: readonly string[]): Promise<GuestPlan> {
  if (arch() !== "x64") throw new Missing(`the guest is x86-64, this machine is ${arch()}`);
  const accel = process.env["FERRY_VM_ACCEL"] === "kvm" ? "kvm" : "tcg";
  if (accel === "kvm") {
    try {
      accessSync("/dev/kvm", constants.R_OK | constants.W_OK);
    } catch {
      throw new Missing("FERRY_VM_ACCEL=kvm, but /dev/kvm can't be opened");
    }
  }
  const cache = cacheDir();
  const qemu = await ensureQemu();
  const kernel = await ensureKernel(cache, process.env["FERRY_VM_KERNEL"] ?? KERNEL);
  const { disk, rootfs } = await ensureRootDisk(cache);
  const temporal = await findTemporal(cache);
  if (temporal === undefined || temporal.how === "address") {
    throw new Missing("a Temporal server's address was given; the guest has no network and needs the program");
  }
  say(`kernel ${kernel.name}, ${accel}`);
  const node = await realpath(process.execPath);
  const binary = await realpath(temporal.binary);
  return {
    qemu,
    kernelImage: kernel.image,
    rootDisk: disk,
    modulesDisk: kernel.modules,
    pack: (file) => packCheckout(file, packageRoot(), node, binary),
    accel,
    memoryMib: 4096,
    cpus: 2,
    words: [rootfs, ...(words.length === 0 ? TESTS : words)],
    bootMs: accel === "kvm" ? 60_000 : 240_000,
    totalMs: Number(process.env["FERRY_VM_MINUTES"] ?? 30) * 60_000,
    line: (text) => void process.stdout.write(`${text}\n`),
  };
}

async function main(words: readonly string[]): Promise<number> {
  try {
    const end = await runGuest(await prepare(words));
    if ("exitCode" in end) return end.exitCode;
    for (const line of end.console) say(`  | ${line}`);
    say(end.problem);
    return 1;
  } catch (error) {
    if (error instanceof Missing) {
      process.stdout.write(`ok 1 - tests in a guest # SKIP ${error.message}\n1..1\n`);
      for (const [what, count] of Object.entries({ tests: 1, pass: 0, fail: 0, skipped: 1 })) {
        process.stdout.write(`# ${what} ${count}\n`);
      }
      return 0;
    }
    for (const line of describeFailure(toFailure(error))) say(line);
    return 1;
  }
}

process.exitCode = await main(process.argv.slice(2));
