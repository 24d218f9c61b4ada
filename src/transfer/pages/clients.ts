/** The page daemon's connections to movers: raw non-blocking sockets in its poll loop. */
import {
  accept,
  closeFd,
  EAGAIN,
  EINTR,
  mapAnonymous,
  MSG_NOSIGNAL,
  POLLERR,
  POLLHUP,
  POLLIN,
  readInto,
  sendFrom,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
} from "../../host/syscall.js";
import { COMMAND, parseCommand, type Command, type Reply } from "./control.js";
import { say } from "./say.js";

const POLLOUT = 4;
/** A mover that does not read its reports is cut off at this many bytes. */
const MAX_BACKLOG = 1 << 20;

export interface Client {
  fd: number;
  /** Bytes of a command that is not complete yet. */
  input: Buffer;
  /** Replies that the socket did not take. */
  output: Buffer;
}

/** Something that the poll loop watches. */
export interface Polled {
  fd: number;
  events: number;
  ready: (events: number) => void;
}

export class Clients {
  readonly #clients: Client[] = [];
  #met = false;
  readonly #memory = mapAnonymous(1 << 16);
  readonly #obey: (client: Client, command: Command) => void;

  constructor(obey: (client: Client, command: Command) => void) {
    this.#obey = obey;
  }

  /** Whether there was a mover, and there is none now. */
  get deserted(): boolean {
    return this.#met && this.#clients.length === 0;
  }

  get count(): number {
    return this.#clients.length;
  }

  polled(): Polled[] {
    return this.#clients.map((client) => ({
      fd: client.fd,
      events: client.output.length > 0 ? POLLIN | POLLOUT : POLLIN,
      ready: (events) => {
        this.#serve(client, events);
      },
    }));
  }

  /** Whether somebody new is there. */
  accept(listening: number): boolean {
    const fd = accept(listening, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return false;
    this.#met = true;
    this.#clients.push({ fd, input: Buffer.alloc(0), output: Buffer.alloc(0) });
    return true;
  }

  tell(reply: Reply): void {
    for (const client of this.#clients.slice()) this.send(client, reply);
  }

  send(client: Client, reply: Reply): void {
    client.output = Buffer.concat([client.output, Buffer.from(`${JSON.stringify(reply)}\n`)]);
    this.#flush(client);
  }

  #serve(client: Client, events: number): void {
    if ((events & POLLOUT) !== 0) this.#flush(client);
    if ((events & (POLLIN | POLLHUP | POLLERR)) === 0) return;
    // it may have left in this very round
    if (!this.#clients.includes(client)) return;
    const { bytes, address } = this.#memory;
    const length = readInto(client.fd, address, bytes.length);
    if (length === -EAGAIN || length === -EINTR) return;
    if (length <= 0) {
      this.#leave(client);
      return;
    }
    const input = Buffer.concat([client.input, bytes.subarray(0, length)]);
    let at = 0;
    for (; at + COMMAND <= input.length; at += COMMAND) {
      const command = parseCommand(input, at);
      if (command === undefined) {
        say("a client that does not speak our language was cut off");
        this.#leave(client);
        return;
      }
      this.#obey(client, command);
    }
    client.input = Buffer.from(input.subarray(at));
  }

  #leave(client: Client): void {
    const index = this.#clients.indexOf(client);
    if (index < 0) return;
    this.#clients.splice(index, 1);
    closeFd(client.fd);
  }

  #flush(client: Client): void {
    const { bytes, address } = this.#memory;
    while (client.output.length > 0) {
      const length = client.output.copy(bytes, 0, 0, bytes.length);
      const sent = sendFrom(client.fd, address, length, MSG_NOSIGNAL);
      if (sent === -EAGAIN || sent === -EINTR) break;
      if (sent < 0) {
        this.#leave(client);
        return;
      }
      client.output = client.output.subarray(sent);
    }
    if (client.output.length > MAX_BACKLOG) this.#leave(client);
  }
}
