/** What the promises say of the end of a history, against what hub and leaves saw. A broken one is an error that names it. */
import type { JsonObject } from "../../src/core/message.ts";
import { respelled } from "./model-edge.ts";
import type { ModelLeaf } from "./model-leaves.ts";
import type { RelayWorld } from "./relay-world.ts";

/** G1: what was acknowledged reached the hub, and the first copies came in the leaf's order. */
export function checkTelemetry(world: RelayWorld, device: ModelLeaf, acknowledged: readonly string[]): void {
  const texts = world.hub.telemetry
    .filter((message) => message.properties["leafId"] === device.id)
    .map((message) => JSON.parse(new TextDecoder().decode(message.payload)) as string);
  const firsts = [...new Set(texts)];
  const arrived = new Set(firsts);
  for (const text of acknowledged)
    if (!arrived.has(text)) throw new Error(`G1: ${device.id} saw message ${text} acknowledged and it never arrived`);
  const wanted = new Set(acknowledged);
  const order = firsts.filter((text) => wanted.has(text)).map(Number);
  for (let at = 1; at < order.length; at += 1) {
    if ((order[at - 1] ?? 0) > (order[at] ?? 0))
      throw new Error(`G1: order of ${device.id} broken: ${order.slice(at - 1, at + 1).join(" before ")}`);
  }
}

/** G2: the module twin shows what the leaf last reported. */
export async function checkReported(world: RelayWorld, device: ModelLeaf): Promise<void> {
  const reading = device.read();
  await world.pass(0);
  await reading;
  const answer = [...device.answers.values()].at(-1);
  const { $version: _version, ...own } = (answer?.body?.["reported"] ?? {}) as JsonObject;
  const name = componentOf(device.id);
  const { part, ...root } = own;
  const expected: Record<string, JsonObject> = {};
  if (Object.keys(root).length > 0) expected[name] = { __t: "c", ...root };
  if (part !== undefined) expected[`${name}__part`] = { ...(part as JsonObject), __t: "c" };
  const shown = Object.fromEntries(
    Object.entries(world.hub.reported)
      .filter(([key]) => key === name || key === `${name}__part`)
      .map(([key, section]) => [key, section as JsonObject] as const),
  );
  // A component that has nothing left may stay as its marker, and the hub may drop an object without any value [iothub-mqtt.md 6.4].
  const clean = (sections: Record<string, JsonObject>): string => JSON.stringify(sorted(pruned(respelled(sections))));
  if (clean(shown) !== clean(expected)) {
    throw new Error(
      `G2: the hub shows ${JSON.stringify(shown)} for ${device.id}, the leaf's twin is ${JSON.stringify(own)}`,
    );
  }
  // What the leaf saw answered is in its twin (acknowledgements of an earlier life may have become 203).
  for (const [key, said] of Object.entries(device.reported)) {
    if (!Object.hasOwn(own, key) && !device.uncertain.has(key) && !isBare(said))
      throw new Error(`G2: ${device.id} reported ${key}, saw 204, and it is gone`);
  }
}

/** G3 and G4: the leaf has what the hub wants, and never saw an older version after a newer one within one life. */
export function checkDesired(world: RelayWorld, device: ModelLeaf, lives: number): void {
  const name = componentOf(device.id);
  const { [name]: root = {}, [`${name}__part`]: part } = world.hub.desired;
  const { __t: _marker, ...properties } = root as JsonObject;
  const wanted = { ...properties, ...(part === undefined ? {} : { part: { ...(part as JsonObject), __t: "c" } }) };
  const clean = (section: JsonObject): string => JSON.stringify(sorted(withoutBare(respelled(section))));
  if (clean(device.desired) !== clean(wanted)) {
    throw new Error(`G3: ${device.id} has ${clean(device.desired)}, the hub wants ${clean(wanted)} (life ${lives})`);
  }
  // Also a change back to the old value is to be acknowledged; a leaf without any desired property has nothing to acknowledge.
  const writtenAt = Math.max(...[name, `${name}__part`].map((part) => world.hub.writtenAt.get(part) ?? 0));
  if (clean(wanted) !== "{}" && device.desiredVersion < writtenAt)
    throw new Error(`G3: ${device.id} was told of version ${device.desiredVersion}, the hub wrote ${writtenAt}`);
  checkTold(world, device, name);
  // A new life of the module twin begins at 1 again: versions may fall as often as that happened, and no oftener.
  const falls = device.versions.filter((version, at) => version < (device.versions[at - 1] ?? 0)).length;
  if (falls >= lives) throw new Error(`G4: ${device.id} saw versions ${device.versions.join(", ")} in ${lives} lives`);
}

/** Who writes a value once more as it was waits for an acknowledgement too, so the leaf has to hear of it. */
function checkTold(world: RelayWorld, device: ModelLeaf, name: string): void {
  for (const [path, version] of world.hub.propertyWrittenAt) {
    const [component = "", property = ""] = path.split("/");
    if (component !== name && component !== `${name}__part`) continue;
    const told = device.toldAt.get(component === name ? property : `part/${property}`) ?? 0;
    if (told < version)
      throw new Error(`G3: ${device.id} was told of ${path} at version ${told}, the hub wrote it at ${version}`);
  }
}

function isBare(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.keys(value).every((key) => key === "__t");
}

function withoutBare<T>(sections: Readonly<Record<string, T>>): Record<string, T> {
  return Object.fromEntries(Object.entries(sections).filter(([, section]) => !isBare(section)));
}

/** Without objects that hold no value, at any depth. */
function pruned(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  const inside = Object.entries(value).map(([key, inner]) => [key, pruned(inner)] as const);
  return withoutBare(Object.fromEntries(inside));
}

function sorted(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(
    Object.entries(value)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)]),
  );
}

/** The names of the three leaves, worked out by hand from the rule: one legal, one not, one reserved. */
export function componentOf(leafId: string): string {
  return COMPONENTS[leafId] ?? leafId;
}

const COMPONENTS: Readonly<Record<string, string>> = {
  leaf1: "leaf1",
  "Leaf-2": "Leaf_2_416575b8",
  gateway: "gateway_4ea5ee68",
};
