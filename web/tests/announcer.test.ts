import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { Announcer } from "../src/announcer";
import { Transcript } from "../src/transcript";

const NAMES = { agent: "Rye", caller: "You" };

const told: string[] = [];
const region = {
  childElementCount: 0,
  append: (line: { textContent: string }) => told.push(line.textContent),
} as unknown as HTMLElement;
Object.assign(globalThis, { document: { createElement: () => ({}) } });

beforeEach(() => {
  told.length = 0;
});

test("a turn is told once, when the next one begins or the call ends", () => {
  const announcer = new Announcer(region);
  const transcript = new Transcript();
  transcript.hearAgent({ id: 1, said: "Hello.", unsaid: "" }, 0);
  announcer.tell(transcript.turns, NAMES, false);
  assert.deepEqual(told, []);
  transcript.hearCaller({ text: "Hi.", kind: "transcription", final: true });
  announcer.tell(transcript.turns, NAMES, false);
  announcer.tell(transcript.turns, NAMES, false);
  assert.deepEqual(told, ["Rye: Hello."]);
  announcer.tell(transcript.turns, NAMES, true);
  assert.deepEqual(told, ["Rye: Hello.", "You: Hi."]);
});

test("an acknowledgement does not have the agent's turn told half", () => {
  const announcer = new Announcer(region);
  const transcript = new Transcript();
  transcript.hearAgent({ id: 1, said: "First", unsaid: " this." }, 0);
  transcript.hearCaller({ text: "mhm", kind: "backchannel", final: true });
  announcer.tell(transcript.turns, NAMES, false);
  assert.deepEqual(told, []);
  transcript.hearAgent({ id: 1, said: "First this.", unsaid: "" }, 10);
  announcer.tell(transcript.turns, NAMES, true);
  assert.deepEqual(told, ["Rye: First this. You: mhm"]);
});

test("a turn of which nothing was heard is not told", () => {
  const announcer = new Announcer(region);
  const transcript = new Transcript();
  transcript.hearAgent({ id: 1, said: "", unsaid: "Hello." }, 0);
  transcript.hearCaller({ text: "Wait.", kind: "transcription", final: true });
  announcer.tell(transcript.turns, NAMES, true);
  assert.deepEqual(told, ["You: Wait."]);
});

test("a connection that breaks is told, and that it is back", () => {
  const announcer = new Announcer(region);
  for (const phase of ["connecting", "listening", "reconnecting", "reconnecting", "speaking"]) {
    announcer.follow(phase as "speaking", phase);
  }
  assert.deepEqual(told, ["reconnecting", "speaking"]);
});
