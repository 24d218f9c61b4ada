/** One check of `ferry doctor`: its shape, and the four ways it can end. */
export type CheckStatus = "ok" | "warn" | "fail" | "skip";

export interface Check {
  name: string;
  status: CheckStatus;
  /** What was found, short: one cell of the table. */
  value: string;
  /** Why it matters or what exactly went wrong; empty when there is nothing to add. */
  detail: string;
  /** What to do about it; empty when nothing needs to be done. */
  remedy: string;
}

export interface CheckOptions {
  /** Only these checks, by name. */
  only?: readonly string[];
  /** Where Ferry keeps its files: its file system is looked at (default /var/lib, or the nearest folder that exists). */
  directory?: string;
  /** A node's ca.crt, node.crt and node.key (default /etc/ferry). */
  tlsDir?: string;
  /** Temporal frontend, host:port; without it that check is skipped. */
  temporalAddress?: string;
  /** Asks that server for its version: what listens there may be anything. Throws when it does not answer as one. */
  askTemporal?: (address: string) => Promise<string>;
  /** Checks of the caller's own, after these. */
  more?: Readonly<Record<string, Probe>>;
}

/** Result of one probe: the check without its name. */
export type Finding = Omit<Check, "name">;
export const ok = (value: string, detail = ""): Finding => ({ status: "ok", value, detail, remedy: "" });
export const warn = (value: string, detail: string, remedy: string): Finding => ({
  status: "warn",
  value,
  detail,
  remedy,
});
export const fail = (value: string, detail: string, remedy: string): Finding => ({
  status: "fail",
  value,
  detail,
  remedy,
});
export const skip = (value: string, detail = ""): Finding => ({ status: "skip", value, detail, remedy: "" });

export type Probe = (options: CheckOptions) => Finding | Promise<Finding>;
