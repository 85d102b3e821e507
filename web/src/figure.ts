import type { Phase } from "./call";

/** What the figure shows: the call's phase, or that there is none. */
export type FigureState = Phase | "idle" | "ended" | "error";

/** How loud both sides are, 0 to 1. */
export interface Levels {
  mic: number;
  agent: number;
}

/** The drawn frames a second, with motion and where the reader prefers less of it. */
const FRAME_RATE = 30;
const REDUCED_FRAME_RATE = 8;

/** How many points each outline is drawn through. */
const POINTS = 72;

/** The rings of sound around a voice: how many, and by how many frames each lags the one inside. */
const RINGS = 3;
const RING_LAG = 3;

/** The radius of a voice at rest, in the figure's height. */
const RADIUS = 0.29;

/** A wave that runs around an outline: how many crests, how fast (rad/s), and its share. */
type Wave = readonly [crests: number, speed: number, share: number];

const WAVES: readonly Wave[] = [
  [2, 2.3, 0.5],
  [3, -3.7, 0.32],
  [5, 5.3, 0.18],
];

/** How far each voice stands from the middle, in the figure's height. */
const DISTANCE: Record<FigureState, number> = {
  idle: 0.25,
  microphone: 0.25,
  connecting: 0.25,
  reconnecting: 0.25,
  asleep: 0.25,
  listening: 0.18,
  thinking: 0.18,
  speaking: 0.18,
  ended: 0.34,
  error: 0.34,
};

interface Voice {
  /** Left or right of the middle. */
  side: -1 | 1;
  colour: string;
  /** The voice's levels in the last frames, the newest first. */
  history: number[];
}

/**
 * The conversation as a picture: two voices that overlap, as both sides may talk at once.
 *
 * Each moves with its own sound, and sends rings of it outwards. They draw near while the call is
 * being connected, think where they overlap, and part when it is over.
 */
export class Figure {
  private state: FigureState = "idle";
  private muted = false;
  private distance = DISTANCE.idle;
  private frame = 0;
  private drawnAt = 0;
  private ink = "";
  private readonly agent: Voice = { side: -1, colour: "", history: [] };
  private readonly caller: Voice = { side: 1, colour: "", history: [] };
  private readonly still = matchMedia("(prefers-reduced-motion: reduce)");
  private readonly context: CanvasRenderingContext2D;

