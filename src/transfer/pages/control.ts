/**
 * Between the mover and its page daemon, over a unix socket: commands of 16 bytes there (type u32, pages u32, slot u64),
 * JSON lines back.
 */
import { z } from "zod";
import { ferryError } from "../../model/failure.js";
import { shown } from "../../model/words.js";

export const COMMAND = 16;
export const COMMANDS = { arrived: 1, fill: 2, reset: 3, stop: 4, first: 5 } as const;
export type CommandName = keyof typeof COMMANDS;

export interface Command {
  name: CommandName;
  slot: number;
  pages: number;
}

export function encodeCommand(name: CommandName, slot = 0, pages = 0): Buffer {
  const data = Buffer.alloc(COMMAND);
  data.writeUInt32LE(COMMANDS[name], 0);
  data.writeUInt32LE(pages, 4);
  data.writeBigUInt64LE(BigInt(slot), 8);
  return data;
}

/** undefined: not a command. */
export function parseCommand(data: Buffer, at: number): Command | undefined {
  const type = data.readUInt32LE(at);
  for (const name of Object.keys(COMMANDS) as CommandName[]) {
    if (COMMANDS[name] === type) {
      return { name, pages: data.readUInt32LE(at + 4), slot: Number(data.readBigUInt64LE(at + 8)) };
    }
  }
  return undefined;
}

const statusSchema = z.strictObject({
  tasks: z.int().nonnegative(),
  unclaimed: z.int().nonnegative(),
  faults: z.int().nonnegative(),
  filled: z.int().nonnegative(),
  allFilled: z.boolean(),
  filling: z.boolean(),
  guardPid: z.int().positive().optional(),
  failure: z.string().optional(),
});
export type DaemonStatus = z.infer<typeof statusSchema>;

const replySchema = z.union([
  z.strictObject({ status: statusSchema }),
  z.strictObject({ missing: z.tuple([z.int().nonnegative(), z.int().positive()]) }),
  z.strictObject({ reset: z.literal(true) }),
]);
export type Reply = z.infer<typeof replySchema>;

/** Throws E_PAGES when a line is not one of ours. */
export function parseReply(line: string): Reply {
  let parsed: z.ZodSafeParseResult<Reply> | undefined;
  try {
    parsed = replySchema.safeParse(JSON.parse(line));
  } catch {
    // not JSON
  }
  if (parsed?.success === true) return parsed.data;
  throw ferryError("E_PAGES", `the page daemon said ${shown(line)}, which means nothing here`, { side: "destination" });
}
