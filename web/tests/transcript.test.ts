import assert from "node:assert/strict";
import { test } from "node:test";

import type { CallerInput, Segment } from "../src/protocol";
import {
  PAUSE_BETWEEN_AGENT_TURNS,
  saidText,
  Transcript,
  type Turn,
  unsaidText,
} from "../src/transcript";

const segment = (id: number, said: string, unsaid = ""): Segment => ({ id, said, unsaid });
const speech = (text: string, final = true): CallerInput => ({
  text,
  kind: "transcription",
  final,
});
const typed = (text: string): CallerInput => ({ text, kind: "chat", final: true });
const aside = (text: string): CallerInput => ({ text, kind: "backchannel", final: true });

/** The turns as lines of a script, with what was left unsaid after a stroke. */
function script(turns: readonly Turn[]): string[] {
  return turns.map((turn) => {
    const unsaid = unsaidText(turn);
    return `${turn.side}: ${saidText(turn)}${unsaid ? ` / ${unsaid}` : ""}`;
  });
}

test("the agent's words appear as they are heard, segment by segment, in one turn", () => {
  const transcript = new Transcript();
  transcript.hearAgent(segment(1, "", "Hello there."), 0);
  assert.deepEqual(script(transcript.turns), ["agent: "]);
  transcript.hearAgent(segment(1, "Hello", " there."), 100);
  assert.deepEqual(script(transcript.turns), ["agent: Hello"]);
  transcript.hearAgent(segment(1, "Hello there."), 200);
  transcript.hearAgent(segment(2, "How are you?"), 300);
  assert.deepEqual(script(transcript.turns), ["agent: Hello there. How are you?"]);
});

test("an interruption keeps what was heard and sets the rest apart", () => {
  const transcript = new Transcript();
  transcript.hearAgent(segment(1, "Once upon", " a time."), 0);
  transcript.hearAgent(segment(2, "", "There was a king."), 0);
  const cut = transcript.interrupt(true);
  assert.equal(cut?.interrupted, true);
  assert.deepEqual(script(transcript.turns), ["agent: Once upon / a time. There was a king."]);
});

test("a word that was heard but reported after the interruption still counts as heard", () => {
  const transcript = new Transcript();
  transcript.hearAgent(segment(1, "Once", " upon a time."), 0);
  transcript.interrupt(true);
  transcript.hearAgent(segment(1, "Once upon", " a time."), 10);
  assert.deepEqual(script(transcript.turns), ["agent: Once upon / a time."]);
});

test("the start of the caller's turn cuts nothing when the agent had said it all", () => {
  const transcript = new Transcript();
  transcript.hearAgent(segment(1, "All done."), 0);
  assert.equal(transcript.interrupt(false), undefined);
  assert.deepEqual(script(transcript.turns), ["agent: All done."]);
});

test("a turn whose last word is being spoken is cut by being silenced", () => {
  const transcript = new Transcript();
  transcript.hearAgent(segment(1, "All done."), 0);
  assert.equal(transcript.interrupt(true)?.interrupted, true);
});

test("an agent that was cut begins its next words as a turn of its own", () => {
  const transcript = new Transcript();
  transcript.hearAgent(segment(1, "One", " two."), 0);
  transcript.interrupt(true);
  transcript.hearAgent(segment(2, "Yes?"), 10);
  assert.deepEqual(script(transcript.turns), ["agent: One / two.", "agent: Yes?"]);
});

test("what the agent says long after it fell silent is a turn of its own", () => {
  const transcript = new Transcript();
  transcript.hearAgent(segment(1, "Goodbye then."), 0);
  transcript.agentStopped(1000);
  transcript.hearAgent(segment(2, "Or not."), 1000 + PAUSE_BETWEEN_AGENT_TURNS);
  transcript.agentStopped(5000);
  transcript.hearAgent(segment(3, "Are you there?"), 5001 + PAUSE_BETWEEN_AGENT_TURNS);
  assert.deepEqual(script(transcript.turns), [
    "agent: Goodbye then. Or not.",
    "agent: Are you there?",
  ]);
});

test("the caller's sentences are one turn until the agent speaks", () => {
  const transcript = new Transcript();
  transcript.hearCaller(speech("What is"));
  transcript.hearCaller(speech("the time?"));
  transcript.hearAgent(segment(1, "Noon."), 0);
  transcript.hearCaller(speech("Thanks."));
  assert.deepEqual(script(transcript.turns), [
    "caller: What is the time?",
    "agent: Noon.",
    "caller: Thanks.",
  ]);
});

test("a guess is replaced by the next one and by the final words", () => {
  const transcript = new Transcript();
  transcript.hearCaller(speech("go", false));
  transcript.hearCaller(speech("go for", false));
  assert.deepEqual(script(transcript.turns), ["caller: go for"]);
  transcript.hearCaller(speech("Go forward."));
  assert.deepEqual(script(transcript.turns), ["caller: Go forward."]);
});

test("what was typed is a turn apart from what was said", () => {
  const transcript = new Transcript();
  transcript.hearCaller(speech("Hello."));
  transcript.hearCaller(typed("a story, please"));
  assert.deepEqual(script(transcript.turns), ["caller: Hello.", "caller: a story, please"]);
});

test("an acknowledgement leaves the agent's turn whole", () => {
  const transcript = new Transcript();
  transcript.hearAgent(segment(1, "First,", " this."), 0);
  transcript.hearCaller(aside("mhm"));
  transcript.hearAgent(segment(1, "First, this."), 10);
  transcript.hearAgent(segment(2, "Then that."), 20);
  assert.deepEqual(script(transcript.turns), ["agent: First, this. Then that.", "caller: mhm"]);
});
