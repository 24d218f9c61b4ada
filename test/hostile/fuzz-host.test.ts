/** Properties of what the kernel and programs print, with names in it that a workload has chosen; and of the journal. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after } from "node:test";
import { Book } from "../../src/agent/book.js";
import { CostBook } from "../../src/agent/costs.js";
import { JOURNAL_FILE, openJournal, parseJournal } from "../../src/agent/journal.js";
import { parseArping, parseLinks } from "../../src/agent/preflight/network.js";
import { buildIdInNotes } from "../../src/host/elf.js";
import { parseCpuFlags } from "../../src/host/facts.js";
import * as procfs from "../../src/host/procfs.js";
import { decodeAddress, parseInet, parseSsUnix } from "../../src/host/sockets.js";
import { parseSmaps } from "../../src/transfer/pages/source.js";
import { lazyAreas } from "../../src/transfer/trackers/areas.js";
import { passResult } from "../../src/transfer/volume/rsync.js";
import { parseWalk } from "../../src/transfer/volume/walk.js";
import { demandAnswer, fuzz, fuzzJson, mutatedBytes, mutatedJsonText, mutatedText } from "./mutate.js";
import { OPTIONS, PROC, REF, SPEC, TOOLS } from "./samples.js";

const root = mkdtempSync("/dev/shm/ferry-fuzz-host-");
after(() => rmSync(root, { recursive: true, force: true }));

fuzz("/proc stat", mutatedText([PROC.stat]), procfs.parseStat, (stat) => {
  if (stat !== undefined) assert.ok(Number.isSafeInteger(stat.pid) && Number.isSafeInteger(stat.threads));
});
fuzz("/proc status", mutatedText([PROC.status]), (text) => {
  assert.ok(Number.isFinite(procfs.kibBytes(procfs.parseKeyed(text).get("VmRSS"))));
});
fuzz("/proc maps", mutatedText([PROC.maps]), procfs.parseMaps);
fuzz("/proc mountinfo", mutatedText([PROC.mountinfo]), procfs.parseMountinfo, (mounts) => {
  for (const mount of mounts) {
    assert.ok(Number.isFinite(mount.id) && Number.isFinite(mount.parent));
    procfs.mountOption(mount.superOptions, "upperdir");
  }
  procfs.mountOf(mounts, "/data/x");
});
fuzz("/proc fdinfo", mutatedText([PROC.fdinfo]), procfs.parseFdInfo);
fuzz("octal escapes", mutatedText(["/a\\040b\\303\\274c"]), procfs.unescapeOctal);
fuzz("what a workload wrote", mutatedText(['a\nb"c"']), procfs.shown, (text) => {
  // oxlint-disable-next-line no-control-regex -- what a terminal would obey
  assert.doesNotMatch(text, /[\u0000-\u001f\u007f-\u009f]/);
});
fuzz("areas of maps", mutatedText([PROC.maps]), lazyAreas);
fuzz("smaps", mutatedText([PROC.smaps]), parseSmaps);
fuzz("socket tables", mutatedText([PROC.tcp]), (text) => parseInet("tcp", text));
fuzz("addresses", mutatedText(["0100007F", "0000000000000000FFFF000064004D0A"]), decodeAddress);
fuzz("ss", mutatedText([PROC.ss, "u_str ESTAB 0 0 * 1058 * 1057\n"]), parseSsUnix);
fuzz("cpuinfo", mutatedText([PROC.cpuinfo]), parseCpuFlags);
const NOTES = Buffer.alloc(36, 5);
NOTES.writeUInt32LE(4, 0);
NOTES.writeUInt32LE(20, 4);
NOTES.writeUInt32LE(3, 8);
NOTES.write("GNU\0", 12, "latin1");
fuzz(
  "notes of an ELF file",
  mutatedBytes([NOTES]),
  (notes) => buildIdInNotes(notes, true),
  (id) => {
    if (id !== undefined) assert.match(id, /^(?:[0-9a-f]{2})+$/);
  },
);

fuzz("ip -j addr", mutatedText([TOOLS.links]), parseLinks);
fuzz("ip -j addr, as JSON", mutatedJsonText(JSON.parse(TOOLS.links)), parseLinks);
fuzz("arping", mutatedText([TOOLS.arping]), parseArping, (macs) => {
  for (const mac of macs) assert.equal(mac.length, 17);
});
fuzz("find", mutatedBytes([Buffer.from(TOOLS.walk, "latin1")]), parseWalk);
fuzz("rsync's words", mutatedText(TOOLS.rsync), (line) =>
  passResult({ exitCode: 23, signal: null, lines: [line], serverLines: [line] }, true),
);
fuzz(
  "costs.json",
  mutatedText(['{"scale":1,"workloads":{"a":2},"peers":{}}']),
  (text) => {
    writeFileSync(join(root, "costs.json"), text);
    const book = new CostBook(root);
    assert.ok(book.fixedMs("a", 2 ** 30, 3) > 0);
  },
  undefined,
  { share: 0.3 },
);

const written = openJournal(join(root, "written"));
for (const text of ["päge ⛴", "\ufffd", "x".repeat(100)]) written.journal.append({ kind: "note", text });
written.journal.close();
const JOURNAL = readFileSync(join(root, "written", JOURNAL_FILE));
const kept = parseJournal(JOURNAL, "j").entries;
fuzz(
  "a changed journal holds what was written, from its beginning",
  mutatedBytes([JOURNAL]),
  (bytes) => parseJournal(bytes, "j"),
  ({ entries, goodBytes }, bytes) => {
    assert.deepEqual(entries, kept.slice(0, entries.length));
    assert.ok(goodBytes <= bytes.length && bytes.subarray(0, goodBytes).equals(JOURNAL.subarray(0, goodBytes)));
  },
);

const hold = (epoch: number, state: string, more: object = {}): unknown => ({
  kind: "hold",
  hold: { workload: "redis-1", epoch, state, operation: REF.operation, ...more },
});
const BODIES = [
  hold(1, "OWNER"),
  { kind: "spec", spec: SPEC },
  { kind: "started", workload: "redis-1", epoch: 1 },
  {
    kind: "source",
    input: {
      ref: REF,
      options: OPTIONS,
      reservation: { agent: { host: "h", port: 1 }, mover: { host: "h", port: 2 } },
    },
  },
  hold(1, "FROZEN", { to: 2, peer: "node-b" }),
  hold(1, "RELEASED", { to: 2, peer: "node-b", digest: "d" }),
  { kind: "forget", workload: "redis-1" },
];
let journals = 0;
fuzzJson(
  "a journal with a whole chain and anything in it",
  [BODIES],
  (bodies) => {
    const dir = join(root, `book-${journals++}`);
    const { journal } = openJournal(dir);
    try {
      if (!Array.isArray(bodies)) return;
      for (const body of (bodies as unknown[]).slice(0, 30)) {
        if (typeof body === "object" && body !== null) journal.append(body as Record<string, unknown>);
      }
    } catch (error) {
      // Nested too deeply to be written at all: the corpus has it, made by hand.
      if (!(error instanceof RangeError)) throw error;
    } finally {
      journal.close();
    }
    try {
      new Book(dir).close();
    } catch (error) {
      demandAnswer(error);
    } finally {
      rmSync(dir, { recursive: true });
    }
  },
  undefined,
  { share: 0.3 },
);
