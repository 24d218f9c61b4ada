/** TLS of the link: its options, and what OpenSSL's errors mean in our words. */
import { constants } from "node:crypto";
import type { CommonConnectionOptions, SecureContextOptions } from "node:tls";
import { FerryError, type FailureCode, type FailureData } from "../../model/failure.js";
import type { Loaded } from "./credentials.js";
import { ALPN } from "./types.js";

// AES-128-GCM first: it is the fastest one with AES instructions, and as strong as the P-256 keys it is agreed with
const CIPHERS = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

export type LinkTls = SecureContextOptions & CommonConnectionOptions;

/** Options for both ends. */
export function tlsOf({ pem }: Loaded): LinkTls {
  return {
    ...pem,
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
  if (text.includes("NOT_YET_VALID") || text.includes("NOT YET VALID")) {
    return make("E_PEER_CERT", "a certificate is not valid yet", "check both nodes' clocks");
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
