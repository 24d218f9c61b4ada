/**
 * A kept history (JSON as `temporal workflow show --output json` prints it) as the SDK's object.
 * The SDK's own historyFromJSON fails when npm has installed protobufjs twice ("type must be a Type"), so the two
 * notations that protobuf's fromObject doesn't know, times and durations, are translated here.
 */
import proto from "@temporalio/proto";

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(\d{1,9}))?Z$/;
const DURATION = /^(\d+)(?:\.(\d{1,9}))?s$/;
const nanos = (fraction: string | undefined): number => Number((fraction ?? "").padEnd(9, "0"));

function translate(value: unknown, key: string): unknown {
  if (Array.isArray(value)) return value.map((item) => translate(item, key));
  if (typeof value === "object" && value !== null) {
    // Payloads carry bytes as base64: nothing in them is a time.
    if ("metadata" in value && "data" in value) return value;
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, translate(item, name)]));
  }
  if (typeof value !== "string") return value;
  const time = TIME.exec(value);
  if (time !== null) return { seconds: Math.floor(Date.parse(value) / 1000), nanos: nanos(time[1]) };
  const duration = DURATION.exec(value);
  if (duration !== null && /timeout|interval|backoff|delay|ttl/i.test(key)) {
    return { seconds: Number(duration[1]), nanos: nanos(duration[2]) };
  }
  return value;
}

export const historyOf = (json: unknown): proto.temporal.api.history.v1.History =>
  proto.temporal.api.history.v1.History.fromObject(translate(json, "") as Record<string, unknown>);
