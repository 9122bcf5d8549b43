/** The gateway's own failures: a closed list of codes, each also a row of the README's table (a test compares them). */

export const ERROR_CODES = {
  CONFIG_INVALID: "a configuration file or environment variable is wrong; every problem is listed",
  PORT_TAKEN: "a port that the gateway shall listen on is taken",
  STATE_LOCKED: "another gateway uses the same state folder",
  STATE_FORMAT: "the state folder was written by a newer version of the gateway",
  STORE_FAILED: "the disk refused a write; nothing that needs it is acknowledged until it works again",
  CREDENTIALS_MISSING: "neither the IoT Edge environment nor a connection string is there",
  INVARIANT: "a defect of the gateway itself",
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

/** A defect or a failure that ends what was asked for. Expected outcomes are union members instead, never thrown. */
export class GatewayError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "GatewayError";
    this.code = code;
  }
}
