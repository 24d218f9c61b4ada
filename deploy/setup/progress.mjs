/**
 * What set-up says: one line per step, and what is under way while it takes long. On a terminal that line ticks; elsewhere
 * it is written once and again every half minute. Node's own modules only: it is used before anything is installed.
 */

/** Between two lines on what is no terminal. */
const STILL_MS = 30_000;
const TICK_MS = 1000;

/** @param {number} ms */
const passed = (ms) => {
  const seconds = Math.round(ms / 1000);
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
};

/**
 * @param {{ write(text: string): unknown, isTTY?: boolean, columns?: number }} stream
 * @param {{ dumb?: boolean, tickMs?: number, stillMs?: number }} [options]
 */
export function makeProgress(stream, { dumb = false, tickMs = TICK_MS, stillMs = STILL_MS } = {}) {
  const live = stream.isTTY === true && !dumb;
  /** Draws the line that ticks again, when there is one. */
  let redraw = () => undefined;
  const wipe = () => void (live && stream.write("\r\u001b[K"));

  /** @param {string} line */
  const say = (line) => {
    wipe();
    stream.write(`setup: ${line}\n`);
    redraw();
  };

  /**
   * Does `work`, and says meanwhile what it is: "building the node root file system (1 to 5 minutes)".
   * @template T
   * @param {string} words
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  const during = async (words, work) => {
    const started = Date.now();
    const outer = redraw;
    redraw = () => {
      if (!live) return;
      const line = `setup: ${words}: ${passed(Date.now() - started)}`;
      stream.write(`\r\u001b[K${line.slice(0, Math.max(20, (stream.columns ?? 80) - 1))}`);
    };
    if (live) redraw();
    else say(words);
    const timer = setInterval(
      () => (live ? redraw() : say(`still ${words}: ${passed(Date.now() - started)}`)),
      live ? tickMs : stillMs,
    );
    try {
      return await work();
    } finally {
      clearInterval(timer);
      wipe();
      redraw = outer;
      redraw();
    }
  };

  /** Before a sudden end: the line that ticks must not stand below the last words. */
  const quit = () => {
    wipe();
    redraw = () => undefined;
  };

  return { say, during, quit };
}
