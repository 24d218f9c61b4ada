/** Charts as lists of shapes, which the demo's svg.ts and png.ts draw. Pure. */
import type { Picture, Shape } from "../deploy/demo/picture.js";

export interface Point {
  x: number;
  y: number;
  /** Of the repeats; drawn as a whisker. */
  min?: number;
  max?: number;
}
export interface Series {
  name: string;
  color: string;
  points: Point[];
  /** Thin and pale: what is compared with. */
  faint?: boolean;
}
export interface LineChart {
  title: string;
  subtitle: string;
  xLabel: string;
  yLabel: string;
  logX?: boolean;
  logY?: boolean;
  xText: (value: number) => string;
  yText: (value: number) => string;
  series: Series[];
}
export interface Bar {
  label: string;
  /** From left to right; their sum is the bar's length. */
  parts: { value: number; color: string }[];
  /** A mark beyond the bar. */
  mark?: { value: number; color: string };
  note: string;
}
export interface BarChart {
  title: string;
  subtitle: string;
  groups: { label: string; bars: Bar[] }[];
  legend: { name: string; color: string }[];
  valueText: (value: number) => string;
}

const INK = "#1f2933";
const SOFT = "#6b7785";
const GRID = "#e3e8ee";
const AXIS = "#9aa5b1";
const WIDTH = 960;
const TOP = 76;
const DOT = 3.5;

type Text = (x: number, y: number, words: string, more?: Partial<Extract<Shape, { kind: "text" }>>) => void;

function canvas(height: number, title: string, subtitle: string): { shapes: Shape[]; text: Text } {
  const shapes: Shape[] = [{ kind: "rect", x: 0, y: 0, width: WIDTH, height, fill: "#ffffff" }];
  const text: Text = (x, y, words, more = {}) =>
    void shapes.push({ kind: "text", x, y, text: words, fill: INK, size: 12, anchor: "start", ...more });
  text(24, 28, title, { size: 16, bold: true });
  text(24, 48, subtitle, { fill: SOFT });
  return { shapes, text };
}

/** 1, 2, 5, 10, ... around the values; every decade alone where there are many. */
export function logTicks(low: number, high: number): number[] {
  const ticks: number[] = [];
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade += 1) {
    const steps = high / low > 500 ? [1] : [1, 2, 5];
    for (const step of steps) ticks.push(step * 10 ** decade);
  }
  const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  return inside.length >= 2 ? inside : [low, high];
}

/** Round steps from 0 to at least `high`. */
export function linearTicks(high: number): number[] {
  const raw = Math.max(high, 1e-9) / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= raw * 0.999) ?? raw;
  const count = Math.ceil(high / step - 1e-9);
  return Array.from({ length: Math.max(1, count) + 1 }, (_, index) => index * step);
}

interface Scale {
  ticks: number[];
  at: (value: number) => number;
}
function scale(values: readonly number[], log: boolean, from: number, to: number, atValues: boolean): Scale {
  const high = Math.max(...values);
  if (!log) {
    const ticks = atValues ? [...new Set(values)].sort((a, b) => a - b) : linearTicks(high);
    const top = Math.max(...ticks, 1e-9);
    return { ticks, at: (value) => from + ((to - from) * value) / top };
  }
  const positive = values.filter((value) => value > 0);
  const low = Math.min(...positive);
  const bottom = atValues ? low : low / 1.3;
  const top = Math.max(atValues ? high : high * 1.2, bottom * 1.01);
  const ticks = atValues ? [...new Set(positive)].sort((a, b) => a - b) : logTicks(bottom, top);
  const span = Math.log(top / bottom);
  return { ticks, at: (value) => from + ((to - from) * Math.log(Math.max(value, bottom) / bottom)) / span };
}

/** Labels at the right end of the lines, moved apart where they would overlap. */
function spreadLabels(wanted: readonly number[], gap: number, low: number, high: number): number[] {
  const order = wanted.map((y, index) => ({ y, index })).sort((a, b) => a.y - b.y);
  let last = low - gap;
  for (const one of order) last = one.y = Math.max(one.y, last + gap);
  let next = high + gap;
  for (const one of order.toReversed()) next = one.y = Math.min(one.y, next - gap);
  return order.sort((a, b) => a.index - b.index).map((one) => one.y);
}

