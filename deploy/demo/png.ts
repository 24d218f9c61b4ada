/**
 * A picture as PNG, drawn here: few machines without a desktop have a program that turns SVG into PNG. Rectangles,
 * lines and letters of five by seven dots. Pure (zlib aside).
 */
import { crc32, deflateSync } from "node:zlib";
import type { Picture, Shape } from "./picture.js";

/** Seven rows of five bits per character, two hex digits a row; two more where a letter reaches below the line. */
const GLYPHS: Readonly<Record<string, string>> = {
  "0": "0e11131519110e",
  "1": "040c040404040e",
  "2": "0e11010204081f",
  "3": "1f02040201110e",
  "4": "02060a121f0202",
  "5": "1f101e0101110e",
  "6": "0608101e11110e",
  "7": "1f010204080808",
  "8": "0e11110e11110e",
  "9": "0e11110f01020c",
  A: "0e1111111f1111",
  B: "1e11111e11111e",
  C: "0e11101010110e",
  D: "1c12111111121c",
  E: "1f10101e10101f",
  F: "1f10101e101010",
  G: "0e11101711110f",
  H: "1111111f111111",
  I: "0e04040404040e",
  J: "0702020202120c",
  K: "11121418141211",
  L: "1010101010101f",
  M: "111b1515111111",
  N: "11111915131111",
  O: "0e11111111110e",
  P: "1e11111e101010",
  Q: "0e11111115120d",
  R: "1e11111e141211",
  S: "0f10100e01011e",
  T: "1f040404040404",
  U: "1111111111110e",
  V: "11111111110a04",
  W: "1111111515150a",
  X: "11110a040a1111",
  Y: "1111110a040404",
  Z: "1f01020408101f",
  ".": "00000000000c0c",
  ",": "000000000c0408",
  ":": "000c0c000c0c00",
  ";": "000c0c000c0408",
  "-": "0000001f000000",
  "/": "00010204081000",
  "(": "02040808080402",
  ")": "08040202020408",
  "%": "18190204081303",
  "+": "0004041f040400",
  "'": "04040800000000",
  a: "00000e010f110f",
  b: "1010161911111e",
  c: "00000e1010110e",
  d: "01010d1311110f",
  e: "00000e111f100e",
  f: "0609081c080808",
  g: "00000f1111110f010e",
  h: "10101619111111",
  i: "04000c0404040e",
  j: "02000602020202120c",
  k: "10101214181412",
  l: "0c04040404040e",
  m: "00001a15151111",
  n: "00001619111111",
  o: "00000e1111110e",
  p: "00001e1111111e1010",
  q: "00000d1311110f0101",
  r: "00001619101010",
  s: "00000e100e011e",
  t: "08081c08080906",
  u: "0000111111130d",
  v: "00001111110a04",
  w: "0000111115150a",
  x: "0000110a040a11",
  y: "0000111111110f010e",
  z: "00001f0204081f",
};

export function toPng(picture: Picture, scale = 2): Buffer {
  const width = picture.width * scale;
  const height = picture.height * scale;
  // one filter byte, then RGB, per row
  const stride = 1 + width * 3;
  const pixels = Buffer.alloc(stride * height, 0xff);
  for (let y = 0; y < height; y += 1) pixels[y * stride] = 0;

  const fill = (x: number, y: number, w: number, h: number, color: string): void => {
    const rgb = [1, 3, 5].map((at) => Number.parseInt(color.slice(at, at + 2), 16));
    const right = Math.min(width, Math.round((x + w) * scale));
    const bottom = Math.min(height, Math.round((y + h) * scale));
    for (let row = Math.max(0, Math.round(y * scale)); row < bottom; row += 1) {
      for (let column = Math.max(0, Math.round(x * scale)); column < right; column += 1) {
        pixels.set(rgb, row * stride + 1 + column * 3);
      }
    }
  };
  const text = (shape: Extract<Shape, { kind: "text" }>): void => {
    const dot = shape.size >= 16 ? 1.5 : 1;
    const advance = 6 * dot;
    const length = shape.text.length * advance;
    let x = shape.anchor === "start" ? shape.x : shape.anchor === "end" ? shape.x - length : shape.x - length / 2;
    for (const character of shape.text) {
      const glyph = GLYPHS[character] ?? GLYPHS[character.toUpperCase()] ?? "";
      for (let row = 0; row < glyph.length / 2; row += 1) {
        const bits = Number.parseInt(glyph.slice(row * 2, row * 2 + 2), 16);
        for (let column = 0; column < 5; column += 1) {
          if (bits & (16 >> column)) {
            fill(
              x + column * dot,
              shape.y - 7 * dot + row * dot,
              shape.bold === true ? dot * 1.5 : dot,
              dot,
              shape.fill,
            );
          }
        }
      }
      x += advance;
    }
  };
  /** Small squares along the line, half a pixel apart. */
  const slanted = ({ x1, y1, x2, y2, width: thick, stroke }: Extract<Shape, { kind: "line" }>): void => {
    const steps = Math.ceil(Math.hypot(x2 - x1, y2 - y1) * scale * 2);
    const size = Math.max(1, Math.round(thick * scale)) / scale;
    for (let step = 0; step <= steps; step += 1) {
      const [x, y] = [x1 + ((x2 - x1) * step) / steps, y1 + ((y2 - y1) * step) / steps];
      fill(x - size / 2, y - size / 2, size, size, stroke);
    }
  };
  for (const shape of picture.shapes) {
    if (shape.kind === "rect") fill(shape.x, shape.y, shape.width, shape.height, shape.fill);
    else if (shape.kind === "text") text(shape);
    else if (shape.x1 === shape.x2 || shape.y1 === shape.y2) {
      fill(
        Math.min(shape.x1, shape.x2),
        Math.min(shape.y1, shape.y2),
        Math.max(Math.abs(shape.x2 - shape.x1), shape.width / scale),
        Math.max(Math.abs(shape.y2 - shape.y1), shape.width / scale),
        shape.stroke,
      );
    } else slanted(shape);
  }

  const chunk = (type: string, data: Buffer): Buffer => {
    const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
    const out = Buffer.alloc(body.length + 8);
    out.writeUInt32BE(data.length, 0);
    body.copy(out, 4);
    out.writeUInt32BE(crc32(body), body.length + 4);
    return out;
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2, 0, 0, 0], 8);
  return Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    chunk("IHDR", head),
    chunk("IDAT", deflateSync(pixels, { level: 9 })),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}
