import { ask } from "./api";

/** Bytes before the samples: the server writes RIFF, one format chunk and one data chunk. */
const HEADER = 44;
/** Bytes of one sample of both sides, 16 bits each. */
const FRAME = 4;
/** How much is fetched at once, and how much of it is in hand while it plays, in seconds. */
const PIECE = 8;
const AHEAD = 10;

/** Plays a call's two channels, of which it fetches what it needs. */
export class Player {
  /** Called when it begins or ends to play, with what went wrong if something did. */
  onchange: (problem?: unknown) => void = () => {};
  private context: AudioContext | undefined;
  private splitter: ChannelSplitterNode | undefined;
  private readonly gains: GainNode[] = [];
  private readonly heard = [true, true];
  private readonly sources = new Set<AudioBufferSourceNode>();
  private position = 0;
  private startedAt = 0;
  private next = 0;
  private nextAt = 0;
  /** Counts plays and pauses, so that what was fetched for an earlier one is not played. */
  private run = 0;
  private timer: number | undefined;

  constructor(
    private readonly id: string,
    readonly seconds: number,
  ) {}

  get playing(): boolean {
    return this.timer !== undefined;
  }

  private get ended(): boolean {
    return this.position >= this.seconds - 0.05;
  }

  /** Where it is, in seconds into the call. */
  get time(): number {
    if (!this.playing || !this.context) return this.position;
    const gone = Math.max(0, this.context.currentTime - this.startedAt);
    return Math.min(this.seconds, this.position + gone);
  }

  /** Goes to a time, and goes on playing if it does and there is more to play. */
  seek(time: number): void {
    const playing = this.playing;
    if (playing) this.stop();
    this.position = Math.min(this.seconds, Math.max(0, time));
    if (!playing) return;
    if (this.ended) this.onchange();
    else void this.play();
  }

  /** Lets one side be heard, or not. */
  hear(channel: 0 | 1, on: boolean): void {
    this.heard[channel] = on;
    const gain = this.gains[channel];
    if (gain) gain.gain.value = on ? 1 : 0;
  }

  pause(): void {
    this.position = this.time;
    this.stop();
    this.onchange();
  }

  async play(): Promise<void> {
    if (this.playing) return;
    if (this.ended) this.position = 0;
    const run = ++this.run;
    this.timer = window.setInterval(() => this.tick(), 100);
    this.next = this.position;
    this.startedAt = Number.POSITIVE_INFINITY;
    this.onchange();
    try {
      await this.open();
      await this.context?.resume();
      while (run === this.run && this.next < this.seconds - 0.01) {
        await this.fetchNext(run);
        while (run === this.run && this.next - this.time > AHEAD) {
          await new Promise((resolve) => setTimeout(resolve, 250));
        }
      }
    } catch (problem) {
      if (run !== this.run) return;
      this.stop();
      this.onchange(problem);
    }
  }

  private tick(): void {
    if (this.time >= this.seconds - 0.01) {
      this.position = this.seconds;
      this.stop();
      this.onchange();
    }
  }

  private stop(): void {
    this.run += 1;
    clearInterval(this.timer);
    this.timer = undefined;
    for (const source of this.sources) source.stop();
    this.sources.clear();
  }

  /** Reads the rate from the file's header, and sets up the sound. */
  private async open(): Promise<void> {
    if (this.context) return;
    const header = new DataView(await this.bytes(0, HEADER));
    const context = new AudioContext({ sampleRate: header.getUint32(24, true) });
    const splitter = context.createChannelSplitter(2);
    for (const channel of [0, 1] as const) {
      const gain = context.createGain();
      gain.gain.value = this.heard[channel] ? 1 : 0;
      splitter.connect(gain, channel).connect(context.destination);
      this.gains.push(gain);
    }
    this.context = context;
    this.splitter = splitter;
  }

  private async fetchNext(run: number): Promise<void> {
    const { context, splitter } = this;
    if (!context || !splitter) return;
    const rate = context.sampleRate;
    const first = Math.round(this.next * rate);
    // The first piece is short, so that it is heard soon.
    const length = this.startedAt === Number.POSITIVE_INFINITY ? 1 : PIECE;
    const from = HEADER + first * FRAME;
    const samples = new Int16Array(await this.bytes(from, from + Math.round(length * rate) * FRAME));
    if (run !== this.run) return;
    const count = Math.floor(samples.length / 2);
    if (!count) {
      this.next = this.seconds;
      return;
    }
    const buffer = context.createBuffer(2, count, rate);
    for (const channel of [0, 1]) {
      const out = buffer.getChannelData(channel);
      for (let i = 0; i < count; i += 1) out[i] = (samples[2 * i + channel] ?? 0) / 32768;
    }
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(splitter);
    source.onended = () => this.sources.delete(source);
    this.sources.add(source);
    const soon = context.currentTime + 0.02;
    if (this.startedAt === Number.POSITIVE_INFINITY || this.nextAt < soon) {
      // It begins, or the network was too slow: the clock waits for the sound.
      this.position = this.next;
      this.startedAt = this.nextAt = soon;
    }
    source.start(this.nextAt);
    this.nextAt += count / rate;
    this.next += count / rate;
  }

  /** Bytes of the file, fewer at its end. */
  private async bytes(from: number, to: number): Promise<ArrayBuffer> {
    const response = await ask(`/${this.id}/audio.wav`, {
      headers: { Range: `bytes=${from}-${to - 1}` },
    });
    return response.arrayBuffer();
  }
}
