import { create, find } from "../dom";
import { isKey, keepKey, keptKey } from "../key";
import { type About, ask, type Recorded, RefusedError, record, records, type Turn } from "./api";
import { Player } from "./player";
import { draw, Tiles } from "./waveform";

/** How much of the call the nearer view may show, in seconds. */
const SPANS = [5, 10, 20, 40, 120, 600];
/** How far an arrow key goes, in seconds. */
const STEP = 5;

function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const rest = `${String(minutes).padStart(hours ? 2 : 1, "0")}:${String(whole % 60).padStart(2, "0")}`;
  return hours ? `${hours}:${rest}` : rest;
}

/** The index of the last one of which something is true, or -1. */
function lastIndex<T>(list: readonly T[], test: (item: T) => boolean): number {
  let index = list.length - 1;
  while (index >= 0 && !test(list[index] as T)) index -= 1;
  return index;
}

function when(about: About): string {
  return new Date(about.started).toLocaleString(undefined, {
    dateStyle: "medium",
    timeStyle: "short",
  });
}

function told(about: About): string {
  const other = about.origin.outbound ? about.origin.called : about.origin.caller;
  return [about.origin.transport, other].filter(Boolean).join(", ");
}

function complain(problem: unknown): void {
  const notice = find("notice");
  if (problem instanceof RefusedError && problem.status === 401) {
    find("key").hidden = false;
    find("key-text").focus();
    if (!keptKey()) return;
    keepKey(null);
    notice.textContent = "That is not the key of this server.";
    notice.hidden = false;
    return;
  }
  notice.textContent = problem instanceof Error ? problem.message : String(problem);
  notice.hidden = false;
}

async function showList(): Promise<void> {
  const list = find("calls");
  const found = await records();
  list.hidden = false;
  list.replaceChildren(
    ...(found ?? []).map((about) => {
      const row = create("li", "call");
      const link = create("a", "call-when", when(about));
      link.href = `./record.html?id=${about.id}`;
      const length = typeof about.seconds === "number" ? clock(about.seconds) : "goes on";
      row.append(link, create("span", "call-who", told(about)), create("span", "call-length", length));
      return row;
    }),
  );
  const none = found ? "No call has been recorded." : "Calls are not recorded here: --record DIR does it.";
  if (!found?.length) list.append(create("li", "call", none));
}

function facts(call: Recorded): void {
  const seconds = call.seconds ?? call.audio_seconds;
  const rows: [string, string][] = [
    ["When", when(call)],
    ["Length", clock(seconds)],
    ["Over", told(call)],
    ["Agent", [call.agent, call.voice].filter(Boolean).join(", ")],
    ["Ended", call.in_progress ? "it goes on" : (call.reason ?? "of itself")],
  ];
  if (call.complete === false) rows.push(["Record", "ends before the call does"]);
  find("facts").replaceChildren(
    ...rows.map(([name, value]) => {
      const pair = create("div", "fact");
      pair.append(create("dt", "", name), create("dd", "", value));
      return pair;
    }),
  );
}

/** A turn: its words, each of which can be clicked, and how long the answer took. */
function turnRow(turn: Turn): HTMLElement {
  const row = create("li", `said said-${turn.side}`);
  const time = create("button", "said-time", clock(turn.start));
  time.type = "button";
  time.dataset.at = String(turn.start);
  const name = create("span", "said-side", turn.side === "agent" ? "Agent" : "Caller");
  const text = create("p", "said-text");
  for (const stretch of turn.side === "agent" ? turn.words : turn.segments) {
    const word = create("span", "word", stretch.text);
    word.dataset.at = String(stretch.start);
    text.append(word, " ");
  }
  if (turn.cut) text.append(create("span", "said-note", "— interrupted"));
  if (turn.typed) text.append(create("span", "said-note", "(written)"));
  row.append(time, name, text);
  if (turn.latency) row.append(latencyRow(turn.latency));
  return row;
}

