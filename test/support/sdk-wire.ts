/** What each Azure device SDK puts on the wire, byte for byte where it was measured [iothub-mqtt.md 1-7, LAB-PY, LAB-NET, LAB-C]. */
import { createHmac, randomUUID } from "node:crypto";

export type Filter = readonly [filter: string, qos: 0 | 1];

export interface SdkWire {
  readonly name: string;
  readonly leafId: string;
  readonly userName: (leafId: string, gateway: string) => string;
  /** `sr` as it stands in the token. */
  readonly resource: (host: string, leafId: string) => string;
  readonly clean: boolean;
  readonly keepAliveSecs: number;
  /** SUBSCRIBE packets, one list of filters each, of a program's start before its GET; `{d}` is the leaf's id. */
  readonly subscribes: readonly (readonly Filter[])[];
  readonly subscribesAfterGet: readonly (readonly Filter[])[];
  /** The same after a connection was lost. */
  readonly subscribesAgain: readonly (readonly Filter[])[];
  readonly getsAgain: boolean;
  readonly requestQos: 0 | 1;
  readonly getBody: "" | " ";
  readonly answerQos: 0 | 1;
  /** The bytes of a command's answer that has no payload. */
  readonly emptyAnswer: "" | "null" | "{}";
  /** Request ids of one program. */
  readonly rids: () => (request: "get" | "report") => string;
  /** The property bag of telemetry of a component, with one application property `alert`. */
  readonly bag: (component: string) => string;
  /** A message that was not acknowledged when the connection was lost. */
  readonly resends: "same-packet-with-dup" | "new-packet" | "never";
}

const HUB = "hub1.azure-devices.net";
const RES = "$iothub/twin/res/#";
const DESIRED = "$iothub/twin/PATCH/properties/desired/#";
const COMMANDS = "$iothub/methods/POST/#";
const CLOUD_TO_DEVICE = "devices/{d}/messages/devicebound/#";
const MODEL = "dtmi:com:example:TemperatureController;2";
const ENCODED_MODEL = encodeURIComponent(MODEL);

const uuids = () => () => randomUUID();
/** From 3 at each program's start: the same ids again and again. */
const decimals = () => {
  let last = 2;
  return () => String(++last);
};
const encodedResource = (host: string, leafId: string) => encodeURIComponent(`${host}/devices/${leafId}`);
const one = (qos: 0 | 1, ...filters: readonly string[]): readonly (readonly Filter[])[] =>
  filters.map((filter): readonly Filter[] => [[filter, qos]]);

const NODE: SdkWire = {
  name: "Node",
  leafId: "nodeLeaf",
  userName: (id) =>
    `${HUB}/${id}/?api-version=2021-04-12&model-id=${MODEL}&DeviceClientType=azure-iot-device%2F1.18.4%20(node%20v22.23.3%3B%20Ubuntu)mine;x`,
  resource: encodedResource,
  clean: false,
  keepAliveSecs: 180,
  subscribes: one(0, RES, DESIRED, COMMANDS),
  subscribesAfterGet: one(1, CLOUD_TO_DEVICE),
  subscribesAgain: [...one(0, COMMANDS), ...one(1, CLOUD_TO_DEVICE)],
  getsAgain: false,
  requestQos: 0,
  getBody: " ",
  answerQos: 0,
  emptyAnswer: "null",
  rids: uuids,
  bag: (component) => `%24.ct=application%2Fjson&%24.ce=utf-8&%24.sub=${component}&alert=very%20high`,
  resends: "new-packet",
};

const PYTHON: SdkWire = {
  ...NODE,
  name: "Python",
  leafId: "py.leaf:1",
  userName: (id) =>
    `${HUB}/${id}/?api-version=2020-09-30&DeviceClientType=azure-iot-device-iothub-py%2F2.14.0%283.11.2%3BLinux%20%231%29&model-id=${ENCODED_MODEL}`,
  keepAliveSecs: 60,
  subscribes: one(1, COMMANDS, RES, DESIRED, CLOUD_TO_DEVICE),
  subscribesAfterGet: [],
  subscribesAgain: [],
  getsAgain: true,
  requestQos: 1,
  answerQos: 1,
  resends: "same-packet-with-dup",
};

