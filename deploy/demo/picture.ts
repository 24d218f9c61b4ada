/**
 * The picture of the client's latency over time: one list of shapes, drawn as SVG (svg.ts) and as PNG (png.ts). Pure.
 * The time axis is cut into columns; each shows the span of latencies in it, on a logarithmic scale.
 */
import type { MoveResult, Sample } from "./verdict.js";

export type Shape =
  | { kind: "rect"; x: number; y: number; width: number; height: number; fill: string }
  | { kind: "line"; x1: number; y1: number; x2: number; y2: number; stroke: string; width: number }
  | {
      kind: "text";
      x: number;
      y: number;
      text: string;
      fill: string;
      size: number;
      anchor: "start" | "middle" | "end";
      bold?: boolean;
    };

export interface Picture {
  width: number;
  height: number;
  title: string;
  shapes: Shape[];
}

const INK = "#1f2933";
const SOFT = "#6b7785";
const GRID = "#e3e8ee";
const SERIES = "#2f6fb3";
const BAND = "#fdf0d8";
const PEAK = "#c2410c";

const WIDTH = 960;
const HEIGHT = 400;
const LEFT = 64;
const RIGHT = 24;
const TOP = 92;
const BOTTOM = 48;
const PLOT_W = WIDTH - LEFT - RIGHT;
const PLOT_H = HEIGHT - TOP - BOTTOM;
/** Width of one column of the series. */
const STEP = 2;
const LOWEST_MS = 0.05;

const ms = (value: number): string =>
  value >= 1000 ? `${(value / 1000).toFixed(value >= 9950 ? 0 : 1)} s` : `${Math.round(value)} ms`;

export function latencyPicture(samples: readonly Sample[], moves: readonly MoveResult[]): Picture {
  const shapes: Shape[] = [];
  const title = "Latency that one redis client saw while the server moved";
  const text = (x: number, y: number, words: string, more: Partial<Extract<Shape, { kind: "text" }>> = {}): void => {
    shapes.push({ kind: "text", x, y, text: words, fill: INK, size: 12, anchor: "start", ...more });
  };
  shapes.push({ kind: "rect", x: 0, y: 0, width: WIDTH, height: HEIGHT, fill: "#ffffff" });
  text(LEFT, 26, title, { size: 16, bold: true });

  const first = samples[0];
  const last = samples.at(-1);
  if (first === undefined || last === undefined) {
    text(LEFT, 60, "the client got no answer", { fill: PEAK });
    return { width: WIDTH, height: HEIGHT, title, shapes };
  }
  const begin = first.sentAt;
  const span = Math.max(1, last.sentAt + last.latencyMs - begin);
  let highest = 0;
  for (const { latencyMs } of samples) highest = Math.max(highest, latencyMs);
  const decades = Math.max(2, Math.ceil(Math.log10(highest / LOWEST_MS) + 0.15));
  const xOf = (at: number): number => LEFT + ((at - begin) / span) * PLOT_W;
  const yOf = (latency: number): number =>
    TOP +
    PLOT_H -
    (Math.min(decades, Math.max(0, Math.log10(Math.max(latency, LOWEST_MS) / LOWEST_MS))) / decades) * PLOT_H;
  text(
    LEFT,
    46,
    `${samples.length.toLocaleString("en-US")} INCR over one connection, one at a time, in ${(span / 1000).toFixed(0)} s`,
    { fill: SOFT },
  );

  for (const move of moves) {
    const x = Math.max(LEFT, xOf(move.from));
    shapes.push({
      kind: "rect",
      x,
      y: TOP,
      width: Math.max(2, Math.min(LEFT + PLOT_W, xOf(move.to)) - x),
      height: PLOT_H,
      fill: BAND,
    });
  }
  for (const [latency, label] of [
    [0.1, "0.1 ms"],
    [1, "1 ms"],
    [10, "10 ms"],
    [100, "100 ms"],
    [1000, "1 s"],
    [10_000, "10 s"],
  ] as const) {
    if (latency > LOWEST_MS * 10 ** decades) continue;
    const y = yOf(latency);
    shapes.push({ kind: "line", x1: LEFT, y1: y, x2: LEFT + PLOT_W, y2: y, stroke: GRID, width: 1 });
    text(LEFT - 8, y + 4, label, { anchor: "end", fill: SOFT, size: 11 });
  }
  const everyS = [1, 2, 5, 10, 20, 60].find((seconds) => span / 1000 / seconds <= 12) ?? 120;
  for (let seconds = 0; seconds * 1000 <= span; seconds += everyS) {
    text(xOf(begin + seconds * 1000), HEIGHT - BOTTOM + 18, `${seconds} s`, { anchor: "middle", fill: SOFT, size: 11 });
  }
  text(
    LEFT + PLOT_W,
    HEIGHT - 8,
    "time; shaded: from asking for the move to its report; blank: the client paused for a digest of all keys",
    {
      anchor: "end",
      fill: SOFT,
      size: 11,
    },
  );

  series(samples, xOf, yOf, shapes);
  for (const move of moves) peak(samples, move, xOf, yOf, text, shapes);
  return { width: WIDTH, height: HEIGHT, title, shapes };
}

/** One bar per column, from the smallest to the largest latency of the requests sent in it. */
function series(
  samples: readonly Sample[],
  xOf: (at: number) => number,
  yOf: (ms: number) => number,
  shapes: Shape[],
): void {
  const columns = new Map<number, { low: number; high: number }>();
  for (const { sentAt, latencyMs } of samples) {
    const column = Math.floor((xOf(sentAt) - LEFT) / STEP);
    const seen = columns.get(column);
    if (seen === undefined) columns.set(column, { low: latencyMs, high: latencyMs });
    else {
      seen.low = Math.min(seen.low, latencyMs);
      seen.high = Math.max(seen.high, latencyMs);
    }
  }
  for (const [column, { low, high }] of columns) {
    const top = yOf(high);
    shapes.push({
      kind: "rect",
      x: LEFT + column * STEP,
      y: top,
      width: STEP,
      height: Math.max(2, yOf(low) - top),
      fill: SERIES,
    });
  }
}

/** The request that waited longest during a move, as a bar as long as it took, with its figures above. */
function peak(
  samples: readonly Sample[],
  move: MoveResult,
  xOf: (at: number) => number,
  yOf: (ms: number) => number,
  text: (x: number, y: number, words: string, more?: Partial<Extract<Shape, { kind: "text" }>>) => void,
  shapes: Shape[],
): void {
  const longest = samples.find(
    (s) => s.latencyMs === move.clientGapMs && s.sentAt <= move.to && s.sentAt + s.latencyMs >= move.from,
  );
  const middle = (xOf(move.from) + xOf(move.to)) / 2;
  const x = Math.min(LEFT + PLOT_W - 110, Math.max(LEFT + 110, middle));
  text(x, TOP - 22, `${move.mode}: ${move.source} to ${move.destination}`, { anchor: "middle", bold: true });
  text(
    x,
    TOP - 7,
    `client gap ${ms(move.clientGapMs)}, blackout ${move.blackoutMs === null ? "not known" : ms(move.blackoutMs)}`,
    {
      anchor: "middle",
      fill: PEAK,
      size: 11,
    },
  );
  if (longest === undefined) return;
  const y = yOf(longest.latencyMs);
  const from = xOf(longest.sentAt);
  shapes.push({
    kind: "rect",
    x: from,
    y: y - 2,
    width: Math.max(4, xOf(longest.sentAt + longest.latencyMs) - from),
    height: 4,
    fill: PEAK,
  });
}
