/** What set-up's steps may say meanwhile; made by progress.mjs, which runs before anything is compiled. */
export interface Progress {
  /** One line. */
  say: (line: string) => void;
  during: During;
}

/** Does `work`, and says meanwhile what it is and about how long it takes: "compiling (5 to 30 seconds)". */
export type During = <T>(words: string, work: () => Promise<T>) => Promise<T>;

export const quietly: During = (_words, work) => work();
