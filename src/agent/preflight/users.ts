/** A spec's user ("name", "uid" or "uid:gid") as numbers on this node. */
import { readFile } from "node:fs/promises";
import { run } from "../../host/exec.js";

export interface UserIds {
  uid: number;
  gid: number;
}

/** Numbers of a user, or undefined when this node does not know the name. A bare number needs no entry. */
export async function userIds(user: string): Promise<UserIds | undefined> {
  const numeric = /^(\d+)(?::(\d+))?$/.exec(user);
  if (numeric) return { uid: Number(numeric[1]), gid: Number(numeric[2] ?? numeric[1]) };
  const local = inPasswd(await readFile("/etc/passwd", "utf8").catch(() => ""), user);
  if (local) return local;
  // Users that a directory service knows.
  const { stdout } = await run("getent", ["passwd", "--", user], { allow: [1, 2], timeoutMs: 1000 }).catch(() => ({
    stdout: "",
  }));
  return inPasswd(stdout, user);
}

function inPasswd(text: string, user: string): UserIds | undefined {
  for (const line of text.split("\n")) {
    const [name, , uid, gid] = line.split(":");
    if (name === user && /^\d+$/.test(uid ?? "") && /^\d+$/.test(gid ?? ""))
      return { uid: Number(uid), gid: Number(gid) };
  }
  return undefined;
}
