import type { Phase } from "./call";
import { formatMs, type Waterfall } from "./latency";
import type { Problem } from "./problems";
import type { AgentInfo } from "./protocol";
import { saidText, type Turn, unsaidText } from "./transcript";
import { groupVoices, type VoiceList } from "./voices";

/** The element with an id, which index.html has. */
function element<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as T;
}

function create(tag: string, className: string, text = ""): HTMLElement {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** The parts of the page that the caller acts on. */
export const controls = {
  audio: element<HTMLAudioElement>("agent-audio"),
  bar: element<HTMLFormElement>("bar"),
  connect: element<HTMLButtonElement>("connect"),
  figure: element<HTMLCanvasElement>("figure"),
  hangup: element<HTMLButtonElement>("hangup"),
  mute: element<HTMLButtonElement>("mute"),
  problemClose: element<HTMLButtonElement>("problem-close"),
  text: element<HTMLInputElement>("text-input"),
  voice: element<HTMLSelectElement>("voice"),
};

/** The page's state, as the style sheet and tests read it from the root's `data-state`. */
export type PageState =
  "idle" | "connecting" | "listening" | "thinking" | "speaking" | "ended" | "error";

const PHASES: Record<Phase, { state: PageState; status: string }> = {
  microphone: { state: "connecting", status: "Opening the microphone" },
  connecting: { state: "connecting", status: "Connecting" },
  reconnecting: { state: "connecting", status: "Connection lost, reconnecting" },
  listening: { state: "listening", status: "Listening" },
  thinking: { state: "thinking", status: "Thinking" },
  speaking: { state: "speaking", status: "Speaking" },
};

/** Tells a screen reader, once it is done with what it is saying. */
export function announce(text: string): void {
  const region = element("announce");
  region.append(create("p", "", text));
  // Read out as they come; a few are kept for a reader that is slower than the conversation.
  while (region.childElementCount > 5) region.firstElementChild?.remove();
}

function setState(state: PageState, status: string): void {
  document.documentElement.dataset.state = state;
  element("status").textContent = status;
}

/** Shows that a call is on, and in which phase. */
export function showPhase(phase: Phase, muted: boolean): void {
  const { state, status } = PHASES[phase];
  const begun = controls.bar.hidden;
  setState(state, muted && state === "listening" ? "You are muted" : status);
  controls.connect.hidden = true;
  element("lede").hidden = true;
  controls.bar.hidden = false;
  if (begun) {
    hideProblem();
    // Not to a button: a key pressed too long would press that one, too.
    element("status").focus({ preventScroll: true });
  }
  if (state !== "connecting" && element("meters").hidden) {
    element("meters").hidden = false;
    announce("Connected");
    openFloor();
  }
}

/** Makes room for the conversation beside the figure, or below it on a narrow page. */
function openFloor(): void {
  const open = () => {
    document.documentElement.dataset.talk = "true";
  };
  if (document.documentElement.dataset.talk) return;
  element<HTMLDetailsElement>("about").open = matchMedia("(min-width: 56rem)").matches;
  if (matchMedia("(prefers-reduced-motion: reduce)").matches || !document.startViewTransition) {
    open();
  } else {
    // A transition that the browser skips, in a hidden tab for one, is no error.
    document.startViewTransition(open).ready.catch(() => {});
  }
}

/** Shows that the call is over; `problem` says how it ended. */
export function showEnd(failed: boolean, problem: Problem): void {
  const talked = !element("meters").hidden;
  const failure = talked ? "Call ended" : "Not connected";
  setState(failed ? "error" : "ended", failed ? failure : problem.title);
  controls.bar.hidden = true;
  element("meters").hidden = true;
  controls.connect.hidden = false;
  controls.connect.textContent = failed ? "Try again" : "Call again";
  const lede = element("lede");
  lede.hidden = failed;
  lede.textContent = failed ? "" : problem.advice;
  if (failed) showProblem(problem);
  else announce(`${problem.title}. ${problem.advice}`);
  showMuted(false);
  controls.connect.focus({ preventScroll: true });
}

/** Shows a problem; the alert is read out by itself. */
export function showProblem(problem: Problem): void {
  element("problem-title").textContent = problem.title;
  element("problem-advice").textContent = problem.advice;
  element("problem").hidden = false;
}

/** Takes a problem off the page. */
export function hideProblem(): void {
  element("problem").hidden = true;
}

/** Shows whether the microphone is muted. */
export function showMuted(muted: boolean): void {
  controls.mute.setAttribute("aria-pressed", String(muted));
  controls.mute.title = muted ? "Unmute" : "Mute";
}

/** Shows who answers. */
export function showAgent(agent: AgentInfo): void {
  element("agent-name").textContent = agent.name === "Parley" ? "" : agent.name;
  document.title = agent.name && agent.name !== "Parley" ? `${agent.name} – Parley` : "Parley";
  const lede = element("lede");
  if (document.documentElement.dataset.state === "idle") {
    lede.textContent = "A conversation out loud. Interrupt whenever you like.";
  }
}

/** Shows what the agent speaks, with the voice of this name, hears and thinks with. */
export function showEngines(agent: AgentInfo, voice: string): void {
  const engines: [string, string][] = [
    ["Speaks", [agent.tts.engine, voice].filter(Boolean).join(" · ")],
    ["Hears", [agent.stt.engine, agent.stt.model].filter(Boolean).join(" · ")],
    ["Thinks", [agent.llm.engine, agent.llm.model].filter(Boolean).join(" · ")],
  ];
  element("engines").replaceChildren(
    ...engines
      .filter(([, value]) => value)
      .flatMap(([name, value]) => [create("dt", "", name), create("dd", "", value)]),
  );
}

/**
 * Shows which voices there are, and what has to be said of the present one.
 *
 * @param select - Whether the list is to stand at the present one; it stays where it is otherwise.
 */
export function showVoices(list: VoiceList, select: boolean): void {
  const { voice } = controls;
  const groups = groupVoices(list.voices);
  const shown = JSON.stringify(groups);
  // A list that is replaced closes in the caller's hands.
  if (voice.dataset.shown !== shown) {
    const { value } = voice;
    const made = groups.map(({ name, voices }) => {
      const group = document.createElement("optgroup");
      group.label = name;
      group.append(...voices.map((one) => new Option(one.text, one.name)));
      return group;
    });
    const single = made.length === 1 ? made[0] : undefined;
    voice.replaceChildren(...(single ? single.children : made));
    voice.value = value;
    voice.dataset.shown = shown;
  }
  if (select) voice.value = list.voice;
  // One that is disabled loses the focus.
  voice.disabled = list.voices.length < 2 && voice !== document.activeElement;
  element("voice-field").hidden = list.voices.length === 0;
  const note = list.note();
  if (element("voice-note").textContent !== note) element("voice-note").textContent = note;
}

/** Shows how loud both sides are, each 0 to 1. */
export function showLevels(mic: number, agent: number): void {
  showLevel(element("mic-level"), mic);
  showLevel(element("agent-level"), agent);
}

function showLevel(meter: HTMLElement, level: number): void {
  const percent = String(Math.round(level * 100));
  if (meter.getAttribute("aria-valuenow") === percent) return;
  meter.setAttribute("aria-valuenow", percent);
  meter.style.setProperty("--level", level.toFixed(3));
}

/** The conversation, one list item a turn. */
export class TranscriptView {
  private readonly list = element<HTMLOListElement>("transcript");
  private readonly turns = new Map<number, HTMLElement>();
  private agentName = "Agent";
  private waiting: Waterfall | undefined;

  /** Empties the page for the next call, with an agent of this name. */
  clear(agentName: string): void {
    this.agentName = agentName || "Agent";
    this.waiting = undefined;
    this.turns.clear();
    this.list.replaceChildren();
  }

  /** Shows a turn as it is now; a turn of which nothing has been heard yet is not shown. */
  show(turn: Turn): void {
    const said = saidText(turn);
    let item = this.turns.get(turn.id);
    if (!item) {
      if (!said) return;
      item = this.add(turn);
    }
    this.follow(() => this.fill(item, turn, said));
    if (turn.side === "agent") item.dataset.interrupted = String(turn.interrupted);
  }

  /** Puts a turn's latency beside it, or beside the one that is about to begin. */
  showLatency(latency: Waterfall): void {
    const last = [...this.turns.values()].pop();
    if (!last?.matches(".turn-agent") || last.querySelector(".turn-latency")) {
      this.waiting = latency;
      return;
    }
    this.waiting = undefined;
    last
      .querySelector(".turn-who")
      ?.append(create("span", "turn-latency", formatMs(latency.totalMs)));
  }

  private add(turn: Turn): HTMLElement {
    const agent = turn.side === "agent";
    const item = create("li", `turn turn-${turn.side}`);
    item.dataset.testid = agent ? "turn-agent" : "turn-user";
    if (turn.side === "caller" && turn.aside) item.classList.add("turn-aside");
    const name = turn.side === "agent" ? this.agentName : turn.typed ? "You, in writing" : "You";
    const who = create("p", "turn-who");
    who.append(create("span", "turn-name", name));
    item.append(who, create("p", "turn-words"));
    this.turns.set(turn.id, item);
    this.follow(() => this.list.append(item));
    if (!agent) this.waiting = undefined;
    else if (this.waiting) this.showLatency(this.waiting);
    return item;
  }

  private fill(item: HTMLElement, turn: Turn, said: string): void {
    const words = item.querySelector(".turn-words");
    if (!words) return;
    words.querySelector(".unsaid")?.remove();
    if (turn.side === "caller") {
      words.textContent = turn.text;
      if (turn.interim) words.append(create("span", "interim", ` ${turn.interim}`));
      return;
    }
    // Only what has come since is added, so that each word can appear for itself.
    const shown = words.textContent ?? "";
    if (said.startsWith(shown)) {
      if (said.length > shown.length)
        words.append(create("span", "word", said.slice(shown.length)));
    } else {
      words.replaceChildren(create("span", "word", said));
    }
    if (!turn.interrupted) return;
    const unsaid = create("span", "unsaid");
    const cut = unsaidText(turn);
    unsaid.append(create("span", "sr-only", " (interrupted)"));
    if (cut) unsaid.append(" ", create("s", "", cut));
    words.append(unsaid);
  }

  /** Keeps the newest words in sight, unless the reader has scrolled up to older ones. */
  private follow(change: () => void): void {
    const { list } = this;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    change();
    if (atEnd) list.scrollTop = list.scrollHeight;
  }
}

/** Shows a turn's latency as a waterfall. */
export function showLatency({ totalMs, bars }: Waterfall): void {
  const total = create("p", "latency-total");
  total.append(create("strong", "", formatMs(totalMs)), " to the answer's first sound");
  const list = create("ol", "waterfall");
  for (const bar of bars) {
    const row = create("li", `stage-row stage-${bar.key}`);
    const track = create("span", "stage-track");
    const fill = create("span", "stage-fill");
    fill.style.setProperty("--start", String(bar.startMs / totalMs));
    fill.style.setProperty("--length", String(bar.ms / totalMs));
    track.append(fill);
    row.append(
      create("span", "stage-name", bar.label),
      track,
      create("span", "stage-ms", formatMs(bar.ms)),
    );
    list.append(row);
  }
  element("latency").replaceChildren(total, list);
  element("latency-total").textContent = formatMs(totalMs);
}
