import assert from "node:assert/strict";
import { test } from "node:test";

import { refused } from "../src/problems";
import {
  readAwake,
  readAgentInfo,
  readBotOutput,
  readCallEnded,
  readTurnLatency,
  readUserInput,
  readVoiceState,
} from "../src/protocol";

test("bot-output tells a segment's progress, and text that is not spoken counts as said", () => {
  assert.deepEqual(
    readBotOutput({
      text: "Hello there.",
      segment_id: 7,
      will_be_spoken: true,
      spoken_status: "in-progress",
      spoken_progress: { accumulated_text: "Hello", remaining_text: " there." },
    }),
    { id: 7, said: "Hello", unsaid: " there." },
  );
  assert.deepEqual(readBotOutput({ text: "x = 1", segment_id: 8, will_be_spoken: false }), {
    id: 8,
    said: "x = 1",
    unsaid: "",
  });
});

test("messages of another form are ignored, not thrown over", () => {
  for (const data of [undefined, null, 3, "text", [], {}, { type: "other" }, { text: " " }]) {
    assert.equal(readBotOutput(data), undefined);
    assert.equal(readUserInput(data), undefined);
    assert.equal(readTurnLatency(data), undefined);
    assert.equal(readCallEnded(data), undefined);
    assert.equal(readVoiceState(data), undefined);
  }
});

test("a wake message tells whether the agent hears, and others tell nothing of it", () => {
  assert.equal(readAwake({ type: "wake", awake: true }), true);
  assert.equal(readAwake({ type: "wake", awake: false }), false);
  for (const data of [undefined, { type: "wake" }, { type: "wake", awake: 1 }, { awake: true }]) {
    assert.equal(readAwake(data), undefined);
  }
});

test("an agent whose description lacks parts is shown with those it has", () => {
  const agent = readAgentInfo({
    name: "Parley",
    tts: { engine: "piper", voices: [{ name: "a" }, { label: "nameless" }, "b"] },
  });
  assert.deepEqual(agent?.tts.voices, [{ name: "a", label: "a", language: "" }]);
  assert.equal(agent?.llm.engine, "");
});

test("a busy server's problem says when to try again", () => {
  const { title, advice } = refused(503, "", "5");
  assert.match(title, /busy/);
  assert.equal(advice, "Try again in 5 seconds.");
  assert.equal(
    refused(503, "we are restarting", null).advice,
    "We are restarting. Try again soon.",
  );
  assert.equal(refused(503, "try again at noon", "5").advice, "Try again at noon.");
  assert.match(refused(400, "there is no voice 'x'", null).advice, /no voice 'x'\./);
});

test("the voices of a call are read, and nothing else is taken for them", () => {
  const voice = { name: "piper/a", label: "A", language: "en-US" };
  const told = { type: "voices", call: "1", voice: "piper/a", voices: [voice, { label: "b" }] };
  assert.deepEqual(readVoiceState(told), {
    voices: [voice],
    voice: "piper/a",
    wanted: "piper/a",
  });
  assert.equal(readVoiceState({ ...told, wanted: "piper/z" })?.wanted, "piper/z");
  assert.deepEqual(readVoiceState({ type: "voices" }), { voices: [], voice: "", wanted: "" });
});
