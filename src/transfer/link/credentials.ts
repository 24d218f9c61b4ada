/**
 * This node's certificate, key, CAs and revocation lists, as its files are now: they are looked at before every use, so a
 * certificate is replaced by replacing its files. What can't be used is told, and what was in use before stays in use. All of
 * it changes at once: between the two renames of a key and its certificate nothing is signed with the wrong half.
 */
import { createPrivateKey, X509Certificate, type KeyObject } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { parseRevocationLists, serialOf, type RevocationList } from "../../host/crl.js";
import { utc, nearEnd, validity } from "../../host/validity.js";
import { ferryError, toFailure, type FailureData, type FerryError } from "../../model/failure.js";
import { nodeNameOf } from "./names.js";
import type { LinkIdentity } from "./types.js";

type Tell = (level: "info" | "warn", message: string, fields?: Record<string, unknown>) => void;

const DAY_MS = 86_400_000;
const WATCH_MS = 60_000;
const PEM = /-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----/g;

const bad = (message: string, remedy: string): FerryError => ferryError("E_PEER_CERT", message, { remedy });

/** One reading of the files, checked as a whole. */
export class Loaded {
  readonly pem: { ca: string; cert: string; key: string };
  readonly certificate: X509Certificate;
  readonly key: KeyObject;
  readonly authorities: readonly X509Certificate[];
  readonly #lists: readonly RevocationList[] | undefined;
  readonly #identity: LinkIdentity;

  /** Throws E_PEER_CERT when the files are missing, not this node's, or do not fit together. */
  constructor(identity: LinkIdentity) {
    this.#identity = identity;
    const { caFile, certFile, keyFile, crlFile } = identity;
    const ca = read(identity, caFile, "CA certificate");
    const cert = read(identity, certFile, "certificate");
    const key = read(identity, keyFile, "private key");
    this.pem = { ca, cert, key };
    this.authorities = Array.from(ca.matchAll(PEM), ([pem]) => certificateOf(pem, caFile));
    if (this.authorities.length === 0) throw bad(`${caFile} has no certificate`, "put the CA's certificate there");
    this.certificate = certificateOf(cert, certFile);
    const named = nodeNameOf(this.certificate);
    const renew = `issue a certificate for ${identity.node} and name its files in the agent's configuration`;
    if (named !== identity.node) {
      throw bad(`${certFile} names ${named ?? "no node"}, this node is ${identity.node}`, renew);
    }
    try {
      this.key = createPrivateKey(key);
    } catch {
      // OpenSSL's words could have part of the file in them
      throw bad(`${keyFile} is not a private key`, renew);
    }
    if (!this.certificate.checkPrivateKey(this.key)) throw bad(`${keyFile} does not belong to ${certFile}`, renew);
    // what tokens are signed with: found out now, not when a hand-over commits
    if (!isP256(this.certificate.publicKey)) throw bad(`${certFile} does not hold a P-256 key`, renew);
    if (this.issuerOf(this.certificate) === undefined) {
      throw bad(`${certFile} was not issued by a CA in ${caFile}`, `${renew}; for a new CA keep the old one beside it`);
    }
    if (crlFile !== undefined) {
      const lists = parseRevocationLists(read(identity, crlFile, "revocation list"));
      const strange = lists.some((list) => !this.authorities.some((authority) => list.isOf(authority)));
      if (strange) throw bad(`${crlFile} has a list that no CA in ${caFile} has signed`, "make it with that CA's key");
      this.#lists = lists;
    }
  }

  /** The CA of ours that issued it. */
  issuerOf(certificate: X509Certificate): X509Certificate | undefined {
    return this.authorities.find((ca) => certificate.checkIssued(ca) && certificate.verify(ca.publicKey));
  }

