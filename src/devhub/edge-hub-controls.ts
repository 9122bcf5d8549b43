/** What `POST /control/<name>` can do to the hub: its misbehaviour, its line to the cloud, its identities. */

import { z } from "zod";
import type { JsonObject } from "../core/message.ts";
import { type EdgeControl, resetBehaviour } from "./behaviour.ts";
import type { Cloud, ControlFunctions, Identity } from "./cloud-types.ts";

export interface Controlled extends EdgeControl {
  readonly cloud: Cloud;
  register(identity: Identity): void;
  connectionString(identity: Identity): string;
}

const Nothing = z.strictObject({});
const Target = z.strictObject({ deviceId: z.string().optional(), moduleId: z.string().optional() });
const Status = z.strictObject({ status: z.number().int().min(200).max(599) });
const TwinAnswer = z.union([z.enum(["normal", "silence"]), Status]);
const WorkloadAnswer = z.enum(["normal", "fail", "hang"]);
const Behave = z.strictObject({
  connections: z
    .union([z.enum(["accept", "reset"]), z.strictObject({ connack: z.number().int().min(1).max(5) })])
    .optional(),
  silent: z.boolean().optional(),
  puback: z.union([z.enum(["normal", "drop"]), z.strictObject({ delayMs: z.number().nonnegative() })]).optional(),
  twinGet: TwinAnswer.optional(),
  twinPatch: TwinAnswer.optional(),
  workload: z
    .strictObject({ sign: WorkloadAnswer, trustBundle: WorkloadAnswer, serverCertificate: WorkloadAnswer })
    .partial()
    .optional(),
});
const Input = z.strictObject({
  moduleId: z.string().optional(),
  input: z.string().min(1),
  body: z.string().default(""),
  properties: z.record(z.string(), z.string()).default({}),
});

/** `module` is meant where a call names nobody. Arguments that are not understood are rejected with the reason. */
export function controlsOf(hub: Controlled, module: Required<Identity>): ControlFunctions {
  const target = ({ deviceId, moduleId }: z.infer<typeof Target>): Identity =>
    deviceId === undefined && moduleId === undefined ? module : identityOf(deviceId ?? module.deviceId, moduleId);
  return {
    status: control(Nothing, () => statusOf(hub)),
    cutWan: control(z.strictObject({ mode: z.enum(["silent", "refused"]).default("silent") }), ({ mode }) => {
      hub.wan.cut(mode);
      return statusOf(hub);
    }),
    restoreWan: control(Nothing, () => {
      hub.wan.restore();
      return statusOf(hub);
    }),
    cutConnections: control(Nothing, () => {
      hub.cutConnections();
      return {};
    }),
    killEdge: control(z.strictObject({ store: z.enum(["keep", "lose"]).default("keep") }), async ({ store }) => {
      await hub.killEdge(store);
      return {};
    }),
    startEdge: control(Nothing, async () => {
      await hub.startEdge();
      return {};
    }),
    behave: control(Behave, ({ workload, ...changes }) => {
      // zod writes an absent key as absent, so what is not named stays as it is.
      Object.assign(hub.behaviour, changes);
      Object.assign(hub.behaviour.workload, workload);
      return statusOf(hub);
    }),
    resetBehaviour: control(Nothing, () => {
      resetBehaviour(hub.behaviour);
      return statusOf(hub);
    }),
    recreateTwin: control(Target, (args) => {
      hub.cloud.recreate(target(args));
      return {};
    }),
    jumpVersion: control(Target.extend({ to: z.number().int().positive() }), ({ to, ...args }) => {
      hub.cloud.jumpVersion(target(args), to);
      return {};
    }),
    register: control(Target, (args) => {
      const identity = target(args);
      hub.register(identity);
      return { connectionString: hub.connectionString(identity) };
    }),
    sendInput: control(Input, async ({ moduleId, input, body, properties }) => ({
      outcome: await hub.sendInput(moduleId ?? module.moduleId, input, { body, properties }),
    })),
  };
}

function control<T>(schema: z.ZodType<T>, run: (args: T) => JsonObject | Promise<JsonObject>) {
  return async (args: JsonObject): Promise<JsonObject> => {
    const parsed = schema.safeParse(args);
    if (!parsed.success) throw new Error(z.prettifyError(parsed.error));
    return run(parsed.data);
  };
}

function statusOf(hub: Controlled): JsonObject {
  const { connections, silent, puback, twinGet, twinPatch, workload } = hub.behaviour;
  return {
    wan: hub.wan.state,
    /** Whether edgeHub has noticed that the line is back. */
    edgeHubOnline: hub.wan.connected,
    connected: hub.connected,
    drops: hub.drops.map(({ from, topic, reason }) => ({ from, topic, reason })),
    behaviour: {
      connections: asJson(connections),
      silent,
      puback: asJson(puback),
      twinGet: asJson(twinGet),
      twinPatch: asJson(twinPatch),
      workload: { ...workload },
    },
  };
}

function asJson(setting: string | object): JsonObject | string {
  return typeof setting === "string" ? setting : Object.fromEntries(Object.entries(setting));
}

function identityOf(deviceId: string, moduleId: string | undefined): Identity {
  return moduleId === undefined ? { deviceId } : { deviceId, moduleId };
}