function latencyRow(latency: NonNullable<Turn["latency"]>): HTMLElement {
  const row = create("div", "said-latency");
  const parts = latency.stages.map((stage) => `${stage.label} ${Math.round(stage.ms)} ms`);
  row.title = parts.join("\n");
  const bar = create("span", "said-bar");
  for (const stage of latency.stages) {
    const part = create("span", `said-part stage-${stage.key}`);
    part.style.flexGrow = String(stage.ms);
    bar.append(part);
  }
  const total = `answered in ${(latency.total_ms / 1000).toFixed(2)} s`;
  row.append(bar, create("span", "said-total", total), create("span", "sr-only", parts.join(", ")));
  return row;
}

/** One call's record, and what can be done with it. */
class RecordPage {
  private readonly player: Player;
  private readonly near = find<HTMLCanvasElement>("near");
  private readonly whole = find<HTMLCanvasElement>("whole");
  private readonly lanes = find("lanes");
  private readonly rows: HTMLElement[];
  private readonly wholeTiles: Tiles;
  private nearTiles: Tiles;
  private span: number;
  private spoken: HTMLElement | undefined;
  private readonly still = matchMedia("(prefers-reduced-motion: reduce)");
  private drawing = 0;
  private readonly length: number;

  constructor(private readonly call: Recorded) {
    this.length = Math.max(0.1, call.audio_seconds);
    this.player = new Player(call.id, this.length);
    this.rows = call.turns.map(turnRow);
    find("turns").replaceChildren(...this.rows);
    find("record").hidden = false;
    this.span = this.near.clientWidth < 600 ? 0 : 1;
    this.wholeTiles = new Tiles(call.id, this.length, this.whole.clientWidth / 2, () => this.redraw());
    this.nearTiles = this.tiles();
    this.lanes.setAttribute("aria-valuemax", this.length.toFixed(0));
    this.listen();
    this.redraw();
  }

  private get seconds(): number {
    return SPANS[this.span] ?? 20;
  }

  private tiles(): Tiles {
    const columns = Math.max(100, this.near.clientWidth / 2);
    return new Tiles(this.call.id, this.seconds, columns, () => this.redraw());
  }

  /** What the nearer view shows: the time is a third from its left. */
  private window(): [number, number] {
    const start = Math.min(this.player.time - this.seconds / 3, this.length - this.seconds);
    const from = Math.max(0, start);
    return [from, from + this.seconds];
  }

  private listen(): void {
    const { player, lanes } = this;
    player.onchange = (problem) => {
      find("play").textContent = player.playing ? "Pause" : "Play";
      if (problem) complain(problem);
      this.redraw();
    };
    find("play").addEventListener("click", () => this.toggle());
    for (const [id, channel] of [["hear-caller", 0], ["hear-agent", 1]] as const) {
      const box = find<HTMLInputElement>(id);
      box.addEventListener("change", () => player.hear(channel, box.checked));
    }
    find("closer").addEventListener("click", () => this.zoom(-1));
    find("wider").addEventListener("click", () => this.zoom(1));
    this.near.addEventListener("pointerdown", (event) => {
      const [start] = this.window();
      this.seek(start + (event.offsetX / this.near.clientWidth) * this.seconds);
    });
    const onWhole = (event: PointerEvent) => {
      if (event.type === "pointerdown") this.whole.setPointerCapture(event.pointerId);
      else if (!event.buttons) return;
      this.seek((event.offsetX / this.whole.clientWidth) * this.length);
    };
    this.whole.addEventListener("pointerdown", onWhole);
    this.whole.addEventListener("pointermove", onWhole);
    find("turns").addEventListener("click", (event) => {
      const at = (event.target as HTMLElement).dataset.at;
      if (at !== undefined) this.seek(Number(at));
    });
    document.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.redraw()).observe(lanes);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  private key(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input, select")) return;
    const { player } = this;
    if (event.key === " " && target.closest("button")) return;
    if (event.key === " ") this.toggle();
    else if (event.key === "ArrowLeft") this.seek(player.time - STEP);
    else if (event.key === "ArrowRight") this.seek(player.time + STEP);
    else if (event.key === "ArrowUp") this.turn(-1);
    else if (event.key === "ArrowDown") this.turn(1);
    else if (event.key === "Home") this.seek(0);
    else if (event.key === "End") this.seek(this.length);
    else return;
    event.preventDefault();
  }

