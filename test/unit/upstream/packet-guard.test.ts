import { EventEmitter } from "node:events";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { PacketGuard } from "../../../src/upstream/packet-guard.ts";
import { Wire } from "../../../src/upstream/wire.ts";

const config = { uri: "mqtts://localhost", clientId: "edge1/gw", username: "u", sharedAccessSignature: "s" };

/** An mqtt.js client that connects at once and never acknowledges. */
class MuteClient extends EventEmitter {
  published = 0;

  publish(): void {
    this.published += 1;
  }
  end(_force: boolean, done: () => void): void {
    done();
  }
}

function connected(): { guard: PacketGuard; client: MuteClient } {
  const client = new MuteClient();
  const wire = new Wire({ connectTimeoutMs: 1_000, holdConnectMs: 0, sessionLost: () => undefined });
  wire.connect = () => client;
  const guard = new PacketGuard(wire, () => undefined);
  guard.connect(config, () => undefined);
  client.emit("connect", {});
  return { guard, client };
}

describe("PacketGuard", () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it("lets a message wait for its PUBACK longer than the SDK's 30 s", () => {
    const { guard } = connected();
    guard.setTimeout(135);
    let failure: Error | undefined;
    guard.publish("topic", "x", { qos: 1 }, (error) => {
      failure = error;
    });
    vi.advanceTimersByTime(130_000);
    expect(failure).toBeUndefined();
    vi.advanceTimersByTime(30_000);
    expect(failure?.name).toBe("TimeoutError");
  });

  it("connects once", () => {
    const { guard } = connected();
    const errors: (Error | undefined)[] = [];
    guard.connect(config, (error) => errors.push(error));
    expect(errors[0]?.message).toMatch(/over/);
  });
});

describe("Wire", () => {
  it("opens no connection after it was cut: the client hears of a close", async () => {
    const wire = new Wire({ connectTimeoutMs: 1_000, holdConnectMs: 0, sessionLost: () => undefined });
    wire.cut();
    const guard = new PacketGuard(wire, () => undefined);
    const error = await new Promise<Error | undefined>((resolve) => guard.connect(config, resolve));
    expect(error?.name).toBe("NotConnectedError");
    expect(wire.reached).toBe("nothing");
  });

  it("treats a host name that is none like a host that cannot be reached", async () => {
    const guard = new PacketGuard(
      new Wire({ connectTimeoutMs: 1_000, holdConnectMs: 0, sessionLost: () => undefined }),
      () => undefined,
    );
    const broken = { ...config, uri: "mqtts://no host" };
    const error = await new Promise<Error | undefined>((resolve) => guard.connect(broken, resolve));
    expect(error?.name).toBe("NotConnectedError");
  });
});
