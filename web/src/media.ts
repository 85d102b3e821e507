import type { PipecatClientOptions, RTVIEventCallbacks, Tracks } from "@pipecat-ai/client-js";

import { insecureContext, microphoneProblem, type Problem, ProblemError } from "./problems";

/** With the browser's echo canceller, so that the agent does not hear itself. */
const CONSTRAINTS: MediaTrackConstraints = {
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
  channelCount: 1,
};

type NoDevice = Record<string, never>;

/**
 * The microphone, for whatever line it is sent over, and with what SmallWebRTCTransport asks of a
 * media manager, on plain `getUserMedia`.
 *
 * The transport's own manager is Daily's, which loads code from a CDN. This one has the members
 * that the transport calls (`MediaManager` in `@pipecat-ai/transport-lib`); there is no camera, no
 * screen share and no choice of speaker.
 */
export class Microphone {
  readonly supportsScreenShare = false;
  readonly isCamEnabled = false;
  readonly isSharingScreen = false;
  readonly selectedCam: NoDevice = {};
  readonly selectedSpeaker: NoDevice = {};

  private callbacks: RTVIEventCallbacks = {};
  private enabled = true;
  private source: MediaStreamTrack | undefined;
  private clones: MediaStreamTrack[] = [];
  private deviceId: string | undefined;
  private closed = false;

  /**
   * @param onReplaced - Called when another track takes the microphone's place during a call,
   *   because the device was changed or unplugged.
   * @param onGone - Called when it has gone, and there is no other.
   */
  constructor(
    private readonly onReplaced: () => void,
    private readonly onGone: (problem: Problem) => void,
  ) {}

  /** The microphone itself, which stays the same whatever connection carries it. */
  get track(): MediaStreamTrack | undefined {
    return this.source;
  }

  get isMicEnabled(): boolean {
    return this.enabled;
  }

  get selectedMic(): MediaDeviceInfo | NoDevice {
    if (!this.source) return {};
    return {
      deviceId: this.source.getSettings().deviceId ?? "default",
      groupId: this.source.getSettings().groupId ?? "",
      kind: "audioinput",
      label: this.source.label,
      toJSON() {
        return this;
      },
    };
  }

  setClientOptions(options: PipecatClientOptions): void {
    this.callbacks = options.callbacks ?? {};
    this.enabled = options.enableMic ?? true;
  }

  /**
   * Opens the microphone; the browser asks the caller where it must.
   *
   * @throws ProblemError with what the caller can do about it.
   */
  async initialize(): Promise<void> {
    if (this.closed || this.source?.readyState === "live") return;
    // Browsers leave `mediaDevices` out of pages that are neither https nor localhost.
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new ProblemError(insecureContext(location.origin));
    }
    await this.open();
  }

  async connect(): Promise<void> {
    await this.initialize();
  }

  /** Lets go of it for good, also of one that the browser is still asking the caller for. */
  async disconnect(): Promise<void> {
    this.closed = true;
    this.source?.stop();
    this.source = undefined;
    this.stopClones();
  }

  /**
   * The track to send.
   *
   * The transport stops the track of a peer connection that it replaces, after it has put the same
   * track on the next one: whoever asks gets a clone, and the microphone survives a reconnection.
   */
  tracks(): Tracks {
    const clone = () => this.clone();
    return {
      local: {
        get audio() {
          return clone();
        },
      } as Tracks["local"],
    };
  }

  enableMic(enable: boolean): void {
    this.enabled = enable;
    for (const track of [this.source, ...this.clones]) {
      if (track) track.enabled = enable;
    }
  }

  async updateMic(deviceId: string): Promise<void> {
    this.deviceId = deviceId || undefined;
    await this.open();
    this.onReplaced();
  }

  async getAllMics(): Promise<MediaDeviceInfo[]> {
    const devices = await navigator.mediaDevices.enumerateDevices();
    return devices.filter((device) => device.kind === "audioinput");
  }

  async getAllCams(): Promise<MediaDeviceInfo[]> {
    return [];
  }

  async getAllSpeakers(): Promise<MediaDeviceInfo[]> {
    return [];
  }

  enableCam(): void {}
  enableScreenShare(): void {}
  updateCam(): void {}
  updateSpeaker(): void {}

  /** Other transports hand audio to their media manager; WebRTC plays and interrupts it itself. */
  async userStartedSpeaking(): Promise<void> {}
  bufferBotAudio(): undefined {}
  setUserAudioCallback(): void {}

  private async open(): Promise<void> {
    const audio: MediaTrackConstraints = { ...CONSTRAINTS };
    if (this.deviceId) audio.deviceId = { exact: this.deviceId };
    let stream: MediaStream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      throw new ProblemError(microphoneProblem(error));
    }
    const track = stream.getAudioTracks()[0];
    if (!track) throw new ProblemError(microphoneProblem(undefined));
    if (this.closed) {
      track.stop();
      return;
    }
    this.source?.stop();
    this.stopClones();
    track.enabled = this.enabled;
    track.addEventListener("ended", () => void this.reopen(track));
    this.source = track;
    this.callbacks.onMicUpdated?.(this.selectedMic as MediaDeviceInfo);
  }

  /** Turns to the system's default microphone when the one in use has gone, or to the next one. */
  private async reopen(gone: MediaStreamTrack): Promise<void> {
    if (gone !== this.source) return;
    this.deviceId = undefined;
    try {
      await this.open();
    } catch (error) {
      if (this.closed) return;
      const again = () => void this.reopen(gone);
      navigator.mediaDevices.addEventListener("devicechange", again, { once: true });
      this.onGone((error as ProblemError).problem);
      return;
    }
    if (!this.closed) this.onReplaced();
  }

  private clone(): MediaStreamTrack | undefined {
    if (!this.source) return undefined;
    const clone = this.source.clone();
    clone.enabled = this.enabled;
    this.clones = this.clones.filter((other) => other.readyState === "live");
    this.clones.push(clone);
    return clone;
  }

  private stopClones(): void {
    for (const clone of this.clones) clone.stop();
    this.clones = [];
  }
}
