/**
 * Carries connections between two network namespaces over a unix socket: one relay on each side. Nothing of the
 * machine's own network is touched but a listener on loopback.
 *
 *   relay.js '[{"name":"frontend","listen":"tcp:127.0.0.1:7233","connect":"unix:frontend.sock"}]' [PORTS]
 *
 * Unix paths are relative to the working directory (they may be 107 bytes long at most). A TCP port that is taken is
 * replaced by a free one; PORTS (JSON: name -> port) tells which, and is asked first after a restart.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type NetConnectOpts, type Server } from "node:net";
import { z } from "zod";

const endpoint = z.union([z.string().regex(/^unix:.+$/), z.string().regex(/^tcp:[^:]+:\d{1,5}$/)]);
const routesSchema = z.array(z.strictObject({ name: z.string(), listen: endpoint, connect: endpoint }));
type Route = z.infer<typeof routesSchema>[number];
const portsSchema = z.record(z.string(), z.int());

function options(spec: string): NetConnectOpts & { path?: string; port?: number; host?: string } {
  const [kind, first = "", port = ""] = spec.split(":");
  return kind === "unix" ? { path: first } : { host: first, port: Number(port) };
}

function serve(route: Route): Server {
  const target = options(route.connect);
  return createServer({ allowHalfOpen: true, noDelay: true }, (near) => {
    const far = connect({ ...target, allowHalfOpen: true, noDelay: true });
    near.pipe(far);
    far.pipe(near);
    near.on("error", () => far.destroy());
    far.on("error", () => near.destroy());
    near.on("close", () => far.destroy());
    far.on("close", () => near.destroy());
  });
}

async function listen(server: Server, spec: string, port: number | undefined): Promise<number> {
  const where = options(spec);
  if (where.path !== undefined) rmSync(where.path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port === undefined ? where : { ...where, port }, () => {
      server.off("error", reject);
      resolve();
    });
  });
  const bound = server.address();
  return typeof bound === "object" && bound !== null ? bound.port : 0;
}

function lastPorts(file: string | undefined): Record<string, number> {
  try {
    return file === undefined ? {} : portsSchema.parse(JSON.parse(readFileSync(file, "utf8")));
  } catch {
    return {};
  }
}

async function main(routesText: string | undefined, portsFile: string | undefined): Promise<void> {
  const routes = routesSchema.parse(JSON.parse(routesText ?? ""));
  const before = lastPorts(portsFile);
  const ports: Record<string, number> = {};
  for (const route of routes) {
    const server = serve(route);
    try {
      ports[route.name] = await listen(server, route.listen, before[route.name]);
    } catch (error) {
      if ((error as { code?: string }).code !== "EADDRINUSE" || !route.listen.startsWith("tcp:127.0.0.1:")) throw error;
      ports[route.name] = await listen(server, route.listen, 0);
    }
  }
  if (portsFile !== undefined) {
    writeFileSync(`${portsFile}.new`, JSON.stringify(ports));
    renameSync(`${portsFile}.new`, portsFile);
  }
}

await main(process.argv[2], process.argv[3]);
