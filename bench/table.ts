/** Numbers of blackout.ts as lines for people. Pure. */

export interface Row {
  lab: string;
  megabytes: number;
  mode: string;
  moves: number;
  blackoutMs: number;
  blackoutMinMs: number;
  blackoutMaxMs: number;
  clientGapMs: number;
  residualMs: number;
  totalMs: number;
  phases: Record<string, number>;
}

const ms = (value: number): string => value.toFixed(0);

/** Medians; where several labs were measured, also as a ratio to the first of them. */
export function table(rows: readonly Row[]): string {
  const lines = [["lab", "MB", "mode", "blackout", "(min-max)", "client gap", "residual", "total", "ratio"]];
  for (const row of rows) {
    const first = rows.find((other) => other.megabytes === row.megabytes && other.mode === row.mode);
    const ratio =
      first === undefined || first === row
        ? ""
        : `blackout ${(row.blackoutMs / first.blackoutMs).toFixed(2)}, total ${(row.totalMs / first.totalMs).toFixed(2)}`;
    lines.push([
      row.lab,
      String(row.megabytes),
      row.mode,
      ms(row.blackoutMs),
      `(${ms(row.blackoutMinMs)}-${ms(row.blackoutMaxMs)})`,
      ms(row.clientGapMs),
      ms(row.residualMs),
      ms(row.totalMs),
      ratio,
    ]);
  }
  const widths = lines[0]?.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0))) ?? [];
  const text = lines.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  const phases = rows.map((row) => {
    const parts = Object.entries(row.phases).map(([name, value]) => `${name} ${ms(value)}`);
    return `${row.lab} ${row.megabytes} MB ${row.mode}: ${parts.join(", ")}`;
  });
  return `${[...text, "", "phases, medians in ms:", ...phases].join("\n")}\n`;
}
