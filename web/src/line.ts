import type { Transport } from "@pipecat-ai/client-js";

import type { Microphone } from "./media";
import type { Outcome, Problem } from "./problems";

/** What carries a call: Pipecat's transport, and what it has no common way to. */
export interface Line {
  /** As `POST /start` calls it. */
  readonly name: "webrtc" | "daily";
  readonly transport: Transport;
  /** Whether the connection is interrupted, and is being taken up again. */
  readonly interrupted: boolean;

  /**
   * What the transport connects to.
   *
   * @param answer - The body that `POST /start` was answered with.
   * @param address - The server's.
   * @returns Undefined where the answer does not say.
   */
  target(answer: unknown, address: string): unknown;

  /** Why the call did not come about, from what the transport threw. */
  explain(error: unknown): Promise<Problem>;

  /**
   * Turns to the connection that there is now, which may be another one than before.
   *
   * @returns The agent's voice, once there is one.
   */
  follow(): MediaStreamTrack | undefined;

  /** Sends the track that the microphone has now. */
  replaceMicrophone(): void;

  /** The connection's counters, where it shows them. */
  stats(): Promise<RTCStatsReport | undefined>;

  /** Lets go of what is left after the transport has disconnected. */
  close(): void;
}

/** What a line tells its call. */
export interface LineEvents {
  /** The agent's voice, or the state of the connection, may be another one than before. */
  changed(): void;
  /** The call is over, unless the bot has already said why. */
  ended(outcome: Outcome): void;
}

/** Makes a line, for a microphone that is open. */
export type OpenLine = (microphone: Microphone, events: LineEvents) => Line | Promise<Line>;
