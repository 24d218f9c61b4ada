/** What criu's images say of a tree in words: names of its processes, kinds of their memory, sockets. Strict, as criu.ts. */
import { imageProblem, messages, naming, parseMm } from "./criu.js";
import { collectNumbers, readMessage, readScalars } from "./protobuf.js";

/** Of criu's core.proto: task_core_entry, and the name in it. */
const CORE_TASK = 3;
const TASK_COMM = 6;

/** The name of a task, from core-<pid>.img; "" when it says none. */
export function parseTaskName(file: string, image: Buffer): string {
  return naming(file, () => {
    const [core, ...rest] = messages(file, image, "core");
    if (core === undefined || rest.length > 0) throw imageProblem(file, "must hold one message");
    let name = "";
    readMessage(core, ({ number, bytes }) => {
      if (number !== CORE_TASK || bytes === undefined) return;
      readMessage(bytes, (field) => {
        if (field.number === TASK_COMM && field.bytes !== undefined) name = field.bytes.toString("utf8").slice(0, 64);
      });
    });
    return name;
  });
}

export interface NamedArea {
  start: number;
  end: number;
  kind: "heap" | "stack" | "anonymous";
}

/** The areas of a task's own memory, in order of addresses, from mm-<pid>.img. */
export function parseOwnAreas(file: string, image: Buffer): NamedArea[] {
  const areas = parseMm(file, image).filter(({ lazy }) => lazy);
  const { stack, brkStart, brk } = naming(file, () => {
    const [mm] = messages(file, image, "mm");
    return readScalars(mm ?? Buffer.alloc(0), { 5: "stack", 6: "brkStart", 7: "brk" });
  });
  const has = ({ start, end }: { start: number; end: number }, from = 0, to = from + 1): boolean =>
    start < to && from < end;
  return areas
    .map(({ start, end }): NamedArea => {
      const heap = brkStart !== undefined && brk !== undefined && brk > brkStart && has({ start, end }, brkStart, brk);
      return { start, end, kind: heap ? "heap" : has({ start, end }, stack) ? "stack" : "anonymous" };
    })
    .toSorted((a, b) => a.start - b.start);
}

/** Of criu's fdinfo.proto. */
const FILE_INET = 4;
const FILE_UNIX = 16;
/** Of sk-inet.proto and sk-unix.proto. */
const INET = { 3: "family", 4: "type", 5: "protocol", 6: "state", 7: "localPort", 8: "remotePort" } as const;
const UNIX = { 3: "type", 4: "state" } as const;
const INET_LOCAL = 11;
const INET_REMOTE = 12;
const UNIX_NAME = 11;
const AF_INET = 2;
const AF_INET6 = 10;

const STATES: Record<number, string> = {
  1: "established",
  2: "connecting",
  3: "connecting",
  4: "closing",
  5: "closing",
  6: "closing",
  7: "closed",
  8: "closing",
  9: "closing",
  10: "listening",
  11: "closing",
};
const PROTOCOLS: Record<number, string> = { 1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6", 136: "udplite" };
const UNIX_TYPES: Record<number, string> = { 1: "unix", 2: "unix-dgram", 5: "unix-seqpacket" };

export interface SocketWords {
  protocol: string;
  state: string;
  /** "10.0.0.5:6379", "[::]:80", the name of a unix socket. */
  local: string;
  /** Of one that is connected. */
  remote?: string;
}

/** Sockets of the internet, and unix ones that somebody can connect to, from files.img. */
export function parseSockets(file: string, image: Buffer): SocketWords[] {
  return naming(file, () => {
    const sockets: SocketWords[] = [];
    for (const entry of messages(file, image, "files")) {
      readMessage(entry, ({ number, bytes }) => {
        if (bytes === undefined) return;
        if (number === FILE_INET) sockets.push(inetSocket(bytes));
        if (number === FILE_UNIX) sockets.push(...unixSocket(bytes));
      });
    }
    return sockets;
  });
}

function inetSocket(message: Buffer): SocketWords {
  const { family, protocol = 0, state = 0, localPort = 0, remotePort = 0 } = readScalars(message, INET);
  const [local, remote]: [number[], number[]] = [[], []];
  readMessage(message, (field) => {
    if (field.number === INET_LOCAL) collectNumbers(field, local);
    if (field.number === INET_REMOTE) collectNumbers(field, remote);
  });
  const connected = remotePort !== 0;
  return {
    protocol: PROTOCOLS[protocol] ?? `protocol ${protocol}`,
    state: protocol === 6 ? (STATES[state] ?? `state ${state}`) : connected ? "connected" : "open",
    local: `${address(family, local)}:${localPort}`,
    ...(connected ? { remote: `${address(family, remote)}:${remotePort}` } : {}),
  };
}

function unixSocket(message: Buffer): SocketWords[] {
  const { type = 0, state = 0 } = readScalars(message, UNIX);
  let name = Buffer.alloc(0);
  readMessage(message, (field) => {
    if (field.number === UNIX_NAME && field.bytes !== undefined) name = Buffer.from(field.bytes);
  });
  // Without a name nobody can connect to it: pairs of a process with itself.
  if (name.length === 0 || (state !== 10 && type !== 2)) return [];
  // An abstract name begins with a zero byte, and is shown with an "@".
  const words = name.toString("utf8").replace(/\0+$/, "").replace(/^\0/, "@").slice(0, 200);
  return [{ protocol: UNIX_TYPES[type] ?? `unix ${type}`, state: STATES[state] ?? "open", local: words }];
}

/** Words of an address as the kernel has them in memory. */
function address(family: number | undefined, words: readonly number[]): string {
  const bytes = Buffer.alloc(words.length * 4);
  for (const [at, word] of words.entries()) bytes.writeUInt32LE(word % 2 ** 32, at * 4);
  if (family === AF_INET && bytes.length >= 4) return [...bytes.subarray(0, 4)].join(".");
  if (family !== AF_INET6 || bytes.length < 16) return "?";
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(i * 2).toString(16));
  // As the URL parser writes them: short.
  return new URL(`http://[${groups.join(":")}]`).hostname;
}
