import assert from "node:assert/strict";
import { test } from "node:test";
import { parseAge, parseCheckpointId, parseIps, parseLabel, parseMoment } from "../../src/cli/parse-checkpoints.js";

const refuses = (parse: (text: string) => unknown, texts: readonly string[], words: RegExp): void => {
  for (const text of texts) assert.throws(() => parse(text), words, `${JSON.stringify(text)} should be refused`);
};

test("labels: NAME=VALUE, the last word counts, a value may be anything short", () => {
  assert.deepEqual(parseLabel("a=1", { b: "2" }), { b: "2", a: "1" });
  assert.deepEqual(parseLabel("a=x=y", { a: "1" }), { a: "x=y" });
  assert.deepEqual(parseLabel("team/name="), { "team/name": "" });
  refuses(
    parseLabel,
    ["", "a", "=b", "a b=c", "-a=b", `${"a".repeat(64)}=b`, `a=${"b".repeat(201)}`],
    /is not|must be/,
  );
});

test("ages: seconds to weeks; a bare number is refused", () => {
  assert.equal(parseAge("7d"), 7 * 86_400_000);
  assert.equal(parseAge("2w"), 14 * 86_400_000);
  assert.equal(parseAge("1.5h"), 5_400_000);
  refuses(parseAge, ["", "7", "7 d", "-1d", "1y", "1e3d", "d"], /is not an age/);
  refuses(parseAge, ["521.7w", "99999d"], /too long/);
});

test("times: with a zone, without one, a day up to its end, or how long ago", () => {
  const parse = parseMoment(() => Date.UTC(2026, 2, 10));
  assert.equal(parse("2026-03-01T10:00:00Z").getTime(), Date.UTC(2026, 2, 1, 10));
  assert.equal(parse("2026-03-01T10:00+02:00").getTime(), Date.UTC(2026, 2, 1, 8));
  assert.equal(parse("2026-03-01 10:00").getTime(), new Date(2026, 2, 1, 10).getTime());
  assert.equal(parse("2026-03-01").getTime(), new Date(2026, 2, 1, 23, 59, 59, 999).getTime());
  assert.equal(parse("2d").getTime(), Date.UTC(2026, 2, 8));
  refuses(
    parse,
    [
      "",
      "now",
      "10:00",
      "2026-02-30",
      "2026-02-30T10:00Z",
      "2026-13-01",
      "2026-03-01T25:00Z",
      "1772359200",
      "1960-01-01",
    ],
    /is not a time/,
  );
});

test("ids and addresses", () => {
  assert.equal(parseCheckpointId("20260301T1000"), "20260301T1000");
  refuses(parseCheckpointId, ["", ".", "../x", "a/b", "-a", "a b", "a".repeat(129)], /is not a checkpoint's id/);
  assert.deepEqual(parseIps("10.77.0.9/24", ["10.77.0.8"]), ["10.77.0.8", "10.77.0.9/24"]);
  refuses(parseIps, ["", "10.77.0", "10.77.0.300", "::1", "10.77.0.9/33"], /is not an IPv4 address/);
});
