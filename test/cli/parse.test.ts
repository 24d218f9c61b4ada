import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  parseAddress,
  parseCount,
  parseDuration,
  parseEnv,
  parseLimits,
  parseMode,
  parseRate,
  parseSize,
} from "../../src/cli/parse.js";

const refuses = (parse: (text: string) => unknown, texts: readonly string[], words: RegExp): void => {
  for (const text of texts) assert.throws(() => parse(text), words, `${JSON.stringify(text)} should be refused`);
};

describe("what people type", () => {
  test("sizes: powers of 1024 for K, M, G and KiB, powers of 1000 for KB, MB, GB", () => {
    assert.equal(parseSize("512M"), 512 * 1024 ** 2);
    assert.equal(parseSize("1.5GiB"), 1.5 * 1024 ** 3);
    assert.equal(parseSize("100MB"), 100_000_000);
    assert.equal(parseSize("4096"), 4096);
    assert.equal(parseSize("1k"), 1024);
    refuses(
      parseSize,
      ["", "M", "-1M", "1e3", "0", "0x10", "1 M", "1MM", "NaN", "Infinity", "1.5.2M", "99999999999999T", "５M"],
      /size/,
    );
  });
  test("rates are sizes per second", () => {
    assert.equal(parseRate("100MB/s"), 100_000_000);
    assert.equal(parseRate("1GiB"), 1024 ** 3);
    refuses(parseRate, ["", "/s", "100MB/h", "fast"], /rate/);
  });
  test("durations need a unit", () => {
    assert.equal(parseDuration("250ms"), 250);
    assert.equal(parseDuration("1.5s"), 1500);
    assert.equal(parseDuration("2m"), 120_000);
    assert.equal(parseDuration("1h"), 3_600_000);
    refuses(parseDuration, ["", "30", "s", "-1s", "1 s", "1d", "0s", "0.0001ms", "1e3s"], /duration|short/);
    refuses(parseDuration, ["200h"], /too long/);
  });
  test("limits merge and refuse what is not known", () => {
    assert.deepEqual(parseLimits("memory=512M,cpu=1.5"), { memoryBytes: 512 * 1024 ** 2, cpus: 1.5 });
    assert.deepEqual(parseLimits("cpu=2", { memoryBytes: 1 }), { memoryBytes: 1, cpus: 2 });
    refuses(
      parseLimits,
      ["", "memory", "cpu=0", "cpu=-1", "cpu=many", "disk=1G", "memory=512M,", "__proto__=1"],
      /limit|size|cores/,
    );
  });
  test("environment is KEY=VALUE, the value may hold anything", () => {
    assert.deepEqual(parseEnv("A=b=c", { B: "1" }), { B: "1", A: "b=c" });
    assert.deepEqual(parseEnv("A="), { A: "" });
    refuses(parseEnv, ["", "A", "=x", "1A=x", "A B=x", "Ä=x"], /KEY=VALUE/);
    assert.equal(Object.getPrototypeOf(parseEnv("__proto__=x")), Object.prototype);
  });
  test("modes and addresses", () => {
    assert.equal(parseMode("postcopy"), "postcopy");
    assert.equal(parseMode("auto"), "auto");
    refuses(parseMode, ["", "COLD", "hot"], /Known: auto, precopy, hybrid, postcopy, cold/);
    assert.equal(parseAddress("127.0.0.1:7233"), "127.0.0.1:7233");
    assert.equal(parseAddress("[::1]:7233"), "[::1]:7233");
    refuses(
      parseAddress,
      ["", "host", "host:", "host:0", "host:65536", ":7233", "a b:1", "http://x:1", "::1:7233"],
      /HOST:PORT/,
    );
    refuses(parseCount("nodes", 1, 26), ["0", "27", "1.5", "-1", "x", ""], /number of nodes/);
  });
});