export function lineChart(chart: LineChart): Picture {
  const height = 500;
  const [left, right, bottom] = [76, 214, 56];
  const plotRight = WIDTH - right;
  const plotBottom = height - bottom;
  const { shapes, text } = canvas(height, chart.title, chart.subtitle);
  const series = chart.series.filter((one) => one.points.length > 0);
  const points = series.flatMap((one) => one.points);
  if (points.length === 0) {
    text(left, TOP + 30, "nothing was measured", { fill: SOFT });
    return { width: WIDTH, height, title: chart.title, shapes };
  }
  const x = scale(
    points.map((point) => point.x),
    chart.logX === true,
    left + 14,
    plotRight - 14,
    true,
  );
  const y = scale(
    points.flatMap((point) => [point.y, point.min ?? point.y, point.max ?? point.y]),
    chart.logY === true,
    plotBottom,
    TOP + 8,
    false,
  );
  for (const tick of y.ticks) {
    shapes.push({ kind: "line", x1: left, y1: y.at(tick), x2: plotRight, y2: y.at(tick), stroke: GRID, width: 1 });
    text(left - 8, y.at(tick) + 4, chart.yText(tick), { anchor: "end", fill: SOFT, size: 11 });
  }
  for (const tick of x.ticks) {
    const at = x.at(tick);
    shapes.push({ kind: "line", x1: at, y1: plotBottom, x2: at, y2: plotBottom + 5, stroke: AXIS, width: 1 });
    text(at, plotBottom + 20, chart.xText(tick), { anchor: "middle", fill: SOFT, size: 11 });
  }
  shapes.push({ kind: "line", x1: left, y1: plotBottom, x2: plotRight, y2: plotBottom, stroke: AXIS, width: 1 });
  text((left + plotRight) / 2, height - 14, chart.xLabel, { anchor: "middle", fill: SOFT });
  text(left - 52, TOP - 6, chart.yLabel, { fill: SOFT, size: 11 });

  for (const one of series) {
    const sorted = one.points.toSorted((a, b) => a.x - b.x);
    const width = one.faint === true ? 1.5 : 2.5;
    for (const [index, point] of sorted.entries()) {
      const [px, py] = [x.at(point.x), y.at(point.y)];
      const next = sorted[index + 1];
      if (next !== undefined) {
        shapes.push({ kind: "line", x1: px, y1: py, x2: x.at(next.x), y2: y.at(next.y), stroke: one.color, width });
      }
      const [low, high] = [y.at(point.min ?? point.y), y.at(point.max ?? point.y)];
      if (Math.abs(low - high) > 2) {
        shapes.push({ kind: "line", x1: px, y1: high, x2: px, y2: low, stroke: one.color, width: 1 });
      }
      const dot = one.faint === true ? DOT * 0.8 : DOT;
      shapes.push({ kind: "rect", x: px - dot, y: py - dot, width: dot * 2, height: dot * 2, fill: one.color });
    }
  }
  const ends = series.map((one) => one.points.toSorted((a, b) => a.x - b.x).at(-1) ?? { x: 0, y: 0 });
  const labels = spreadLabels(
    ends.map((end) => y.at(end.y) + 4),
    16,
    TOP + 10,
    plotBottom,
  );
  for (const [index, one] of series.entries()) {
    text(plotRight + 8, labels[index] ?? 0, one.name, { fill: one.color, bold: one.faint !== true });
  }
  return { width: WIDTH, height, title: chart.title, shapes };
}

export function barChart(chart: BarChart): Picture {
  const [left, right, row, groupGap] = [196, 270, 22, 30];
  const rows = chart.groups.reduce((sum, group) => sum + group.bars.length, 0);
  const height = TOP + 16 + rows * row + chart.groups.length * groupGap + 34;
  const { shapes, text } = canvas(height, chart.title, chart.subtitle);
  let legendX = WIDTH - 24;
  for (const { name, color } of chart.legend.toReversed()) {
    legendX -= name.length * 7 + 24;
    shapes.push({ kind: "rect", x: legendX, y: 56, width: 11, height: 11, fill: color });
    text(legendX + 16, 66, name, { fill: SOFT, size: 11 });
  }
  const bars = chart.groups.flatMap((group) => group.bars);
  const total = (bar: Bar): number => bar.parts.reduce((sum, part) => sum + part.value, 0);
  const high = Math.max(...bars.map((bar) => Math.max(total(bar), bar.mark?.value ?? 0)), 1e-9);
  const ticks = linearTicks(high);
  const top = ticks.at(-1) ?? high;
  const plot = WIDTH - left - right;
  const at = (value: number): number => left + (plot * value) / top;
  const end = height - 34;
  for (const tick of ticks) {
    shapes.push({ kind: "line", x1: at(tick), y1: TOP + 6, x2: at(tick), y2: end, stroke: GRID, width: 1 });
    text(at(tick), end + 18, chart.valueText(tick), { anchor: "middle", fill: SOFT, size: 11 });
  }
  let y = TOP + 8;
  for (const group of chart.groups) {
    y += groupGap;
    text(24, y - 8, group.label, { bold: true });
    for (const bar of group.bars) {
      text(left - 10, y + 13, bar.label, { anchor: "end", size: 11 });
      let from = 0;
      for (const { value, color } of bar.parts) {
        const width = Math.max(at(from + value) - at(from), value > 0 ? 1 : 0);
        shapes.push({ kind: "rect", x: at(from), y: y + 3, width, height: row - 8, fill: color });
        from += value;
      }
      if (bar.mark !== undefined) {
        shapes.push({
          kind: "rect",
          x: at(bar.mark.value) - 1.5,
          y: y,
          width: 3,
          height: row - 2,
          fill: bar.mark.color,
        });
      }
      text(at(Math.max(total(bar), bar.mark?.value ?? 0)) + 8, y + 13, bar.note, { size: 11, fill: SOFT });
      y += row;
    }
  }
  return { width: WIDTH, height, title: chart.title, shapes };
}
