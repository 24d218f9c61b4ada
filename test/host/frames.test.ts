import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  announcements,
  arpAnswer,
  arpClaim,
  arpDefence,
  arpProbe,
  arpWanted,
  gratuitousArp,
  ipv6Bytes,
  linkLocal,
  unsolicitedAdvertisement,
} from "../../src/host/frames.js";

const MAC = "02:fe:00:00:00:64";

describe("frames that announce an address", () => {
  it("gratuitous ARP in both forms", () => {
    const [request, reply] = gratuitousArp(MAC, "10.77.0.100");
    assert.equal(
      request?.toString("hex"),
      "ffffffffffff02fe000000640806000108000604000102fe000000640a4d00640000000000000a4d0064",
    );
    assert.equal(
      reply?.toString("hex"),
      "ffffffffffff02fe000000640806000108000604000202fe000000640a4d0064ffffffffffff0a4d0064",
    );
    assert.equal(arpClaim(reply ?? Buffer.alloc(0), "10.77.0.100"), MAC);
    assert.equal(arpClaim(arpProbe(MAC, "10.77.0.100"), "10.77.0.100"), undefined);
    assert.equal(arpClaim(Buffer.alloc(20), "10.77.0.100"), undefined);
  });

  it("who wants an address, and the answer to him alone", () => {
    assert.equal(arpWanted(arpProbe(MAC, "10.77.0.100"), "10.77.0.100"), MAC);
    assert.equal(arpWanted(arpProbe(MAC, "10.77.0.101"), "10.77.0.100"), undefined);
    for (const frame of gratuitousArp(MAC, "10.77.0.100")) assert.equal(arpWanted(frame, "10.77.0.100"), undefined);
    assert.equal(arpWanted(Buffer.alloc(20), "10.77.0.100"), undefined);
    const answer = arpDefence("02:fe:00:00:00:01", "10.77.0.100", MAC);
    assert.equal(
      answer.toString("hex"),
      "02fe0000006402fe000000010806000108000604000202fe000000010a4d006402fe0000006400000000",
    );
    assert.equal(arpClaim(answer, "10.77.0.100"), "02:fe:00:00:00:01");
    assert.equal(arpWanted(answer, "10.77.0.100"), undefined);
  });

  it("who asks for an address is answered; what is no question for it is not", () => {
    const ask = arpProbe("02:fe:00:00:00:01", "10.77.0.100");
    assert.equal(
      arpAnswer(ask, MAC, "10.77.0.100")?.toString("hex"),
      "02fe0000000102fe000000640806000108000604000202fe000000640a4d006402fe0000000100000000",
    );
    assert.equal(arpAnswer(ask, MAC, "10.77.0.101"), undefined);
    const [own, reply] = gratuitousArp(MAC, "10.77.0.100");
    for (const frame of [own, reply, ask.subarray(0, 41), Buffer.alloc(60)]) {
      assert.equal(arpAnswer(frame ?? Buffer.alloc(0), MAC, "10.77.0.100"), undefined);
    }
  });

  it("unsolicited neighbour advertisement with a checksum that adds up", () => {
    const frame = unsolicitedAdvertisement(MAC, "fd00::64");
    assert.equal(frame.length, 86);
    assert.equal(frame.subarray(0, 6).toString("hex"), "333300000001");
    assert.equal(frame[54], 136);
    const pseudo = Buffer.concat([frame.subarray(22, 54), Buffer.from([0, 0, 0, 32, 0, 0, 0, 58]), frame.subarray(54)]);
    let sum = 0;
    for (let i = 0; i < pseudo.length; i += 2) sum += pseudo.readUInt16BE(i);
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
    assert.equal(sum, 0xffff);
  });

  it("the link-local address by EUI-64: a universal and a local MAC address", () => {
    assert.equal(linkLocal("34:56:78:9a:bc:de"), "fe80::3656:78ff:fe9a:bcde");
    assert.equal(linkLocal(MAC), "fe80::fe:ff:fe00:64");
    assert.equal(ipv6Bytes(linkLocal(MAC)).toString("hex"), "fe8000000000000000fe00fffe000064");
  });

  it("addresses: what is one, and what is not", () => {
    assert.equal(ipv6Bytes("::1").toString("hex"), "00000000000000000000000000000001");
    assert.equal(ipv6Bytes("1:2:3:4:5:6:7:8").toString("hex"), "00010002000300040005000600070008");
    for (const wrong of ["", "1::2::3", "1:2:3", "1:2:3:4:5:6:7:8:9", "g::", "1:2:3:4:5:6:7:8::", "::1%eth0"]) {
      assert.throws(() => ipv6Bytes(wrong), RangeError, wrong);
    }
    assert.throws(() => announcements("02:fe", ["10.0.0.1"]), RangeError);
    assert.throws(() => announcements(MAC, ["10.0.0.256"]), RangeError);
    assert.equal(announcements(MAC, ["10.0.0.1", "fd00::1"]).length, 3);
  });
});
