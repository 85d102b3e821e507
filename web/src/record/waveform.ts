import { type Peaks, peaks, type Turn } from "./api";

/** Stretches of loudness that are kept. */
const MAX_TILES = 32;

/** How long after a failure a stretch may be asked for again, in ms. */
const RETRY_AFTER = 2_000;

/** Loudness by stretches of one length, fetched when they are first asked for. */
export class Tiles {
  private readonly found = new Map<number, Peaks | undefined>();

  constructor(
    private readonly id: string,
    private readonly seconds: number,
    private readonly columns: number,
    private readonly arrived: () => void,
  ) {}

  /** The stretches between two times that are here; the others are on their way. */
  between(start: number, end: number): Peaks[] {
    const here: Peaks[] = [];
    for (let tile = Math.max(0, Math.floor(start / this.seconds)); tile * this.seconds < end; tile += 1) {
      if (!this.found.has(tile)) void this.fetch(tile);
      const peaks = this.found.get(tile);
      if (peaks) here.push(peaks);
    }
    return here;
  }

  private async fetch(tile: number): Promise<void> {
    this.found.set(tile, undefined);
    const oldest = this.found.keys().next().value;
    if (this.found.size > MAX_TILES && oldest !== undefined) this.found.delete(oldest);
    const start = tile * this.seconds;
    try {
      this.found.set(tile, await peaks(this.id, start, start + this.seconds, this.columns));
      this.arrived();
    } catch {
      // Not at once: while it plays, it is drawn sixty times a second.
      setTimeout(() => this.found.delete(tile), RETRY_AFTER);
    }
  }
}

export interface View {
  start: number;
  end: number;
  time: number;
  turns: readonly Turn[];
  /** Whether there is room for words. */
  words: boolean;
  /** What of the call the nearer view shows, to be marked. */
  window?: readonly [number, number];
}

/** How high a peak is drawn: soft speech, too, is to be seen. */
function height(peak: number): number {
  return (peak / 255) ** 0.6;
}

/** Draws both sides of a stretch of a call, the caller above and the agent below. */
export function draw(canvas: HTMLCanvasElement, tiles: readonly Peaks[], view: View): void {
  const scale = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: tall } = canvas;
  if (!width || !tall) return;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(tall * scale);
  const context = canvas.getContext("2d");
  if (!context) return;
  context.scale(scale, scale);
  const style = getComputedStyle(canvas);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const x = (time: number) => ((time - view.start) / (view.end - view.start)) * width;
  const lane = view.words ? 18 : 0;
  const middle = tall / 2;
  const room = middle - lane - 3;
  context.fillStyle = colour("--line");
  context.fillRect(0, middle - 0.5, width, 1);
  if (view.window) {
    context.fillStyle = colour("--sheet");
    context.fillRect(x(view.window[0]), 0, x(view.window[1]) - x(view.window[0]), tall);
  }
  for (const tile of tiles) {
    const step = (tile.end - tile.start) / Math.max(1, tile.caller.length);
    const bar = Math.max(1, x(view.start + step) - 0.4);
    for (const [side, sign] of [["caller", -1], ["agent", 1]] as const) {
      context.fillStyle = colour(`--${side}`);
      tile[side].forEach((peak, index) => {
        const left = x(tile.start + index * step);
        if (left < -bar || left > width) return;
        const size = Math.max(peak > 2 ? 1 : 0, height(peak) * room);
        context.fillRect(left, sign < 0 ? middle - size : middle, bar, size);
      });
    }
  }
  for (const turn of view.turns) {
    if (!turn.latency) continue;
    const seconds = turn.latency.total_ms / 1000;
    if (turn.start < view.start || turn.start - seconds > view.end) continue;
    context.fillStyle = colour("--ink-soft");
    context.fillRect(x(turn.start - seconds), middle - 1.5, Math.max(1, x(turn.start) - x(turn.start - seconds)), 3);
  }
  if (view.words) drawWords(context, view, x, colour, tall, style.fontFamily);
  context.fillStyle = colour("--ink");
  context.fillRect(x(view.time) - 0.75, 0, 1.5, tall);
}

function drawWords(
  context: CanvasRenderingContext2D,
  view: View,
  x: (time: number) => number,
  colour: (name: string) => string,
  tall: number,
  family: string,
): void {
  context.font = `12px ${family}`;
  context.textBaseline = "middle";
  for (const [side, y] of [["caller", 9], ["agent", tall - 9]] as const) {
    context.fillStyle = colour(`--${side}-ink`);
    let free = Number.NEGATIVE_INFINITY;
    let gap = true;
    for (const turn of view.turns) {
      if (turn.side !== side || turn.end < view.start - 10 || turn.start > view.end) continue;
      for (const stretch of side === "agent" ? turn.words : turn.segments) {
        const left = x(stretch.start);
        if (stretch.end < view.start - 10 || stretch.start > view.end) continue;
        if (left < free) {
          // Words that would lie on one another are left out: they are below, too.
          if (!gap) {
            context.fillText("…", free - 5, y);
            free += context.measureText("…").width;
          }
          gap = true;
          continue;
        }
        gap = false;
        context.fillText(stretch.text, left, y);
        free = left + context.measureText(stretch.text).width + 5;
      }
    }
  }
}
