import { SmallWebRTCTransport } from "@pipecat-ai/small-webrtc-transport";

import type { Line, LineEvents, OpenLine } from "./line";
import type { Microphone } from "./media";
import { NO_ANSWER, type Problem } from "./problems";
import { readStart } from "./protocol";
import { refusal, unreached } from "./session";

/** A connection between the page and the server, with nobody in between. */
export class WebRtcLine implements Line {
  readonly name = "webrtc";
  readonly transport: SmallWebRTCTransport;

  private address = "";
  private followed: RTCPeerConnection | undefined;

  constructor(
    private readonly microphone: Microphone,
    private readonly events: LineEvents,
  ) {
    this.transport = new SmallWebRTCTransport({ mediaManager: microphone });
  }

  get interrupted(): boolean {
    return !["connected", "completed"].includes(this.peer?.iceConnectionState ?? "");
  }

  target(answer: unknown, address: string): unknown {
    const start = readStart(answer);
    if (!start) return undefined;
    this.address = address;
    const endpoint = `${address}/sessions/${encodeURIComponent(start.sessionId)}/api/offer`;
    return {
      webrtcRequestParams: { endpoint },
      iceConfig: { iceServers: start.iceServers },
    };
  }

  async explain(error: unknown): Promise<Problem> {
    const { cause } = error as { cause?: unknown };
    if (cause instanceof Response) return refusal(cause);
    if (cause instanceof TypeError) return unreached(this.address);
    return NO_ANSWER;
  }

  // The transport tells of the agent's track on the first connection, and not on one that takes
  // its place.
  follow(): MediaStreamTrack | undefined {
    const { peer } = this;
    const receivers = peer?.getReceivers() ?? [];
    if (peer && peer !== this.followed) {
      this.followed = peer;
      peer.addEventListener("iceconnectionstatechange", () => this.events.changed());
      this.events.changed();
    }
    for (const receiver of receivers) {
      // The browser's own choice grows with every stall and shrinks only slowly.
      if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
    }
    return receivers.find((receiver) => receiver.track.kind === "audio")?.track;
  }

  replaceMicrophone(): void {
    const sender = this.peer?.getTransceivers()[0]?.sender;
    void sender?.replaceTrack(this.microphone.tracks().local.audio ?? null);
  }

  async stats(): Promise<RTCStatsReport | undefined> {
    return this.peer?.getStats().catch(() => undefined);
  }

  close(): void {}

  /** The transport's peer connection; it has no public way to its statistics and its senders. */
  private get peer(): RTCPeerConnection | undefined {
    return (this.transport as unknown as { pc: RTCPeerConnection | null }).pc ?? undefined;
  }
}

export const openWebRtc: OpenLine = (microphone, events) => new WebRtcLine(microphone, events);
