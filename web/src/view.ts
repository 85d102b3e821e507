import { Announcer } from "./announcer";
import type { Phase } from "./call";
import { create, find, showLevel } from "./dom";
import { formatMs, type Waterfall } from "./latency";
import type { Problem } from "./problems";
import type { AgentInfo } from "./protocol";
import { groupVoices, type VoiceList } from "./voices";

/** The parts of the page that the caller acts on. */
export const controls = {
  audio: find<HTMLAudioElement>("agent-audio"),
  bar: find<HTMLFormElement>("bar"),
  connect: find<HTMLButtonElement>("connect"),
  figure: find<HTMLCanvasElement>("figure"),
  hangup: find<HTMLButtonElement>("hangup"),
  mute: find<HTMLButtonElement>("mute"),
  problemClose: find<HTMLButtonElement>("problem-close"),
  text: find<HTMLInputElement>("text-input"),
  transcript: find<HTMLOListElement>("transcript"),
  voice: find<HTMLSelectElement>("voice"),
};

/** What a screen reader is told. */
export const announcer = new Announcer(find("announce"));

/** The page's state, as the style sheet and tests read it from the root's `data-state`. */
export type PageState =
  "idle" | "connecting" | "asleep" | "listening" | "thinking" | "speaking" | "ended" | "error";

const PHASES: Record<Phase, { state: PageState; status: string }> = {
  microphone: { state: "connecting", status: "Opening the microphone" },
  connecting: { state: "connecting", status: "Connecting" },
  reconnecting: { state: "connecting", status: "Connection lost, reconnecting" },
  asleep: { state: "asleep", status: "Asleep until the wake word" },
  listening: { state: "listening", status: "Listening" },
  thinking: { state: "thinking", status: "Thinking" },
  speaking: { state: "speaking", status: "Speaking" },
};

function setState(state: PageState, status: string): void {
  document.documentElement.dataset.state = state;
  find("status").textContent = status;
}

/** Shows that a call is on, and in which phase. */
export function showPhase(phase: Phase, muted: boolean): void {
  const { state, status } = PHASES[phase];
  const begun = controls.bar.hidden;
  setState(state, muted && (state === "listening" || state === "asleep") ? "You are muted" : status);
  announcer.follow(phase, status);
  controls.connect.hidden = true;
  find("lede").hidden = true;
  controls.bar.hidden = false;
  if (begun) {
    hideProblem();
    // Not to a button: a key pressed too long would press that one, too.
    find("status").focus({ preventScroll: true });
  }
  if (state !== "connecting" && find("meters").hidden) {
    find("meters").hidden = false;
    announcer.say("Connected");
    openFloor();
  }
}

/** Makes room for the conversation beside the figure, or below it on a narrow page. */
function openFloor(): void {
  const open = () => {
    document.documentElement.dataset.talk = "true";
  };
  if (document.documentElement.dataset.talk) return;
  find<HTMLDetailsElement>("about").open = matchMedia("(min-width: 56rem)").matches;
  if (matchMedia("(prefers-reduced-motion: reduce)").matches || !document.startViewTransition) {
    open();
  } else {
    // A transition that the browser skips, in a hidden tab for one, is no error.
    document.startViewTransition(open).ready.catch(() => {});
  }
}

/** Shows that the call is over; `problem` says how it ended. */
export function showEnd(failed: boolean, problem: Problem): void {
  const talked = !find("meters").hidden;
  const failure = talked ? "Call ended" : "Not connected";
  setState(failed ? "error" : "ended", failed ? failure : problem.title);
  controls.bar.hidden = true;
  find("meters").hidden = true;
  controls.connect.hidden = false;
  controls.connect.textContent = failed ? "Try again" : "Call again";
  const lede = find("lede");
  lede.hidden = failed;
  lede.textContent = failed ? "" : problem.advice;
  if (failed) showProblem(problem);
  else announcer.say(`${problem.title}. ${problem.advice}`);
  showMuted(false);
  controls.connect.focus({ preventScroll: true });
}

/** Shows a problem; the alert is read out by itself. */
export function showProblem(problem: Problem): void {
  find("problem-title").textContent = problem.title;
  find("problem-advice").textContent = problem.advice;
  find("problem").hidden = false;
}

/** Takes a problem off the page. */
export function hideProblem(): void {
  find("problem").hidden = true;
}

/** Takes a problem off the page for the caller, whose focus is on the button that goes with it. */
export function dismissProblem(): void {
  hideProblem();
  find("status").focus({ preventScroll: true });
}

/** Shows whether the microphone is muted. */
export function showMuted(muted: boolean): void {
  controls.mute.setAttribute("aria-pressed", String(muted));
  controls.mute.title = muted ? "Unmute" : "Mute";
}

/** Shows who answers. */
export function showAgent(agent: AgentInfo): void {
  find("agent-name").textContent = agent.name === "Parley" ? "" : agent.name;
  document.title = agent.name && agent.name !== "Parley" ? `${agent.name} – Parley` : "Parley";
  const lede = find("lede");
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
  find("engines").replaceChildren(
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
  find("voice-field").hidden = list.voices.length === 0;
  const note = list.note();
  if (find("voice-note").textContent !== note) find("voice-note").textContent = note;
}

/** Shows how loud both sides are, each 0 to 1. */
export function showLevels(mic: number, agent: number): void {
  showLevel(find("mic-level"), mic);
  showLevel(find("agent-level"), agent);
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
  find("latency").replaceChildren(total, list);
  find("latency-total").textContent = formatMs(totalMs);
}
