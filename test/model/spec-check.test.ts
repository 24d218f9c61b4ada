/** The table of bad specs: every one is refused with the field, the value and the rule; good ones pass. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { isSpec, parseIpv4, specProblems } from "../../src/model/spec-check.js";

const good = {
  name: "redis-1",
  runtime: "process",
  command: ["redis-server", "--port", "6379", ""],
  env: { A: "1", _b2: "", PATH: "/bin" },
  dir: "/data",
  user: "redis",
  limits: { memoryBytes: 256 * 2 ** 20, cpus: 1.5 },
  network: { ip: "10.77.0.100/24", mac: "02:fe:00:00:00:64", gateway: "10.77.0.1" },
};
const net = (more: object): object => ({ network: { ...good.network, ...more } });

test("good specs have no problem", () => {
  const specs: object[] = [
    good,
    { ...good, limits: {}, user: "0", dir: "/" },
    { ...good, user: "1000:1000", env: {} },
    { ...good, user: "machine$", dir: "/a b/..c/d" },
    { ...good, network: { ip: "192.168.1.1/31", mac: "aa:bb:cc:dd:ee:ff" } },
    { ...good, network: { ip: "10.0.0.0/8".replace("0.0/8", "0.1/32"), mac: "02:00:00:00:00:00" } },
    { ...good, command: Array.from({ length: 256 }, () => "x") },
  ];
  for (const spec of specs) assert.deepEqual(specProblems(spec), [], JSON.stringify(spec));
  assert.ok(isSpec(good));
});

const prototype = JSON.parse('{"__proto__":{"name":"x"},"name":"a"}') as unknown;
const bad: [string, unknown, RegExp][] = [
  ["not an object", "redis", /a spec must be an object, got "redis"/],
  ["null", null, /must be an object, got null/],
  ["a list", [], /must be an object/],
  ["empty", {}, /name is missing/],
  ["own __proto__", prototype, /"__proto__" is not a known field/],
  ["unknown field", { ...good, mounts: ["/"] }, /"mounts" is not a known field/],
  ["annotations", { ...good, "org.criu.config": "/tmp/x" }, /"org\.criu\.config" is not a known field/],
  ["name with a slash", { ...good, name: "../../etc/cron.d/x" }, /workload name ".*" is not valid/],
  ["name with a space", { ...good, name: "a b" }, /is not valid/],
  ["name with NUL", { ...good, name: "a\0b" }, /is not valid/],
  ["name in unicode", { ...good, name: "rédis" }, /is not valid/],
  ["name of 300 characters", { ...good, name: "a".repeat(300) }, /has 300 characters/],
  ["name -rf", { ...good, name: "-rf" }, /is not valid/],
  ["name $(id)", { ...good, name: "$(id)" }, /is not valid/],
  ["name a;reboot", { ...good, name: "a;reboot" }, /is not valid/],
  ["name of the wrong type", { ...good, name: 7 }, /must be a string/],
  ["runtime unknown", { ...good, runtime: "docker" }, /runtime "docker" is not known: use process/],
  ["runtime from the prototype", { ...good, runtime: "toString" }, /is not known/],
  ["command as a string", { ...good, command: "redis-server" }, /command must be a list/],
  ["command empty", { ...good, command: [] }, /command is empty/],
  ["program empty", { ...good, command: [""] }, /command\[0\] is empty/],
  ["argument with NUL", { ...good, command: ["a", "b\0c"] }, /command\[1\] "b\\u0000c" contains a NUL/],
  ["argument as number", { ...good, command: ["a", 1] }, /command\[1\] must be a string, got 1/],
  ["257 arguments", { ...good, command: Array.from({ length: 257 }, () => "x") }, /has 257 arguments/],
  ["command too long", { ...good, command: ["a", "ü".repeat(70_000)] }, /command has 14\d{4} bytes/],
  ["env as a list", { ...good, env: ["A=1"] }, /env must be an object/],
  ["env name", { ...good, env: { "1A": "x" } }, /env name "1A" is not valid/],
  ["env name with =", { ...good, env: { "A=B": "x" } }, /is not valid/],
  ["env name __proto__", { ...good, env: JSON.parse('{"__proto__":"x"}') as unknown }, /env name "__proto__"/],
  ["env value number", { ...good, env: { A: 1 } }, /env A must be a string/],
  ["env value NUL", { ...good, env: { A: "\0" } }, /env A contains a NUL/],
  ["dir relative", { ...good, dir: "data" }, /dir "data" must be an absolute path/],
  ["dir with ..", { ...good, dir: "/data/../etc" }, /must not contain \.\./],
  ["dir with NUL", { ...good, dir: "/a\0" }, /contains a NUL/],
  ["dir in /proc", { ...good, dir: "/proc/self/fd/7" }, /must not lie in \/proc/],
  ["dir in //proc", { ...good, dir: "//proc/1/cwd" }, /must not lie in \/proc/],
  ["user with capitals", { ...good, user: "Root" }, /user "Root" is not valid/],
  ["user with an option", { ...good, user: "-x" }, /is not valid/],
  ["user with newline", { ...good, user: "a\nb" }, /is not valid/],
  ["user ends in newline", { ...good, user: "root\n" }, /is not valid/],
  ["user number too large", { ...good, user: "4294967295" }, /numbers go up to/],
  ["memory negative", { ...good, limits: { memoryBytes: -1 } }, /limits\.memoryBytes -1 must be whole bytes/],
  ["memory NaN", { ...good, limits: { memoryBytes: Number.NaN } }, /limits\.memoryBytes/],
  ["memory 2^53+2", { ...good, limits: { memoryBytes: 2 ** 53 + 2 } }, /limits\.memoryBytes/],
  ["memory text", { ...good, limits: { memoryBytes: "1G" } }, /limits\.memoryBytes "1G"/],
  ["cpus zero", { ...good, limits: { cpus: 0 } }, /limits\.cpus 0 must be cores/],
  ["cpus infinite", { ...good, limits: { cpus: Number.POSITIVE_INFINITY } }, /limits\.cpus/],
  ["limits unknown", { ...good, limits: { disk: 1 } }, /limits\."disk" is not a known field/],
  ["network missing", { ...good, network: undefined }, /network must be an object/],
  ["network unknown", { ...good, ...net({ vlan: 1 }) }, /network\."vlan" is not a known field/],
  ["ip without prefix", { ...good, ...net({ ip: "10.77.0.100" }) }, /network\.ip "10\.77\.0\.100" is not valid/],
  ["ip 0.0.0.0", { ...good, ...net({ ip: "0.0.0.0/24" }) }, /not an address of a host/],
  ["ip broadcast", { ...good, ...net({ ip: "255.255.255.255/24" }) }, /is the broadcast address/],
  ["ip network's broadcast", { ...good, ...net({ ip: "10.77.0.255/24" }) }, /network's broadcast address/],
  ["ip network", { ...good, ...net({ ip: "10.77.0.0/24" }) }, /address of the network itself/],
  ["ip multicast", { ...good, ...net({ ip: "224.0.0.1/24" }) }, /is a multicast address/],
  ["ip loopback", { ...good, ...net({ ip: "127.0.0.1/8" }) }, /is a loopback address/],
  ["ip reserved", { ...good, ...net({ ip: "240.0.0.1/8" }) }, /is a reserved address/],
  ["ip leading zero", { ...good, ...net({ ip: "010.0.0.1/8" }) }, /is not valid/],
  ["ip mapped", { ...good, ...net({ ip: "::ffff:10.0.0.1/120" }) }, /is not valid/],
  ["ip hexadecimal", { ...good, ...net({ ip: "0x0a.0.0.1/8" }) }, /is not valid/],
  ["ip 256", { ...good, ...net({ ip: "10.0.0.256/8" }) }, /is not valid/],
  ["ip three octets", { ...good, ...net({ ip: "10.0.1/8" }) }, /is not valid/],
  ["ip prefix 0", { ...good, ...net({ ip: "10.0.0.1/0" }) }, /is not valid/],
  ["ip prefix 33", { ...good, ...net({ ip: "10.0.0.1/33" }) }, /is not valid/],
  ["ip prefix twice", { ...good, ...net({ ip: "10.0.0.1/24/24" }) }, /is not valid/],
  ["ip with newline", { ...good, ...net({ ip: "10.0.0.1/24\n" }) }, /is not valid/],
  ["mac multicast", { ...good, ...net({ mac: "01:00:5e:00:00:01" }) }, /is a multicast address/],
  ["mac broadcast", { ...good, ...net({ mac: "ff:ff:ff:ff:ff:ff" }) }, /is a multicast address/],
  ["mac zero", { ...good, ...net({ mac: "00:00:00:00:00:00" }) }, /is all zeros/],
  ["mac five octets", { ...good, ...net({ mac: "02:fe:00:00:00" }) }, /use six octets/],
  ["mac capitals", { ...good, ...net({ mac: "02:FE:00:00:00:64" }) }, /in lower case/],
  ["gateway elsewhere", { ...good, ...net({ gateway: "10.78.0.1" }) }, /gateway "10\.78\.0\.1" is not in the network/],
  ["gateway itself", { ...good, ...net({ gateway: "10.77.0.100" }) }, /is the workload's own address/],
  ["gateway no address", { ...good, ...net({ gateway: "gw" }) }, /is not an IPv4 address/],
];

for (const [title, spec, expected] of bad) {
  test(`refused: ${title}`, () => {
    const problems = specProblems(spec);
    assert.ok(
      problems.some((problem) => expected.test(problem)),
      `expected ${expected}, got ${JSON.stringify(problems)}`,
    );
    for (const problem of problems) assert.match(problem, /^[^\n\0]{1,400}$/);
    assert.equal(isSpec(spec), false);
  });
}

test("what is wrong about the environment is told without its values", () => {
  for (const env of [
    { A: 31_337_001 },
    { A: ["hunter2hunter2"] },
    { A: "hunter2hunter2\0" },
    "A=hunter2hunter2",
    ["A=hunter2hunter2"],
  ]) {
    const problems = specProblems({ ...good, env });
    assert.equal(problems.length, 1);
    assert.doesNotMatch(problems.join(), /hunter2|31337001/);
  }
});

test("all problems are told at once", () => {
  const problems = specProblems({ ...good, name: "A", dir: "x", user: "-", network: { ip: "x", mac: "y" } });
  assert.equal(problems.length, 5);
});

test("addresses as numbers", () => {
  assert.equal(parseIpv4("255.255.255.255"), 2 ** 32 - 1);
  assert.equal(parseIpv4("1.2.3.4"), 0x01020304);
  for (const text of ["", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.-4", "1.2.3.4 ", "1.2.3.1e1"]) {
    assert.equal(parseIpv4(text), undefined, text);
  }
});
