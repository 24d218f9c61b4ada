/**
 * A periodic timerfd that fired while nobody read it has no time left and is armed again by the read. criu writes down "no
 * time left" and its restore arms the timer with that, which is how a timer is switched off: it would never fire again.
 * (Every timer whose period is shorter than the freeze until criu looks at it is in that state.) Such a timer is made to
 * fire after a whole period: its program reads what was pending, and sees no more ticks than time has passed.
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { framed, messages, naming } from "./criu.js";
import { encodeVarint, readMessage, readScalars, scalarField, type WireField } from "./protobuf.js";

/** Of criu's fdinfo.proto and timerfd.proto. */
const FILE_TFD = 12;
const TFD = { 5: "ticks", 7: "seconds", 8: "nanoseconds", 9: "everySeconds", 10: "everyNanoseconds" } as const;
const FILES = "files.img";

const fieldsOf = (message: Buffer): WireField[] => {
  const fields: WireField[] = [];
  readMessage(message, (field) => void fields.push(field));
  return fields;
};
const message = (number: number, bytes: Buffer): Buffer =>
  Buffer.concat([encodeVarint(number * 8 + 2), encodeVarint(bytes.length), bytes]);

/** The timer with a period to go, or undefined when it is fine as it is. */
function repaired(timer: Buffer): Buffer | undefined {
  const { ticks, seconds, nanoseconds, everySeconds = 0, everyNanoseconds = 0 } = readScalars(timer, TFD);
  // Without ticks it was switched off: it has a period, and does not fire.
  if ((ticks ?? 0) === 0 || (seconds ?? 0) + (nanoseconds ?? 0) > 0 || everySeconds + everyNanoseconds === 0)
    return undefined;
  return Buffer.concat(
    fieldsOf(timer).map(({ number, raw }) =>
      number === 7 ? scalarField(7, everySeconds) : number === 8 ? scalarField(8, everyNanoseconds) : raw,
    ),
  );
}

/** files.img with its timers mended, and how many those were. Throws E_IMAGE_INCOMPLETE when it is not well formed. */
export function mendTimers(image: Buffer): { image: Buffer; mended: number } {
  return naming(FILES, () => {
    let mended = 0;
    const parts: Buffer[] = [image.subarray(0, 8)];
    for (const entry of messages(FILES, image, "files")) {
      const fields = fieldsOf(entry).map((field) => {
        const timer = field.number === FILE_TFD && field.bytes !== undefined ? repaired(field.bytes) : undefined;
        if (timer === undefined) return field.raw;
        mended += 1;
        return message(FILE_TFD, timer);
      });
      parts.push(...framed(Buffer.concat(fields)));
    }
    return { image: mended === 0 ? image : Buffer.concat(parts), mended };
  });
}

/** Mends the timers of an image directory in place; again is harmless. Answers how many there were. */
export function mendTimersIn(dir: string): number {
  const path = join(dir, FILES);
  // criu itself refuses a set without it
  if (!existsSync(path)) return 0;
  const { image, mended } = mendTimers(readFileSync(path));
  if (mended === 0) return 0;
  // Not an image's name: a half-written one is never sent.
  writeFileSync(`${path}.mended`, image, { mode: 0o600 });
  renameSync(`${path}.mended`, path);
  return mended;
}
