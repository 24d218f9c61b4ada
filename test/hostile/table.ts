/** docs/bad-input.md, from the corpus. Formatted as prettier would: columns are as wide as their widest cell. */
import type { Room } from "./entry.js";

/** Text in a cell; code in it stays code. */
const cell = (text: string): string =>
  text
    .replaceAll("|", String.raw`\|`)
    .replaceAll("*", String.raw`\*`)
    .replaceAll("_", String.raw`\_`)
    .replaceAll("<", "&lt;");
const plain = (text: string): string =>
  text
    .split("`")
    .map((part, index) => (index % 2 === 0 ? cell(part) : part.replaceAll("|", String.raw`\|`)))
    .join("`");

/** Columns in a fixed-width font: wide letters take two. */
const width = (text: string): number =>
  Array.from(text).reduce((sum, letter) => sum + (/[\uff00-\uff60]/.test(letter) ? 2 : 1), 0);

function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(3, ...rows.map((row) => width(row[column] ?? ""))));
  const line = (row: readonly string[]): string =>
    `| ${row.map((text, column) => text + " ".repeat(Math.max(0, (widths[column] ?? 0) - width(text)))).join(" | ")} |`;
  const [head = [], ...body] = rows;
  return [line(head), line(widths.map((count) => "-".repeat(count))), ...body.map(line)].join("\n");
}

export function renderCorpus(rooms: readonly Room[]): string {
  const count = rooms.reduce((sum, { entries }) => sum + entries.length, 0);
  const sections = rooms.map(({ title, entries }) => {
    const rows = entries.map((entry) =>
      "taken" in entry
        ? [plain(entry.input), "", plain(entry.taken)]
        : [plain(entry.input), `\`${entry.code}\``, plain(entry.says)],
    );
    return `## ${title}\n\n${table([["input", "code", "what the sentence says"], ...rows])}\n`;
  });
  return `# Bad input

Generated from \`test/hostile\` (\`UPDATE_GOLDEN=1 node test/run.mjs hostile/corpus\`); don't edit. ${count} broken or hostile inputs, each
handed to the real parser by the tests: refused with this code, one line that says this, and what to do about it. Without a code:
it is taken, and what becomes of it.

${sections.join("\n")}`;
}
