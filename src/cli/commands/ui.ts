/** `ferry ui`: where the web console is. */
import type { Command } from "commander";
import { workloadWorkflowId } from "../../model/names.js";
import { ferryError } from "../../model/failure.js";
import { withConnection, type ConnectionFlags } from "../connection.js";
import type { CommandContext } from "../io.js";
import { parseWorkloadName } from "../parse.js";

interface UiFlags extends ConnectionFlags {
  json?: boolean;
}

/** Deep links of Temporal's web UI. */
export function uiLink(base: string, namespace: string, workload?: string): string {
  const root = `${base.replace(/\/$/, "")}/namespaces/${encodeURIComponent(namespace)}/workflows`;
  return workload === undefined ? root : `${root}/${encodeURIComponent(workloadWorkflowId(workload))}`;
}

export function register(program: Command, context: CommandContext): void {
  withConnection(program.command("ui"))
    .description("Print where the web console (Temporal's UI) is; with a name, the page of that workload.")
    .argument("[name]", "workload")
    .option("--json", "print JSON")
    .addHelpText("after", "\nExamples:\n  ferry ui\n  ferry ui redis")
    .action(async (name: string | undefined, flags: UiFlags) => {
      if (name !== undefined) parseWorkloadName(name);
      const given = context.io.env["FERRY_TEMPORAL_UI"];
      const namespace = flags.namespace ?? context.io.env["FERRY_TEMPORAL_NAMESPACE"] ?? "default";
      if (flags.address !== undefined && (given === undefined || given === "")) {
        throw ferryError("E_REQUEST", "the address of Temporal's frontend does not say where its UI is", {
          remedy: "set FERRY_TEMPORAL_UI to the UI's URL, or use --lab",
        });
      }
      const { labUi } = await import("../lab-state.js");
      const url = uiLink(
        given !== undefined && given !== "" ? given : await labUi(flags.lab, context.io.env),
        namespace,
        name,
      );
      if (flags.json === true) context.json({ url });
      else context.out(url);
    });
}
