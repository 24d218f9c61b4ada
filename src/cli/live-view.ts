/**
 * Draws frames over each other on a terminal: goes up as many lines as the last frame had, writes each line anew and
 * clears what is left of it. One write per frame, so nothing flickers.
 */
import type { OutStream } from "./io.js";

export interface LiveView {
  draw(lines: readonly string[]): void;
  /** Leaves the last frame standing and gives the cursor back. */
  end(): void;
  /** Takes the last frame away. */
  clear(): void;
}

export function liveView(stream: OutStream): LiveView {
  let height = 0;
  let hidden = false;
  const up = (): string => (height > 0 ? `\u001b[${height}A\r` : "\r");
  return {
    draw(lines) {
      const hide = hidden ? "" : "\u001b[?25l";
      hidden = true;
      const body = lines.map((line) => `${line}\u001b[K\n`).join("");
      stream.write(`${hide}${up()}${body}\u001b[J`);
      height = lines.length;
    },
    end() {
      if (hidden) stream.write("\u001b[?25h");
      hidden = false;
      height = 0;
    },
    clear() {
      if (height > 0) stream.write(`${up()}\u001b[J`);
      this.end();
    },
  };
}
