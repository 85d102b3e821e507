/** The quietest and the loudest level that a meter tells apart, in dB below full scale. */
const FLOOR_DB = -60;
const CEILING_DB = -12;

/** How fast a meter falls back, as the share of its height that is left after a second. */
const FALL_PER_SECOND = 0.004;

/**
 * The loudness of samples as a meter shows it: 0 at -60 dBFS and below, 1 at -12 dBFS and above.
 *
 * @param samples - Mono samples, -1 to 1.
 */
export function loudness(samples: Float32Array): number {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  const rms = Math.sqrt(sum / Math.max(1, samples.length));
  const db = 20 * Math.log10(Math.max(rms, 1e-6));
  return Math.min(1, Math.max(0, (db - FLOOR_DB) / (CEILING_DB - FLOOR_DB)));
}

/** A meter on one track: jumps up with the sound, and falls back smoothly. */
export class Level {
  /** The level as shown, 0 to 1. */
  value = 0;
  private node: MediaStreamAudioSourceNode | undefined;
  private readonly analyser: AnalyserNode;
  private readonly samples: Float32Array<ArrayBuffer>;
  private readAt = 0;

  constructor(private readonly context: AudioContext) {
    this.analyser = context.createAnalyser();
    // 1024 samples are 21 ms at 48 kHz: longer than the time between two readings of a drawn frame
    // would let a short sound slip through, shorter smears the onset.
    this.analyser.fftSize = 1024;
    this.samples = new Float32Array(this.analyser.fftSize);
  }

  /** Listens to a track, in the place of the one before. */
  listen(track: MediaStreamTrack | undefined): void {
    this.node?.disconnect();
    this.node = undefined;
    if (!track) return;
    this.node = this.context.createMediaStreamSource(new MediaStream([track]));
    this.node.connect(this.analyser);
  }

  /** The loudness of the last 21 ms, 0 to 1, without the meter's inertia. */
  now(): number {
    if (!this.node) return 0;
    this.analyser.getFloatTimeDomainData(this.samples);
    return loudness(this.samples);
  }

  /** Reads the meter; `at` is a time in milliseconds. */
  read(at: number): number {
    const seconds = Math.max(0, (at - this.readAt) / 1000);
    this.readAt = at;
    this.value = Math.max(this.now(), this.value * FALL_PER_SECOND ** seconds);
    return this.value;
  }
}
