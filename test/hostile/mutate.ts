/** Broken inputs for property tests: bytes that were whole, JSON with one thing in it that should not be, and the runner. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { InvalidArgumentError } from "commander";
import { FerryError, isFailureCode } from "../../src/model/failure.js";

/** FERRY_FUZZ_RUNS raises it (20000 takes minutes); FERRY_FUZZ_SEED replays: what fails prints seed and path. */
const RUNS = Number(process.env["FERRY_FUZZ_RUNS"] ?? 150);
const SEED = Number(process.env["FERRY_FUZZ_SEED"] ?? 20_261_125);
/** Nothing here takes a tenth of a second: what takes this long hangs. */
const HANG_MS = 10_000;
const MAX_MESSAGE = 20_000;
/** Of the whole property, with what the garbage collector has not given back yet. */
const MAX_GROWTH_BYTES = 600 * 2 ** 20;

const isAnswer = (error: unknown): boolean => error instanceof FerryError || error instanceof InvalidArgumentError;

/** Throws unless `error` is a failure of ours in words. */
export function demandAnswer(error: unknown): void {
  if (!isAnswer(error)) throw error;
  const { message } = error as Error;
  assert.ok(message.length > 10 && message.length < MAX_MESSAGE, `a message of ${message.length} characters`);
  if (error instanceof FerryError) assert.ok(isFailureCode(error.code), error.code);
}

interface FuzzOptions {
  /** Of the usual number of runs, for what touches files. */
  share?: number;
  /** Runs at most, whatever was asked for: each keeps memory for as long as the process lives. */
  most?: number;
}

/** `parse` gives a value that `holds`, or throws a failure with a code; never anything else, never for ever. */
export function fuzz<Input, Value>(
  name: string,
  inputs: fc.Arbitrary<Input>,
  parse: (input: Input) => Value | Promise<Value>,
  holds: (value: Awaited<Value>, input: Input) => void = () => undefined,
  { share = 1, most = Number.POSITIVE_INFINITY }: FuzzOptions = {},
): void {
  test(name, async () => {
    const before = process.memoryUsage.rss();
    const property = fc.asyncProperty(inputs, async (input) => {
      const started = performance.now();
      try {
        const value = await parse(input);
        holds(value, input);
      } catch (error) {
        demandAnswer(error);
      }
      assert.ok(performance.now() - started < HANG_MS, "it hangs");
    });
    const numRuns = Math.min(most, Math.max(5, Math.ceil(RUNS * share)));
    await fc.assert(property, { seed: SEED, numRuns, includeErrorInReport: true });
    const grown = process.memoryUsage.rss() - before;
    assert.ok(grown < MAX_GROWTH_BYTES, `${grown} bytes more than before`);
  });
}

// --- bytes ------------------------------------------------------------------------------------------------------------

const EDGES = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 4096, 1 << 20];

type Change = (bytes: Buffer) => Buffer;
const at = (bytes: Buffer, place: number): number => Math.floor(place * bytes.length);
/** Where in the bytes, as a part of their length. Not a double: most of those are next to nothing, which is always the first byte. */
const place = fc.noBias(fc.nat(99_999)).map((n) => n / 100_000);
const change: fc.Arbitrary<Change> = fc.oneof(
  fc.tuple(place, fc.nat(7)).map(([p, bit]): Change => (bytes) => {
    const copy = Buffer.from(bytes);
    if (copy.length > 0) copy[at(copy, p)]! ^= 1 << bit;
    return copy;
  }),
  place.map(
    (p): Change =>
      (bytes) =>
        bytes.subarray(0, at(bytes, p)),
  ),
  fc.tuple(place, fc.nat(64)).map(([p, n]): Change => (bytes) => {
    const from = at(bytes, p);
    return Buffer.concat([bytes.subarray(0, from), bytes.subarray(from + n)]);
  }),
  fc.tuple(place, fc.nat(64), fc.integer({ min: 1, max: 40 })).map(([p, n, times]): Change => (bytes) => {
    const from = at(bytes, p);
    const piece = bytes.subarray(from, from + n);
    return Buffer.concat([
      bytes.subarray(0, from),
      ...Array.from({ length: times }, () => piece),
      bytes.subarray(from),
    ]);
  }),
  fc.tuple(place, fc.uint8Array({ maxLength: 24 })).map(([p, more]): Change => (bytes) => {
    const from = at(bytes, p);
    return Buffer.concat([bytes.subarray(0, from), more, bytes.subarray(from)]);
  }),
  fc.tuple(place, fc.constantFrom(...EDGES), fc.boolean()).map(([p, value, little]): Change => (bytes) => {
    const copy = Buffer.from(bytes);
    const from = Math.min(at(copy, p), copy.length - 4);
    if (from < 0) return copy;
    if (little) copy.writeUInt32LE(value, from);
    else copy.writeUInt32BE(value, from);
    return copy;
  }),
);

/** A whole sample with a few changes; now and then none, or bytes of nobody. */
export const mutatedBytes = (samples: readonly Buffer[]): fc.Arbitrary<Buffer> =>
  fc.oneof(
    { weight: 8, arbitrary: fc.tuple(fc.constantFrom(...samples), fc.array(change, { maxLength: 4 })).map(apply) },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)) },
  );
const apply = ([sample, changes]: [Buffer, Change[]]): Buffer =>
  changes.reduce((bytes, one) => one(bytes).subarray(0, 1 << 20), sample);

export const mutatedText = (samples: readonly string[]): fc.Arbitrary<string> =>
  fc.oneof(
    {
      weight: 6,
      arbitrary: mutatedBytes(samples.map((text) => Buffer.from(text))).map((bytes) => bytes.toString("utf8")),
    },
    { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 200 }) },
  );

