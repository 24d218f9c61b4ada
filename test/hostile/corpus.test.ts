/**
 * Every entry of the corpus, against the real parser: refused with its code and its sentence, and with what to do. The table
 * of them all is docs/bad-input.md; UPDATE_GOLDEN=1 writes it anew.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { packageRoot } from "../../src/host/package-root.js";
import { describeFailure } from "../../src/model/failure.js";
import { CLI } from "./corpus-cli.js";
import { CONFIG } from "./corpus-config.js";
import { IMAGE_SETS } from "./corpus-images.js";
import { LINK, makeCertificates, removeCertificates } from "./corpus-link.js";
import { JOURNAL, NODE } from "./corpus-node.js";
import { REQUESTS, SPECS } from "./corpus-requests.js";
import { STORE } from "./corpus-store.js";
import { failureOf, type Refused } from "./entry.js";
import { renderCorpus } from "./table.js";

const ROOMS = [CLI, SPECS, REQUESTS, CONFIG, IMAGE_SETS, LINK, JOURNAL, NODE, STORE];
const LIMIT = { timeout: 20_000 };
/** A sentence, and what it is about: more is no sentence. */
const MAX_SENTENCE = 4000;

before(makeCertificates);
after(removeCertificates);

async function demandRefusal({ run, code, says }: Refused): Promise<void> {
  let thrown: unknown;
  try {
    await run();
  } catch (error) {
    thrown = error;
  }
  assert.ok(thrown !== undefined, "it was taken");
  const failure = failureOf(thrown);
  if (failure === undefined) throw thrown;
  assert.ok(failure.message.includes(says), `expected ${JSON.stringify(says)}, got ${JSON.stringify(failure.message)}`);
  assert.equal(failure.code, code, failure.message);
  // oxlint-disable-next-line no-control-regex -- a sentence has one line, and nothing that a terminal would obey
  assert.doesNotMatch(failure.message, /[\u0000-\u001f\u007f-\u009f]/);
  assert.ok(failure.message.length < MAX_SENTENCE, `${failure.message.length} characters`);
  assert.match(describeFailure(failure).join("\n"), /what to do: /);
}

for (const room of ROOMS) {
  describe(room.title, () => {
    for (const entry of room.entries) {
      test(entry.input, LIMIT, async () => {
        if ("taken" in entry) await entry.run();
        else await demandRefusal(entry);
      });
    }
  });
}

test("no entry is there twice, and docs/bad-input.md lists them all", () => {
  const inputs = ROOMS.flatMap(({ title, entries }) => entries.map(({ input }) => `${title}: ${input}`));
  assert.deepEqual(inputs, [...new Set(inputs)]);
  const file = join(packageRoot(), "docs", "bad-input.md");
  const table = renderCorpus(ROOMS);
  if (process.env["UPDATE_GOLDEN"] === "1") writeFileSync(file, table);
  assert.ok(existsSync(file), `${file} is missing: UPDATE_GOLDEN=1 writes it`);
  assert.equal(readFileSync(file, "utf8"), table, "UPDATE_GOLDEN=1 writes it anew");
});
