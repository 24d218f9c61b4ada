/** A picture as SVG text. Pure. */
import type { Picture, Shape } from "./picture.js";

const escape = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
const n = (value: number): string => String(Math.round(value * 10) / 10);

function element(shape: Shape): string {
  if (shape.kind === "rect") {
    return `<rect x="${n(shape.x)}" y="${n(shape.y)}" width="${n(shape.width)}" height="${n(shape.height)}" fill="${shape.fill}"/>`;
  }
  if (shape.kind === "line") {
    return `<line x1="${n(shape.x1)}" y1="${n(shape.y1)}" x2="${n(shape.x2)}" y2="${n(shape.y2)}" stroke="${shape.stroke}" stroke-width="${shape.width}"/>`;
  }
  return `<text x="${n(shape.x)}" y="${n(shape.y)}" font-size="${shape.size}" text-anchor="${shape.anchor}" fill="${shape.fill}"${shape.bold === true ? ' font-weight="600"' : ""}>${escape(shape.text)}</text>`;
}

export const toSvg = ({ width, height, title, shapes }: Picture): string =>
  [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="system-ui, sans-serif">`,
    `<title>${escape(title)}</title>`,
    ...shapes.map(element),
    "</svg>",
    "",
  ].join("\n");
