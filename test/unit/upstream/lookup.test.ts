import type { LookupFunction } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { expect, test } from "vitest";
import { sharedLookup } from "../../../src/upstream/lookup.ts";

type Done = Parameters<LookupFunction>[2];

/** A name server that answers when it is told to. */
class Names {
  readonly asked: { readonly name: string; readonly done: Done }[] = [];
  readonly lookup: LookupFunction = (name, _options, done) => this.asked.push({ name, done });

  answer(at: number, address: string): void {
    this.asked[at]?.done(null, address, 4);
  }

  fail(at: number): void {
    this.asked[at]?.done(Object.assign(new Error("no name server answers"), { code: "EAI_AGAIN" }), "");
  }
}

function ask(lookup: LookupFunction, name: string, family = 0): Promise<string> {
  return new Promise((resolve, reject) => {
    lookup(name, { family }, (error, address) => (error === null ? resolve(JSON.stringify(address)) : reject(error)));
  });
}

test("asks once for a name, however many wait for it", async () => {
  const names = new Names();
  const lookup = sharedLookup(names.lookup);
  const answers = [ask(lookup, "hub.example.net"), ask(lookup, "hub.example.net"), ask(lookup, "hub.example.net")];
  expect(names.asked).toHaveLength(1);
  names.answer(0, "192.0.2.1");
  expect(await Promise.all(answers)).toEqual(Array.from({ length: 3 }, () => '"192.0.2.1"'));
  const later = ask(lookup, "hub.example.net");
  expect(names.asked).toHaveLength(2);
  names.answer(1, "192.0.2.2");
  expect(await later).toBe('"192.0.2.2"');
});

test("one name does not wait for another, nor for the same in another form", () => {
  const names = new Names();
  const lookup = sharedLookup(names.lookup);
  void ask(lookup, "hub.example.net");
  void ask(lookup, "edgeHub");
  void ask(lookup, "edgeHub", 6);
  expect(names.asked.map(({ name }) => name)).toEqual(["hub.example.net", "edgeHub", "edgeHub"]);
});

test("a failure reaches all that wait, and the next one asks again", async () => {
  const names = new Names();
  const lookup = sharedLookup(names.lookup);
  const answers = [ask(lookup, "hub.example.net"), ask(lookup, "hub.example.net")];
  names.fail(0);
  expect((await Promise.allSettled(answers)).map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  void ask(lookup, "hub.example.net");
  expect(names.asked).toHaveLength(2);
});

test("each caller hears one answer, however soon it comes", async () => {
  const names = new Names();
  const lookup = sharedLookup(names.lookup, 1);
  let heard = 0;
  const count = (): void => {
    heard += 1;
  };
  lookup("hub.example.net", {}, count);
  names.answer(0, "192.0.2.1");
  await delay(20);
  expect(heard).toBe(1);
  // Also who was given the last one, when the name server answers after all.
  lookup("hub.example.net", {}, count);
  await delay(20);
  expect(heard).toBe(2);
  names.answer(1, "192.0.2.2");
  await delay(20);
  expect(heard).toBe(2);
});

test("what a name server said last serves while it says nothing", async () => {
  const names = new Names();
  const lookup = sharedLookup(names.lookup, 1);
  const first = ask(lookup, "hub.example.net");
  names.answer(0, "192.0.2.1");
  await first;
  expect(await ask(lookup, "hub.example.net")).toBe('"192.0.2.1"');
  expect(await ask(lookup, "hub.example.net")).toBe('"192.0.2.1"');
  expect(names.asked).toHaveLength(2);
  const patient = ask(sharedLookup(names.lookup, 60_000), "hub.example.net");
  names.answer(1, "192.0.2.9");
  names.answer(2, "192.0.2.3");
  expect(await patient).toBe('"192.0.2.3"');
});
