import {
  LogLevel,
  logger,
  PipecatClient,
  type RTVIMessage,
} from "@pipecat-ai/client-js";

import { readCounters, type Waterfall, type WireCounters, waterfall, wireDelay } from "./latency";
import { Level } from "./levels";
import type { Line, OpenLine } from "./line";
import { Microphone } from "./media";
import { Playback } from "./playback";
import {
  farewell,
  LOST,
  NO_ANSWER,
  NOT_SENT,
  type Outcome,
  type Problem,
  ProblemError,
  refused,
  SOUND_LOCKED,
} from "./problems";
import {
  readAwake,
  readBotOutput,
  readCallEnded,
  readError,
  readTurnLatency,
  readUserInput,
  readVoiceState,
  type VoiceState,
} from "./protocol";
import { openSession, OWN_SERVER } from "./session";
import { Transcript, type Turn } from "./transcript";

logger.setLevel(LogLevel.ERROR);

/** What a call is doing: getting there, whose move it is, or waiting for the wake word. */
export type Phase =
  "microphone" | "connecting" | "reconnecting" | "asleep" | "listening" | "thinking" | "speaking";

/** What a call tells the page. */
export interface CallEvents {
  phase(phase: Phase): void;
  /** A turn has come or has changed. */
  turn(turn: Turn): void;
  latency?(waterfall: Waterfall): void;
  /** The voices that there are, or the one that the agent has, may be others than before. */
  voices?(state: VoiceState): void;
  /** Something went wrong, and the call goes on; undefined when it is well again. */
  notice(problem: Problem | undefined): void;
  ended(outcome: Outcome): void;
}

/** How long it may take to get a line, and from there until the bot says that it is ready, in ms. */
const READY_TIMEOUT = 20_000;

/** For how long a connection that broke is tried to be taken up again, in ms. */
const RECONNECT_TIMEOUT = 20_000;

/** How long the server may take to close a call that it has announced to be over, in ms. */
const CLOSE_TIMEOUT = 2_000;

/** For how long a turn that comes to nothing is shown as being thought about, in ms. */
const THINKING_TIMEOUT = 12_000;

/** What browsers take for a gesture, of a mouse or a finger and of a keyboard. */
const GESTURES = ["pointerup", "keydown"];

/** How often the connection's counters are read, in ms. */
const STATS_INTERVAL = 1_000;

/**
 * The Pipecat client with an ear for every RTVI message.
 *
 * Version 1.13 knows neither `bot-interrupted` nor `user-input`, and drops what it does not know.
 */
class RtviClient extends PipecatClient {
  onMessage: ((type: string, data: unknown) => void) | undefined;

  protected override handleMessage(message: RTVIMessage): void {
    this.onMessage?.(message.type, message.data);
    super.handleMessage(message);
  }
}

/** What comes of something that has {@link READY_TIMEOUT} to be done. */
async function inTime<T>(done: Promise<T>): Promise<T> {
  let timer: number | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = window.setTimeout(() => reject(new ProblemError(NO_ANSWER)), READY_TIMEOUT);
  });
  try {
    return await Promise.race([done, timeout]);
  } finally {
    window.clearTimeout(timer);
  }
}

/** One call from this page, from the press of the button until it is over. */
export class Call {
  readonly transcript = new Transcript();
  readonly micLevel: Level;
  readonly agentLevel: Level;

  private readonly audio: AudioContext;
  private readonly microphone: Microphone;
  private readonly playback: Playback;
  private readonly abort = new AbortController();

  private line: Line | undefined;
  private client: RtviClient | undefined;
  /** The agent's voice. */
  private voice: MediaStreamTrack | undefined;
  private connected = false;
  private speaking = false;
  private thinking = false;
  private asleep = false;
  private over = false;
  /** What the bot gave as the reason for the end that is coming. */
  private announced: Outcome | undefined;
  private thinkingTimer: number | undefined;
  private statsTimer: number | undefined;
  private reconnectTimer: number | undefined;
  private counters: WireCounters[] = [];

  /**
   * To be made in the handler of a gesture of the caller, or browsers keep the audio suspended.
   *
   * @param element - Plays the agent's voice.
   * @param events - Is told what happens.
   * @param server - Who is called.
   */
  constructor(
    element: HTMLAudioElement,
    private readonly events: CallEvents,
    private readonly server = OWN_SERVER,
  ) {
    this.audio = new AudioContext({ latencyHint: "interactive" });
    this.micLevel = new Level(this.audio);
    this.agentLevel = new Level(this.audio);
    this.playback = new Playback(element, this.agentLevel);
    this.microphone = new Microphone(
      () => {
        this.micLevel.listen(this.microphone.track);
        this.line?.replaceMicrophone();
        this.events.notice(undefined);
      },
      (problem) => this.events.notice(problem),
    );
  }

