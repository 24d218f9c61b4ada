/**
 * What a command may touch of its surroundings: streams, environment, exit code. Handed in, so that tests drive the
 * real `main()` without a process of its own.
 */
import { harmless } from "../model/words.js";
import type { Style } from "./render/style.js";

export interface OutStream {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

export interface CliIo {
  stdout: OutStream;
  stderr: OutStream;
  env: Readonly<Record<string, string | undefined>>;
}

/**
 * Exit codes of every command (README, "CLI").
 * moved: what was asked was done. failed: it was not, the workload runs on where it ran. usage: wrong use, or refused
 * before anything was touched. doubt: nobody can say yet, or a person is needed.
 */
export const EXIT = { moved: 0, failed: 1, usage: 2, doubt: 3, interrupted: 130 } as const;

export interface CommandContext {
  io: CliIo;
  /** Exit code of `main()`; 0 unless a command says otherwise. */
  exit(code: number): void;
  out(line?: string): void;
  err(line?: string): void;
  /** One JSON document on standard output. */
  json(value: unknown): void;
  /** How standard output may be decorated. */
  style(): Style;
}

/** How a stream may be decorated: NO_COLOR, FORCE_COLOR, TERM and the locale decide, width comes from the terminal. */
export function styleOf(stream: OutStream, env: CliIo["env"]): Style {
  const tty = stream.isTTY === true;
  const noColor = env["NO_COLOR"] !== undefined && env["NO_COLOR"] !== "";
  const forced = env["FORCE_COLOR"] !== undefined && env["FORCE_COLOR"] !== "0";
  const locale = env["LC_ALL"] || env["LC_CTYPE"] || env["LANG"] || "";
  const dumb = env["TERM"] === "dumb";
  return {
    width: tty ? Math.max(40, stream.columns ?? 80) : 120,
    color: !noColor && !dumb && (tty || forced),
    unicode: /utf-?8/i.test(locale) && !dumb && env["TERM"] !== "linux",
  };
}

export function createContext(io: CliIo): CommandContext & { readonly exitCode: number } {
  let exitCode: number = EXIT.moved;
  return {
    io,
    get exitCode() {
      return exitCode;
    },
    exit(code) {
      exitCode = code;
    },
    out: (line = "") => void io.stdout.write(`${line}\n`),
    err: (line = "") => void io.stderr.write(`${line}\n`),
    json: (value) => void io.stdout.write(`${harmless(JSON.stringify(value, null, 2))}\n`),
    style: () => styleOf(io.stdout, io.env),
  };
}
