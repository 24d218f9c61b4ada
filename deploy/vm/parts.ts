/**
 * What the guest is made of: QEMU, a stock Debian kernel with its modules, and the node root file system as a disk. All
 * of it comes from Debian packages and from set-up, and is kept in the cache: nothing is compiled.
 *
 * A part that can't be had is a `Missing` with the reason: the tests are skipped then, visibly.
 */
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { run } from "../../src/host/exec.js";
import { describeFailure, toFailure } from "../../src/model/failure.js";
import { whichProgram } from "../setup/cache.js";
import { proxies, rootfsPath } from "../setup/rootfs.js";

export class Missing extends Error {}

/** Ten minutes for what a mirror may take. */
const FETCH_MS = 10 * 60_000;
const QEMU = "qemu-system-x86_64";
/** Kernel options without which there would be nothing to test, or no way to get there without an initramfs. */
const NEEDED_OPTIONS = [
  "MEM_SOFT_DIRTY",
  "CHECKPOINT_RESTORE",
  "USERFAULTFD",
  "BLK_DEV_NVME",
  "EXT4_FS",
  "DEVTMPFS",
  "SERIAL_8250_CONSOLE",
];
const KEPT_DAYS = 7;

async function orMissing<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Missing) throw error;
    throw new Missing(`${what}: ${describeFailure(toFailure(error)).join("; ")}`);
  }
}

const apt = async (file: string, args: string[], cwd = "/"): Promise<string> => {
  const env = { DEBIAN_FRONTEND: "noninteractive", ...proxies() };
  return (await run(file, args, { env, cwd, timeoutMs: FETCH_MS })).stdout;
};

/** Package lists may be missing or old: they are fetched once, when something was not found. */
async function withLists<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch {
    await apt("apt-get", ["update", "-qq"]).catch(() => undefined);
    return work();
  }
}

