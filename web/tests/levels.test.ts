import assert from "node:assert/strict";
import { test } from "node:test";

import { loudness } from "../src/levels";

const tone = (amplitude: number) =>
  Float32Array.from({ length: 480 }, (_, i) => amplitude * Math.sin((i / 48) * 2 * Math.PI));

test("a meter is empty at silence, full at a loud voice, and half way at -36 dB", () => {
  assert.equal(loudness(new Float32Array(480)), 0);
  assert.equal(loudness(tone(1)), 1);
  // A sine's RMS is 3 dB below its peak.
  assert.ok(Math.abs(loudness(tone(10 ** (-33 / 20))) - 0.5) < 0.01);
});
