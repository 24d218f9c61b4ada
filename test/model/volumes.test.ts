import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { specProblems } from "../../src/model/spec-check.js";
import { volumePathProblem, volumesProblems } from "../../src/model/volumes.js";

const spec = {
  name: "db",
  runtime: "process",
  command: ["true"],
  env: {},
  dir: "/data",
  user: "root",
  limits: {},
  network: { ip: "10.77.0.100/24", mac: "02:fe:00:00:00:64" },
};
const at = (...paths: string[]): unknown[] => paths.map((path, i) => ({ name: `v${i}`, path, kind: "copy" }));

describe("volumes in a spec", () => {
  test("none, one, many: fine", () => {
    assert.deepEqual(specProblems(spec), []);
    assert.deepEqual(specProblems({ ...spec, volumes: [] }), []);
    assert.deepEqual(specProblems({ ...spec, volumes: at("/srv/a", "/srv/ab", "/var/lib/postgresql") }), []);
    assert.deepEqual(volumesProblems([{ name: "media", path: "/mnt/media", kind: "shared" }]), []);
  });
  test("paths that can't be a volume's are refused, each with the path and the reason", () => {
    const refused: [unknown, RegExp][] = [
      ["/", /whole root/],
      ["", /absolute/],
      ["srv", /absolute/],
      ["/proc", /kernel/],
      ["/proc/self/root", /kernel/],
      ["/sys/fs", /kernel/],
      ["/dev/shm", /devices/],
      ["/tmp/x", /memory/],
      ["/run/x", /memory/],
      ["/data", /already/],
      ["/data/sub", /already/],
      ["/usr/lib/x", /libraries/],
      ["/etc", /hide/],
      ["/srv/../etc/ferry", /\.\./],
      ["/srv/./x", /\. or \.\./],
      ["/srv//x", /empty part/],
      ["/srv/", /empty part/],
      ["/srv/ü", /plain/],
      ["/srv/a b", /plain/],
      ["/srv/a]:b", /plain/],
      ["/srv/a\nb", /plain/],
      ["/srv/a\0b", /plain/],
      ["/srv/\u202ea", /plain/],
      [`/${"a".repeat(256)}`, /too long/],
      [`/a${"/b".repeat(600)}`, /too long/],
      [7, /string/],
    ];
    for (const [path, why] of refused) assert.match(volumePathProblem(path) ?? "fine", why, JSON.stringify(path));
  });
  test("volumes that lie in each other, twice the same name, unknown kinds and fields", () => {
    assert.match(volumesProblems(at("/srv/a", "/srv/a")).join(), /lie in each other/);
    assert.match(volumesProblems(at("/srv/a/b", "/srv/a")).join(), /lie in each other/);
    assert.match(volumesProblems([...at("/srv/a"), ...at("/srv/b")]).join(), /twice/);
    assert.match(volumesProblems([{ name: "a", path: "/srv/a", kind: "move" }]).join(), /kind "move"/);
    assert.match(
      volumesProblems([{ name: "a", path: "/srv/a", kind: "copy", dir: "/etc" }]).join(),
      /not a known field/,
    );
    assert.match(volumesProblems([{ name: "../a", path: "/srv/a", kind: "copy" }]).join(), /volume name/);
    assert.match(volumesProblems(["x"]).join(), /object/);
    assert.match(volumesProblems({}).join(), /list/);
    assert.match(volumesProblems(at(...Array.from({ length: 17 }, (_, i) => `/srv/${i}`))).join(), /at most 16/);
  });
});
