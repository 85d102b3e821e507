import assert from "node:assert/strict";
import { test } from "node:test";

import { formatMs, readCounters, waterfall, wireDelay } from "../src/latency";

test("stages lie end to end, the wire last, and end at the total", () => {
  const { bars, totalMs } = waterfall(
    {
      turn: 1,
      totalMs: 300,
      stages: [
        { key: "vad", label: "Silence heard", ms: 200 },
        { key: "tts", label: "Text to speech", ms: 100 },
      ],
    },
    { networkMs: 10, bufferMs: 40 },
  );
  assert.deepEqual(
    bars.map(({ key, startMs, ms }) => [key, startMs, ms]),
    [
      ["vad", 0, 200],
      ["tts", 200, 100],
      ["wire", 300, 50],
    ],
  );
  assert.equal(totalMs, 350);
});

test("the odds and ends are one bar, and what is too short to see is none", () => {
  const { bars } = waterfall(
    {
      turn: 1,
      totalMs: 250,
      stages: [
        { key: "vad", label: "Silence heard", ms: 200 },
        { key: "other", label: "Output", ms: 9 },
        { key: "turn", label: "Turn end", ms: 0.2 },
      ],
    },
    undefined,
  );
  assert.deepEqual(
    bars.map(({ key, ms }) => [key, ms]),
    [
      ["vad", 200],
      ["other", 50],
    ],
  );
});

const pair = { type: "candidate-pair", nominated: true, state: "succeeded" };

test("the wire is half the round trip and the buffer's mean since the reading before", () => {
  const before = readCounters([
    { ...pair, currentRoundTripTime: 0.5 },
    { type: "inbound-rtp", kind: "audio", jitterBufferDelay: 100, jitterBufferEmittedCount: 100 },
  ]);
  const now = readCounters([
    { ...pair, currentRoundTripTime: 0.02 },
    { type: "candidate-pair", nominated: false, state: "failed", currentRoundTripTime: 9 },
    { type: "inbound-rtp", kind: "video", jitterBufferDelay: 9, jitterBufferEmittedCount: 1 },
    { type: "inbound-rtp", kind: "audio", jitterBufferDelay: 104, jitterBufferEmittedCount: 200 },
  ]);
  assert.deepEqual(wireDelay(before, now), { networkMs: 10, bufferMs: 40 });
});

test("a connection that has measured nothing yet has no wire to show", () => {
  assert.equal(wireDelay(undefined, readCounters([])), undefined);
});

test("durations are written for a reader", () => {
  assert.deepEqual([0.6, 84.6, 999, 1310].map(formatMs), ["1 ms", "85 ms", "999 ms", "1.3 s"]);
});
