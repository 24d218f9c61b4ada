/** Packets of a network namespace: unicast, of both protocols, without the loopback's. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { packetsOf, parseLoopback, parseSnmp, parseSnmp6, unicastPackets } from "../../src/host/net-counters.js";

const SNMP = "Ip: Forwarding InReceives OutRequests\nIp: 2 100 90\nTcp: InSegs\nTcp: 7\n";
const NETSTAT = "IpExt: InMcastPkts OutMcastPkts InBcastPkts OutBcastPkts\nIpExt: 3 2 4 1\n";
const SNMP6 = "Ip6InReceives                  \t20\nIp6OutRequests\t10\nIp6InMcastPkts\t5\nIp6OutMcastPkts\t6\n";
const DEV = "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 5000 8 0 0 0 0 0 0 5000 8 0\n  eth0: 9 9 0\n";

test("unicast only: neither multicast nor broadcast, nor what it says to itself", () => {
  assert.equal(unicastPackets({ snmp: SNMP, netstat: NETSTAT, snmp6: SNMP6, dev: DEV }), 190 - 10 + 30 - 11 - 16);
  assert.equal(unicastPackets({ snmp: SNMP, netstat: "", snmp6: "", dev: "" }), 190);
});

test("what is not as the kernel writes it counts as nothing, and never throws", () => {
  assert.equal(parseSnmp("Ip: A B\nIp: 1\nTcp: A\n").size, 0);
  assert.equal(parseSnmp("Ip: A\nTcp: 1\n").size, 0);
  assert.equal(parseSnmp("Ip: A\nIp: x\n").size, 0);
  assert.equal(parseSnmp6("Ip6InReceives many\n\n 5\n").get("Ip6InReceives"), undefined);
  assert.equal(parseLoopback("eth0: 1 2 3"), 0);
  assert.equal(unicastPackets({ snmp: "", netstat: "", snmp6: "", dev: "" }), 0);
});

test("of a process that is there it is a number, of another one it is not known", () => {
  assert.equal(typeof packetsOf(process.pid), "number");
  assert.equal(packetsOf(2 ** 22 + 1), undefined);
});