  /**
   * @param canvas - Where it is drawn; as large as the style sheet makes it.
   * @param levels - Reads how loud both sides are at a time in milliseconds.
   */
  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly levels: (now: number) => Levels,
  ) {
    const context = canvas.getContext("2d");
    if (!context) throw new Error("the browser has no 2D canvas");
    this.context = context;
    this.restyle();
    new ResizeObserver(() => this.wake()).observe(canvas);
  }

  /** Shows a state; drawn frame by frame in a call, and until it has come to rest without one. */
  show(state: FigureState, muted = false): void {
    this.state = state;
    this.muted = muted;
    this.wake();
  }

  /** Takes over the colours that the style sheet has now. */
  restyle(): void {
    const style = getComputedStyle(this.canvas);
    this.agent.colour = style.getPropertyValue("--agent").trim();
    this.caller.colour = style.getPropertyValue("--caller").trim();
    this.ink = style.getPropertyValue("--agent-deep").trim();
    this.wake();
  }

  private get inCall(): boolean {
    return this.state !== "idle" && this.state !== "ended" && this.state !== "error";
  }

  private wake(): void {
    this.drawnAt = 0;
    this.frame ||= requestAnimationFrame((now) => this.tick(now));
  }

  private tick(now: number): void {
    this.frame = 0;
    const rate = this.still.matches ? REDUCED_FRAME_RATE : FRAME_RATE;
    // A little early is in time: the display's frames do not fall on ours.
    if (now - this.drawnAt >= 1000 / rate - 4) {
      this.drawnAt = now;
      const { mic, agent } = this.levels(now);
      this.remember(this.agent, agent);
      this.remember(this.caller, mic);
      const gap = DISTANCE[this.state] - this.distance;
      this.distance += this.still.matches ? gap : gap * 0.16;
      this.draw(this.still.matches ? 0 : now / 1000);
    }
    const settled =
      !this.inCall &&
      Math.abs(DISTANCE[this.state] - this.distance) < 0.001 &&
      [...this.agent.history, ...this.caller.history].every((level) => level < 0.01);
    if (!settled) this.frame = requestAnimationFrame((next) => this.tick(next));
  }

  private remember(voice: Voice, level: number): void {
    voice.history.unshift(level);
    voice.history.length = Math.min(voice.history.length, RINGS * RING_LAG + 1);
  }

  private draw(seconds: number): void {
    const { canvas, context: c } = this;
    const scale = Math.min(2, devicePixelRatio || 1);
    const width = Math.round(canvas.clientWidth * scale);
    const height = Math.round(canvas.clientHeight * scale);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    c.clearRect(0, 0, width, height);
    const approach =
      this.inCall && DISTANCE[this.state] === DISTANCE.connecting
        ? Math.sin(seconds * 3.2) * 0.04
        : 0;
    const offset = (this.distance + approach) * height;
    for (const voice of [this.agent, this.caller]) this.rings(voice, offset, seconds);
    this.body(this.agent, offset, seconds);
    c.globalCompositeOperation = "screen";
    this.body(this.caller, offset, seconds);
    c.globalCompositeOperation = "source-over";
    if (this.state === "thinking") this.thought(seconds);
  }

  private body(voice: Voice, offset: number, seconds: number): void {
    const { context: c } = this;
    this.outline(voice, offset, 1, voice.history[0] ?? 0, seconds);
    const hollow = this.state === "error" || (this.muted && voice === this.caller);
    if (hollow) {
      c.strokeStyle = voice.colour;
      c.lineWidth = Math.max(1, this.canvas.height * 0.008);
      c.stroke();
    } else {
      c.fillStyle = voice.colour;
      c.globalAlpha = this.state === "ended" ? 0.45 : 0.94;
      c.fill();
      c.globalAlpha = 1;
    }
  }

  private rings(voice: Voice, offset: number, seconds: number): void {
    const { context: c } = this;
    if (this.still.matches) return;
    c.strokeStyle = voice.colour;
    c.lineWidth = Math.max(1, this.canvas.height * 0.006);
    for (let ring = 1; ring <= RINGS; ring++) {
      const level = voice.history[ring * RING_LAG] ?? 0;
      if (level < 0.05) continue;
      this.outline(voice, offset, 1 + ring * 0.2, level, seconds);
      c.globalAlpha = (level * 0.7) / ring;
      c.stroke();
    }
    c.globalAlpha = 1;
  }

  /** Traces a voice's outline: a circle that swells with the level, with waves running along it. */
  private outline(
    voice: Voice,
    offset: number,
    size: number,
    level: number,
    seconds: number,
  ): void {
    const { canvas, context: c } = this;
    const x = canvas.width / 2 + voice.side * offset;
    const y = canvas.height / 2;
    const radius = RADIUS * canvas.height * size * (1 + level * 0.08);
    const swell = this.still.matches ? 0 : level * 0.07;
    c.beginPath();
    for (let i = 0; i < POINTS; i++) {
      const angle = (i / POINTS) * Math.PI * 2;
      let wave = 0;
      for (const [crests, speed, share] of WAVES) {
        wave += share * Math.sin(crests * angle + voice.side * speed * seconds);
      }
      const r = radius * (1 + swell * wave);
      c.lineTo(x + r * Math.cos(angle), y + r * Math.sin(angle));
    }
    c.closePath();
  }

  /** Three points where the voices overlap, which swell one after another. */
  private thought(seconds: number): void {
    const { canvas, context: c } = this;
    c.fillStyle = this.ink;
    for (let i = -1; i <= 1; i++) {
      const swell = 0.5 + 0.5 * Math.sin(seconds * 5 - i * 1.1);
      c.beginPath();
      c.arc(
        canvas.width / 2,
        canvas.height / 2 + i * canvas.height * 0.075,
        canvas.height * (0.011 + 0.011 * swell),
        0,
        Math.PI * 2,
      );
      c.globalAlpha = 0.55 + 0.45 * swell;
      c.fill();
    }
    c.globalAlpha = 1;
  }
}
