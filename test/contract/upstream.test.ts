import { type EdgeHubRig, MODULE, startEdgeHubRig } from "../support/edgehub-rig.ts";
import { FakeUpstream } from "../support/fake-upstream.ts";
import { describeUpstream, type UpstreamRig } from "./upstream-suite.ts";

describeUpstream("fake", async (): Promise<UpstreamRig> => {
  const fake = new FakeUpstream();
  const never = new Promise<never>(() => undefined);
  const faultOf = (status: number) => {
    const kind = status === 429 ? "throttled" : status < 500 ? "rejected" : "transient";
    return { kind: "failed", fault: { kind, reason: `status ${status}` } } as const;
  };
  const { onPatch, onRead } = fake;
  return {
    upstream: fake,
    allowLink: () => fake.linkUp(),
    breakLink: () => fake.linkDown(),
    received: () => fake.sent.map(({ message }) => Buffer.from(message.payload).toString()),
    changeDesired: (patch) => fake.changeDesired(patch),
    command: (name, payload) => fake.command(name, payload),
    answerTwin: (how) => {
      fake.onPatch = how === "normal" ? onPatch : () => (how === "hang" ? never : faultOf(how.status));
      fake.onRead = how === "normal" ? onRead : () => (how === "hang" ? never : faultOf(how.status));
    },
    [Symbol.asyncDispose]: () => fake[Symbol.asyncDispose](),
  };
});

function onRig({ devHub, proxy, upstream, ...rig }: EdgeHubRig): UpstreamRig {
  proxy.mode = { kind: "refuse" };
  return {
    upstream,
    allowLink: () => {
      proxy.mode = { kind: "pass" };
    },
    breakLink: () => {
      proxy.mode = { kind: "refuse" };
      proxy.reset();
    },
    received: () => devHub.cloud.events.map(({ body }) => Buffer.from(body).toString()),
    changeDesired: (patch) => devHub.cloud.patchDesired(MODULE, patch),
    command: async (name, payload) => {
      const outcome = await devHub.cloud.invoke({ id: MODULE, name, payload, responseTimeoutMs: 2_000 });
      return outcome.kind === "answer" ? { status: outcome.status, payload: outcome.payload } : undefined;
    },
    answerTwin: (how) => {
      devHub.behaviour.twinGet = how === "hang" ? "silence" : how;
      devHub.behaviour.twinPatch = how === "hang" ? "silence" : how;
    },
    [Symbol.asyncDispose]: () => rig[Symbol.asyncDispose](),
  };
}

describeUpstream("edgeHub, credentials of IoT Edge", async () => onRig(await startEdgeHubRig()));
describeUpstream("edgeHub, connection string", async () => onRig(await startEdgeHubRig({ mode: "connection-string" })));
