/** Where letters begin and end in UTF-8 that was cut at any byte. Pure. */

const isContinuation = (byte: number | undefined): boolean => byte !== undefined && (byte & 0xc0) === 0x80;
const lengthOf = (lead: number): number => (lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1);
const LONGEST = 4;

/** How many bytes at the start belong to a letter that began before. */
export function tornStart(bytes: Uint8Array): number {
  let start = 0;
  while (start < LONGEST - 1 && isContinuation(bytes[start])) start += 1;
  // Four in a row are no letter of anybody's.
  return isContinuation(bytes[start]) ? 0 : start;
}

/**
 * Where the last whole letter ends. Only letters that are just not complete are left for the next time: what is not UTF-8
 * is passed on as it is. When nothing but a piece of a letter was read, it is kept back only at the end of the file
 * (the rest is not written yet); elsewhere the reader would never get on.
 */
export function wholeEnd(bytes: Uint8Array, atEnd: boolean): number {
  for (let back = 1; back < LONGEST && back <= bytes.length; back += 1) {
    const byte = bytes[bytes.length - back] ?? 0;
    if (isContinuation(byte)) continue;
    const end = lengthOf(byte) > back ? bytes.length - back : bytes.length;
    return end === 0 && !atEnd ? bytes.length : end;
  }
  return bytes.length;
}
