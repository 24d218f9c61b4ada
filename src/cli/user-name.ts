/** Who types: for what people read later. */
import { hostname, userInfo } from "node:os";

export function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return `user ${process.getuid?.() ?? "?"}`;
  }
}

export const requestedBy = (): string => `${userName()}@${hostname()}`.slice(0, 200);
