/** Placeholder of the types that leaf.ts needs; filled in with the state machine. */
export interface PropertyTrack {
  readonly state: "pending" | "delivered" | "in-progress" | "done" | "failed";
  readonly version: number;
  readonly sinceMs: number;
}
export type PropertyTracks = Readonly<Record<string, PropertyTrack>>;
