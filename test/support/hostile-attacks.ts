/** What somebody on the plant network might try: each attack has a number of things to do and ends. None may cost anybody else anything. */
import { randomBytes } from "node:crypto";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import mqttPacket from "mqtt-packet";
import type { HostileWorld } from "./hostile-world.ts";
import { events, publishPacket, type RawLeaf, userName } from "./leaf-client.ts";

const TWIN_GET = "$iothub/twin/GET/?$rid=";
const TWIN_REPORT = "$iothub/twin/PATCH/properties/reported/?$rid=";

type Attack = (world: HostileWorld, prefix: string) => Promise<void>;

/** How long an attack without a natural end goes on. */
const WHILE_MS = 1_000;

function* during(ms = WHILE_MS): Generator<number> {
  const until = performance.now() + ms;
  for (let round = 0; performance.now() < until; round += 1) yield round;
}

/** Any PUBLISH, also one that no library would write. */
function publishBytes(topic: Uint8Array, payload: Uint8Array, qos: 0 | 1 = 0): Buffer {
  const length = Buffer.from([topic.length >> 8, topic.length & 255]);
  const id = qos === 1 ? Buffer.from([0, 1]) : Buffer.alloc(0);
  return packetBytes(qos === 1 ? 0x32 : 0x30, Buffer.concat([length, topic, id, payload]));
}

function packetBytes(first: number, body: Uint8Array): Buffer {
  const digits: number[] = [];
  let left = body.length;
  do {
    digits.push((left % 128) | (left >= 128 ? 128 : 0));
    left = Math.floor(left / 128);
  } while (left > 0);
  return Buffer.concat([Buffer.from([first, ...digits]), body]);
}

/** As much as the gateway is willing to read, until it closes or the time is over. */
async function pour(leaf: RawLeaf, piece: (round: number) => Uint8Array): Promise<void> {
  for (const round of during()) {
    if (leaf.isClosed) return;
    // More than the socket takes at once, but not without end.
    leaf.stream.write(piece(round));
    await sleep(leaf.stream.writableLength > 1_000_000 ? 50 : 0);
  }
}

/** The same by several leaves, which come back when they are closed. */
async function crowd(
  world: HostileWorld,
  prefix: string,
  piece: (round: number, leafId: string) => Uint8Array,
  size = 3,
): Promise<void> {
  const one = async (number: number): Promise<void> => {
    for (const round of during()) {
      const leafId = `${prefix}-${number}-${round}`;
      const leaf = await world.leaf(leafId);
      await pour(leaf, (at) => piece(at, leafId));
      leaf.cut();
    }
  };
  await Promise.all(Array.from({ length: size }, (_, number) => one(number)));
}

async function opened(sockets: readonly Socket[]): Promise<void> {
  await Promise.all(
    sockets.map((socket) => Promise.race([new Promise((resolve) => socket.once("connect", resolve)), sleep(WHILE_MS)])),
  );
}

