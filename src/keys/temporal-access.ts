/** What it takes to get into Temporal: TLS, with a certificate of one's own or without, and API keys. */
import { ferryError } from "../model/failure.js";

export interface TlsMaterial {
  /** PEM: who has issued the server's certificate. Missing: the authorities of the system. */
  ca?: Buffer | undefined;
  /** PEM: our own certificate and its key, both or none. */
  cert?: Buffer | undefined;
  key?: Buffer | undefined;
  /** The name in the server's certificate, where it is not that of the address. */
  serverName?: string | undefined;
}

export interface TemporalAccess {
  /** Missing: no TLS, unless there is an API key, which is never sent in the clear. */
  tls?: TlsMaterial | undefined;
  apiKey?: string | undefined;
}

/** As both connections of Temporal's SDK take it. Throws E_REQUEST for half a pair. */
export function accessOptions({ tls, apiKey }: TemporalAccess) {
  return { ...(apiKey === undefined ? {} : { apiKey }), ...(tls === undefined ? {} : { tls: tlsOptions(tls) }) };
}

function tlsOptions({ ca, cert, key, serverName }: TlsMaterial) {
  if ((cert === undefined) !== (key === undefined)) {
    const [there, missing] = cert === undefined ? ["key", "certificate"] : ["certificate", "key"];
    throw ferryError("E_REQUEST", `TLS to Temporal: there is a client ${there}, and no ${missing}`, {
      remedy: "give both (FERRY_TEMPORAL_TLS_CERT and FERRY_TEMPORAL_TLS_KEY), or none",
    });
  }
  return {
    ...(ca === undefined ? {} : { serverRootCACertificate: ca }),
    ...(cert === undefined || key === undefined ? {} : { clientCertPair: { crt: cert, key } }),
    ...(serverName === undefined ? {} : { serverNameOverride: serverName }),
  };
}
