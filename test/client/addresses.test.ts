import assert from "node:assert/strict";
import { test } from "node:test";
import { addressRange, chooseIp, macOf } from "../../src/client/addresses.js";

test("addresses are given out in the middle of the bridge's own network, whatever its size", () => {
  const cases: [string, string, string, number][] = [
    ["10.77.0.11/24", "10.77.0.100", "10.77.0.199", 100],
    ["10.91.7.0/24", "10.91.7.100", "10.91.7.199", 100],
    ["192.168.3.77/28", "192.168.3.70", "192.168.3.75", 6],
    ["172.16.40.1/16", "172.16.100.0", "172.16.100.99", 100],
    ["192.0.2.5/30", "192.0.2.5", "192.0.2.5", 1],
  ];
  for (const [network, first, last, count] of cases) assert.deepEqual(addressRange(network), { first, last, count });
});

test("the same name gets the same address, a taken one is passed over, and a full range is told", () => {
  const first = chooseIp("redis", new Set(), "10.91.7.0/24") ?? "";
  assert.match(first, /^10\.91\.7\.1\d\d\/24$/);
  assert.equal(chooseIp("redis", new Set(), "10.91.7.0/24"), first);
  assert.equal(chooseIp("redis", new Set())?.replace("10.77.0", "10.91.7"), first, "as in the lab's own network");
  const second = chooseIp("redis", new Set([first.replace("/24", "")]), "10.91.7.0/24");
  assert.notEqual(second, first);
  const all = new Set(Array.from({ length: 100 }, (_, i) => `10.91.7.${100 + i}`));
  assert.equal(chooseIp("redis", all, "10.91.7.0/24"), undefined);
  assert.equal(macOf("10.91.7.120/24"), "02:fe:0a:5b:07:78");
});
