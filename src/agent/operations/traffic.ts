/**
 * What the source's movers of one hand-over have sent, and for how long pages flowed: sums over all of them, since a mover
 * may die and the next begins its own count at nothing. Pure: statuses and the time are passed in.
 */
import type { SourceMoverStatus } from "../../model/mover.js";
import type { RoundReport, TransferCounts } from "../../model/report.js";
import { PAGE_SIZE } from "../../transfer/pages/api.js";

interface Counts {
  pageBytes: number;
  imageBytes: number;
  volumeBytes: number;
  roundBytes: number;
  roundPages: number;
}

const NOTHING: Counts = { pageBytes: 0, imageBytes: 0, volumeBytes: 0, roundBytes: 0, roundPages: 0 };

const countsOf = ({ pages, images, volume, precopy }: SourceMoverStatus): Counts => ({
  pageBytes: pages.bytesSent,
  imageBytes: images.bytes,
  volumeBytes: volume.bytesSent,
  roundBytes: precopy?.sentBytes ?? 0,
  roundPages: precopy?.sentPages ?? 0,
});

const add = (a: Counts, b: Counts): Counts => ({
  pageBytes: a.pageBytes + b.pageBytes,
  imageBytes: a.imageBytes + b.imageBytes,
  volumeBytes: a.volumeBytes + b.volumeBytes,
  roundBytes: a.roundBytes + b.roundBytes,
  roundPages: a.roundPages + b.roundPages,
});

export class Traffic {
  /** Of movers that are gone. */
  private before = NOTHING;
  private last: SourceMoverStatus | undefined;
  /** Pages flow since then: with the first word of this mover that the images are there. */
  private flowing: { since: number; bytesThen: number } | undefined;
  private flowed = { ms: 0, bytes: 0 };
  private heardAt = 0;

  heard(status: SourceMoverStatus, nowMs: number): void {
    if (this.last !== undefined && this.last.pid !== status.pid) {
      // Nobody knows when exactly it died: not after its last word.
      this.stop(this.last, this.heardAt);
      this.before = add(this.before, countsOf(this.last));
    }
    const fresh = this.last?.pid === status.pid ? this.last : undefined;
    if (status.images.sent && !status.pages.allAcked && fresh?.pages.allAcked !== true) {
      this.flowing ??= { since: nowMs, bytesThen: status.pages.bytesSent };
    }
    // Few pages may be there with the first word: they were sent since the one before.
    if (status.pages.allAcked && this.flowing === undefined && fresh?.pages.allAcked === false) {
      this.flowing = { since: this.heardAt, bytesThen: fresh.pages.bytesSent };
    }
    if (status.pages.allAcked) this.stop(status, nowMs);
    this.last = status;
    this.heardAt = nowMs;
  }

  private stop(status: SourceMoverStatus, atMs: number): void {
    this.flowed = this.flow(status, atMs);
    this.flowing = undefined;
  }

  private flow(status = this.last, atMs = this.heardAt): { ms: number; bytes: number } {
    const { flowing, flowed } = this;
    if (flowing === undefined || status === undefined) return flowed;
    return {
      ms: flowed.ms + atMs - flowing.since,
      bytes: flowed.bytes + status.pages.bytesSent - flowing.bytesThen,
    };
  }

  private get counts(): Counts {
    return this.last === undefined ? this.before : add(this.before, countsOf(this.last));
  }

  /** Sent so far and what is to be sent in all, as far as is known now. */
  amounts(): { bytes: { sent: number; total: number }; pages: { sent: number; total: number } } {
    const { pageBytes, imageBytes, volumeBytes, roundBytes } = this.counts;
    const sent = pageBytes + imageBytes + volumeBytes + roundBytes;
    const { pages, precopy } = this.last ?? {};
    return {
      bytes: { sent, total: sent + this.unsentPages() * PAGE_SIZE },
      pages:
        pages === undefined || pages.total === 0
          ? { sent: precopy?.sentPages ?? 0, total: (precopy?.sentPages ?? 0) + (precopy?.unsentPages ?? 0) }
          : { sent: pages.sent, total: pages.total },
    };
  }

  private unsentPages(): number {
    const { pages, precopy } = this.last ?? {};
    if (pages === undefined || pages.allSent) return 0;
    // Until the destination has said what it has, the last round knows best.
    if (precopy !== undefined && pages.sent === 0) return precopy.unsentPages;
    return Math.max(0, pages.total - pages.sent);
  }

  /**
   * For the report. The bandwidth is that of pages (rounds, and from the images on until the last was acknowledged, in
   * whatever phase that was), by the time in which they flowed; 0: none did.
   */
  transfer(rounds: readonly RoundReport[] = []): TransferCounts {
    const { pageBytes, imageBytes, volumeBytes, roundBytes, roundPages } = this.counts;
    const flow = this.flow();
    const ms = flow.ms + rounds.reduce((sum, round) => sum + round.sendMs, 0);
    const bytes = flow.bytes + rounds.reduce((sum, round) => sum + round.sentBytes, 0);
    return {
      bytesSent: pageBytes + imageBytes + roundBytes,
      // What the rounds had brought already counts among the sender's pages.
      pagesSent:
        this.last?.precopy === undefined ? (this.last?.pages.sent ?? 0) : roundPages + Math.ceil(pageBytes / PAGE_SIZE),
      pagesFaulted: 0,
      volumeBytes,
      bandwidthBytesPerSec: ms > 0 ? Math.round((bytes * 1000) / ms) : 0,
    };
  }
}
