/** Who a workload runs as: the spec's user, resolved on this node to numbers. */
import { run } from "../../host/exec.js";
import { ferryError } from "../../model/failure.js";

export interface ResolvedUser {
  uid: number;
  gid: number;
  groups: number[];
  home: string;
}

/** `name`, `uid` or `uid:gid`. Throws E_START when the node does not know the name. */
export async function resolveUser(user: string): Promise<ResolvedUser> {
  const numeric = /^(\d{1,10})(?::(\d{1,10}))?$/.exec(user);
  const key = numeric?.[1] ?? user;
  const entry = await run("getent", ["passwd", "--", key], { allow: [2], doing: `looking up the user ${user}` });
  const [name = "", , uid, gid, , home = ""] = entry.stdout.split("\n")[0]?.split(":") ?? [];
  if (uid === undefined || gid === undefined) {
    if (numeric === null) {
      throw ferryError("E_START", `there is no user ${JSON.stringify(user)} on this node`, {
        remedy: "give a user that every node knows, or numbers: --user 1000:1000",
      });
    }
    const own = Number(numeric[2] ?? numeric[1]);
    return { uid: Number(numeric[1]), gid: own, groups: [own], home: "/" };
  }
  if (numeric?.[2] !== undefined) {
    return { uid: Number(uid), gid: Number(numeric[2]), groups: [Number(numeric[2])], home };
  }
  const groups = await run("id", ["-G", "--", name], { doing: `looking up the groups of ${name}` });
  return { uid: Number(uid), gid: Number(gid), groups: groups.stdout.trim().split(/\s+/).map(Number), home };
}
