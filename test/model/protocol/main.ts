/** `npm run model`: the model checker with bounds of one's own. */
import { parseArgs } from "node:util";
import { explore } from "./explore.js";

const { values } = parseArgs({
  options: {
    operations: { type: "string", default: "1" },
    kills: { type: "string", default: "1" },
    "power-losses": { type: "string", default: "1" },
    "engine-deaths": { type: "string", default: "1" },
    "local-failures": { type: "string", default: "1" },
    fences: { type: "string", default: "0" },
    checkpoints: { type: "string", default: "0" },
    restores: { type: "string", default: "0" },
    recoveries: { type: "string", default: "0" },
    terminations: { type: "string", default: "1" },
  },
});
const budget = {
  operations: Number(values.operations),
  kills: Number(values.kills),
  powerLosses: Number(values["power-losses"]),
  engineDeaths: Number(values["engine-deaths"]),
  localFailures: Number(values["local-failures"]),
  fences: Number(values.fences),
  recoveries: Number(values.recoveries),
  checkpoints: Number(values.checkpoints),
  restores: Number(values.restores),
  terminations: Number(values.terminations),
};
for (const lazy of [false, true]) {
  const began = performance.now();
  const { violation, ...found } = explore({ budget, lazy });
  console.log(
    JSON.stringify({
      lazy,
      budget,
      ...found,
      seconds: Math.round(performance.now() - began) / 1000,
      ok: violation === undefined,
    }),
  );
  if (violation === undefined) continue;
  console.log(`broken: ${violation.promise}`);
  for (const [i, step] of violation.trace.entries()) console.log(`${String(i + 1).padStart(3)}. ${step}`);
  console.log(JSON.stringify(violation.world, (_, v: unknown) => (v instanceof Map ? Object.fromEntries(v) : v), 1));
  process.exitCode = 1;
}
