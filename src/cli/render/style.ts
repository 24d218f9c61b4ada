/** Colours, marks and widths: what a rendering may use. Pure. */
export interface Style {
  /** Columns that may be used. */
  width: number;
  color: boolean;
  /** Marks and bars beyond ASCII. */
  unicode: boolean;
}

/** For files and tests. */
export const PLAIN: Style = { width: 120, color: false, unicode: true };

const CODES = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  cyan: [36, 39],
} as const;
export type Paint = keyof typeof CODES;

export const paint = (style: Style, color: Paint, text: string): string =>
  style.color ? `\u001b[${CODES[color][0]}m${text}\u001b[${CODES[color][1]}m` : text;

export const mark = (style: Style, kind: "done" | "active" | "todo" | "fail" | "warn"): string => {
  const [fancy, plain, color] = (
    {
      done: ["✓", "+", "green"],
      active: ["•", ">", "cyan"],
      todo: [" ", " ", "dim"],
      fail: ["✗", "x", "red"],
      warn: ["!", "!", "yellow"],
    } as const
  )[kind];
  return paint(style, color, style.unicode ? fancy : plain);
};

/** Text from elsewhere made harmless for a terminal: control characters (escape sequences above all) become `?`. */
// oxlint-disable-next-line no-control-regex -- control characters are what it is about
export const printable = (text: string): string => text.replace(/[\u0000-\u001f\u007f-\u009f]/g, "?");

// oxlint-disable-next-line no-control-regex -- escape sequences of our own paint() take no columns
const ESCAPES = /\u001b\[[0-9;]*m/g;

/** Columns that a text takes (our escape sequences take none). */
export const columns = (text: string): number => Array.from(text.replace(ESCAPES, "")).length;

export const padEnd = (text: string, width: number): string => text + " ".repeat(Math.max(0, width - columns(text)));
export const padStart = (text: string, width: number): string => " ".repeat(Math.max(0, width - columns(text))) + text;

/** Cut to the width with an ellipsis; expects text without escape sequences. */
export function cut(text: string, width: number, style: Style): string {
  const characters = Array.from(text);
  if (characters.length <= width) return text;
  const dots = style.unicode ? "…" : "...";
  return characters.slice(0, Math.max(0, width - dots.length)).join("") + dots;
}

/** Break at spaces; lines after the first are indented. */
export function wrap(text: string, width: number, indent = ""): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    const candidate = line === "" ? word : `${line} ${word}`;
    if (columns(candidate) > Math.max(20, width) && line !== "") {
      lines.push(line);
      line = `${indent}${word}`;
    } else {
      line = candidate;
    }
  }
  lines.push(line);
  return lines;
}
