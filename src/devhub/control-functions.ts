/**
 * What the hub can be told to do, by name, for the control API and the command line. With `forMs` a trouble ends by itself;
 * a later call of the same kind takes the earlier one's place.
 */

import { z } from "zod";
import type { JsonObject } from "../core/message.ts";
import { type EdgeControl, resetBehaviour } from "./behaviour.ts";
import type { Cloud, ControlFunctions, Identity } from "./cloud-types.ts";

export interface ControlParts {
  readonly edge: EdgeControl;
  readonly cloud: Pick<Cloud, "recreate" | "jumpVersion">;
  /** The module that is meant when none is named. */
  readonly module: { readonly deviceId: string; readonly moduleId: string };
}

export interface Controls extends Disposable {
  readonly functions: ControlFunctions;
}

const ForMs = z.number().int().positive().max(86_400_000).optional();
const Nothing = z.strictObject({});
const TwinAnswer = z.union([z.enum(["normal", "silence"]), z.strictObject({ status: z.number().int() })]);
const WorkloadAnswer = z.enum(["normal", "fail", "hang"]);
const Named = { deviceId: z.string().min(1).optional(), moduleId: z.string().min(1).optional() };

/** Disposing forgets the troubles that were to end later: they stay as they are. */
export function hubControls(parts: ControlParts): Controls {
  const timers = new Map<string, NodeJS.Timeout>();
  const later: Later = (trouble, forMs, end) => {
    clearTimeout(timers.get(trouble));
    timers.delete(trouble);
    if (forMs !== undefined) timers.set(trouble, setTimeout(end, forMs));
    return forMs === undefined ? {} : { endsAt: new Date(Date.now() + forMs).toISOString() };
  };
  return {
    functions: { ...lineControls(parts, later), ...twinControls(parts), ...edgeControls(parts, later) },
    [Symbol.dispose]() {
      for (const timer of timers.values()) clearTimeout(timer);
      timers.clear();
    },
  };
}

/** Ends `trouble` after `forMs`, or leaves it; says when. */
type Later = (trouble: string, forMs: number | undefined, end: () => void) => JsonObject;

function lineControls({ edge }: ControlParts, later: Later): ControlFunctions {
  return {
    "wan-down": control(
      z.strictObject({ mode: z.enum(["silent", "refused"]).default("silent"), forMs: ForMs }),
      (args) => {
        edge.wan.cut(args.mode);
        return later("wan", args.forMs, () => edge.wan.restore());
      },
    ),
    "wan-up": control(Nothing, () => {
      edge.wan.restore();
      return later("wan", undefined, () => undefined);
    }),
    cut: control(z.strictObject({ forMs: ForMs }), (args) => {
      if (args.forMs !== undefined) edge.behaviour.connections = "reset";
      edge.cutConnections();
      return later("connections", args.forMs, () => {
        edge.behaviour.connections = "accept";
      });
    }),
    refuse: control(z.strictObject({ code: z.number().int().min(1).max(5), forMs: ForMs }), (args) => {
      edge.behaviour.connections = { connack: args.code };
      edge.cutConnections();
      return later("connections", args.forMs, () => {
        edge.behaviour.connections = "accept";
      });
    }),
  };
}

function twinControls({ cloud, module }: ControlParts): ControlFunctions {
  const named = (args: { deviceId?: string | undefined; moduleId?: string | undefined }): Identity =>
    args.deviceId === undefined
      ? { ...module, ...(args.moduleId === undefined ? {} : { moduleId: args.moduleId }) }
      : { deviceId: args.deviceId, ...(args.moduleId === undefined ? {} : { moduleId: args.moduleId }) };
  return {
    "recreate-twin": control(z.strictObject(Named), (args) => {
      cloud.recreate(named(args));
      return {};
    }),
    "jump-version": control(z.strictObject({ ...Named, to: z.number().int().positive() }), (args) => {
      cloud.jumpVersion(named(args), args.to);
      return {};
    }),
  };
}

function edgeControls({ edge, module }: ControlParts, later: Later): ControlFunctions {
  const { behaviour } = edge;
  return {
    reset: control(Nothing, () => {
      resetBehaviour(behaviour);
      edge.wan.restore();
      later("connections", undefined, () => undefined);
      return later("wan", undefined, () => undefined);
    }),
    silent: control(z.strictObject({ on: z.boolean() }), ({ on }) => {
      behaviour.silent = on;
      return {};
    }),
    pubacks: control(
      z.strictObject({
        puback: z.union([z.enum(["normal", "drop"]), z.strictObject({ delayMs: z.number().int().min(0) })]),
      }),
      ({ puback }) => {
        behaviour.puback = puback;
        return {};
      },
    ),
    "twin-answers": control(
      z.strictObject({ get: TwinAnswer.optional(), patch: TwinAnswer.optional() }),
      ({ get, patch }) => {
        if (get !== undefined) behaviour.twinGet = get;
        if (patch !== undefined) behaviour.twinPatch = patch;
        return {};
      },
    ),
    workload: control(
      z.strictObject({
        sign: WorkloadAnswer.default("normal"),
        trustBundle: WorkloadAnswer.default("normal"),
        serverCertificate: WorkloadAnswer.default("normal"),
      }),
      (answers) => {
        behaviour.workload = answers;
        return {};
      },
    ),
    "kill-edge": control(z.strictObject({ store: z.enum(["keep", "lose"]).default("keep") }), async ({ store }) => {
      await edge.killEdge(store);
      return {};
    }),
    "start-edge": control(Nothing, async () => {
      await edge.startEdge();
      return {};
    }),
    "send-input": control(
      z.strictObject({
        moduleId: z.string().min(1).default(module.moduleId),
        input: z.string().min(1),
        body: z.json().default({}),
        properties: z.record(z.string(), z.string()).default({}),
      }),
      async ({ moduleId, input, body, properties }) => {
        const system = { ct: "application/json", ce: "utf-8" };
        return { outcome: await edge.sendInput(moduleId, input, { body: JSON.stringify(body), properties, system }) };
      },
    ),
    state: control(Nothing, () => ({
      line: edge.wan.state,
      edgeHubOnline: edge.wan.connected,
      connected: [...edge.connected],
      dropped: edge.drops.map(({ from, topic, reason }) => ({ from, topic, reason })),
    })),
  };
}

/** Arguments that the schema does not take reject with what is wrong with them. */
function control<T>(
  schema: z.ZodType<T>,
  run: (args: T) => JsonObject | Promise<JsonObject>,
): ControlFunctions[string] {
  return async (args) => {
    const parsed = schema.safeParse(args);
    if (!parsed.success) throw new Error(z.prettifyError(parsed.error).replaceAll("\n", " "));
    return run(parsed.data);
  };
}
