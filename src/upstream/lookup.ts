/**
 * Name resolution that never occupies more than one thread for one name. A lookup cannot be cancelled, takes 10 to 60 s while no name
 * server answers, and only two run at a time in a process: probes of a cut line, which give up earlier, would queue up by the hundred,
 * and in front of the lookup that the link to edgeHub on the same box needs.
 */
import { lookup as ask } from "node:dns";
import type { LookupFunction } from "node:net";

type Done = Parameters<LookupFunction>[2];
type Answer = Parameters<Done>;

/** So long the name server has before what it said last is good enough: a line that has returned is to be seen at once. */
const PATIENCE_MS = 1_000;

/**
 * `lookup`, asked once at a time for each name: who asks meanwhile gets the same answer, and after `patienceMs` the last good one, if
 * there ever was one.
 */
export function sharedLookup(lookup: LookupFunction, patienceMs = PATIENCE_MS): LookupFunction {
  const waiting = new Map<string, Set<Done>>();
  const known = new Map<string, Answer>();
  return (hostname, options, done) => {
    const key = JSON.stringify([hostname, options]);
    const all = waiting.get(key) ?? new Set();
    const asked = waiting.has(key);
    waiting.set(key, all);
    all.add(done);
    const late = setTimeout(() => {
      const answer = known.get(key);
      if (answer !== undefined && all.delete(done)) done(...answer);
    }, patienceMs);
    late.unref();
    if (asked) return;
    lookup(hostname, options, (...answer) => {
      waiting.delete(key);
      if (answer[0] === null) known.set(key, answer);
      for (const each of all) {
        // Nobody is answered again when the own patience is over.
        all.delete(each);
        each(...answer);
      }
    });
  };
}

/** For everything that dials a name. */
export const lookupOnce: LookupFunction = sharedLookup(ask);
