/**
 * Keys and certificates of a cluster, made by the `openssl` program: one CA, and one certificate per node whose only name
 * is `ferry://node/<name>`. Directories are 0700, files 0600. What exists and is still good is kept, so that making a
 * node again does not cut it off; what exists and is not good is an error, never overwritten silently.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { chmod, mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ferryError } from "../model/failure.js";
import { nameProblem } from "../model/names.js";
import { run } from "./exec.js";

const CA_DAYS = 3650;
const NODE_DAYS = 825;
/** A certificate that has less than this left is made anew. */
const RENEW_MS = 30 * 86_400_000;

export interface Authority {
  certFile: string;
  keyFile: string;
}
export interface NodeCertificate {
  caFile: string;
  certFile: string;
  keyFile: string;
}

async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Why a certificate and its key can't be used together, or undefined when they can. */
function pairProblem(cert: string, key: string, ca: X509Certificate | undefined, uri?: string): string | undefined {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(cert);
    if (!certificate.checkPrivateKey(createPrivateKey(key))) return "key and certificate do not belong together";
  } catch (error) {
    return `not readable: ${(error as Error).message}`;
  }
  const issuer = ca ?? certificate;
  if (!certificate.checkIssued(issuer) || !certificate.verify(issuer.publicKey)) return "issued by another CA";
  if (uri !== undefined && certificate.subjectAltName !== `URI:${uri}`) return `does not name ${uri}`;
  if (uri === undefined && !certificate.ca) return "not a CA's certificate";
  if (Date.parse(certificate.validTo) - Date.now() < RENEW_MS) return "expired or about to";
  return undefined;
}

async function privateDir(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await chmod(dir, 0o700);
}

/** Makes key and certificate in a directory beside, then moves the certificate last: a crash leaves no half pair in use. */
async function makePair(
  dir: string,
  name: string,
  make: (scratch: string, keyFile: string, certFile: string) => Promise<void>,
): Promise<void> {
  const scratch = await mkdtemp(join(dir, ".new-"));
  try {
    const keyFile = join(scratch, "key");
    const certFile = join(scratch, "crt");
    await run("openssl", ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", keyFile], {
      doing: `making the key of ${name}`,
      remedy: "install openssl",
    });
    await make(scratch, keyFile, certFile);
    await chmod(keyFile, 0o600);
    await chmod(certFile, 0o600);
    await rename(keyFile, join(dir, `${name}.key`));
    await rename(certFile, join(dir, `${name}.crt`));
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/**
 * The CA in `dir` (`ca.crt`, `ca.key`), made if there is none.
 * Throws E_TOOL when openssl fails, E_STATE when the files there can't be used: a new CA would cut off every node.
 */
export async function createAuthority(dir: string): Promise<Authority> {
  await privateDir(dir);
  const certFile = join(dir, "ca.crt");
  const keyFile = join(dir, "ca.key");
  const [cert, key] = await Promise.all([readIfThere(certFile), readIfThere(keyFile)]);
  if (cert !== undefined) {
    const problem = key === undefined ? "ca.key is missing" : pairProblem(cert, key, undefined);
    if (problem !== undefined) {
      throw ferryError("E_STATE", `the CA in ${dir} can't be used: ${problem}`, {
        remedy: `restore it from a backup, or move ${dir} away and issue every node's certificate anew`,
      });
    }
    return { certFile, keyFile };
  }
  // a key without a certificate is what a crash between the two renames leaves: nothing was ever issued with it
  await makePair(dir, "ca", async (scratch, newKey, newCert) => {
    const config = join(scratch, "openssl.cnf");
    await writeFile(
      config,
      [
        "[req]",
        "distinguished_name=dn",
        "x509_extensions=ext",
        "prompt=no",
        "[dn]",
        "CN=Ferry CA",
        "[ext]",
        "basicConstraints=critical,CA:TRUE,pathlen:0",
        "keyUsage=critical,keyCertSign,cRLSign",
        "subjectKeyIdentifier=hash",
        "",
      ].join("\n"),
      { mode: 0o600 },
    );
    await run(
      "openssl",
      ["req", "-x509", "-new", "-sha256", "-days", String(CA_DAYS)].concat([
        "-config",
        config,
        "-key",
        newKey,
        "-out",
        newCert,
      ]),
      { doing: "making the CA's certificate" },
    );
  });
  return { certFile, keyFile };
}

/**
 * A certificate for one node in `outDir` (`node.crt`, `node.key`, `ca.crt`), kept when the one there is good (same CA,
 * same name, a month left), else made anew. Throws E_NAME, E_TOOL, E_STATE.
 */
export async function issueNodeCertificate(options: {
  authorityDir: string;
  node: string;
  outDir: string;
}): Promise<NodeCertificate> {
  const { authorityDir, node, outDir } = options;
  const wrongName = nameProblem("node", node);
  if (wrongName !== undefined) throw ferryError("E_NAME", wrongName);
  const authority = await createAuthority(authorityDir);
  await privateDir(outDir);
  const files = {
    caFile: join(outDir, "ca.crt"),
    certFile: join(outDir, "node.crt"),
    keyFile: join(outDir, "node.key"),
  };
  const uri = `ferry://node/${node}`;
  const caPem = await readFile(authority.certFile, "utf8");
  const [cert, key, oldCa] = await Promise.all([
    readIfThere(files.certFile),
    readIfThere(files.keyFile),
    readIfThere(files.caFile),
  ]);
  if (oldCa !== caPem) {
    await writeFile(`${files.caFile}.new`, caPem, { mode: 0o600 });
    await rename(`${files.caFile}.new`, files.caFile);
  }
  if (cert !== undefined && key !== undefined) {
    if (pairProblem(cert, key, new X509Certificate(caPem), uri) === undefined) return files;
  }
  await makePair(outDir, "node", async (scratch, newKey, newCert) => {
    const request = join(scratch, "csr");
    const extensions = join(scratch, "ext");
    await writeFile(
      extensions,
      [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=serverAuth,clientAuth",
        `subjectAltName=URI:${uri}`,
        "subjectKeyIdentifier=hash",
        "authorityKeyIdentifier=keyid",
        "",
      ].join("\n"),
      { mode: 0o600 },
    );
    // a short common name: X.509 allows 64 characters, and nothing reads it
    await run("openssl", ["req", "-new", "-sha256", "-key", newKey, "-subj", "/CN=ferry-node", "-out", request], {
      doing: `making the certificate request of ${node}`,
    });
    const signing = ["-CA", authority.certFile, "-CAkey", authority.keyFile, "-extfile", extensions];
    await run(
      "openssl",
      ["x509", "-req", "-sha256", "-days", String(NODE_DAYS), "-in", request, "-out", newCert, ...signing].concat([
        "-set_serial",
        `0x${randomSerial()}`,
      ]),
      { doing: `issuing the certificate of ${node}` },
    );
  });
  return files;
}

/** 127 random bits: -CAcreateserial would write a file beside the CA, shared by nodes that are made at once. */
function randomSerial(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[0] = (bytes[0] ?? 0) & 0x7f;
  return Buffer.from(bytes).toString("hex");
}
