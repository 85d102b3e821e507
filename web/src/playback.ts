import type { Level } from "./levels";

/** Below this loudness the agent counts as silent: about -54 dBFS. */
const SILENCE = 0.12;

/** For how long the agent's track must be silent until nothing of a cut turn can follow, in ms. */
const DRAINED_MS = 500;

/** How often the track is looked at while the agent is silenced, in ms. */
const WATCH_MS = 25;

/** How far back a sound counts as still being heard, in ms. */
const AUDIBLE_MS = 150;

/**
 * The agent's voice: an audio element that falls silent at once when the agent is interrupted.
 *
 * What the agent had already sent is then still on its way, in the network and in the jitter
 * buffer, which is some 50 ms on a good day and most of a second on a bad one. The element is muted
 * the moment the news of the interruption is there, and sounds again with the agent's next turn.
 * The news of that turn and its audio travel apart, and a late message must not cost its first
 * syllable: so the element also sounds again as soon as its track, which can be measured while the
 * element is muted, has been silent for long enough that everything stale has run out.
 */
export class Playback {
  /** Whether the agent is held silent. */
  get silenced(): boolean {
    return this.element.muted;
  }

  private watch: number | undefined;
  private heardAt = -Infinity;

  /**
   * @param element - Plays the agent's track.
   * @param level - Measures the same track.
   */
  constructor(
    private readonly element: HTMLAudioElement,
    private readonly level: Level,
  ) {}

  /**
   * Plays a track.
   *
   * @returns False where the browser wants a gesture of the caller first.
   */
  async play(track: MediaStreamTrack): Promise<boolean> {
    this.element.srcObject = new MediaStream([track]);
    try {
      await this.element.play();
      return true;
    } catch (error) {
      // It also ends when another track takes its place, or the call is over.
      return (error as DOMException).name !== "NotAllowedError";
    }
  }

  /** Notes whether the agent can be heard; to be called with every drawn frame. */
  listen(now: number): void {
    if (!this.silenced && this.level.now() > SILENCE) this.heardAt = now;
  }

  /** Whether the agent was heard within the last moments before `now`, a time in milliseconds. */
  audible(now: number): boolean {
    this.listen(now);
    return now - this.heardAt < AUDIBLE_MS;
  }

  /** Falls silent at once, until {@link resume} or until nothing stale can follow. */
  silence(): void {
    this.element.muted = true;
    let silentSince = performance.now();
    window.clearInterval(this.watch);
    this.watch = window.setInterval(() => {
      const now = performance.now();
      if (this.level.now() > SILENCE) silentSince = now;
      else if (now - silentSince >= DRAINED_MS) this.resume();
    }, WATCH_MS);
  }

  /** Sounds again. */
  resume(): void {
    window.clearInterval(this.watch);
    this.watch = undefined;
    this.element.muted = false;
  }

  /** Stops, and lets go of the track. */
  stop(): void {
    this.resume();
    this.element.srcObject = null;
  }
}
