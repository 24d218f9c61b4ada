/** Certificates that are replaced, revoked, or about to run out while the link is in use: over real TLS, with real files. */
import assert from "node:assert/strict";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { chmod } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { run } from "../../src/host/exec.js";
import { issueNodeCertificate } from "../../src/host/pki.js";
import { parseRevocationLists } from "../../src/host/crl.js";
import { nearEnd } from "../../src/host/validity.js";
import {
  credentialsOf,
  dialLink,
  refusalLog,
  signToken,
  verifyToken,
  type DialOptions,
  type LinkIdentity,
} from "../../src/transfer/link/index.js";
import {
  dialTo,
  ending,
  TOKEN,
  TOKEN_EXPECTED,
  makePki,
  rawTls,
  startListener,
  stopAll,
  type Pki,
} from "./link-support.js";

let pki: Pki;
let other: Pki;
before(async () => {
  [pki, other] = await Promise.all([makePki(), makePki()]);
});
after(async () => {
  await stopAll();
  pki.remove();
  other.remove();
});

let nodes = 0;
/** A node with a certificate of its own, in the place where its agent sees it. */
async function fresh(node: string, from: Pki = pki): Promise<LinkIdentity> {
  const authorityDir = join(from.dir, "ca");
  const outDir = join(pki.dir, `${node}-${++nodes}`);
  return { node, ...(await issueNodeCertificate({ authorityDir, node, outDir })) };
}
/** A new pair, in place of the old one. */
async function renew(identity: LinkIdentity, from: Pki = pki): Promise<void> {
  const made = await fresh(identity.node, from);
  renameSync(made.keyFile, identity.keyFile);
  renameSync(made.certFile, identity.certFile);
}
const replace = (file: string, text: string): void => {
  writeFileSync(`${file}.new`, text);
  renameSync(`${file}.new`, file);
};
const to = (port: number, identity: LinkIdentity, more: Partial<DialOptions> = {}): DialOptions =>
  dialTo(identity, port, more);
/** What the listener shows. */
async function shown(port: number): Promise<string> {
  const peer = await rawTls(port, undefined);
  const serial = peer.socket.getPeerX509Certificate()?.serialNumber ?? "";
  peer.socket.destroy();
  await peer.gone;
  return serial;
}
interface Told {
  lines: string[];
  tell: (level: string, message: string, fields?: Record<string, unknown>) => void;
}
function told(): Told {
  const lines: string[] = [];
  return {
    lines,
    tell: (level, message, fields) => void lines.push(`${level} ${message} ${JSON.stringify(fields ?? {})}`),
  };
}

test("a new certificate is used for new connections of both ends; the open ones stay", async () => {
  const [a, b] = await Promise.all([fresh("node-a"), fresh("node-b")]);
  const listener = await startListener(b);
  const open = await dialLink(to(listener.port, a));
  const old = await shown(listener.port);
  await Promise.all([renew(a), renew(b)]);
  const now = await shown(listener.port);
  assert.notEqual(now, old);
  const again = await dialLink(to(listener.port, a));
  assert.equal(credentialsOf(a).current().certificate.toString(), readFileSync(a.certFile, "utf8"));
  assert.ok(!open.closed && !again.closed);
  await open.send("still", {});
  await listener.stop();
});

