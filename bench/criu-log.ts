/**
 * What criu itself took, by its own log (-v4): the floor under every blackout that uses it. Pure.
 *
 * dump     from the first task seized to the post-dump hook
 * restore  from the first image that it has read to the post-restore hook: everything is there again, nothing runs yet
 *
 * Not its `frozen_time`: that one includes the kill of the source, and is wrong in lazy mode.
 */
const LINE = /^\((\d+\.\d+)\)\s+(.*)$/;

export interface LogLine {
  seconds: number;
  text: string;
}

/** Lines with a time; others (a hook's own words) are passed over. */
export function parseCriuLog(log: string): LogLine[] {
  return log.split("\n").flatMap((line) => {
    const match = LINE.exec(line);
    return match === null ? [] : [{ seconds: Number(match[1]), text: match[2] ?? "" }];
  });
}

function between(log: string, from: RegExp, to: RegExp): number | undefined {
  const lines = parseCriuLog(log);
  const begin = lines.find((line) => from.test(line.text))?.seconds;
  const end = lines.find((line) => to.test(line.text))?.seconds;
  return begin === undefined || end === undefined || end < begin ? undefined : (end - begin) * 1000;
}

export const dumpMsOf = (log: string): number | undefined =>
  between(log, /^Seized task /, /^Running post-dump scripts/);
export const restoreMsOf = (log: string): number | undefined =>
  between(log, /^Reading image tree/, /^Running post-restore scripts/);

/** "EVENT name seconds" lines of the peers' scripts, as Unix milliseconds. */
export function parseEvents(text: string): Record<string, number> {
  const events: Record<string, number> = {};
  for (const line of text.split("\n")) {
    const match = /^EVENT ([a-z-]+) (\d+\.\d+)$/.exec(line.trim());
    if (match !== null) events[match[1] ?? ""] = Number(match[2]) * 1000;
  }
  return events;
}
