import { describe, expect, it } from "vitest";
import { CommandDesk } from "../../../src/upstream/command-desk.ts";
import { RecordingLog } from "../../support/recording-log.ts";
import { RecordingHub, until } from "../../support/upstream-harness.ts";

class Response {
  readonly sent: [status: number, payload: unknown][] = [];
  error: Error | undefined;

  send(status: number, payload: unknown, done: (error?: Error) => void): void {
    this.sent.push([status, payload]);
    done(this.error);
  }
}

describe("CommandDesk", () => {
  it("answers once, with null for a payload that is not there", async () => {
    const hub = new RecordingHub();
    const response = new Response();
    new CommandDesk({ hub, log: new RecordingLog() }).take(
      { requestId: "1", methodName: "a*b", payload: undefined },
      response,
    );
    await until("the answer", () => response.sent.length === 1);
    expect(response.sent).toEqual([[200, { got: null }]]);
  });

  it("answers 500 for a handler that throws before it returns a promise", async () => {
    const hub = new RecordingHub();
    hub.answer = () => {
      throw new Error("a defect");
    };
    const response = new Response();
    new CommandDesk({ hub, log: new RecordingLog() }).take({ requestId: "1", methodName: "a", payload: 1 }, response);
    await until("the answer", () => response.sent.length === 1);
    expect(response.sent[0]?.[0]).toBe(500);
  });

  it("logs an answer that cannot be sent and goes on", async () => {
    const log = new RecordingLog();
    const response = new Response();
    response.error = new Error("not connected");
    new CommandDesk({ hub: new RecordingHub(), log }).take({ requestId: "1", methodName: "a", payload: 1 }, response);
    await until("the log", () => log.lines.length === 1);
    expect(log.lines[0]?.level).toBe("error");
  });

  it("sends nothing on a connection that is gone", async () => {
    const hub = new RecordingHub();
    let release = (): void => undefined;
    hub.answer = () =>
      new Promise((resolve) => {
        release = () => resolve({ status: 200, payload: 1 });
      });
    const desk = new CommandDesk({ hub, log: new RecordingLog() });
    const lost = new Response();
    desk.take({ requestId: "1", methodName: "a", payload: 1 }, lost);
    desk.abort("the link is gone");
    expect(hub.commands[0]?.signal.aborted).toBe(true);
    release();
    hub.answer = async () => ({ status: 201, payload: 2 });
    const next = new Response();
    desk.take({ requestId: "2", methodName: "b", payload: 1 }, next);
    await until("the next answer", () => next.sent.length === 1);
    expect(lost.sent).toEqual([]);
  });

  it("runs a call that comes twice once, and another call of the same name", async () => {
    const hub = new RecordingHub();
    let release = (): void => undefined;
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    hub.answer = async () => {
      await released;
      return { status: 200, payload: null };
    };
    const desk = new CommandDesk({ hub, log: new RecordingLog() });
    const [first, again, other] = [new Response(), new Response(), new Response()];
    desk.take({ requestId: "1", methodName: "a", payload: 1 }, first);
    desk.take({ requestId: "1", methodName: "a", payload: 1 }, again);
    desk.take({ requestId: "2", methodName: "a", payload: 1 }, other);
    release();
    await until("both answers", () => first.sent.length + other.sent.length === 2);
    expect(again.sent).toEqual([]);
    expect(hub.commands).toHaveLength(2);
  });

  it.each([2 ** 31, -(2 ** 31), Number.MAX_SAFE_INTEGER, Number.POSITIVE_INFINITY])(
    "answers 500 for the status %s, which edgeHub cannot read",
    async (status) => {
      const hub = new RecordingHub();
      hub.answer = async () => ({ status, payload: null });
      const response = new Response();
      new CommandDesk({ hub, log: new RecordingLog() }).take({ requestId: "1", methodName: "a", payload: 1 }, response);
      await until("the answer", () => response.sent.length === 1);
      expect(response.sent[0]?.[0]).toBe(500);
    },
  );
});
