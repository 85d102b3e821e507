/**
 * `widget-daily.js`: what the widget needs of Daily, loaded by those who call in a Daily room.
 *
 * Daily's events and errors are as in its document "daily-js".
 */

import Daily, { type DailyCall, type DailyEventObjectFatalError } from "@daily-co/daily-js";
import { LogLevel, logger } from "@pipecat-ai/client-js";
import { DailyTransport } from "@pipecat-ai/daily-transport";

import type { Line, LineEvents } from "../line";
import type { Microphone } from "../media";
import { farewell, LOST, type Outcome, type Problem, refused } from "../problems";
import { readRoom } from "../protocol";

// This file has a copy of the client's code of its own.
logger.setLevel(LogLevel.ERROR);

/** A place in a Daily room. */
export class DailyLine implements Line {
  readonly name = "daily";
  readonly transport: DailyTransport;

  private readonly daily: DailyCall;
  private readonly id: string;
  /** What does not get through now. */
  private readonly lost = new Set<"media" | "messages">();
  private joined = false;
  private voice: MediaStreamTrack | undefined;

  constructor(
    private readonly microphone: Microphone,
    events: LineEvents,
  ) {
    this.transport = new DailyTransport({
      audioSource: this.source,
      videoSource: false,
      dailyConfig: {
        // Daily's code then comes as a script, which a page's policy can allow by its address.
        avoidEval: true,
        // The cookies would be the page's.
        useDevicePreferenceCookies: false,
      },
    });
    this.daily = this.transport.dailyCallClient;
    this.id = this.daily.callClientId;
    this.daily.on("joined-meeting", () => {
      this.joined = true;
    });
    this.daily.on("track-started", ({ participant, track, type }) => {
      if (participant?.local !== false || type !== "audio") return;
      this.voice = track;
      events.changed();
    });
    this.daily.on("network-connection", ({ type, event }) => {
      // Media may come back over another kind of connection than they were lost on.
      const what = type === "signaling" ? "messages" : "media";
      if (event === "interrupted") this.lost.add(what);
      else this.lost.delete(what);
      events.changed();
    });
    this.daily.on("error", (error) => events.ended(outcomeOf(error, this.joined)));
  }

  get interrupted(): boolean {
    return this.lost.size > 0;
  }

  target(answer: unknown): unknown {
    return readRoom(answer);
  }

  async explain(error: unknown): Promise<Problem> {
    const said = (error as { errorMsg?: unknown } | undefined)?.errorMsg;
    return declined(typeof said === "string" ? said : "");
  }

  follow(): MediaStreamTrack | undefined {
    return this.voice;
  }

  replaceMicrophone(): void {
    void this.daily.setInputDevicesAsync({ audioSource: this.source });
  }

  async stats(): Promise<undefined> {}

  close(): void {
    // The transport keeps its call object, and lets nobody destroy it through its own reference.
    void Daily.getCallInstance(this.id)?.destroy();
  }

  private get source(): MediaStreamTrack | false {
    return this.microphone.tracks().local.audio ?? false;
  }
}

/** What an error means that ends a call. */
function outcomeOf({ error, errorMsg }: DailyEventObjectFatalError, joined: boolean): Outcome {
  switch (error?.type) {
    case "ejected":
      return { failed: false, problem: farewell("") };
    case "exp-room":
    case "exp-token":
      if (joined) return { failed: false, problem: farewell("max-length") };
      break;
    case "meeting-full":
      return { failed: true, problem: refused(503, errorMsg, null) };
    case "connection-error":
      return { failed: true, problem: joined ? LOST : unreached(errorMsg) };
  }
  return { failed: true, problem: declined(errorMsg) };
}

function declined(message: string): Problem {
  return { ...refused(0, message || "It did not say why", null), title: "Daily refused the call" };
}

function unreached(message: string): Problem {
  return {
    code: "unreachable",
    title: "Daily cannot be reached",
    advice:
      `${message}. The network may hold it back, or this page's Content-Security-Policy: the ` +
      "widget's document says what that has to allow.",
  };
}
