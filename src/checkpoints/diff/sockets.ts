/** Sockets in two checkpoints: who came, who went. */
import type { CheckpointDiff, SocketDiff } from "../../model/checkpoints.js";
import type { CheckpointReader } from "../../store/index.js";
import { parseSockets, type SocketWords } from "../../transfer/images/describe.js";
import { imageStream } from "../format.js";
import { contentOf } from "./content.js";

const MOST_SOCKETS = 200;
const FILES = "files.img";

const keyOf = ({ protocol, state, local, remote = "" }: SocketWords): string =>
  [protocol, state, local, remote].join(" ");

const socketsOf = async (reader: CheckpointReader): Promise<SocketWords[]> =>
  parseSockets(FILES, await contentOf(reader, imageStream(FILES)));

export async function diffSockets(
  before: CheckpointReader,
  after: CheckpointReader,
): Promise<NonNullable<CheckpointDiff["sockets"]>> {
  const old = await socketsOf(before);
  const now = await socketsOf(after);
  /** How many of each are left over: several may listen at one address. */
  const counts = new Map<string, number>();
  for (const socket of old) counts.set(keyOf(socket), (counts.get(keyOf(socket)) ?? 0) + 1);
  const take = (socket: SocketWords): boolean => {
    const left = counts.get(keyOf(socket)) ?? 0;
    if (left > 0) counts.set(keyOf(socket), left - 1);
    return left > 0;
  };
  const added = now.filter((socket) => !take(socket));
  const removed = old.filter(take);
  const all = [
    ...removed.map((socket): SocketDiff => ({ change: "removed", ...socket })),
    ...added.map((socket): SocketDiff => ({ change: "added", ...socket })),
  ];
  return {
    list: all.slice(0, MOST_SOCKETS),
    more: Math.max(0, all.length - MOST_SOCKETS),
    same: now.length - added.length,
  };
}
