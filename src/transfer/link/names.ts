/** The name in a node's certificate. */
import type { X509Certificate } from "node:crypto";
import { isNodeName } from "../../model/names.js";

/** The only name a node's certificate may carry. */
const SAN = /^URI:ferry:\/\/node\/([a-z0-9-]{1,63})$/;

/** The node that a certificate names: exactly one subject alternative name, `URI:ferry://node/<name>`. */
export function nodeNameOf(certificate: X509Certificate): string | undefined {
  const name = SAN.exec(certificate.subjectAltName ?? "")?.[1];
  return isNodeName(name) ? name : undefined;
}
