/** Just enough of redis' protocol for the demo: send arrays of strings, read replies one by one, in order. */
export const encode = (args: readonly string[]): Buffer =>
  Buffer.from(`*${args.length}\r\n${args.map((arg) => `$${Buffer.byteLength(arg)}\r\n${arg}\r\n`).join("")}`);

export type Reply = string | number | null | Error;

/** Cuts replies out of a stream; feed it what arrives. Arrays are not needed here and refused. */
export class ReplyReader {
  #rest: Buffer = Buffer.alloc(0);

  *feed(chunk: Buffer): Generator<Reply> {
    this.#rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    for (;;) {
      const end = this.#rest.indexOf("\r\n");
      if (end < 0) return;
      const head = this.#rest.toString("utf8", 0, end);
      const value = head.slice(1);
      let next = end + 2;
      let reply: Reply;
      if (head.startsWith(":")) reply = Number(value);
      else if (head.startsWith("+")) reply = value;
      else if (head.startsWith("-")) reply = new Error(value);
      else if (head === "$-1") reply = null;
      else if (head.startsWith("$")) {
        const size = Number(value);
        if (this.#rest.length < next + size + 2) return;
        reply = this.#rest.toString("utf8", next, next + size);
        next += size + 2;
      } else throw new Error(`redis answered something that this client does not know: ${head.slice(0, 60)}`);
      this.#rest = this.#rest.subarray(next);
      yield reply;
    }
  }
}