export const ATTACKS: Readonly<Record<string, Attack>> = {
  "random bytes and broken packets": async (world, prefix) => {
    for (const round of during()) {
      const leaf = round % 2 === 0 ? world.raw() : await world.leaf(`${prefix}-${round}`);
      leaf.sendBytes(randomBytes(1 + (round % 700)));
      leaf.sendBytes(publishBytes(randomBytes(round % 90), randomBytes(round % 50), 1));
      await sleep(1);
      leaf.cut();
    }
  },

  "slow loris: hundreds of connections that say CONNECT byte by byte": async (world, prefix) => {
    const sockets = Array.from({ length: 300 }, () => world.socket());
    await opened(sockets);
    const bytes = world.connectBytes(`${prefix}-slow`);
    for (const round of during()) {
      for (const socket of sockets) socket.write(bytes.subarray(round % 40, (round % 40) + 1));
      await sleep(40);
    }
    for (const socket of sockets) socket.destroy();
  },

  "more silent connections than there may be, while a new leaf wants to come in": async (world, prefix) => {
    const sockets = Array.from({ length: 600 }, () => world.socket());
    await opened(sockets);
    for (const round of during()) {
      const leaf = await world.leaf(`${prefix}-${round}`);
      leaf.cut();
      sockets.push(world.socket());
    }
    for (const socket of sockets) socket.destroy();
  },

  "half-open TLS: silent ones, and ones that stop in the middle of their ClientHello": async (world) => {
    const sockets = Array.from({ length: 400 }, () => {
      const socket = connect(world.tlsPort, "127.0.0.1");
      socket.on("error", () => undefined);
      return socket;
    });
    await opened(sockets);
    for (const [at, socket] of sockets.entries())
      if (at % 2 === 0) socket.write(Buffer.from("1603010200010001fc0303", "hex"));
    await sleep(WHILE_MS);
    for (const socket of sockets) socket.destroy();
  },

  "a flood of TLS connects with wrong tokens": async (world, prefix) => {
    const wrong = Buffer.from("a wrong key").toString("base64");
    const one = async (number: number): Promise<void> => {
      for (const round of during()) {
        const leafId = `${prefix}-${number}-${round}`;
        const socket = world.tlsSocket();
        socket.write(world.connectBytes(leafId, { password: world.token(leafId, wrong) }));
        await Promise.race([new Promise((resolve) => socket.once("close", resolve)), sleep(WHILE_MS)]);
        socket.destroy();
      }
    };
    await Promise.all(Array.from({ length: 60 }, (_, number) => one(number)));
  },

  "a flood of plain connects with CONNECTs of 8 KB": async (world, prefix) => {
    const one = async (number: number): Promise<void> => {
      for (const round of during()) {
        const socket = world.socket();
        const username = userName(`${prefix}-${number}-${round}`, `?api-version=1&${"a=%20&".repeat(1_200)}`);
        socket.write(world.connectBytes(`${prefix}-${number}-${round}`, { username }));
        await Promise.race([new Promise((resolve) => socket.once("data", resolve)), sleep(WHILE_MS)]);
        socket.destroy();
      }
    };
    await Promise.all(Array.from({ length: 30 }, (_, number) => one(number)));
  },

  "subscribe bombs: thousands of filters in a packet": async (world, prefix) => {
    const filters = Array.from({ length: 1_900 }, (_, at) => {
      const filter = Buffer.from(at % 256 === 0 ? "#" : String.fromCharCode(33 + (at % 90)));
      return Buffer.concat([Buffer.from([0, 1]), filter.subarray(0, 1), Buffer.from([at % 3])]);
    });
    const bomb = packetBytes(0x82, Buffer.concat([Buffer.from([0, 7]), ...filters]));
    await crowd(world, prefix, () => bomb);
  },

  "subscriptions made and ended again and again": async (world, prefix) => {
    const topic = "$iothub/methods/POST/#";
    const pair = Buffer.concat([
      mqttPacket.generate({ cmd: "subscribe", messageId: 1, subscriptions: [{ topic, qos: 0 }] }),
      mqttPacket.generate({ cmd: "unsubscribe", messageId: 2, unsubscriptions: [topic] }),
    ]);
    await crowd(world, prefix, () => pair);
  },

  "property bags of 60 KB": async (world, prefix) => {
    const bags = ["&".repeat(60_000), "a&".repeat(30_000), "%".repeat(60_000), "%zz%41".repeat(10_000)];
    const many = Array.from({ length: 7_500 }, (_, at) => `k${at}=${at % 10}`)
      .join("&")
      .slice(0, 60_000);
    const all = [...bags, many, `%24.sub=${"x".repeat(60_000)}`];
    await crowd(world, prefix, (round, leafId) =>
      publishBytes(Buffer.from(`${events(leafId)}${all[round % all.length]}`), Buffer.from("x")),
    );
  },

  "JSON that is deep, wide and long": async (world, prefix) => {
    const wide = `{${Array.from({ length: 20_000 }, (_, at) => `"k${at}":${at % 10}`).join(",")}}`;
    const texts = [
      "[".repeat(250_000),
      '{"a":'.repeat(40_000),
      wide,
      `{"a":"${"\\u0000".repeat(40_000)}"}`,
      `{"a":${"9".repeat(250_000)}}`,
      `{${'"a":1,'.repeat(40_000)}"a":1}`,
      `[${"{},".repeat(80_000)}{}]`,
      `{${Array.from({ length: 20_000 }, (_, at) => `"k${at}":{"__t":"c"}`)
        .join(",")
        .slice(0, 240_000)}}`,
      `{${Array.from({ length: 10_000 }, (_, at) => `"c${at}":{"__t":"c","a":null}`).join(",")}}`,
    ];
    await crowd(world, prefix, (round) =>
      publishBytes(
        Buffer.from(round % 4 === 3 ? `$iothub/methods/res/200/?$rid=${round}` : `${TWIN_REPORT}${round}`),
        Buffer.from(texts[round % texts.length] ?? ""),
      ),
    );
  },

  "keys called __proto__ everywhere": async (world, prefix) => {
    const body = Buffer.from('{"__proto__":{"__t":"c","a":1},"constructor":{"prototype":{"b":2}},"a":{"__proto__":1}}');
    await crowd(world, prefix, (round, leafId) =>
      round % 2 === 0
        ? publishBytes(Buffer.from(`${TWIN_REPORT}__proto__`), body)
        : publishBytes(
            Buffer.from(`${events(leafId)}__proto__=1&%24.__proto__=2&%24.sub=__proto__&constructor=3`),
            body,
          ),
    );
  },

  "invalid UTF-8 in ids, user names, topics and bodies": async (world, prefix) => {
    const bad = Buffer.from([0xff, 0xc0, 0x80, 0xed, 0xa0, 0x80]);
    for (const round of during()) {
      const stranger = world.raw();
      const id = Buffer.concat([Buffer.from(`${prefix}${round}`), bad]);
      const header = Buffer.from([0, 4, 0x4d, 0x51, 0x54, 0x54, 4, 0xc2, 0, 60, 0, id.length]);
      stranger.sendBytes(
        packetBytes(0x10, Buffer.concat([header, id, Buffer.from([0, id.length]), id, Buffer.from([0, 6]), bad])),
      );
      const leaf = await world.leaf(`${prefix}-${round}`);
      leaf.sendBytes(publishBytes(Buffer.from(`${TWIN_REPORT}1`), bad));
      leaf.sendBytes(publishBytes(Buffer.concat([Buffer.from(`${events(`${prefix}-${round}`)}a=`), bad]), bad, 1));
      leaf.sendBytes(publishBytes(Buffer.concat([Buffer.from(TWIN_GET), bad]), bad));
      leaf.sendBytes(publishBytes(Buffer.concat([Buffer.from("devices/"), bad]), bad));
      await sleep(2);
      stranger.cut();
      leaf.cut();
    }
  },

  "topics of 65,535 bytes": async (world, prefix) => {
    const full = (topic: string, filler: string) => Buffer.from(topic + filler.repeat(65_535)).subarray(0, 65_535);
    await crowd(world, prefix, (round, leafId) => {
      const topics = [
        full(TWIN_GET, "r"),
        full(TWIN_REPORT, "r"),
        full(events(leafId), "k=v&"),
        full("$iothub/methods/res/200/?$rid=", "r"),
        full("$iothub/methods/res/200/", "/"),
      ];
      return publishBytes(topics[round % (round > 20 ? topics.length : 2)] ?? Buffer.alloc(0), Buffer.from("{}"));
    });
  },

  "one $rid for everything, and answers to commands that nobody sent": async (world, prefix) => {
    await crowd(world, prefix, (round) =>
      Buffer.concat([
        publishBytes(Buffer.from(`${TWIN_GET}1`), Buffer.from("")),
        publishBytes(Buffer.from(`${TWIN_REPORT}1`), Buffer.from(`{"a":${round}}`)),
        publishBytes(Buffer.from("$iothub/methods/res/200/?$rid=1"), Buffer.from("{}")),
      ]),
    );
  },

  "wills: of other leaves, of any topic, and hundreds of one's own": async (world, prefix) => {
    const one = async (number: number): Promise<void> => {
      for (const round of during()) {
        const leafId = `${prefix}-${number}`;
        const topics = [events(leafId), events("good"), "$iothub/twin/PATCH/properties/reported/?$rid=1", "#", ""];
        const leaf = world.raw();
        leaf.sendBytes(
          world.connectBytes(leafId, {
            will: { topic: topics[round % 4] ?? "", payload: Buffer.from("x".repeat(5_000)), qos: 1, retain: true },
          }),
        );
        await Promise.race([leaf.next("connack").catch(() => undefined), sleep(WHILE_MS)]);
        leaf.cut();
      }
    };
    await Promise.all(Array.from({ length: 5 }, (_, number) => one(number)));
  },

  "takeover storms: five CONNECTs of each of fifty ids at once": async (world, prefix) => {
    const storm = Array.from({ length: 250 }, (_, at) => {
      const leaf = world.raw();
      leaf.sendBytes(world.connectBytes(`${prefix}-${at % 50}`));
      return leaf;
    });
    await sleep(WHILE_MS);
    for (const leaf of storm) leaf.cut();
  },

  "one leaf that comes back again and again to send a burst": async (world, prefix) => {
    const burst = Buffer.concat(
      Array.from({ length: 390 }, () => mqttPacket.generate(publishPacket(events(`${prefix}-burst`), "x", { qos: 0 }))),
    );
    for (const _round of during()) {
      const leaf = world.raw();
      leaf.sendBytes(world.connectBytes(`${prefix}-burst`));
      leaf.sendBytes(burst);
      await Promise.race([leaf.next("connack").catch(() => undefined), sleep(WHILE_MS)]);
      await sleep(2);
      leaf.cut();
    }
  },

  "a leaf that asks and never reads": async (world, prefix) => {
    const leaf = await world.leaf(`${prefix}-deaf`);
    leaf.sendBytes(
      publishBytes(
        Buffer.from(`${TWIN_REPORT}1`),
        Buffer.from(`{"a":"${"x".repeat(4_000)}","b":"${"y".repeat(3_500)}"}`),
      ),
    );
    leaf.stream.pause();
    await pour(leaf, (round) => publishBytes(Buffer.from(`${TWIN_GET}${round}`), Buffer.from("")));
    leaf.cut();
  },

  "packets of 256 KB in pieces of a byte": async (world, prefix) => {
    const leaves = await Promise.all(Array.from({ length: 10 }, (_, number) => world.leaf(`${prefix}-${number}`)));
    const header = packetBytes(0x30, Buffer.alloc(262_144)).subarray(0, 4);
    for (const leaf of leaves) leaf.sendBytes(header);
    for (const _round of during()) {
      for (const leaf of leaves) leaf.sendBytes(Buffer.from([0x61]));
      await sleep(0);
    }
    for (const leaf of leaves) leaf.cut();
  },
};
