/**
 * Stands in for `@daily-co/daily-js`, whose rooms are in Daily's cloud.
 *
 * Written from Daily's reference of daily-js: the call object's methods and events, their order and
 * their payloads, as far as Pipecat's transport and the widget use them. In the room is an agent of
 * a real server, whom the page names in `window.room`: its voice and its messages are those of a
 * call over WebRTC, of which neither the transport nor the widget knows.
 */

import type { DailyCallOptions, DailyFatalErrorType } from "@daily-co/daily-js";

/** The room, as the page makes it and looks at it. */
interface Room {
  /** Where the agent comes from. */
  server: string;
  /** What joining fails with. */
  fails?: DailyFatalErrorType;
  /** The call objects that were made. */
  made?: CallObject[];
}

declare global {
  interface Window {
    room: Room;
  }
}

type Handler = (event: Record<string, unknown>) => void;

const AGENT = "agent";
const LOCAL = "local";

const calls = new Map<string, CallObject>();

class CallObject {
  readonly callClientId = crypto.randomUUID();
  /** What it was joined with. */
  options: DailyCallOptions;
  destroyed = false;

  private readonly handlers = new Map<string, Handler[]>();
  private readonly tracks = new Map<string, MediaStreamTrack>();
  private state = "new";
  private audible = true;
  private peer: RTCPeerConnection | undefined;
  private channel: RTCDataChannel | undefined;
  private pinging: number | undefined;

  constructor(options: DailyCallOptions) {
    this.options = options;
    calls.set(this.callClientId, this);
    (window.room.made ??= []).push(this);
  }

  on(event: string, handler: Handler): this {
    this.handlers.set(event, [...(this.handlers.get(event) ?? []), handler]);
    return this;
  }

  off(event: string, handler: Handler): this {
    const others = (this.handlers.get(event) ?? []).filter((other) => other !== handler);
    this.handlers.set(event, others);
    return this;
  }

  /** Has what happens to a call in Daily's cloud happen to this one. */
  emit(action: string, payload: Record<string, unknown> = {}): void {
    const event = { action, callClientId: this.callClientId, ...payload };
    for (const handler of this.handlers.get(action) ?? []) handler(event);
  }

  /** Ends the call, as Daily does where it cannot or may not go on. */
  fail(type: DailyFatalErrorType): void {
    this.state = "error";
    this.emit("error", { errorMsg: `It failed: ${type}`, error: { type, msg: type } });
    this.hangUp();
  }

  async startCamera(options: DailyCallOptions) {
    this.use(options);
    this.emit("loading");
    this.emit("loaded");
    this.emit("started-camera");
    return { camera: {}, mic: {}, speaker: {} };
  }

  async enumerateDevices() {
    return { devices: await navigator.mediaDevices.enumerateDevices() };
  }

  async setInputDevicesAsync({ audioSource }: { audioSource?: MediaStreamTrack | false }) {
    this.use({ audioSource: audioSource ?? false });
    await this.peer?.getSenders()[0]?.replaceTrack(this.tracks.get(LOCAL) ?? null);
    return { camera: {}, mic: {}, speaker: {} };
  }

  async join(options: DailyCallOptions) {
    this.use(options);
    this.state = "joining-meeting";
    this.emit("joining-meeting");
    const { fails } = window.room;
    const type = options.url && options.token ? fails : "not-allowed";
    if (type) {
      this.fail(type);
      throw { action: "error", errorMsg: `It failed: ${type}`, error: { type, msg: type } };
    }
    this.state = "joined-meeting";
    this.emit("joined-meeting", { participants: this.participants() });
    this.start(LOCAL, this.tracks.get(LOCAL));
    void this.meet();
    return this.participants();
  }

  async room() {
    return { id: "room", name: "room", config: {}, domainConfig: {} };
  }

  participants() {
    const inCall = this.state === "joined-meeting";
    const others = this.tracks.has(AGENT) ? { [AGENT]: this.participant(AGENT) } : {};
    return inCall ? { local: this.participant(LOCAL), ...others } : {};
  }

  localAudio(): boolean {
    return this.audible;
  }

  localVideo(): boolean {
    return false;
  }