  /** Whether the caller is heard. */
  get muted(): boolean {
    return !this.microphone.isMicEnabled;
  }

  set muted(muted: boolean) {
    this.microphone.enableMic(!muted);
    this.client?.enableMic(!muted);
  }

  /**
   * Opens the microphone, asks the server for a session, and connects to it.
   *
   * @param openLine - Makes what carries the call.
   * @param voice - Resolves to the voice that the agent shall speak with, or undefined for its own.
   */
  async start(openLine: OpenLine, voice?: Promise<string | undefined>): Promise<void> {
    try {
      this.events.phase("microphone");
      await this.microphone.initialize();
      if (this.over) return;
      this.micLevel.listen(this.microphone.track);
      this.events.phase("connecting");
      const line = await openLine(this.microphone, {
        changed: () => this.lineChanged(),
        ended: (outcome) => this.end(this.announced ?? outcome),
      });
      if (this.over) {
        line.close();
        return;
      }
      this.line = line;
      this.client = this.attach(line);
      await this.connect(line, this.client, voice);
      if (this.over) return;
      this.connected = true;
      this.statsTimer = window.setInterval(() => void this.readStats(), STATS_INTERVAL);
      this.showPhase();
    } catch (error) {
      const problem = error instanceof ProblemError ? error.problem : NO_ANSWER;
      this.end({ failed: true, problem });
    }
  }

  /** Ends the call. */
  hangUp(): void {
    this.end({ failed: false, problem: farewell("hangup", undefined) });
  }

  /** Says something in writing; the agent stops and answers. */
  async sendText(text: string): Promise<void> {
    if (!this.client) throw new ProblemError(NOT_SENT);
    await this.client.sendText(text, { run_immediately: true, audio_response: true });
  }

  /**
   * Has the agent speak with another voice from its next sentence on.
   *
   * @returns The name of the voice that it speaks with then.
   * @throws ProblemError if the bot refuses.
   */
  async setVoice(voice: string): Promise<string> {
    try {
      if (!this.client) throw new ProblemError(NOT_SENT);
      const answer = await this.client.sendClientRequest("set-voice", { voice });
      const name = (answer as { voice?: unknown } | undefined)?.voice;
      return typeof name === "string" ? name : voice;
    } catch (error) {
      const detail = readError((error as Partial<RTVIMessage> | undefined)?.data);
      throw new ProblemError({
        code: "voice",
        title: "The voice could not be changed",
        advice: detail || "The agent did not answer.",
      });
    }
  }

  /** Reads both meters; to be called with every drawn frame, with its time in milliseconds. */
  readLevels(now: number): { mic: number; agent: number } {
    this.playback.listen(now);
    const agent = this.agentLevel.read(now);
    return { mic: this.micLevel.read(now), agent: this.playback.silenced ? 0 : agent };
  }

  // The connection

  private attach(line: Line): RtviClient {
    const client = new RtviClient({
      transport: line.transport,
      enableMic: this.microphone.isMicEnabled,
      callbacks: {
        onTrackStarted: () => void this.follow(),
        onBotDisconnected: () => {
          this.announced ??= { failed: false, problem: farewell("") };
        },
        onDisconnected: () => this.disconnected(),
      },
    });
    client.onMessage = (type, data) => this.receive(type, data);
    return client;
  }

  private async connect(
    line: Line,
    client: RtviClient,
    voice: Promise<string | undefined> | undefined,
  ): Promise<void> {
    try {
      await inTime(client.initDevices());
      if (this.over) return;
      const chosen = await voice;
      const request = { transport: line.name, body: chosen ? { voice: chosen } : {} };
      const answer = await openSession(this.server, request, this.abort.signal);
      if (this.over) return;
      const target = line.target(answer, this.server.address);
      if (!target) throw new ProblemError(refused(200, "", null));
      await inTime(client.connect(target));
    } catch (error) {
      throw error instanceof ProblemError ? error : new ProblemError(await line.explain(error));
    }
  }

  private lineChanged(): void {
    void this.follow();
    this.showPhase();
  }

  /** Turns to the agent's voice, when it comes over another track than before. */
  private async follow(): Promise<void> {
    const track = this.line?.follow();
    if (this.over || !track || track === this.voice) return;
    this.voice = track;
    this.counters = [];
    this.agentLevel.listen(track);
    if ((await this.playback.play(track)) || this.over) return;
    this.events.notice(SOUND_LOCKED);
    const { signal } = this.abort;
    for (const gesture of GESTURES) {
      // Before anything on the page can stop it.
      addEventListener(gesture, this.unlockSound, { capture: true, signal });
    }
  }