  private toggle(): void {
    if (this.player.playing) this.player.pause();
    else void this.player.play();
  }

  private seek(time: number): void {
    this.player.seek(time);
    this.redraw();
  }

  /** Goes to the turn before or after. */
  private turn(way: -1 | 1): void {
    const time = this.player.time;
    const { turns } = this.call;
    const next =
      way > 0
        ? turns.find((turn) => turn.start > time + 0.05)
        : turns[lastIndex(turns, (turn) => turn.start < time - 0.5)];
    if (next) this.seek(next.start);
  }

  private zoom(way: number): void {
    this.span = Math.max(0, Math.min(SPANS.length - 1, this.span + way));
    this.nearTiles = this.tiles();
    this.redraw();
  }

  private redraw(): void {
    cancelAnimationFrame(this.drawing);
    this.drawing = requestAnimationFrame(() => {
      const [start, end] = this.window();
      const time = this.player.time;
      const { turns } = this.call;
      draw(this.near, this.nearTiles.between(start, end), { start, end, time, turns, words: this.seconds <= 40 });
      draw(this.whole, this.wholeTiles.between(0, this.length), {
        start: 0,
        end: this.length,
        time,
        turns: [],
        words: false,
        window: [start, Math.min(end, this.length)],
      });
      find("clock").textContent = `${clock(time)} of ${clock(this.length)}`;
      this.lanes.setAttribute("aria-valuenow", time.toFixed(0));
      this.lanes.setAttribute("aria-valuetext", clock(time));
      this.mark(time);
      if (this.player.playing) this.redraw();
    });
  }

  /** Marks the word that is being spoken, and brings its turn into view while it plays. */
  private mark(time: number): void {
    const index = lastIndex(
      this.call.turns,
      (turn) => turn.start <= time && time <= turn.end + 1,
    );
    const turn = this.call.turns[index];
    const words = turn ? (turn.side === "agent" ? turn.words : turn.segments) : [];
    const place = lastIndex(words, (word) => word.start <= time + 0.01);
    const row = this.rows[index];
    const word = row?.querySelectorAll<HTMLElement>(".word")[place];
    if (word === this.spoken) return;
    this.spoken?.classList.remove("spoken");
    this.spoken?.closest(".said")?.classList.remove("now");
    word?.classList.add("spoken");
    row?.classList.add("now");
    if (word && this.player.playing) {
      const behavior = this.still.matches ? "auto" : "smooth";
      row?.scrollIntoView({ block: "nearest", behavior });
    }
    this.spoken = word;
  }
}

async function download(id: string, name: string): Promise<void> {
  const url = URL.createObjectURL(await (await ask(`/${id}/${name}`)).blob());
  const link = create("a", "");
  link.href = url;
  link.download = `${id}-${name}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

async function showRecord(id: string): Promise<void> {
  find("back").hidden = false;
  const call = await record(id);
  document.title = `${when(call)} · Parley`;
  find("title").textContent = "Record of a call";
  facts(call);
  new RecordPage(call);
  for (const button of document.querySelectorAll<HTMLElement>("[data-file]")) {
    button.addEventListener("click", () => {
      download(id, button.dataset.file ?? "").catch(complain);
    });
  }
  find("delete").addEventListener("click", () => {
    if (!confirm("Delete the sound, the words and all else of this call?")) return;
    ask(`/${id}`, { method: "DELETE" }).then(() => location.replace("./record.html"), complain);
  });
}

function open(): void {
  const id = new URLSearchParams(location.search).get("id");
  const shown = id ? showRecord(encodeURIComponent(id)) : showList();
  shown.catch(complain);
}

find<HTMLFormElement>("key").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = find<HTMLInputElement>("key-text").value.trim();
  if (!isKey(key)) {
    complain("A key has no spaces, and no letters with accents: it is what PARLEY_API_KEY says.");
    return;
  }
  keepKey(key);
  find("key").hidden = true;
  find("notice").hidden = true;
  open();
});
open();
