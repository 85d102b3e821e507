import { Call, type Phase } from "./call";
import { fetchInTime } from "./fetch";
import { Figure } from "./figure";
import { NOT_SENT, ProblemError, UNREACHABLE } from "./problems";
import { type AgentInfo, readAgentInfo } from "./protocol";
import { type TranscriptNames, TranscriptView } from "./transcript-view";
import {
  announcer,
  controls,
  dismissProblem,
  hideProblem,
  showAgent,
  showEnd,
  showEngines,
  showLatency,
  showLevels,
  showMuted,
  showPhase,
  showProblem,
  showVoices,
} from "./view";
import { VoiceList } from "./voices";
import { openWebRtc } from "./webrtc";

const VOICE_KEY = "parley.voice";

let agent: AgentInfo | undefined;
let call: Call | undefined;
let phase: Phase = "connecting";
/** The voice that the caller chose last, now or another time. */
let chosen = recall();
/** Changes of voice that the bot has not confirmed: the list stands where the caller put it. */
let pending = 0;

const voices = new VoiceList();

const transcript = new TranscriptView(controls.transcript, names);
const figure = new Figure(controls.figure, (now) => {
  const levels = call?.readLevels(now) ?? { mic: 0, agent: 0 };
  showLevels(levels.mic, levels.agent);
  return levels;
});

/** What the sides of the conversation are called. */
function names(): TranscriptNames {
  const name = agent?.name || "Agent";
  return { agent: name, caller: "You", typed: "You, in writing", interrupted: "interrupted" };
}

/** Asks the server who answers. */
async function loadAgent(): Promise<void> {
  try {
    const response = await fetchInTime("/api/agent");
    agent = response.ok ? readAgentInfo(await response.json()) : undefined;
  } catch {
    agent = undefined;
  }
  if (!agent) {
    showProblem(UNREACHABLE);
    return;
  }
  showAgent(agent);
  const known = agent.tts.voices.some(({ name }) => name === chosen);
  const voice = known && chosen ? chosen : agent.tts.voice;
  voices.update({ voices: agent.tts.voices, voice, wanted: voice });
  showVoice();
}

/** Shows the voice that the agent speaks with, and those it could have. */
function showVoice(): void {
  showVoices(voices, pending === 0);
  if (agent) showEngines(agent, voices.voice);
}

/** The voice that a call is to begin with; undefined for the agent's own. */
async function firstVoice(): Promise<string | undefined> {
  // The page may be an old one, and its voices gone.
  await loadAgent();
  return voices.voice === agent?.tts.voice ? undefined : voices.voice;
}

/** The voice that the caller chose last time, where the browser lets pages remember. */
function recall(): string | undefined {
  try {
    return localStorage.getItem(VOICE_KEY) ?? undefined;
  } catch {
    return undefined;
  }
}

function remember(name: string): void {
  try {
    localStorage.setItem(VOICE_KEY, name);
  } catch {
    // A browser that forgets is in order.
  }
}

function startCall(): void {
  if (call) return;
  transcript.clear();
  announcer.clear();
  const started = new Call(controls.audio, {
    phase(now) {
      phase = now;
      showPhase(now, started.muted);
      figure.show(now, started.muted);
    },
    turn(turn) {
      transcript.show(turn);
      announcer.tell(started.transcript.turns, names(), false);
    },
    latency(waterfall) {
      showLatency(waterfall);
      transcript.showLatency(waterfall);
    },
    voices(state) {
      voices.update(state);
      showVoice();
    },
    notice: (problem) => (problem ? showProblem(problem) : hideProblem()),
    ended({ failed, problem }) {
      announcer.tell(started.transcript.turns, names(), true);
      call = undefined;
      showEnd(failed, problem);
      figure.show(failed ? "error" : "ended");
      showLevels(0, 0);
    },
  });
  call = started;
  void started.start(openWebRtc, firstVoice());
}

async function changeVoice(): Promise<void> {
  const name = controls.voice.value;
  pending += 1;
  try {
    const voice = call ? await call.setVoice(name) : name;
    voices.update({ voices: voices.voices, voice, wanted: voice });
    chosen = name;
    remember(name);
  } catch (error) {
    if (error instanceof ProblemError) showProblem(error.problem);
  }
  pending -= 1;
  showVoice();
}

async function sendText(): Promise<void> {
  const text = controls.text.value.trim();
  if (!text || !call) return;
  try {
    await call.sendText(text);
    controls.text.value = "";
  } catch {
    showProblem(NOT_SENT);
  }
}

function toggleMute(): void {
  if (!call) return;
  call.muted = !call.muted;
  showMuted(call.muted);
  showPhase(phase, call.muted);
  figure.show(phase, call.muted);
  announcer.say(call.muted ? "You are muted" : "You can be heard");
}

controls.connect.addEventListener("click", startCall);
controls.hangup.addEventListener("click", () => call?.hangUp());
controls.mute.addEventListener("click", toggleMute);
controls.problemClose.addEventListener("click", dismissProblem);
controls.voice.addEventListener("change", () => void changeVoice());
controls.bar.addEventListener("submit", (event) => {
  event.preventDefault();
  void sendText();
});
// Held down, it would press what has only just come, too.
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.repeat) event.preventDefault();
});
// The server would otherwise notice only when the connection's checks run out.
addEventListener("pagehide", () => call?.hangUp());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => figure.restyle());

figure.show("idle");
void loadAgent();
