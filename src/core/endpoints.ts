/** The module's ends in edgeHub's routing; a deployment's routes name them. */

/** All leaves' telemetry; edgeHub acknowledges and drops what no route matches. */
export const TELEMETRY_OUTPUT = "telemetry";

/** Other modules of the box send cloud-to-device messages to it. */
export const CLOUD_TO_DEVICE_INPUT = "c2d";
