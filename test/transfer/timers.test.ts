/** Periodic timers that had fired at the freeze: see src/transfer/images/timers.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FerryError } from "../../src/model/failure.js";
import { mendTimers } from "../../src/transfer/images/timers.js";
import { bytes, image, number } from "../support/criu-images.js";

interface Timer {
  ticks: number;
  seconds: number;
  nanoseconds: number;
  everySeconds: number;
  everyNanoseconds: number;
}
const timer = (id: number, t: Timer): Buffer =>
  Buffer.concat([
    number(1, 5),
    number(2, id),
    bytes(
      12,
      Buffer.concat([
        number(1, id),
        number(2, 2),
        bytes(3, number(1, 0)),
        number(4, 1),
        number(5, t.ticks),
        number(6, 0),
        number(7, t.seconds),
        number(8, t.nanoseconds),
        number(9, t.everySeconds),
        number(10, t.everyNanoseconds),
      ]),
    ),
  ]);
const regular = Buffer.concat([number(1, 1), number(2, 9), bytes(3, Buffer.from("anything"))]);
const fired = { ticks: 1, seconds: 0, nanoseconds: 0, everySeconds: 3, everyNanoseconds: 20_000_000 };

test("a periodic timer that had fired fires again after a period; all else stays byte by byte", () => {
  const running = timer(3, { ...fired, nanoseconds: 5 });
  const off = timer(4, { ...fired, ticks: 0 });
  const once = timer(5, { ...fired, everySeconds: 0, everyNanoseconds: 0 });
  const before = image("files", [regular, timer(2, fired), running, off, once]);
  const after = mendTimers(before);
  assert.equal(after.mended, 1);
  const expected = timer(2, { ...fired, seconds: 3, nanoseconds: 20_000_000 });
  assert.deepEqual(after.image, image("files", [regular, expected, running, off, once]));
  assert.equal(mendTimers(after.image).mended, 0, "again is harmless");
});

test("an image that is cut short or is another one is refused", () => {
  const whole = image("files", [timer(2, fired)]);
  for (let size = 9; size < whole.length; size += 1) {
    assert.throws(() => mendTimers(whole.subarray(0, size)), FerryError, `${size} bytes`);
  }
  assert.throws(() => mendTimers(image("mm", [])), FerryError);
});