  setLocalAudio(audible: boolean): this {
    const track = this.tracks.get(LOCAL);
    if (this.state !== "joined-meeting" || !track) return this;
    this.audible = audible;
    track.enabled = audible;
    const participant = this.participant(LOCAL);
    this.emit(audible ? "track-started" : "track-stopped", { participant, track, type: "audio" });
    this.emit("participant-updated", { participant });
    return this;
  }

  sendAppMessage(data: unknown, to: string): this {
    if (this.state !== "joined-meeting") throw new Error("sendAppMessage() only in a meeting");
    if (to === "*") this.channel?.send(JSON.stringify(data));
    return this;
  }

  isLocalAudioLevelObserverRunning(): boolean {
    return false;
  }

  isRemoteParticipantsAudioLevelObserverRunning(): boolean {
    return false;
  }

  async startLocalAudioLevelObserver(): Promise<void> {}
  async startRemoteParticipantsAudioLevelObserver(): Promise<void> {}
  stopLocalAudioLevelObserver(): void {}
  stopRemoteParticipantsAudioLevelObserver(): void {}

  async leave(): Promise<void> {
    if (this.state === "error" || this.state === "left-meeting") return;
    this.hangUp();
  }

  async destroy(): Promise<void> {
    await this.leave();
    this.destroyed = true;
    this.emit("call-instance-destroyed");
    calls.delete(this.callClientId);
  }

  private use(options: DailyCallOptions): void {
    this.options = { ...this.options, ...options };
    const { audioSource } = this.options;
    if (audioSource instanceof MediaStreamTrack) this.tracks.set(LOCAL, audioSource);
  }

  private participant(id: string) {
    const track = this.tracks.get(id);
    const audio = { state: "playable", subscribed: true, track, persistentTrack: track };
    const local = id === LOCAL;
    return { session_id: id, user_id: id, user_name: id, local, tracks: { audio } };
  }

  private start(id: string, track: MediaStreamTrack | undefined): void {
    if (!track) return;
    this.emit("track-started", { participant: this.participant(id), track, type: "audio" });
    this.tracks.set(id, track);
  }

  /** Lets the agent into the room. */
  private async meet(): Promise<void> {
    const peer = new RTCPeerConnection();
    this.peer = peer;
    peer.addTrack(this.tracks.get(LOCAL) as MediaStreamTrack);
    const channel = peer.createDataChannel("chat", { ordered: true });
    channel.addEventListener("message", ({ data }) => {
      this.emit("app-message", { data: JSON.parse(data as string), fromId: AGENT });
    });
    channel.addEventListener("open", () => {
      this.channel = channel;
      this.pinging = window.setInterval(() => channel.send("ping"), 1000);
      this.emit("participant-joined", { participant: this.participant(AGENT) });
      this.start(AGENT, peer.getReceivers()[0]?.track);
    });
    channel.addEventListener("close", () => {
      if (!this.tracks.delete(AGENT)) return;
      this.emit("participant-left", { participant: this.participant(AGENT) });
    });
    await peer.setLocalDescription();
    while (peer.iceGatheringState !== "complete") {
      await new Promise((resolve) => {
        peer.addEventListener("icegatheringstatechange", resolve, { once: true });
      });
    }
    const { server } = window.room;
    const { sessionId } = await post(`${server}/start`, { transport: "webrtc" });
    const { sdp, type } = peer.localDescription as RTCSessionDescription;
    const answer = await post(`${server}/sessions/${sessionId}/api/offer`, { sdp, type });
    await peer.setRemoteDescription({ sdp: answer.sdp ?? "", type: "answer" });
  }

  private hangUp(): void {
    window.clearInterval(this.pinging);
    this.peer?.close();
    this.tracks.clear();
    if (this.state !== "error") this.state = "left-meeting";
    this.emit("left-meeting");
  }
}

async function post(url: string, body: object): Promise<Record<string, string>> {
  const headers = { "Content-Type": "application/json" };
  return (await fetch(url, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

export default {
  createCallObject: (options: DailyCallOptions) => new CallObject(options),
  getCallInstance: (id: string) => calls.get(id),
};