  /** Starts the sound that the browser held back. */
  private readonly unlockSound = async (): Promise<void> => {
    void this.audio.resume();
    if (!this.voice || !(await this.playback.play(this.voice)) || this.over) return;
    for (const gesture of GESTURES) removeEventListener(gesture, this.unlockSound, true);
    this.events.notice(undefined);
  };

  private async hangUpLine(): Promise<void> {
    try {
      await this.client?.disconnect();
    } catch {
      // The call is over either way; what is left of it goes with the page.
    }
    this.line?.close();
  }

  private disconnected(): void {
    if (this.over || !(this.connected || this.announced)) return;
    this.end(this.announced ?? { failed: true, problem: LOST });
  }

  private end(outcome: Outcome): void {
    if (this.over) return;
    this.over = true;
    window.clearInterval(this.statsTimer);
    window.clearTimeout(this.thinkingTimer);
    window.clearTimeout(this.reconnectTimer);
    this.abort.abort();
    this.playback.stop();
    void this.hangUpLine();
    void this.microphone.disconnect();
    void this.audio.close();
    this.events.ended(outcome);
  }

  // The conversation

  private receive(type: string, data: unknown): void {
    if (this.over) return;
    switch (type) {
      case "user-started-speaking":
        this.think(false);
        break;
      case "user-stopped-speaking":
      case "bot-llm-started":
        this.think(true);
        break;
      case "user-input": {
        const input = readUserInput(data);
        if (input) this.events.turn(this.transcript.hearCaller(input));
        break;
      }
      case "bot-output": {
        const segment = readBotOutput(data);
        if (segment) this.events.turn(this.transcript.hearAgent(segment, performance.now()));
        break;
      }
      case "bot-started-speaking":
        this.speaking = true;
        this.transcript.agentStarted();
        this.playback.resume();
        this.think(false);
        break;
      case "bot-stopped-speaking":
        this.speaking = false;
        this.transcript.agentStopped(performance.now());
        this.showPhase();
        break;
      case "bot-interrupted":
        this.interrupted();
        break;
      case "server-message":
        void this.serverMessage(data);
        break;
      case "error":
        this.failed(readError(data), (data as { fatal?: unknown } | undefined)?.fatal === true);
        break;
    }
  }

  /** The bot reports every start of a turn of the caller, whether or not the agent was speaking. */
  private interrupted(): void {
    const now = performance.now();
    const audible = this.playback.audible(now);
    if (audible || this.speaking) this.playback.silence();
    const cut = this.transcript.interrupt(this.speaking && audible);
    this.speaking = false;
    this.transcript.agentStopped(now);
    if (cut) this.events.turn(cut);
    this.showPhase();
  }

  private async serverMessage(data: unknown): Promise<void> {
    const ended = readCallEnded(data);
    if (ended) {
      this.announced = {
        failed: ended.reason === "error",
        problem: farewell(ended.reason),
      };
      window.setTimeout(() => this.disconnected(), CLOSE_TIMEOUT);
      return;
    }
    const voices = readVoiceState(data);
    if (voices) this.events.voices?.(voices);
    const awake = readAwake(data);
    if (awake !== undefined) {
      this.asleep = !awake;
      this.showPhase();
    }
    const latency = readTurnLatency(data);
    if (!latency) return;
    await this.readStats();
    const now = this.counters[this.counters.length - 1];
    const wire = now && wireDelay(this.counters[0], now);
    if (!this.over) this.events.latency?.(waterfall(latency, wire));
  }

  private failed(detail: string, fatal: boolean): void {
    if (fatal) {
      this.announced = { failed: true, problem: farewell("error", detail) };
      return;
    }
    this.events.notice({
      code: "error",
      title: "Something went wrong",
      advice: detail || "The agent reported an error.",
    });
  }

  private think(thinking: boolean): void {
    this.thinking = thinking;
    window.clearTimeout(this.thinkingTimer);
    if (thinking) {
      this.thinkingTimer = window.setTimeout(() => this.think(false), THINKING_TIMEOUT);
    }
    this.showPhase();
  }

  private showPhase(): void {
    if (this.over || !this.connected) return;
    if (this.line?.interrupted) {
      this.reconnectTimer ??= window.setTimeout(() => this.disconnected(), RECONNECT_TIMEOUT);
      this.events.phase("reconnecting");
      return;
    }
    window.clearTimeout(this.reconnectTimer);
    this.reconnectTimer = undefined;
    if (this.speaking) this.events.phase("speaking");
    else if (this.thinking) this.events.phase("thinking");
    else this.events.phase(this.asleep ? "asleep" : "listening");
  }

  /** Keeps the counters of the last few seconds, the oldest first. */
  private async readStats(): Promise<void> {
    void this.follow();
    const report = await this.line?.stats();
    if (!report || this.over) return;
    this.counters.push(readCounters(report.values()));
    if (this.counters.length > 4) this.counters.shift();
  }
}