// --- JSON -------------------------------------------------------------------------------------------------------------

/** JSON that is nested so deeply that nothing which calls itself gets through it. */
const DEPTH = 20_000;
export const DEEP_LIST = `${"[".repeat(DEPTH)}${"]".repeat(DEPTH)}`;
export const DEEP_FAILURE = `${'{"code":"E_FRAME","message":"m","cause":'.repeat(DEPTH)}0${"}".repeat(DEPTH)}`;
/** Stand for these until the text is made: neither fast-check nor the edits can walk through them. */
const MARKS: Readonly<Record<string, string>> = { "\u0001list": DEEP_LIST, "\u0001failure": DEEP_FAILURE };

const ODD_KEYS = ["__proto__", "constructor", "toString", "toJSON", "valueOf", "", "\0", "a\nb", "x".repeat(5000)];
const NUMBERS = [0, -1, 0.5, 1e308, -1e308, 2 ** 31, 2 ** 32, 2 ** 53, 2 ** 53 + 2, 2 ** 63, 1e21];
const TEXTS = ["", "\0", "..", "../..", "/", "//", "-rf", "$(id)", "a\nb", "\u001b[31m", "__proto__", "toString", "９"];
const OBJECTS: unknown[] = [[], {}, [[]], [null], { toString: 1 }, { length: 1e9 }, { toJSON: 1, valueOf: 2 }];
const ODD: unknown[] = [
  null,
  true,
  false,
  "\ud800",
  "x".repeat(10_000),
  ...NUMBERS,
  ...TEXTS,
  ...OBJECTS,
  ...Object.keys(MARKS),
  JSON.parse('{"__proto__":{"a":1}}'),
  Array.from({ length: 3000 }, (_, i) => i),
  Object.fromEntries(Array.from({ length: 3000 }, (_, i) => [`k${i}`, i])),
];
const odd: fc.Arbitrary<unknown> = fc.oneof(
  { weight: 5, arbitrary: fc.constantFrom(...ODD) },
  { weight: 2, arbitrary: fc.jsonValue({ maxDepth: 3 }) },
  { weight: 1, arbitrary: fc.double({ noNaN: true }) },
);

type Path = (string | number)[];
function pathsOf(value: unknown, here: Path = []): Path[] {
  if (typeof value !== "object" || value === null) return [here];
  return [here, ...Object.entries(value).flatMap(([key, inner]) => pathsOf(inner, [...here, key]))];
}

type Edit = { where: number; how: "replace" | "remove" | "add" | "repeat"; key: string; value: unknown };
const edit: fc.Arbitrary<Edit> = fc.record({
  where: fc.nat(),
  how: fc.constantFrom("replace" as const, "replace" as const, "remove" as const, "add" as const, "repeat" as const),
  key: fc.oneof(fc.constantFrom(...ODD_KEYS), fc.string({ maxLength: 8 })),
  value: odd,
});

/** Own property whatever the key is: `__proto__` too, as JSON.parse would make it. */
const put = (target: object, key: string | number, value: unknown): void => {
  Object.defineProperty(target, key, { value, enumerable: true, configurable: true, writable: true });
};

function edited(sample: unknown, { where, how, key, value }: Edit): unknown {
  const copy: unknown = structuredClone(sample);
  const paths = pathsOf(copy);
  const path = paths[where % paths.length] ?? [];
  const parent = path.slice(0, -1).reduce<unknown>((inner, step) => (inner as Record<string, unknown>)[step], copy);
  const last = path.at(-1);
  if (last === undefined || typeof parent !== "object" || parent === null) return how === "replace" ? value : copy;
  const current = (parent as Record<string, unknown>)[last];
  if (how === "remove") {
    // A list whose constructor is something else now can't be spliced.
    if (Array.isArray(parent) && !Object.hasOwn(parent, "constructor")) parent.splice(Number(last), 1);
    else delete (parent as Record<string, unknown>)[last];
  } else if (how === "add" && typeof current === "object" && current !== null) put(current, key, value);
  else if (how === "repeat" && Array.isArray(current))
    current.push(...(current as unknown[]), ...(current as unknown[]));
  else put(parent, last, value);
  return copy;
}

const marked = (samples: readonly unknown[]): fc.Arbitrary<unknown> =>
  fc.oneof(
    {
      weight: 8,
      arbitrary: fc
        .tuple(fc.constantFrom(...samples), fc.array(edit, { maxLength: 2 }))
        .map(([sample, edits]) => edits.reduce(edited, sample)),
    },
    { weight: 1, arbitrary: odd },
  );

/** As JSON text: a whole sample in which a few things are replaced, gone, added or repeated; now and then something else. */
export const mutatedJsonText = (...samples: readonly unknown[]): fc.Arbitrary<string> =>
  marked(samples).map((value) =>
    JSON.stringify(value).replaceAll(/"\\u0001(?:list|failure)"/g, (mark) => MARKS[JSON.parse(mark) as string] ?? mark),
  );

/** `fuzz` with the parsed JSON; what fails is shown as its text. */
export function fuzzJson<Value>(
  name: string,
  samples: readonly unknown[],
  parse: (input: unknown) => Value | Promise<Value>,
  holds: (value: Awaited<Value>, input: unknown) => void = () => undefined,
  options?: FuzzOptions,
): void {
  fuzz(
    name,
    mutatedJsonText(...samples),
    (text) => parse(JSON.parse(text)),
    (value, text) => holds(value, JSON.parse(text)),
    options,
  );
}
