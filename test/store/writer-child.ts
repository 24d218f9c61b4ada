/** A writer in a process of its own, to be killed: node writer-child.js DIR WORKLOAD OPERATION PAGES. */
import { createPrivateKey } from "node:crypto";
import { begin, facts, openLocal, page, PAGE } from "./kit.js";

const [dir = "", workload = "", operation = "", count = "0"] = process.argv.slice(2);
const signer = createPrivateKey(process.env["FERRY_TEST_SIGNER"] ?? "");
const store = await openLocal(dir, { signer, packBlocks: 64 });
const writer = await begin(store, workload, operation);
console.log("begun");
const memory = writer.stream("memory/1", { kind: "memory" });
for (let at = 0; at < Number(count); at += 1) await memory.write(at * PAGE, page(at + 1));
const manifest = await writer.commit(facts(workload));
console.log(`done ${manifest.newBytes} ${manifest.id}`);