  /**
   * Why the certificate must not be believed any more, or undefined. Without a file of lists nothing is revoked; with one,
   * a CA without a list, or with one that is out of date, is not believed: what it has revoked since is not known.
   * `now`: Unix milliseconds.
   */
  revocation(certificate: X509Certificate, now: number = Date.now()): FailureData | undefined {
    if (this.#lists === undefined) return undefined;
    const file = this.#identity.crlFile ?? "";
    const issuer = this.issuerOf(certificate);
    const list = this.#lists
      .filter((one) => issuer !== undefined && one.isOf(issuer))
      .toSorted((a, b) => b.from - a.from)[0];
    const who = nodeNameOf(certificate) ?? "no node";
    const failure = (message: string, remedy: string): FailureData => ({ code: "E_PEER_CERT", message, remedy });
    if (list === undefined) return failure(`${file} has no list of the CA of ${who}`, "add that CA's list to the file");
    const since = list.revoked.get(serialOf(certificate));
    if (since !== undefined) {
      return failure(
        `the certificate of ${who} (serial ${certificate.serialNumber}) was revoked on ${utc(since)}`,
        `if ${who} is to be trusted again, issue a new certificate for it`,
      );
    }
    if (list.until !== undefined && now > list.until) {
      return failure(`the revocation list ${file} ran out on ${utc(list.until)}`, "make a new one with the CA's key");
    }
    return undefined;
  }

  /** What a person should look at before it cuts this node off. `now`: Unix milliseconds. */
  warnings(now: number): string[] {
    const { certFile, caFile, crlFile, keyFile } = this.#identity;
    const found: string[] = [];
    const look = (what: string, [from, until]: [number, number | undefined]): void => {
      const how = until === undefined ? undefined : nearEnd(from, until, now);
      if (how !== undefined) found.push(`${what} ${how}`);
      if (now < from) found.push(`${what} is not valid before ${utc(from)}`);
    };
    look(`this node's certificate ${certFile}`, validity(this.certificate));
    for (const ca of this.authorities) look(`a CA's certificate in ${caFile}`, validity(ca));
    for (const { from, until } of this.#lists ?? []) look(`the revocation list ${crlFile}`, [from, until]);
    const own = this.revocation(this.certificate, now);
    if (own !== undefined) found.push(own.message);
    if (((statSync(keyFile, { throwIfNoEntry: false })?.mode ?? 0) & 0o077) !== 0) {
      found.push(`the private key ${keyFile} can be read by others than its owner`);
    }
    return found;
  }
}

function read({ node }: LinkIdentity, file: string, what: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw ferryError("E_PEER_CERT", `this node's ${what} can't be read from ${file}: ${(error as Error).message}`, {
      node,
      remedy: "issue a certificate for this node and name its files in the agent's configuration",
    });
  }
}

/** Whether a key is of the one kind that nodes have. */
export const isP256 = ({ asymmetricKeyType, asymmetricKeyDetails }: KeyObject): boolean =>
  asymmetricKeyType === "ec" && asymmetricKeyDetails?.namedCurve === "prime256v1";

function certificateOf(pem: string, file: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (error) {
    throw bad(`${file} is not a certificate: ${(error as Error).message}`, "put a PEM certificate there");
  }
}

export class Credentials {
  readonly #identity: LinkIdentity;
  #loaded: Loaded | undefined;
  #seen = "";
  readonly #listeners = new Set<(loaded: Loaded) => void>();
  #tell: Tell = () => undefined;
  #warned = new Map<string, number>();

  constructor(identity: LinkIdentity) {
    this.#identity = identity;
  }

  /** As the files are now, or as they were when they were last good. Throws E_PEER_CERT when they never were. */
  current(): Loaded {
    const { caFile, certFile, keyFile, crlFile } = this.#identity;
    const files = [caFile, certFile, keyFile, ...(crlFile === undefined ? [] : [crlFile])];
    // looked at before it is read: what changes meanwhile is found the next time
    const seen = files.map(fileState).join(" ");
    if (this.#loaded !== undefined && seen === this.#seen) return this.#loaded;
    this.#seen = seen;
    let loaded: Loaded;
    try {
      loaded = new Loaded(this.#identity);
      if (this.#loaded !== undefined) demandInDate(loaded.certificate, certFile);
    } catch (error) {
      if (this.#loaded === undefined) throw error;
      const failure = toFailure(error, "E_PEER_CERT");
      this.#tell("warn", "certificate files changed and can't be used: the old ones stay in use", { failure });
      return this.#loaded;
    }
    const renewed = this.#loaded !== undefined;
    this.#loaded = loaded;
    if (renewed) {
      const { serialNumber, validTo } = loaded.certificate;
      this.#tell("info", "certificate files changed: new connections use them", { serialNumber, validTo });
      for (const listener of this.#listeners) listener(loaded);
    }
    return loaded;
  }

  /** Told of every change. Returns what ends that. */
  onChange(listener: (loaded: Loaded) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Looks once a minute, and tells of changes, of files that can't be used, and once a day of what runs out. */
  watch(tell: Tell): void {
    this.#tell = tell;
    this.look();
    setInterval(() => this.look(), WATCH_MS).unref();
  }

  /** One look of `watch`. `now`: Unix milliseconds. */
  look(now: number = Date.now()): void {
    let warnings: string[];
    try {
      warnings = this.current().warnings(now);
    } catch (error) {
      warnings = [toFailure(error).message];
    }
    for (const warning of warnings) {
      // by its subject: how much is left changes by itself
      const subject = warning.replace(/ (runs|ran) out .*/, "");
      if (now - (this.#warned.get(subject) ?? Number.NEGATIVE_INFINITY) < DAY_MS) continue;
      this.#warned.set(subject, now);
      this.#tell("warn", warning);
    }
  }
}

function demandInDate(certificate: X509Certificate, file: string): void {
  const [from, until] = validity(certificate);
  if (Date.now() >= from && Date.now() <= until) return;
  throw bad(`${file} is valid from ${utc(from)} to ${utc(until)}`, "issue a new certificate, check this node's clock");
}

function fileState(file: string): string {
  try {
    const { ino, mtimeNs, size } = statSync(file, { bigint: true });
    return `${ino}:${mtimeNs}:${size}`;
  } catch (error) {
    return String((error as NodeJS.ErrnoException).code);
  }
}

const known = new WeakMap<LinkIdentity, Credentials>();
/** One per identity object: all that a process dials, serves and signs changes its certificate together. */
export function credentialsOf(identity: LinkIdentity): Credentials {
  const credentials = known.get(identity) ?? new Credentials(identity);
  known.set(identity, credentials);
  return credentials;
}
