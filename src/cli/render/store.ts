/** A store in words: whether it is whole, its keys, what was moved in and out. Pure: data in, lines out. */
import { describeFailure } from "../../model/failure.js";
import type { Collected, ExportedFile, FsckKey, FsckReport, ImportedFile, Rotation } from "../../model/store-report.js";
import { formatBytes, plural } from "./format.js";
import { mark, printable, type Style } from "./style.js";
import { renderTable } from "./table.js";

const MOST_PROBLEMS = 50;
const MOST_HURT = 5;

export const renderExported = ({ workload, checkpoint, file, bytes }: ExportedFile): string[] => [
  printable(`${workload} ${checkpoint}: ${formatBytes(bytes)} in ${file === "-" ? "the output" : file}`),
];

export function renderImported(imported: ImportedFile): string[] {
  const { workload, checkpoint, node, already, newPacks, newBytes, mended } = imported;
  const what = already
    ? "was there already, whole"
    : `is there: ${plural(newPacks, "pack")} of ${formatBytes(newBytes)} new${mended === 0 ? "" : `, ${plural(mended, "damaged object")} mended`}`;
  return [printable(`${workload} ${checkpoint}, taken on ${node}, ${what}`)];
}

const hurt = (checkpoints: readonly string[]): string => {
  const named = checkpoints.slice(0, MOST_HURT).map((name) => name.replace("/", " "));
  const more = checkpoints.length - named.length;
  return `${named.join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
};

export function renderFsck(report: FsckReport, quick: boolean, style: Style): string[] {
  const { checkpoints, packs, bytes, unusedPacks, unusedBytes, keys, problems } = report;
  const lines = problems.slice(0, MOST_PROBLEMS).flatMap(({ checkpoints: names, failure }) => {
    const [first = "", ...rest] = describeFailure(failure);
    const hurts = names.length === 0 ? [] : [`  hurts: ${hurt(names)}`];
    return [`${mark(style, "fail")} ${printable(first)}`, ...[...hurts, ...rest].map((line) => printable(line))];
  });
  if (problems.length > MOST_PROBLEMS) lines.push(`  and ${problems.length - MOST_PROBLEMS} more: --json has them all`);
  const all = new Set(problems.flatMap((problem) => problem.checkpoints)).size;
  const read = quick ? "looked at, not read" : "read to the last byte";
  lines.push(
    `${plural(checkpoints, "checkpoint")}, ${plural(packs, "pack")} of ${formatBytes(bytes)} ${read}`,
    ...(unusedPacks === 0
      ? []
      : [
          `${plural(unusedPacks, "pack")} of ${formatBytes(unusedBytes)} needed by none: of writers at work, or to be freed`,
        ]),
  );
  if (keys.some(({ masterKeys }) => !masterKeys.includes("plain"))) lines.push(...renderKeys(keys, style));
  lines.push(
    problems.length === 0
      ? `${mark(style, "done")} all is whole`
      : `${mark(style, "fail")} ${plural(problems.length, "problem")}, ${plural(all, "checkpoint")} hurt`,
  );
  return lines;
}

function renderKeys(keys: readonly FsckKey[], style: Style): string[] {
  return renderTable(
    [
      { title: "DATA KEY" },
      { title: "PACKS", align: "right" },
      { title: "SIZE", align: "right" },
      { title: "OPENED BY MASTER KEY" },
    ],
    keys.map(({ dataKey, packs, bytes, masterKeys, opened, current }) => [
      `${dataKey.slice(0, 8)}${current ? " *" : ""}`,
      String(packs),
      formatBytes(bytes),
      { text: `${masterKeys.join(", ")}${opened ? "" : " (not given)"}`, ...(opened ? {} : { paint: "red" as const }) },
    ]),
    style,
  );
}

export function renderRekeyed({ wrapped, forgotten, left, fresh }: Rotation, style: Style): string[] {
  const lines = [
    `${plural(wrapped, "data key")} encrypted anew, ${plural(forgotten, "old wrapping")} gone`,
    ...(fresh === undefined ? [] : [`data key ${fresh.slice(0, 8)} made: what is written from now on has it`]),
  ];
  if (left.length === 0) return [...lines, `${mark(style, "done")} the old key may go from oldKeys`];
  return [
    ...lines,
    ...left.map(
      ({ dataKey, masterKey }) =>
        `${mark(style, "warn")} data key ${dataKey.slice(0, 8)} was opened by no key that was given: it needs master key ${masterKey}`,
    ),
    "  what to do: add it to oldKeys of the configuration and run this again",
  ];
}

export const renderCollected = ({ packs, bytes, waitingPacks, waitingBytes }: Collected): string[] => [
  `${plural(packs, "pack")} freed, ${formatBytes(bytes)}${
    waitingPacks === 0
      ? ""
      : `; ${formatBytes(waitingBytes)} of no use wait until an hour has passed: run it again then`
  }`,
];