test("files that do not fit together leave the old ones in use, are told, and are no secret's way out", async () => {
  const [a, b] = await Promise.all([fresh("node-a"), fresh("node-b")]);
  const listener = await startListener(b);
  const { lines, tell } = told();
  credentialsOf(b).watch(tell);
  const was = await shown(listener.port);
  const [key, cert] = [readFileSync(b.keyFile, "utf8"), readFileSync(b.certFile, "utf8")];
  const strange = await fresh("node-c");
  const foreign = await fresh("node-b", other);
  const expired = await pki.special(`late-${nodes}`, { node: "node-b", days: -1 });
  const secret = readFileSync(strange.keyFile, "utf8");
  const broken: [string, () => void, RegExp][] = [
    ["a key of another", () => replace(b.keyFile, secret), /does not belong/],
    ["no key", () => replace(b.keyFile, secret.slice(0, 90)), /is not a private key/],
    ["no certificate", () => replace(b.certFile, "rubbish"), /is not a certificate/],
    ["a missing file", () => rmSync(b.keyFile), /can't be read/],
    [
      "another node's",
      () => {
        replace(b.keyFile, secret);
        replace(b.certFile, readFileSync(strange.certFile, "utf8"));
      },
      /names node-c, this node is node-b/,
    ],
    [
      "another CA's",
      () => {
        replace(b.keyFile, readFileSync(foreign.keyFile, "utf8"));
        replace(b.certFile, readFileSync(foreign.certFile, "utf8"));
      },
      /was not issued by a CA/,
    ],
    [
      "one that has expired",
      () => {
        replace(b.keyFile, readFileSync(expired.keyFile, "utf8"));
        replace(b.certFile, readFileSync(expired.certFile, "utf8"));
      },
      /is valid from/,
    ],
  ];
  for (const [name, spoil, why] of broken) {
    spoil();
    assert.equal(await shown(listener.port), was, name);
    (await dialLink(to(listener.port, a))).destroy();
    assert.match(lines.at(-1) ?? "", why, name);
    assert.match(lines.at(-1) ?? "", /^warn certificate files changed and can't be used: the old ones stay/, name);
    const many = lines.length;
    await shown(listener.port);
    assert.equal(lines.length, many, `${name}: told once`);
    replace(b.keyFile, key);
    replace(b.certFile, cert);
    assert.equal(await shown(listener.port), was, name);
  }
  await chmod(b.keyFile, 0o640);
  credentialsOf(b).look(Date.now() + 86_400_000);
  assert.match(lines.at(-1) ?? "", /can be read by others/);
  for (const piece of [key, secret].flatMap((pem) => pem.split("\n").filter((line) => line.length > 40))) {
    assert.ok(!lines.join("\n").includes(piece), "part of a private key was logged");
  }
  await listener.stop();
});

test("a token is signed with a whole pair in the middle of a change, and anew with the new one", async () => {
  const [a, b] = await Promise.all([fresh("node-a"), fresh("node-b")]);
  const token = signToken(TOKEN, a);
  replace(a.keyFile, readFileSync((await fresh("node-c")).keyFile, "utf8"));
  const between = signToken(TOKEN, a);
  assert.equal(between.certificate, token.certificate);
  verifyToken(between, b, TOKEN_EXPECTED);
  await renew(a);
  const after = signToken(token, a);
  assert.notEqual(after.certificate, token.certificate);
  verifyToken(after, b, TOKEN_EXPECTED);
});

test("a CA is changed with both in the file, node by node, and the old one is taken away at the end", async () => {
  const [a, b] = await Promise.all([fresh("node-a"), fresh("node-b")]);
  const listener = await startListener(b);
  const connects = async (): Promise<void> => (await dialLink(to(listener.port, a))).destroy();
  const next = readFileSync(join(other.dir, "ca", "ca.crt"), "utf8");
  const both = readFileSync(a.caFile, "utf8") + next;
  replace(a.caFile, both);
  await connects();
  replace(b.caFile, both);
  await connects();
  await renew(b, other);
  await connects();
  verifyToken(signToken(TOKEN, a), b, TOKEN_EXPECTED);
  await renew(a, other);
  await connects();
  verifyToken(signToken(TOKEN, a), b, TOKEN_EXPECTED);
  replace(a.caFile, next);
  replace(b.caFile, next);
  await connects();
  await assert.rejects(dialLink(to(listener.port, await fresh("node-a"))), { code: "E_PEER_CERT" });
  await listener.stop();
});

test("a revoked peer is refused by both ends and cut, its token is not believed; a new certificate lets it in", async () => {
  const [a, b] = await Promise.all([fresh("node-a"), fresh("node-b")]);
  const crlFile = join(pki.dir, `list-${++nodes}.crl`);
  writeFileSync(crlFile, await pki.revoke([]));
  const [strictA, strictB] = [
    { ...a, crlFile },
    { ...b, crlFile },
  ];
  const listener = await startListener(strictB);
  const open = await dialLink(to(listener.port, a));
  const token = signToken(TOKEN, a);
  verifyToken(token, strictB, TOKEN_EXPECTED);
  replace(crlFile, await pki.revoke([a.certFile]));
  const end = ending(open);
  const why = /certificate of node-a \(serial [0-9A-F]+\) was revoked on 20/;
  await assert.rejects(
    dialLink(to(listener.port, a)),
    (error: { data: { code: string; cause?: { code: string; message: string } } }) => {
      assert.equal(error.data.cause?.code, "E_PEER_CERT");
      assert.match(error.data.cause.message, why);
      return true;
    },
  );
  assert.match((await listener.refusal()).message, why);
  assert.match((await end)?.cause?.message ?? "", why);
  assert.throws(() => verifyToken(token, strictB, TOKEN_EXPECTED), { code: "E_TOKEN", message: why });
  // the other way round: the revoked one listens
  const revoked = await startListener(a);
  await assert.rejects(dialLink(to(revoked.port, strictB, { peer: "node-a" })), { code: "E_PEER_CERT", message: why });
  const warned = told();
  credentialsOf(strictA).watch(warned.tell);
  assert.match(warned.lines.join("\n"), why);
  await renew(a);
  (await dialLink(to(listener.port, a))).destroy();
  verifyToken(signToken(TOKEN, a), strictB, TOKEN_EXPECTED);
  await revoked.stop();
  await listener.stop();
});

test("a list that is out of date, of another CA, cut or changed in any byte is never taken for none", async () => {
  const [a, b] = await Promise.all([fresh("node-a"), fresh("node-b")]);
  const crlFile = join(pki.dir, `list-${++nodes}.crl`);
  const late = await pki.revoke([], "20200201000000Z");
  writeFileSync(crlFile, late);
  const listener = await startListener({ ...b, crlFile });
  await assert.rejects(dialLink(to(listener.port, a)), (error: { data: { cause?: { message: string } } }) => {
    assert.match(error.data.cause?.message ?? "", /ran out on 2020-02-01/);
    return true;
  });
  replace(crlFile, await pki.revoke([]));
  (await dialLink(to(listener.port, a))).destroy();
  const strange = await other.revoke([]);
  for (const text of ["", "rubbish", strange, late.replace(/\n[^-]/, "\n!")]) {
    replace(crlFile, text);
    assert.throws(() => credentialsOf({ ...b, crlFile }).current(), { code: "E_PEER_CERT" });
    // the listener keeps the list that it had
    (await dialLink(to(listener.port, a))).destroy();
  }
  await listener.stop();

  const ca = credentialsOf(a).current().authorities[0]!;
  const pem = await pki.revoke([(await fresh("node-d")).certFile]);
  const der = Buffer.from(pem.replaceAll(/-----[^-]+-----|\n/g, ""), "base64");
  const armour = (bytes: Buffer): string =>
    `-----BEGIN X509 CRL-----\n${bytes.toString("base64")}\n-----END X509 CRL-----\n`;
  assert.equal(parseRevocationLists(armour(der))[0]?.isOf(ca), true);
  const believed = (bytes: Buffer): boolean => {
    try {
      return parseRevocationLists(armour(bytes))[0]?.isOf(ca) === true;
    } catch (error) {
      assert.equal((error as { code?: unknown }).code, "E_PEER_CERT");
      return false;
    }
  };
  for (let cut = 0; cut < der.length; cut += 1) assert.equal(believed(der.subarray(0, cut)), false, `cut at ${cut}`);
  for (let bit = 0; bit < der.length * 8; bit += 1) {
    const bytes = Buffer.from(der);
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    assert.equal(believed(bytes), false, `bit ${bit}`);
  }
});

test("not yet valid, and self-signed: E_PEER_CERT with the reason", async () => {
  const [a, b] = await Promise.all([fresh("node-a"), fresh("node-b")]);
  const early = await fresh("node-a");
  const base = early.certFile.replace(/\.crt$/, "");
  const config = `${base}.cnf`;
  writeFileSync(`${base}.index`, "");
  writeFileSync(
    config,
    `[ca]\ndefault_ca=x\n[x]\ndatabase=${base}.index\nnew_certs_dir=${pki.dir}\ndefault_md=sha256\npolicy=p\nunique_subject=no\nrand_serial=yes\nx509_extensions=e\n[p]\ncommonName=supplied\n[e]\nsubjectAltName=URI:ferry://node/node-a\n`,
  );
  await run("openssl", ["req", "-new", "-key", early.keyFile, "-subj", "/CN=early", "-out", `${base}.csr`]);
  const ca = ["-cert", join(pki.dir, "ca", "ca.crt"), "-keyfile", join(pki.dir, "ca", "ca.key")];
  const dates = ["-startdate", "20400101000000Z", "-enddate", "20410101000000Z"];
  await run("openssl", [
    "ca",
    "-batch",
    "-notext",
    "-config",
    config,
    ...ca,
    ...dates,
    "-in",
    `${base}.csr`,
    "-out",
    early.certFile,
  ]);
  const own = await fresh("node-a");
  const subject = ["-subj", "/CN=own", "-addext", "subjectAltName=URI:ferry://node/node-a"];
  await run("openssl", ["req", "-x509", "-new", "-key", own.keyFile, ...subject, "-days", "30", "-out", own.certFile]);

  const listener = await startListener(b);
  for (const [identity, why] of [
    [early, /not_yet_valid/i],
    [own, /self.signed/i],
  ] as const) {
    const peer = await rawTls(listener.port, identity);
    const failure = await listener.refusal();
    assert.equal(failure.code, "E_PEER_CERT");
    assert.match(failure.message, why);
    await peer.gone;
  }
  const { lines, tell } = told();
  credentialsOf(early).watch(tell);
  assert.match(lines.join("\n"), /is not valid before 2040-01-01/);
  // who trusts only the CA does not start with a certificate that it has not signed
  assert.throws(() => credentialsOf(own).current(), { code: "E_PEER_CERT", message: /was not issued by a CA/ });
  (await dialLink(to(listener.port, a))).destroy();
  await listener.stop();
});

test("what runs out soon is told once a day, also when the certificate is a short one", async () => {
  const a = await fresh("node-a");
  const { lines, tell } = told();
  const credentials = credentialsOf(a);
  credentials.watch(tell);
  assert.deepEqual(lines, []);
  const until = Date.parse(credentials.current().certificate.validTo);
  const day = 86_400_000;
  credentials.look(until - 20 * day);
  assert.match(lines[0] ?? "", /^warn this node's certificate .* runs out on .*, in 20 days/);
  credentials.look(until - 20 * day + 60_000);
  assert.equal(lines.length, 1);
  credentials.look(until - 19 * day);
  assert.match(lines[1] ?? "", /in 19 days/);
  credentials.look(until + day);
  assert.match(lines[2] ?? "", /ran out on/);
  assert.equal(nearEnd(0, day, day / 2), undefined);
  assert.match(nearEnd(0, day, day * 0.8) ?? "", /in 4 hours/);
});

test("a flood of refusals is some lines of log", () => {
  const { lines, tell } = told();
  let now = 0;
  const refused = refusalLog(tell, () => now);
  for (let i = 0; i < 1000; i += 1) refused({ code: "E_PEER_CERT", message: "no" }, "192.0.2.1:1");
  assert.equal(lines.length, 20);
  now = 60_000;
  refused({ code: "E_PEER_CERT", message: "no" }, "192.0.2.1:1");
  assert.match(lines.at(-1) ?? "", /"notTold":980/);
});
