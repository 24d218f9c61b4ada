/** `ferry lab status` in words. Pure. */
import type { LabStatus } from "../../../deploy/lab/status.js";
import { mark, paint, type Style } from "./style.js";
import { renderTable, type Cell } from "./table.js";

const stateCell = (state: "up" | "down"): Cell => ({ text: state, paint: state === "up" ? "green" : "red" });

export function renderLab(status: LabStatus, style: Style): string[] {
  if (status.id === undefined) return [`no lab in ${status.directory}; start one: ferry lab up`];
  const sign = status.state === "up" ? "done" : status.state === "partial" ? "warn" : "fail";
  const lines = [
    `${mark(style, sign)} ${paint(style, "bold", `lab ${status.id} is ${status.state}`)}  ${status.directory}`,
  ];
  if (status.address !== undefined) lines.push(`  Temporal  ${status.address}`);
  if (status.uiUrl !== undefined) lines.push(`  console   ${status.uiUrl}`);
  lines.push(
    "",
    ...renderTable(
      [
        { title: "HOST" },
        { title: "PART" },
        { title: "STATE" },
        { title: "PID", align: "right" },
        { title: "ADDRESS OR LOG" },
      ],
      [
        ...status.hosts.map((host) => [
          host.name,
          host.kind,
          stateCell(host.state),
          host.pid === undefined ? "-" : String(host.pid),
          host.ip,
        ]),
        ...status.services.map((service) => [
          service.host,
          service.name,
          stateCell(service.state),
          service.pid === undefined ? "-" : String(service.pid),
          service.keeper === "up" ? service.log : `no keeper; ${service.log}`,
        ]),
      ],
      // paths of logs are to be copied: never cut
      { ...style, width: 10_000 },
    ),
  );
  if (status.state !== "up") lines.push("what to do: ferry lab up starts what is missing");
  return lines;
}
