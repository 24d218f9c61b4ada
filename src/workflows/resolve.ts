/**
 * A person resolves a hand-over in doubt: the update of a migration (or of a settle). It refuses whatever could make two
 * copies: a node that answers speaks for itself, and one that does not must have been fenced (`ferry fence`). What it
 * does is in the journals then, and the settling, which goes on beside it, finds it there.
 */
import { CancellationScope, defineUpdate, setHandler } from "@temporalio/workflow";
import type { Inquiry, OperationRef } from "../model/contract.js";
import type { FailureData } from "../model/failure.js";
import {
  UPDATE,
  type HandOver,
  type MigrationView,
  type Resolved,
  type ResolveRequest,
  type Tuning,
} from "../model/messages.js";
import { resolveProblems } from "../model/request-check.js";
import { backHome } from "../model/settlement.js";
import { refuseUnless } from "./accept.js";
import { refuseWhenFull } from "./length.js";
import { failure, once, shortly, tryAsk, type Answer } from "./calls.js";
import { fenced } from "./fenced.js";

export interface Resolvable {
  readonly view: MigrationView;
  readonly handOver: () => HandOver;
  readonly tuning: Tuning;
}

export function resolvable(saga: Resolvable): void {
  setHandler(
    defineUpdate<Resolved, [ResolveRequest]>(UPDATE.resolve),
    (request) =>
      CancellationScope.nonCancellable(async () => {
        const { ref } = saga.handOver();
        const message = await resolve(ref, saga, request);
        return { operation: ref.operation, message };
      }),
    {
      validator: (request) => {
        refuseUnless("the request to resolve", resolveProblems(request));
        const { state, phase } = saga.view;
        // Going back, it may be about to say that it is in doubt (again): what is asked for is decided by both journals anyway.
        const { ref } = saga.handOver();
        if (state === "in-doubt" || state === "stuck" || state === "undoing") return refuseWhenFull(ref);
        throw failure({
          code: "E_STATE",
          message: `${ref.operation} is not in doubt (${state}, phase ${phase}): there is nothing to resolve`,
          workload: ref.workload,
          remedy: `see where it stands: ferry inspect ${ref.workload}`,
        });
      },
    },
  );
}

async function resolve(ref: OperationRef, saga: Resolvable, { keep, acceptRollback }: ResolveRequest): Promise<string> {
  const { tuning } = saga;
  const ask = (node: string) => tryAsk(node, () => once(node, tuning, "what does its journal say?").inquire(ref));
  const [source, destination] = await Promise.all([ask(ref.source), ask(ref.destination)]);
  return keep === "source"
    ? keepSource(ref, saga, acceptRollback, source, destination)
    : keepDestination(ref, saga, acceptRollback, source, destination);
}

type Said = Answer<Inquiry>;

async function keepSource(
  ref: OperationRef,
  saga: Resolvable,
  acceptRollback: boolean,
  source: Said,
  destination: Said,
): Promise<string> {
  const { tuning } = saga;
  if (source.answer === undefined) {
    throw refusal(
      ref,
      `${ref.source} does not answer, and only it can take ${ref.workload} back`,
      `bring ${ref.source} back; if it is off for good: ferry fence ${ref.source}, then --keep destination`,
    );
  }
  const evidence =
    destination.answer === undefined
      ? await offSince(ref, saga, ref.source, ref.destination, destination.failure)
      : await refusedThere(ref, tuning);
  const back = await tryAsk(ref.source, () =>
    shortly(ref.source, tuning, "take it back, by a person's word").retake({ ref, evidence, acceptRollback }),
  );
  if (back.failure) throw failure(back.failure);
  const home = backHome(ref, back.answer);
  if (home === undefined) throw refusal(ref, `${ref.source} has not taken ${ref.workload} back yet`, "ask again");
  return `${ref.workload} runs on ${ref.source} again (epoch ${home.epoch}): ${evidence}`;
}

/** The destination answers: it must not have run it, and never will. */
async function refusedThere(ref: OperationRef, tuning: Tuning): Promise<string> {
  const refused = await tryAsk(ref.destination, () => shortly(ref.destination, tuning, "refuse the epoch").refuse(ref));
  if (refused.failure) throw failure(refused.failure);
  if (refused.answer.state !== "TOMBSTONE") {
    throw refusal(
      ref,
      `${ref.destination} answers, and says ${refused.answer.state ?? "nothing"}: it may run it`,
      `keep the destination's: ferry resolve ${ref.workload} --keep destination`,
    );
  }
  return `${ref.destination} has refused epoch ${ref.to} for ever`;
}

async function keepDestination(
  ref: OperationRef,
  saga: Resolvable,
  acceptRollback: boolean,
  source: Said,
  destination: Said,
): Promise<string> {
  const { tuning } = saga;
  if (destination.answer === undefined) {
    throw refusal(
      ref,
      `${ref.destination} does not answer, and only it can run what it was given`,
      `bring ${ref.destination} back; if it is off for good: ferry fence ${ref.destination}, then --keep source`,
    );
  }
  if (source.answer !== undefined) {
    const { token, state } = source.answer;
    if (token === undefined) {
      throw refusal(
        ref,
        `${ref.source} answers, and has not released ${ref.workload} (${state ?? "nothing"}): it may run it`,
        `keep the source's: ferry resolve ${ref.workload} --keep source`,
      );
    }
    const told = await tryAsk(ref.destination, () =>
      shortly(ref.destination, tuning, "carry the token").deliver({ ref, token }),
    );
    if (told.failure) throw failure(told.failure);
    return `${ref.source} has released ${ref.workload}, and ${ref.destination} has its token: it goes forward`;
  }
  const evidence = await offSince(ref, saga, ref.destination, ref.source, source.failure);
  const claimed = await tryAsk(ref.destination, () =>
    shortly(ref.destination, tuning, "run it, by a person's word").claim({ ref, evidence, acceptRollback }),
  );
  if (claimed.failure) throw failure(claimed.failure);
  return `${ref.destination} is told to run ${ref.workload} (epoch ${ref.to}): ${evidence}`;
}

const offSince = (ref: OperationRef, { view, tuning }: Resolvable, asked: string, node: string, silence: FailureData) =>
  fenced(
    { workload: ref.workload, node, silence, asked, since: view.startedAt, began: "this migration began" },
    tuning,
  );

const refusal = (ref: OperationRef, message: string, remedy: string) =>
  failure({ code: "E_STATE", message, workload: ref.workload, remedy });
