import assert from "node:assert/strict";
import { test } from "node:test";

import { groupVoices, VoiceList, voiceText } from "../src/voices";

const lessac = { name: "piper/en_US-lessac", label: "lessac (en-US)", language: "en-US" };
const anna = { name: "cosyvoice/anna", label: "cosyvoice/anna", language: "de" };
const alba = { name: "piper/en_GB-alba", label: "alba", language: "en-GB" };

test("a voice of a worker is read with its engine and its language, each once", () => {
  assert.equal(voiceText(lessac), "Piper · lessac (en-US)");
  assert.equal(voiceText(alba), "Piper · alba (en-GB)");
  assert.equal(voiceText(anna), "CosyVoice · anna (de)");
  assert.equal(voiceText({ name: "toy/x", label: "x", language: "" }), "Toy · x");
  assert.equal(voiceText({ name: "a", label: "Ann", language: "en" }), "Ann");
});

test("voices are grouped by engine, and those of one engine by language", () => {
  assert.deepEqual(
    groupVoices([lessac, anna, alba]).map(({ name, voices }) => [name, voices.map((v) => v.name)]),
    [
      ["Piper", ["piper/en_US-lessac", "piper/en_GB-alba"]],
      ["CosyVoice", ["cosyvoice/anna"]],
    ],
  );
  const own = [lessac, alba].map((voice) => ({ ...voice, name: voice.label }));
  assert.deepEqual(
    groupVoices(own).map(({ name }) => name),
    ["en-US", "en-GB"],
  );
  assert.deepEqual(groupVoices([]), []);
});

test("a voice that is away is named, with the one that is heard, until it is back", () => {
  const list = new VoiceList();
  const both = [lessac, anna];
  list.update({ voices: both, voice: anna.name, wanted: anna.name });
  assert.equal(list.note(), "");
  list.update({ voices: [lessac], voice: lessac.name, wanted: anna.name });
  assert.equal(
    list.note(),
    "CosyVoice · anna (de) is away. Until it is back, you hear Piper · lessac (en-US).",
  );
  list.update({ voices: [], voice: "", wanted: anna.name });
  assert.match(list.note(), /^No voice/);
  list.update({ voices: both, voice: anna.name, wanted: anna.name });
  assert.equal(list.note(), "");
});
