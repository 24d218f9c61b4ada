/** The payload codec: what it encrypts comes back, and nothing else is believed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultPayloadConverter, type Payload } from "@temporalio/common";
import { EncryptingCodec } from "../../src/keys/payload-codec.js";
import { newPayloadKeyLine, parsePayloadKeys, type PayloadKey } from "../../src/keys/payload-keys.js";
import { FerryError } from "../../src/model/failure.js";
import { whyRefused } from "../../src/model/refused-payload.js";
import { INPUT_PROBLEMS } from "../../src/model/request-check.js";

const keyOf = (id: string): PayloadKey => parsePayloadKeys(newPayloadKeyLine(id), "test")[0]!;
const old = keyOf("2025");
const fresh = keyOf("2026");
const codec = new EncryptingCodec([fresh, old]);
const plain = defaultPayloadConverter.toPayload({ env: { PASSWORD: "hunter2" } });
const refused = async (payload: Payload, words: RegExp, by = codec): Promise<void> => {
  await assert.rejects(
    () => by.decode([payload]),
    (error) => error instanceof FerryError && error.code === "E_PAYLOAD" && words.test(error.message),
  );
};

test("what goes through is not to be seen, comes back as it was, and is never the same twice", async () => {
  const [first, second] = await codec.encode([plain, plain]);
  assert.ok(first !== undefined && second !== undefined);
  for (const sealed of [first, second]) assert.ok(!Buffer.from(sealed.data!).includes("hunter2"));
  assert.notDeepEqual(first.data, second.data);
  assert.equal(Buffer.from(first.metadata!["encoding"]!).toString(), "binary/encrypted");
  assert.equal(Buffer.from(first.metadata!["encryption-key-id"]!).toString(), "2026");
  const [back] = await codec.decode([first]);
  assert.deepEqual(defaultPayloadConverter.fromPayload(back!), { env: { PASSWORD: "hunter2" } });
});

test("rotation: the newest key encrypts, older ones still decrypt", async () => {
  const [sealed] = await new EncryptingCodec([old]).encode([plain]);
  const [back] = await codec.decode([sealed!]);
  assert.deepEqual(defaultPayloadConverter.fromPayload(back!), { env: { PASSWORD: "hunter2" } });
  const [now] = await codec.encode([plain]);
  await refused(
    now!,
    /encrypted with key "2026", which is not configured here \(there are: 2025\)/,
    new EncryptingCodec([old]),
  );
});

test("plain, of another encoding, changed, cut or of another key: refused", async () => {
  await refused(plain, /is not encrypted \(its encoding is "json\/plain"\)/);
  await refused({ metadata: {}, data: Buffer.from("x") }, /its encoding is ""/);
  await refused(
    { metadata: { encoding: Buffer.from("binary/zip\u001b[2J") }, data: Buffer.from("x") },
    /not encrypted/,
  );
  const [sealed] = await codec.encode([plain]);
  const data = Buffer.from(sealed!.data!);
  for (const at of [0, 11, 12, data.length >> 1, data.length - 1]) {
    const flipped = Buffer.from(data);
    flipped[at]! ^= 1;
    await refused(
      { ...sealed!, data: flipped },
      /was changed, or encrypted with another key that is also called "2026"/,
    );
  }
  for (const size of [0, 12, 27, data.length - 1])
    await refused({ ...sealed!, data: data.subarray(0, size) }, /was changed/);
  await refused(sealed!, /was changed/, new EncryptingCodec([keyOf("2026")]));
});

test("in a workflow a plain message becomes one that is refused in words", async () => {
  const marking = new EncryptingCodec([fresh], "mark");
  const [marked] = await marking.decode([plain]);
  const value: unknown = defaultPayloadConverter.fromPayload(marked!);
  assert.match(whyRefused(value) ?? "", /is not encrypted/);
  assert.match(INPUT_PROBLEMS.workload(value).join("\n"), /^a payload in Temporal is not encrypted/);
  // A key that is missing is the operator's affair: it must not make a workflow go another way.
  const [sealed] = await codec.encode([plain]);
  await refused(sealed!, /which is not configured/, new EncryptingCodec([old], "mark"));
});

test("a file of keys: comments and blank lines; what is wrong is named by its line, never quoted", () => {
  const text = `# newest first\n\n${newPayloadKeyLine("b")}\n  ${newPayloadKeyLine("a")}  \n`;
  assert.deepEqual(
    parsePayloadKeys(text, "f").map(({ id }) => id),
    ["b", "a"],
  );
  const short = Buffer.alloc(16, 7).toString("base64");
  const line = newPayloadKeyLine("a");
  for (const [wrong, words] of [
    ["", /f can't be used: there is none/],
    ["# nothing", /there is none/],
    [`a ${short}`, /line 1 is not valid/],
    [`${line}\nb`, /line 2 is not valid/],
    [`${line} more`, /line 1 is not valid/],
    [`ü ${line.slice(2)}`, /line 1 is not valid/],
    [`${line}\n${line}`, /the id a is there twice/],
  ] as const) {
    assert.throws(
      () => parsePayloadKeys(wrong, "f"),
      (error) =>
        error instanceof FerryError &&
        error.code === "E_REQUEST" &&
        words.test(error.message) &&
        !error.message.includes(short) &&
        !error.message.includes(line.slice(2)),
      wrong,
    );
  }
});