const DOTNET: SdkWire = {
  ...NODE,
  name: ".NET",
  leafId: "net-leaf",
  userName: (id, gateway) =>
    `${gateway}/${id}/?api-version=2020-09-30&DeviceClientType=.NET%2F1.42.3%20%28.NET%2010.0.0%3B%20Linux%3B%20X64%29&model-id=${ENCODED_MODEL}`,
  resource: (host, id) => encodeURIComponent(`${host}/devices/${id}`).replaceAll("%2F", "%2f"),
  keepAliveSecs: 300,
  subscribes: one(1, DESIRED, RES, DESIRED, COMMANDS, CLOUD_TO_DEVICE),
  subscribesAfterGet: [],
  subscribesAgain: one(1, COMMANDS, RES, DESIRED, CLOUD_TO_DEVICE),
  getsAgain: true,
  getBody: "",
  emptyAnswer: "",
  bag: (component) => `alert=very%20high&%24.ct=application%2Fjson&%24.ce=utf-8&%24.sub=${component}/`,
};

const C: SdkWire = {
  ...NODE,
  name: "C",
  leafId: "c%leaf$1@x",
  userName: (id) =>
    `${HUB}/${id}/?api-version=2020-09-30&DeviceClientType=iothubclient%2f1.15.0%20%28native%3b%20Linux%3b%20x86_64%29&model-id=${ENCODED_MODEL.replaceAll(/%[0-9A-F]{2}/g, (hex) => hex.toLowerCase())}`,
  resource: (host, id) => `${host}/devices/${id}`,
  keepAliveSecs: 240,
  subscribes: [
    [
      [CLOUD_TO_DEVICE, 1],
      [RES, 0],
      [COMMANDS, 0],
    ],
  ],
  subscribesAfterGet: one(0, DESIRED),
  subscribesAgain: [
    [
      [CLOUD_TO_DEVICE, 1],
      [RES, 0],
      [COMMANDS, 0],
    ],
    [[DESIRED, 0]],
  ],
  getsAgain: false,
  getBody: "",
  emptyAnswer: "{}",
  rids: decimals,
  bag: (component) => `alert=very%20high&%24.ct=application%2fjson&%24.ce=utf-8&%24.sub=${component}`,
  resends: "same-packet-with-dup",
};

const OLD_C: SdkWire = {
  ...C,
  name: "old C",
  leafId: "old.c",
  userName: (id) => `${HUB}/${id}/api-version=2016-11-14&DeviceClientType=iothubclient%2F1.1.18`,
  resends: "never",
};

const JAVA: SdkWire = {
  ...NODE,
  name: "Java",
  leafId: "java_leaf",
  userName: (id) =>
    `${HUB}/${id}/?api-version=2020-09-30&model-id=${ENCODED_MODEL}&DeviceClientType=com.microsoft.azure.sdk.iot.iot-device-client%2F2.5.0+%28Java%29`,
  keepAliveSecs: 230,
  subscribes: one(1, COMMANDS, RES, DESIRED, CLOUD_TO_DEVICE),
  subscribesAfterGet: [],
  subscribesAgain: one(1, RES),
  getBody: "",
  answerQos: 1,
  bag: (component) => `$.ct=application%2Fjson&$.ce=utf-8&$.sub=${component}&alert=very%20high`,
};

const EMBEDDED_C: SdkWire = {
  ...NODE,
  name: "embedded C",
  leafId: "L".repeat(128),
  userName: (id) => `${HUB}/${id}/?api-version=2020-09-30&DeviceClientType=azsdk-c%2F1.5.0&model-id=${ENCODED_MODEL}`,
  subscribes: one(1, RES, DESIRED, COMMANDS, CLOUD_TO_DEVICE),
  subscribesAfterGet: [],
  subscribesAgain: one(1, RES, DESIRED, COMMANDS, CLOUD_TO_DEVICE),
  getsAgain: true,
  getBody: "",
  // The same one each time, as its samples do.
  rids: () => (request) => (request === "get" ? "get_twin" : "reported_prop"),
};

const RAW: SdkWire = {
  ...EMBEDDED_C,
  name: "raw MQTT with a clean session",
  leafId: "raw=1",
  userName: (id) => ` ${HUB}/${id}/?DeviceClientType=my/agent;1&api-version=9999-01-01`,
  clean: true,
  rids: uuids,
  bag: (component) => `?$.sub=${component}&alert=very%20high`,
};

export const SDK_WIRES: readonly SdkWire[] = [
  NODE,
  PYTHON,
  DOTNET,
  C,
  OLD_C,
  JAVA,
  EMBEDDED_C,
  RAW,
  { ...RAW, name: "raw MQTT with an id that differs in case", leafId: "RAW=1", clean: false },
];

/** A token as each SDK makes it: what is signed is `sr` as it stands. */
export function sasToken(sr: string, key: string, lifeSecs: number): string {
  const se = Math.floor(Date.now() / 1000) + lifeSecs;
  const sig = createHmac("sha256", Buffer.from(key, "base64")).update(`${sr}\n${se}`).digest("base64");
  return `SharedAccessSignature sr=${sr}&sig=${encodeURIComponent(sig)}&se=${se}`;
}
