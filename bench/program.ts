/** The workloads: what runs, how it is filled, who counts over it, and how its memory is checked afterwards. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { redis, startCounter, untilRedisAnswers, type Counter, type Place } from "../deploy/demo/clients.js";
import { packageRoot } from "../src/host/package-root.js";
import type { Cell } from "./model.js";
import { startPgCounter, untilPostgresAnswers, pgFill, pgDigest } from "./postgres.js";
import type { Stage } from "./stage.js";

export interface Program {
  command: string[];
  port: number;
  /** Once it runs: waits until it answers, and puts its data in. */
  populate(place: Place, stage: Stage): Promise<void>;
  /** Starts the client that counts over one connection and writes every answer down. */
  count(place: Place, file: string, stage: Stage): Promise<Counter>;
  /** Something that must be the same before and after the move. */
  digest(place: Place, stage: Stage): Promise<string>;
}

const REDIS_PORT = 6379;
const POSTGRES_PORT = 5432;
const MAX_START_MS = 60_000;
const count = (place: Place, file: string): Promise<Counter> => startCounter(place, "counter", file);

function toucher(cell: Cell): Program {
  const source = readFileSync(join(packageRoot(), "bench", "toucher.py"), "utf8");
  return {
    command: ["python3", "-c", source, String(cell.mib), String(cell.dirtyMBPerSec * 1e6)],
    port: REDIS_PORT,
    populate: (place) => untilRedisAnswers(place, MAX_START_MS),
    count,
    // It knows what each of its bytes ought to be.
    async digest(place) {
      const [answer] = await redis(place, [["CHECK"]]);
      if (answer !== 1) throw new Error("the toucher found a wrong byte in its memory");
      return "every byte as it ought to be";
    },
  };
}

const REDIS = "redis-server --appendonly no --protected-mode no --bind 0.0.0.0 --dir / --enable-debug-command yes";
/** Values of 1 KiB: about so many fill a megabyte of redis' memory. */
const KEYS_PER_MIB = 890;
/** One sum over the values of all keys that DEBUG POPULATE made. */
const SUM = `local sum = ""
for i = 0, ARGV[1] - 1 do sum = redis.sha1hex(sum .. (redis.call("GET", "key:" .. i) or "gone")) end
return sum`;

const redisServer = (cell: Cell): Program => ({
  command: [...REDIS.split(" "), "--save", ""],
  port: REDIS_PORT,
  async populate(place) {
    await untilRedisAnswers(place, MAX_START_MS);
    await redis(place, [["DEBUG", "POPULATE", String(cell.mib * KEYS_PER_MIB), "key", "1024"]]);
  },
  count,
  // The load writes other keys meanwhile.
  async digest(place) {
    const [sum] = await redis(place, [["EVAL", SUM, "0", String(cell.mib * KEYS_PER_MIB)]]);
    return String(sum);
  },
});

const START_POSTGRES = `set -e
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
mkdir -p /data/pg && chown postgres /data /data/pg
as="setpriv --reuid=postgres --regid=postgres --init-groups --"
$as initdb -D /data/pg -A trust -U postgres --no-sync --no-instructions >/dev/null
echo "host all all 0.0.0.0/0 trust" >>/data/pg/pg_hba.conf
exec $as postgres -D /data/pg -c listen_addresses=* -c unix_socket_directories=/data -c fsync=off "$@"`;

/** Shared buffers of so many MiB, and tables that fill them. */
const postgres = (cell: Cell): Program => ({
  command: ["sh", "-c", START_POSTGRES, "sh", "-c", `shared_buffers=${cell.mib}MB`],
  port: POSTGRES_PORT,
  async populate(place, stage) {
    await untilPostgresAnswers(stage, place);
    await pgFill(stage, place, cell.mib);
  },
  count: (place, file, stage) => startPgCounter(stage, place, file),
  digest: (place, stage) => pgDigest(stage, place),
});

const PROGRAMS = { toucher, redis: redisServer, postgres };
export const programOf = (cell: Cell): Program => PROGRAMS[cell.workload](cell);
