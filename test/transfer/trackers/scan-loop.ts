/** A process that tracks until it is killed: scan-loop.js PID. A new tracker each time, so that it is always in the middle of something. */
import { PagemapScanTracker } from "../../../src/transfer/trackers/pagemap-scan.js";

const pid = Number(process.argv[2]);
for (;;) {
  const tracker = new PagemapScanTracker();
  for (let turn = 0; turn < 3; turn++) await tracker.scan({ 1: pid });
  console.log("scanned");
  await tracker.end();
}
