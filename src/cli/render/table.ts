/** Tables: columns as wide as their widest cell, two spaces between, the last column cut at the terminal's width. Pure. */
import { columns, cut, paint, padEnd, padStart, printable, type Paint, type Style } from "./style.js";

export interface Cell {
  text: string;
  paint?: Paint;
}
export interface Column {
  title: string;
  align?: "right";
}

export function renderTable(
  head: readonly Column[],
  rows: readonly (readonly (Cell | string)[])[],
  style: Style,
): string[] {
  const cells = rows.map((row) =>
    head.map((_, i): Cell => {
      const cell = row[i] ?? "";
      const { text, ...more } = typeof cell === "string" ? { text: cell } : cell;
      return { ...more, text: printable(text) };
    }),
  );
  const widths = head.map((column, i) =>
    Math.max(columns(column.title), ...cells.map((row) => columns(row[i]?.text ?? ""))),
  );
  const line = (row: readonly Cell[]): string => {
    let used = 0;
    const parts = row.map((cell, i) => {
      const last = i === row.length - 1;
      const width = widths[i] ?? 0;
      const text = last ? cut(cell.text, Math.max(8, style.width - used), style) : cell.text;
      used += width + 2;
      const padded = head[i]?.align === "right" ? padStart(text, width) : last ? text : padEnd(text, width);
      return cell.paint === undefined ? padded : paint(style, cell.paint, padded);
    });
    return parts.join("  ").trimEnd();
  };
  return [line(head.map((column): Cell => ({ text: column.title, paint: "dim" }))), ...cells.map(line)];
}
