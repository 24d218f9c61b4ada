/** TLS of the link: own files, the peer's name in its certificate, and what OpenSSL's errors mean in our words. */
import { constants, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { CommonConnectionOptions, SecureContextOptions } from "node:tls";
import { ferryError, FerryError, type FailureCode, type FailureData } from "../../model/failure.js";
import { isNodeName } from "../../model/names.js";
import { ALPN, type LinkIdentity } from "./types.js";

/** The only name a node's certificate may carry. */
const SAN = /^URI:ferry:\/\/node\/([a-z0-9-]{1,63})$/;

/** The node that a certificate names: exactly one subject alternative name, `URI:ferry://node/<name>`. */
export function nodeNameOf(certificate: X509Certificate): string | undefined {
  const name = SAN.exec(certificate.subjectAltName ?? "")?.[1];
  return isNodeName(name) ? name : undefined;
}

// AES-128-GCM first: it is the fastest one with AES instructions, and as strong as the P-256 keys it is agreed with
const CIPHERS = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

export type LinkTls = SecureContextOptions & CommonConnectionOptions;

/** Options for both ends. Throws E_PEER_CERT when this node's own files are missing or not its own. */
export async function loadTls(identity: LinkIdentity): Promise<LinkTls> {
  const read = async (file: string, what: string): Promise<string> => {
    try {
      return await readFile(file, "utf8");
    } catch (error) {
      throw ferryError("E_PEER_CERT", `this node's ${what} can't be read from ${file}: ${(error as Error).message}`, {
        node: identity.node,
        remedy: "issue a certificate for this node and name its files in the agent's configuration",
      });
    }
  };
  const [ca, cert, key] = await Promise.all([
    read(identity.caFile, "CA certificate"),
    read(identity.certFile, "certificate"),
    read(identity.keyFile, "private key"),
  ]);
  let named: string | undefined;
  try {
    named = nodeNameOf(new X509Certificate(cert));
  } catch (error) {
    throw ferryError("E_PEER_CERT", `${identity.certFile} is not a certificate: ${(error as Error).message}`);
  }
  if (named !== identity.node) {
    throw ferryError("E_PEER_CERT", `${identity.certFile} names ${named ?? "no node"}, this node is ${identity.node}`, {
      node: identity.node,
    });
  }
  return {
    ca,
    cert,
    key,
    ciphers: CIPHERS,
    minVersion: "TLSv1.3",
    maxVersion: "TLSv1.3",
    ALPNProtocols: [ALPN],
    requestCert: true,
    // no resumption: every session shows its certificates anew
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

const CERT_ERRORS =
  /CERT|ISSUER|SELF_SIGNED|INVALID_CA|INVALID_PURPOSE|PATH_LENGTH|UNKNOWN_CA|CRL|HOSTNAME|BAD_CERTIFICATE|SIGNATURE_FAILURE/;
const NOT_TLS =
  /WRONG_VERSION_NUMBER|HTTP_REQUEST|HTTPS_PROXY|UNSUPPORTED_PROTOCOL|PROTOCOL_VERSION|NO_APPLICATION_PROTOCOL|UNKNOWN_PROTOCOL|PACKET_LENGTH|RECORD_LAYER|RECORD_TOO_LARGE|UNEXPECTED_MESSAGE|NO_SHARED_CIPHER|HANDSHAKE_FAILURE|DECODE_ERROR|BAD_LENGTH|LENGTH_MISMATCH|BAD_RECORD_TYPE|NO_PROTOCOLS_AVAILABLE|INTERNAL_ERROR|UNKNOWN_MESSAGE|EXCESSIVE_MESSAGE/;
const ALTERED = /DECRYPTION_FAILED|BAD_RECORD_MAC|BAD_DECRYPT|DECRYPT_ERROR|DECRYPT/;

/** A socket's or OpenSSL's error as a failure. `link` is the start of the sentence, such as "link to node-b (10.0.0.2:7000)". */
export function socketFailure(error: unknown, link: string): FailureData {
  if (error instanceof FerryError) return error.data;
  const { code: errno, message, cause } = error as Error & { code?: unknown };
  if (cause instanceof FerryError) return cause.data;
  const word = typeof errno === "string" ? errno : "";
  const text = `${word} ${message}`.toUpperCase();
  const make = (code: FailureCode, why: string, remedy?: string): FailureData => ({
    code,
    message: `${link}: ${why}`,
    evidence: { lines: [word === "" ? message : `${word}: ${message}`] },
    ...(remedy === undefined ? {} : { remedy }),
  });
  if (ALTERED.test(text)) return make("E_FRAME", "bytes were altered on the way");
  if (text.includes("EXPIRED")) {
    return make("E_PEER_CERT", "a certificate has expired", "issue a new one for that node, check both nodes' clocks");
  }
  if (CERT_ERRORS.test(text)) {
    return make("E_PEER_CERT", "a certificate was not accepted", "both nodes need certificates of the same CA");
  }
  if (NOT_TLS.test(text) || word.startsWith("ERR_SSL")) {
    return make("E_LINK_VERSION", "the other end does not speak Ferry's link (TLS 1.3, ferry/1)");
  }
  if (word === "ECONNREFUSED")
    return make("E_LINK_LOST", "nothing listens there", "is the other node's agent running?");
  if (word === "EHOSTUNREACH" || word === "ENETUNREACH") return make("E_LINK_LOST", "there is no route to it");
  return make("E_LINK_LOST", "the connection broke");
}
