/** The worker's log: JSON lines by pino, with the fields that say which workload, operation, epoch and side. */
import type { LogLevel, LogMetadata, Logger } from "@temporalio/common";
import { destination, pino, stdTimeFunctions, type Logger as Pino } from "pino";
import type { WorkerConfig } from "./config.js";

export function openLog(config: Pick<WorkerConfig, "node" | "logLevel" | "logFile">): Pino {
  const sink = destination({ dest: config.logFile ?? 1, append: true, mkdir: true, sync: true });
  return pino(
    {
      level: config.logLevel,
      base: { node: config.node, component: "worker" },
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    sink,
  );
}

/** The Temporal SDK's logger over pino. */
export class SdkLogger implements Logger {
  private readonly sink: Pino;
  constructor(sink: Pino) {
    this.sink = sink;
  }
  log(level: LogLevel, message: string, meta?: LogMetadata): void {
    const fields = fieldsOf(meta);
    switch (level) {
      case "TRACE":
        return this.sink.trace(fields, message);
      case "DEBUG":
        return this.sink.debug(fields, message);
      case "INFO":
        return this.sink.info(fields, message);
      case "WARN":
        return this.sink.warn(fields, message);
      case "ERROR":
        return this.sink.error(fields, message);
    }
  }
  trace(message: string, meta?: LogMetadata): void {
    this.log("TRACE", message, meta);
  }
  debug(message: string, meta?: LogMetadata): void {
    this.log("DEBUG", message, meta);
  }
  info(message: string, meta?: LogMetadata): void {
    this.log("INFO", message, meta);
  }
  warn(message: string, meta?: LogMetadata): void {
    this.log("WARN", message, meta);
  }
  error(message: string, meta?: LogMetadata): void {
    this.log("ERROR", message, meta);
  }
}

/** What the SDK says of a task, less its tokens and ids that nobody reads. */
function fieldsOf(meta: LogMetadata | undefined): Record<string, unknown> {
  if (meta === undefined) return {};
  const { taskToken: _, error, workflowId, ...rest } = meta;
  const fields: Record<string, unknown> = { ...rest };
  if (typeof workflowId === "string") {
    fields["workflowId"] = workflowId;
    const named = /^(?:workload\/)?([a-z0-9-]+)(?:\/([a-z]+)\/(\d+))?/.exec(workflowId);
    if (named?.[1] !== undefined && !workflowId.startsWith("node/")) {
      fields["workload"] ??= named[1];
      if (named[2] !== undefined) fields["operation"] ??= `${named[1]}.${named[2]}.${named[3] ?? ""}`;
    }
  }
  if (error instanceof Error) {
    fields["error"] = error.message;
    fields["errorName"] = error.name;
    if (error.cause instanceof Error) fields["cause"] = error.cause.message;
  } else if (error !== undefined) fields["error"] = String(error);
  return fields;
}
