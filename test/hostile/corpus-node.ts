/** What a node keeps and reads of itself: journal, ownership, /proc, programs, what its processes leave for each other. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Book } from "../../src/agent/book.js";
import { JOURNAL_FILE, openJournal, parseJournal } from "../../src/agent/journal.js";
import { parseLinks } from "../../src/agent/preflight/network.js";
import { run } from "../../src/host/exec.js";
import { parseStat, shown } from "../../src/host/procfs.js";
import type { FailureCode } from "../../src/model/failure.js";
import type { Hold, HoldState } from "../../src/model/ownership.js";
import { resolveUser } from "../../src/runtimes/process/user.js";
import { loadState } from "../../src/transfer/mover/destination-state.js";
import { parseReply } from "../../src/transfer/pages/control.js";
import { EventLog, TYPE } from "../../src/transfer/pages/event-log.js";
import { readHolder } from "../../src/transfer/pages/identity.js";
import { refused, taken, type Refused, type Room } from "./entry.js";
import { DEEP_LIST } from "./mutate.js";

/** In a directory of its own, which is gone afterwards. */
async function inDirectory<T>(use: (dir: string) => T): Promise<Awaited<T>> {
  const dir = mkdtempSync("/dev/shm/ferry-hostile-");
  try {
    return await use(dir);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

/** Opens a journal of three entries whose file was changed. */
const journal = (
  input: string,
  says: string,
  change: (text: string, path: string) => string | Buffer | undefined,
): Refused =>
  refused(`journal: ${input}`, "E_JOURNAL_CORRUPT", says, () =>
    inDirectory((dir) => {
      const first = openJournal(dir);
      for (const text of ["one", "two", "three"]) first.journal.append({ kind: "note", text });
      first.journal.close();
      const path = join(dir, JOURNAL_FILE);
      const changed = change(readFileSync(path, "utf8"), path);
      if (changed !== undefined) writeFileSync(path, changed);
      openJournal(dir).journal.close();
    }),
  );
const lines = (text: string): string[] => text.trimEnd().split("\n");
const joined = (all: readonly string[]): string => `${all.join("\n")}\n`;

/** A book of what is written: bodies that no agent would write, in a whole chain. */
const book = (input: string, says: string, ...bodies: Record<string, unknown>[]): Refused =>
  refused(`journal: ${input}`, "E_JOURNAL_CORRUPT", says, () =>
    inDirectory((dir) => {
      const first = openJournal(dir);
      for (const body of bodies) first.journal.append(body);
      first.journal.close();
      new Book(dir).close();
    }),
  );
const hold = (epoch: number, state: HoldState, more: Partial<Hold> = {}): Hold => ({
  workload: "redis",
  epoch,
  state,
  operation: "redis.migrate.1",
  ...more,
});
const RELEASE = [hold(1, "OWNER"), hold(1, "FROZEN"), hold(1, "RELEASED", { to: 2, digest: "d" })];
const PREPARE = [hold(2, "RESERVED"), hold(2, "RECEIVED"), hold(2, "PREPARED", { digest: "d" })];
/** The last of these holds is refused, the others are taken. */
const ledger = (input: string, code: FailureCode, says: string, ...holds: Hold[]): Refused =>
  refused(input, code, says, () =>
    inDirectory((dir) => {
      const own = new Book(dir);
      try {
        for (const one of holds.slice(0, -1)) own.record(one);
        const before = own.entries;
        try {
          own.record(holds.at(-1)!);
        } finally {
          assert.equal(own.entries, before, "nothing is written");
        }
      } finally {
        own.close();
      }
    }),
  );

export const JOURNAL: Room = {
  title: "Journal and ownership",
  entries: [
    taken("journal: a last line that is cut", "dropped, and reported as torn", () => {
      assert.deepEqual(parseJournal(Buffer.from('{"seq":1,"at"'), "j"), {
        entries: [],
        head: "0".repeat(64),
        goodBytes: 0,
        torn: true,
      });
    }),
    journal("a flipped bit in the middle", "is damaged at line 2", (text) => text.replace('"two"', '"twp"')),
    journal("a line that was taken out", "at line 2: its sequence number is 3", (text) =>
      joined(lines(text).toSpliced(1, 1)),
    ),
    journal("a line that is there twice", "at line 3: its sequence number is 2", (text) =>
      joined(lines(text).toSpliced(2, 0, lines(text)[1]!)),
    ),
    journal("a line from another journal", "it does not follow the line before it", (text) =>
      joined(lines(text).map((line, i) => (i === 1 ? line.replace(/"prev":"./, '"prev":"x') : line))),
    ),
    journal("a line that is not JSON", "at line 4: it is not JSON", (text) => `${text}not json\n`),
    journal("white space that nobody wrote", "at line 1: it is not as this agent writes it", (text) => `\t${text}`),
    journal("bytes that are not UTF-8", "at line 2: it is not JSON", (text) => {
      const bytes = Buffer.from(text);
      bytes[bytes.indexOf("two")] = 0xff;
      return bytes;
    }),
    journal(
      "an entry nested 20,000 times",
      "at line 1: its content does not match its hash",
      () => `{"seq":1,"at":"","prev":"${"0".repeat(64)}","body":{"a":${DEEP_LIST}},"hash":"${"0".repeat(64)}"}\n`,
    ),
    journal("a FIFO in its place", "is not a plain file", (_text, path) => {
      rmSync(path);
      execFileSync("mkfifo", [path]);
      return undefined;
    }),
    journal("a symbolic link in its place", "is not a plain file", (_text, path) => {
      rmSync(path);
      symlinkSync("/etc/passwd", path);
      return undefined;
    }),
    journal("a directory in its place", "is not a plain file", (_text, path) => {
      rmSync(path);
      mkdirSync(path);
      return undefined;
    }),
    refused("journal: a second agent", "E_JOURNAL_LOCKED", "has the journal in", () =>
      inDirectory((dir) => {
        const first = openJournal(dir);
        try {
          openJournal(dir);
        } finally {
          first.journal.close();
        }
      }),
    ),
    book("an entry of a later agent", "is of a kind that this agent does not know", { kind: "teleported" }),
    book("a hold with epoch -1", "is of a kind that this agent does not know", {
      kind: "hold",
      hold: { ...hold(1, "OWNER"), epoch: -1 },
    }),
    book("a move that can't be", "says what can't be", { kind: "hold", hold: hold(1, "RUNNING") }),
    book(
      "two owners",
      "says what can't be",
      { kind: "hold", hold: hold(1, "OWNER") },
      { kind: "hold", hold: hold(2, "OWNER") },
    ),

    ledger(
      "a start with an epoch that was used",
      "E_STALE_EPOCH",
      "stale, this node has seen epoch 5",
      hold(5, "OWNER"),
      hold(5, "STOPPED"),
      hold(4, "OWNER"),
    ),
    ledger(
      "a reservation of an older epoch",
      "E_STALE_EPOCH",
      "stale, this node has seen epoch 2",
      ...PREPARE,
      hold(1, "RESERVED"),
    ),
    ledger(
      "a second copy",
      "E_STALE_EPOCH",
      "this node already holds epoch 1 as OWNER",
      hold(1, "OWNER"),
      hold(2, "OWNER"),
    ),
    ledger(
      "a token after a refusal",
      "E_TOMBSTONED",
      "TOMBSTONE -> ACTIVE is not a legal move",
      hold(2, "RESERVED"),
      hold(2, "TOMBSTONE"),
      hold(2, "ACTIVE", { digest: "d" }),
    ),
    ledger(
      "a token for other images",
      "E_STATE",
      "is not the digest that was prepared",
      ...PREPARE,
      hold(2, "ACTIVE", { digest: "x" }),
    ),
    ledger(
      "a release without a destination's epoch",
      "E_STATE",
      "RELEASED must name a later epoch",
      hold(1, "OWNER"),
      hold(1, "FROZEN"),
      hold(1, "RELEASED", { digest: "d" }),
    ),
    ledger(
      "a release of a burned epoch",
      "E_STATE",
      "epoch 2 is burned and can't be released",
      hold(1, "OWNER"),
      hold(1, "FROZEN"),
      hold(2, "BURNED"),
      hold(1, "RELEASED", { to: 2, digest: "d" }),
    ),
    ledger(
      "back after the release",
      "E_PAST_COMMIT",
      "RELEASED -> OWNER is not a legal move",
      ...RELEASE,
      hold(1, "OWNER"),
    ),
    ledger(
      "a burn after the release",
      "E_STALE_EPOCH",
      "was released to it, it can't be burned any more",
      ...RELEASE,
      hold(2, "BURNED"),
    ),
    ledger(
      "a reservation of a burned epoch",
      "E_BURNED",
      "BURNED -> RESERVED is not a legal move",
      hold(1, "OWNER"),
      hold(2, "BURNED"),
      hold(2, "RESERVED"),
    ),
    ledger("epoch 0", "E_STALE_EPOCH", "an epoch is a whole number from 1", hold(0, "OWNER")),
  ],
};

const kept = (input: string, says: string, name: string, text: string, read: (dir: string) => unknown): Refused =>
  refused(input, "E_PAGES", says, () =>
    inDirectory((dir) => {
      writeFileSync(join(dir, name), text);
      return read(dir);
    }),
  );
const events = (input: string, says: string, head: (segment: Buffer) => void): Refused =>
  refused(input, "E_PAGES", says, () =>
    inDirectory((dir) => {
      const segment = Buffer.alloc(1 << 20);
      head(segment);
      writeFileSync(join(dir, "events-0"), segment);
      EventLog.open(dir);
    }),
  );

export const NODE: Room = {
  title: "The node: programs, /proc, what its processes leave for each other",
  entries: [
    refused("`ip` prints no JSON", "E_TOOL", "it is not JSON", () => parseLinks("Device does not exist.")),
    refused("`ip` prints something else", "E_TOOL", "is not a list of interfaces", () =>
      parseLinks('{"ifname":"br0"}'),
    ),
    refused("a program that is not there", "E_TOOL", "could not be started", () => run("ferry-no-such-program", [])),
    refused("a program that fails", "E_TOOL", "listing things: ls failed", () =>
      run("ls", ["/nonexistent"], { doing: "listing things" }),
    ),
    refused("a program that does not end", "E_TOOL", "did not finish in 100 ms", () =>
      run("sleep", ["60"], { timeoutMs: 100 }),
    ),
    refused("a user that the node does not know", "E_START", 'there is no user "nobody-of-that-name"', () =>
      resolveUser("nobody-of-that-name"),
    ),
    taken("a process called `x) R 1 (\\n`", "read to the last parenthesis, shown on one line", () => {
      const stat = parseStat("7 (x) R 1 (\n) S 1 7 9 34816 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 100 1 2");
      assert.deepEqual([stat?.state, stat?.ppid, stat?.comm], ["S", 1, "x) R 1 (\n"]);
      assert.equal(shown(stat?.comm ?? ""), "x) R 1 (\\n");
    }),
    kept(
      "a mover's state that is cut short",
      "is not the state of a mover: it is not JSON",
      "mover-state.json",
      '{"port":',
      loadState,
    ),
    kept(
      "a mover's state with port -1",
      "port: Too small",
      "mover-state.json",
      '{"port":-1,"volumeFinal":true,"filling":false}',
      loadState,
    ),
    kept(
      "a holder with pid 0",
      "holder.json can't be read",
      "holder.json",
      '{"daemon":{"pid":0,"startedAt":"1"}}',
      readHolder,
    ),
    refused("a page daemon that says something else", "E_PAGES", 'the page daemon said "{\\"missing\\":[-1,1]}"', () =>
      parseReply('{"missing":[-1,1]}'),
    ),
    events("a page log with a payload beyond its end", "is damaged at 0", (segment) => {
      segment[0] = TYPE.MESSAGES;
      segment.writeUInt32LE(0xffff_ffff, 8);
    }),
    events("a page log with a word of no bytes", "is damaged at 0", (segment) => {
      segment[0] = TYPE.WORD;
      segment[1] = 1;
    }),
  ],
};