/** Installs QEMU and the tool that makes the disks, where they are missing. Answers QEMU's path. */
export async function ensureQemu(): Promise<string> {
  const wanted: string[] = [];
  if ((await whichProgram(QEMU)) === undefined) wanted.push("qemu-system-x86");
  if ((await whichProgram("mke2fs")) === undefined) wanted.push("e2fsprogs");
  if (wanted.length > 0) {
    if ((await whichProgram("apt-get")) === undefined) {
      throw new Missing(`${wanted.join(" and ")} must be installed by hand: there is no apt-get here`);
    }
    await orMissing(`installing ${wanted.join(", ")}`, () =>
      withLists(() => apt("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...wanted])),
    );
  }
  const path = await whichProgram(QEMU);
  if (path === undefined) throw new Missing(`${QEMU} is not on PATH`);
  return path;
}

export interface Kernel {
  /** Debian's name and version, as in the package's file name. */
  name: string;
  image: string;
  /** A disk with its modules and with the program that loads them. */
  modules: string;
}

const kernelAt = (dir: string): Kernel => ({
  name: basename(dir).replace(/^vm-kernel-/, ""),
  image: join(dir, "vmlinuz"),
  modules: join(dir, "modules.ext4"),
});

/**
 * A stock kernel: that of `asked` (a package that depends on the newest one, or is one itself). What the cache has of it is
 * taken as it is; remove it there to get a newer one.
 */
export async function ensureKernel(cache: string, asked: string): Promise<Kernel> {
  const names = (await readdir(cache).catch(() => [])).filter((name) => name.startsWith("vm-kernel-"));
  for (const name of names.toSorted().toReversed()) {
    const dir = join(cache, name);
    if ((await readFile(join(dir, "asked"), "utf8").catch(() => "")) === `${asked}\n`) return kernelAt(dir);
  }
  if ((await whichProgram("apt-get")) === undefined) throw new Missing("a stock kernel: there is no apt-get here");
  return orMissing(`the kernel ${asked}`, () => fetchKernel(cache, asked));
}

async function fetchKernel(cache: string, asked: string): Promise<Kernel> {
  const building = await mkdtemp(join(cache, "vm-building-"));
  try {
    const depends = await withLists(() => apt("apt-cache", ["depends", asked]));
    const packaged = /^ *Depends: (linux-image-\d\S*)$/m.exec(depends)?.[1] ?? asked;
    await withLists(() => apt("apt-get", ["download", "-qq", packaged, "busybox-static"], building));
    const files = (await readdir(building)).filter((name) => name.endsWith(".deb"));
    const tree = join(building, "tree");
    for (const file of files) await run("dpkg-deb", ["--extract", join(building, file), tree], { timeoutMs: 120_000 });
    const release = packaged.replace(/^linux-image-/, "");
    const config = await readFile(join(tree, "boot", `config-${release}`), "utf8");
    const lacking = NEEDED_OPTIONS.filter((option) => !config.includes(`\nCONFIG_${option}=y\n`));
    if (lacking.length > 0) throw new Missing(`${packaged} is built without ${lacking.join(", ")}`);
    const made = join(building, "made");
    await mkdir(made);
    await rename(join(tree, "boot", `vmlinuz-${release}`), join(made, "vmlinuz"));
    const usr = (await readdir(tree)).includes("lib") ? tree : join(tree, "usr");
    const modules = join(usr, "lib", "modules");
    const busybox = ["bin", "usr/bin"].map((folder) => join(tree, folder, "busybox")).find((path) => existsSync(path));
    if (busybox === undefined) throw new Missing("busybox-static has no busybox where it was");
    await run(busybox, ["depmod", "-b", usr, release], { timeoutMs: 120_000 });
    await copyFile(busybox, join(modules, "busybox"));
    await symlink("busybox", join(modules, "modprobe"));
    await makeDisk(modules, join(made, "modules.ext4"));
    await writeFile(join(made, "asked"), `${asked}\n`);
    const deb = files.find((name) => name.startsWith("linux-image-")) ?? packaged;
    const dir = join(cache, `vm-kernel-${deb.replace(/\.deb$/, "")}`);
    await rm(dir, { recursive: true, force: true });
    await rename(made, dir);
    return kernelAt(dir);
  } finally {
    await rm(building, { recursive: true, force: true });
  }
}

/** An ext4 disk with what is in a directory, and a little room. */
async function makeDisk(from: string, to: string): Promise<void> {
  const { stdout } = await run("du", ["--summarize", "--block-size=1M", from]);
  const mebibytes = Math.ceil(Number.parseInt(stdout, 10) * 1.3) + 64;
  // No journal: it is mounted read-only.
  const options = ["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", from, to, `${mebibytes}M`];
  await run("mke2fs", options, { doing: `making a disk of ${from}`, timeoutMs: 5 * 60_000 });
}

/** The node root file system as a disk. It is the guest's own root and, once more, what its lab's nodes are made from. */
export async function ensureRootDisk(cache: string): Promise<{ disk: string; rootfs: string }> {
  const rootfs = rootfsPath(cache);
  const disk = join(cache, `vm-root-${basename(rootfs)}.ext4`);
  if (!existsSync(disk)) {
    if (!existsSync(rootfs)) throw new Missing("the node root file system is not there: npm run setup");
    const building = `${disk}.building`;
    await rm(building, { force: true });
    await makeDisk(rootfs, building);
    // Where the kernel's modules are mounted; the root file system has no kernel.
    await run("debugfs", ["-w", "-R", "mkdir usr/lib/modules", building]);
    await rename(building, disk);
    await removeOld(cache, disk);
  }
  return { disk, rootfs: basename(rootfs) };
}

/** Disks of older root file systems, unless another checkout has made one lately. */
async function removeOld(cache: string, keep: string): Promise<void> {
  for (const name of await readdir(cache)) {
    const path = join(cache, name);
    if (!/^vm-root-.*\.ext4(\.building)?$/.test(name) || path === keep) continue;
    if (Date.now() - (await stat(path)).mtimeMs > KEPT_DAYS * 86_400_000) await rm(path, { force: true });
  }
}

/** Parts of node_modules that only developers' tools or other machines need: they would cost the guest a second each. */
const LEFT_OUT = ["@oxlint", "@oxlint-tsgolint", "@typescript", "typescript", "prettier", "oxlint"]
  .map((name) => `node_modules/${name}`)
  .concat(["*-apple-darwin", "*-pc-windows-*", "aarch64-*"].map((name) => `node_modules/@temporalio/*/${name}`));

/** This checkout as it is compiled, Node.js and the Temporal server, as an archive that the guest reads from a disk. */
export async function packCheckout(file: string, root: string, node: string, temporal: string): Promise<void> {
  const checkout = ["bin", "dist", "deploy", "test", "package.json", "node_modules"];
  const args = [
    ["--create", `--file=${file}`, ...LEFT_OUT.map((pattern) => `--exclude=${pattern}`)],
    // Targets of symbolic links stay as they are (S).
    checkout.map((member) => `--transform=s|^${member}|ferry/${member}|S`),
    ["--directory", root, ...checkout],
    [node, temporal].flatMap((path, index) => [
      `--transform=s|^${basename(path)}$|${index === 0 ? "node/bin/node" : "cache/bin/temporal"}|S`,
      "--directory",
      dirname(path),
      basename(path),
    ]),
  ].flat();
  await run("tar", args, { doing: "packing the checkout", timeoutMs: 120_000 });
}
