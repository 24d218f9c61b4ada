/**
 * One side's mover as its operation sees it: started when it is not there, connected again when it was killed. What a
 * mover knows survives it (store, images, port), so a new one goes on.
 */
import { FerryError, ferryError } from "../../model/failure.js";
import type { DestinationMoverStatus, MoverConfig, SourceMoverStatus } from "../../model/mover.js";
import {
  connectMover,
  killMover,
  startMover,
  type MoverClient,
  type MoverRequest,
  type Program,
} from "../../transfer/mover/client.js";
import { orAbort } from "../level.js";
import type { SideDirs } from "./dirs.js";

/** A mover that does not end by itself in this time is killed. */
const EXIT_WAIT_MS = 5000;

export class MoverSide<Status extends SourceMoverStatus | DestinationMoverStatus, Request extends MoverRequest> {
  private client: MoverClient<Status> | undefined;
  private connecting: Promise<MoverClient<Status>> | undefined;
  private last: Status | undefined;
  private readonly config: MoverConfig;
  private readonly dirs: SideDirs;
  private readonly onStatus: (status: Status) => void;
  private readonly greeting: () => Request | undefined;
  private readonly program: Program;

  /** `greeting`: asked of every mover that is connected, before anything else. `program`: what stands in its place. */
  constructor(
    config: MoverConfig,
    dirs: SideDirs,
    onStatus: (status: Status) => void = () => undefined,
    greeting: () => Request | undefined = () => undefined,
    program: Program = {},
  ) {
    this.config = config;
    this.dirs = dirs;
    this.onStatus = onStatus;
    this.greeting = greeting;
    this.program = program;
  }

  /** The last status that was heard. */
  get status(): Status | undefined {
    return this.client?.status() ?? this.last;
  }
  get connected(): boolean {
    return this.client !== undefined;
  }

  /** A connected client; starts the mover when it does not answer. Whoever asks meanwhile gets the same one. */
  ensure(): Promise<MoverClient<Status>> {
    if (this.client !== undefined) return Promise.resolve(this.client);
    this.connecting ??= this.connect().finally(() => (this.connecting = undefined));
    return this.connecting;
  }

  private async connect(): Promise<MoverClient<Status>> {
    let client: MoverClient<Status>;
    try {
      client = await connectMover<Status>(this.config.controlSocket);
    } catch {
      await startMover(this.config, this.dirs.moverConfig, this.program);
      client = await connectMover<Status>(this.config.controlSocket);
    }
    this.client = client;
    const heard = (status: Status): void => {
      this.last = status;
      this.onStatus(status);
    };
    client.onStatus(heard);
    // What it said when we connected counts as well: it may have nothing new to say.
    heard(client.status());
    client.onClose(() => {
      this.last = client.status();
      if (this.client === client) this.client = undefined;
    });
    const greeting = this.greeting();
    // Taken in the order in which they are sent: what is asked next finds it done. A mover that dies says so then.
    if (greeting !== undefined) client.request(greeting).catch(() => undefined);
    return client;
  }

  async request(request: Request, signal?: AbortSignal): Promise<Status> {
    const answer = (await this.ensure()).request(request);
    return signal === undefined ? answer : orAbort(answer, signal);
  }

  /** Waits for a status. Rejects with the mover's failure, with E_PAGES when it died, or with the signal's reason. */
  async wait(until: (status: Status) => boolean, signal?: AbortSignal): Promise<Status> {
    const client = await this.ensure();
    const waiting = new Promise<Status>((resolve, reject) => {
      const look = (status: Status): void => {
        if (until(status)) resolve(status);
        else if (status.failure !== undefined) reject(new FerryError(status.failure));
      };
      client.onStatus(look);
      client.onClose(() =>
        reject(
          ferryError("E_PAGES", `the ${this.config.side}'s mover died`, {
            side: this.config.side,
            node: this.config.node,
          }),
        ),
      );
      look(client.status());
    });
    return signal === undefined ? waiting : orAbort(waiting, signal);
  }

  /** Ends the mover for good; never throws. */
  async end(): Promise<void> {
    try {
      await Promise.race([
        this.client?.request({ verb: "exit" }),
        new Promise((resolve) => setTimeout(resolve, EXIT_WAIT_MS)),
      ]);
    } catch {
      // it is gone, or will be
    }
    await killMover(this.dirs.root);
    this.client = undefined;
  }
}
