/** A session outlives the lists that it began with. */
import type { X509Certificate } from "node:crypto";
import type { Channel } from "./channel.js";
import type { Credentials } from "./credentials.js";
import type { LinkSession } from "./types.js";

/** Ends the session, with the reason, as soon as a new list says that the peer's certificate is revoked. */
export function endWhenRevoked(
  credentials: Credentials,
  certificate: X509Certificate | undefined,
  channel: Channel,
  session: LinkSession,
): void {
  if (certificate === undefined) return;
  const stop = credentials.onChange((loaded) => {
    const revoked = loaded.revocation(certificate);
    if (revoked !== undefined) channel.abort({ ...revoked, message: `${channel.link}: ${revoked.message}` });
  });
  session.onClose(stop);
}
