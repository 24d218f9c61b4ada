/** Doctor's look at a node's certificate: whether it is whole, and how long it is still good. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fail, ok, skip, warn, type CheckOptions, type Finding } from "./check.js";
import { nearEnd, utc, validity } from "./validity.js";

const RENEW = "issue a new one and put it in its place: a running agent takes it by itself (docs/security.md)";

export async function certificate({ tlsDir = "/etc/ferry" }: CheckOptions): Promise<Finding> {
  const read = (name: string): Promise<string | undefined> =>
    readFile(join(tlsDir, name), "utf8").catch(() => undefined);
  const [cert, key, ca] = await Promise.all(["node.crt", "node.key", "ca.crt"].map(read));
  if (cert === undefined) return skip("none", `${tlsDir} has no node.crt: not a node, or say --tls-dir`);
  if (key === undefined || ca === undefined) {
    return fail(
      "not whole",
      `node.key or ca.crt in ${tlsDir} can't be read`,
      "put them there; doctor must run as root",
    );
  }
  const [own, authority] = [new X509Certificate(cert), new X509Certificate(ca)];
  if (!own.checkPrivateKey(createPrivateKey(key))) return fail("not a pair", `${tlsDir}/node.key is another's`, RENEW);
  const now = Date.now();
  for (const [what, one] of [
    ["node.crt", own],
    ["ca.crt", authority],
  ] as const) {
    const [from, until] = validity(one);
    if (now < from) return fail("not valid yet", `${what} is valid from ${utc(from)}`, "check this node's clock");
    const end = nearEnd(from, until, now);
    if (end !== undefined) return (now > until ? fail : warn)(end, `${what} in ${tlsDir}`, RENEW);
  }
  return ok(`good until ${utc(validity(own)[1])}`);
}
