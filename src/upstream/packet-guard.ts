/**
 * The SDK's connection with a guard before it: everything that arrives passes here first. Invariants: no packet, however wrong,
 * throws inside the SDK's event handlers; nothing that arrives before its listeners is lost; a twin answer's status is known.
 */
import azureIotMqttBase from "azure-iot-mqtt-base";
import { parseJson } from "./twin-document.ts";
import type { Wire } from "./wire.ts";

const { MqttBase } = azureIotMqttBase;

/** `document` undefined: an empty body, or one that is no JSON. `status` 0: the topic has none. */
export interface TwinAnswer {
  readonly status: number;
  readonly document: unknown;
}

const TWIN_ANSWER = /^\$iothub\/twin\/res\/(\d*)/;
export const DESIRED_PREFIX = "$iothub/twin/PATCH/properties/desired";
const COMMAND_PREFIX = "$iothub/methods/POST/";
const INPUT_TOPIC = /^devices\/[^/]+\/modules\/[^/]+\/inputs\//;

const EMPTY = Buffer.alloc(0);
const JSON_NULL = Buffer.from("null");
/** edgeHub sends the inputs of a kept session right after CONNACK; more than this before anybody listens is nobody's. */
const MAX_EARLY = 1_000;

type Callback = (error?: Error, result?: unknown) => void;
type Publish = InstanceType<typeof MqttBase>["publish"];

export class PacketGuard extends MqttBase {
  readonly #malformed: (topic: string, reason: string) => void;
  #answer: TwinAnswer | undefined;
  #connected = false;
  #early: [topic: string, payload: Buffer][] | undefined = [];

  constructor(wire: Wire, malformed: (topic: string, reason: string) => void) {
    super(wire);
    this.#malformed = malformed;
  }

  /**
   * The twin answer that is being handed out right now. The twin client forgets the status, but it settles a request while
   * `message` is emitted: whoever asks inside its callback sees the answer to that very request.
   */
  get answer(): TwinAnswer | undefined {
    return this.#answer;
  }

  /** Everybody listens: hands out what came early. */
  release(): void {
    const early = this.#early ?? [];
    this.#early = undefined;
    for (const [topic, payload] of early) this.#receive(topic, payload);
  }

  /** Once: the SDK would otherwise connect again by itself when something is sent while it is disconnected. */
  override connect(config: Parameters<InstanceType<typeof MqttBase>["connect"]>[0], done: Callback): void {
    if (this.#connected) {
      done(new Error("this connection is over"));
      return;
    }
    this.#connected = true;
    super.connect(config, done);
  }

  /**
   * MqttBase keeps its callbacks in a Map. When V8 makes a new table for a Map or Set, the old one still points to it and to its
   * entries; once such a dead table is in the old generation, all that follow are kept until the whole heap is collected, with
   * whatever their entries can reach: here each message. So MqttBase gets a callback that lets go.
   */
  override publish(topic: string, payload: unknown, options: Parameters<Publish>[2], done: Callback): void {
    let waiting: Callback | undefined = done;
    super.publish(topic, payload, options, (error, result: unknown) => {
      const answered = waiting;
      waiting = undefined;
      answered?.(error, result);
    });
  }

  /** A refused subscription is an error; the SDK takes the SUBACK's 128 for a success [MQTT-3.9.3]. */
  override subscribe(topic: string, options: { qos: 0 | 1 | 2 }, done: Callback): void {
    super.subscribe(topic, options, (error, granted: unknown) => {
      done(error ?? (isRefused(granted) ? new Error(`the subscription to ${topic} was refused`) : undefined), granted);
    });
  }

  override emit(event: string | symbol, ...args: unknown[]): boolean {
    const [topic, payload] = args;
    if (event !== "message" || typeof topic !== "string" || !Buffer.isBuffer(payload))
      return super.emit(event, ...args);
    if (this.#early === undefined) this.#receive(topic, payload);
    else if (this.#early.length < MAX_EARLY) this.#early.push([topic, payload]);
    return true;
  }

  #receive(topic: string, payload: Buffer): void {
    try {
      this.#dispatch(topic, payload);
    } catch (error) {
      this.#malformed(topic, String(error));
    }
  }

  #dispatch(topic: string, payload: Buffer): void {
    const twinAnswer = TWIN_ANSWER.exec(topic);
    if (twinAnswer !== null) {
      this.#answer = { status: Number(twinAnswer[1]), document: parseJson(payload) };
      try {
        // The SDK gets no body: it would throw on one that is no JSON, and it has nothing to add to the rest.
        super.emit("message", topic, EMPTY);
      } finally {
        this.#answer = undefined;
      }
    } else if (topic.startsWith(DESIRED_PREFIX) && parseJson(payload) === undefined) {
      this.#malformed(topic, "the body is no JSON");
    } else if (topic.startsWith(COMMAND_PREFIX)) {
      // A command without argument comes with an empty body, which the SDK answers 400 by itself.
      super.emit("message", withPlainName(topic), payload.length === 0 ? JSON_NULL : payload);
    } else {
      super.emit("message", INPUT_TOPIC.test(topic) ? withValues(topic) : topic, payload);
    }
  }
}

/** `$iothub/methods/POST/{name}/?$rid={rid}`; the name is not encoded and may hold anything but `/`. */
const COMMAND = /^(\$iothub\/methods\/POST\/)([^/]*)(\/\?\$rid=.*)$/s;
const PLAIN_NAME = /^[\w.*-]+$/;
/** No legal name begins so. */
const ENCODED = "=";

/** The SDK takes the topic for a URL: it would encode some characters of the name, and lose the request id behind others. */
function withPlainName(topic: string): string {
  const [, prefix = "", name = "", rest = ""] = COMMAND.exec(topic) ?? [];
  if (name === "" || PLAIN_NAME.test(name)) return topic;
  return `${prefix}${ENCODED}${Buffer.from(name, "utf8").toString("hex")}${rest}`;
}

/** A command's name as it stood in the topic, from the one that the SDK hands out. */
export function commandNameOf(methodName: string): string {
  if (!methodName.startsWith(ENCODED)) return methodName;
  return Buffer.from(methodName.slice(ENCODED.length), "hex").toString("utf8");
}

/** A property without `=` gets an empty value; the SDK would make it the text "undefined". */
function withValues(topic: string): string {
  const parts = topic.split("/");
  const bag = parts[6];
  if (bag === undefined || bag === "") return topic;
  parts[6] = bag
    .split("&")
    .map((pair) => (pair.includes("=") ? pair : `${pair}=`))
    .join("&");
  return parts.join("/");
}

function isRefused(granted: unknown): boolean {
  return (
    Array.isArray(granted) && granted.some((grant: { qos?: unknown }) => typeof grant.qos === "number" && grant.qos > 2)
  );
}
