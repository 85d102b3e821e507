import type { TurnLatency } from "./protocol";

/** A bar of the waterfall: where it starts and how long it is, in milliseconds. */
export interface Bar {
  key: string;
  label: string;
  startMs: number;
  ms: number;
}

/** A turn's latency as the caller has it, stage after stage. */
export interface Waterfall {
  turn: number;
  totalMs: number;
  bars: Bar[];
}

/** What the wire adds on the way to the caller's ear, in milliseconds. */
export interface WireDelay {
  networkMs: number;
  bufferMs: number;
}

/**
 * Lays a turn's stages end to end and adds the wire.
 *
 * Stages without a measurable length are left out. What the bot files under `other`, and whatever
 * its stages leave of its total, are one bar, so that the bars always end at the total.
 */
export function waterfall(latency: TurnLatency, wire: WireDelay | undefined): Waterfall {
  const stages = latency.stages.filter((stage) => stage.key !== "other" && stage.ms >= 0.5);
  const rest = latency.totalMs - stages.reduce((sum, stage) => sum + stage.ms, 0);
  if (rest >= 0.5) stages.push({ key: "other", label: "Pipeline", ms: rest });
  if (wire) {
    stages.push({ key: "wire", label: "Wire", ms: wire.networkMs + wire.bufferMs });
  }
  let startMs = 0;
  const bars = stages.map(({ key, label, ms }) => {
    const bar = { key, label, startMs, ms };
    startMs += ms;
    return bar;
  });
  return { turn: latency.turn, totalMs: startMs, bars };
}

/** The counters of a peer connection that the wire's delay is computed from. */
export interface WireCounters {
  /** Round trip in seconds, or undefined before the first check has come back. */
  roundTrip: number | undefined;
  /** Sum of the time that each sample spent in the jitter buffer, in seconds. */
  bufferDelay: number;
  /** How many samples that sum is of. */
  bufferCount: number;
}

type Report = Record<string, unknown>;

/** Reads the counters from the reports of `RTCPeerConnection.getStats()`. */
export function readCounters(reports: Iterable<Report>): WireCounters {
  const counters: WireCounters = { roundTrip: undefined, bufferDelay: 0, bufferCount: 0 };
  for (const report of reports) {
    if (report.type === "candidate-pair" && report.nominated && report.state === "succeeded") {
      if (typeof report.currentRoundTripTime === "number") {
        counters.roundTrip = report.currentRoundTripTime;
      }
    } else if (report.type === "inbound-rtp" && report.kind === "audio") {
      counters.bufferDelay += Number(report.jitterBufferDelay ?? 0);
      counters.bufferCount += Number(report.jitterBufferEmittedCount ?? 0);
    }
  }
  return counters;
}

/**
 * The wire's delay between two readings of the counters: half the round trip, and the mean time
 * that the samples played in between had spent in the jitter buffer.
 */
export function wireDelay(
  before: WireCounters | undefined,
  now: WireCounters,
): WireDelay | undefined {
  const count = now.bufferCount - (before?.bufferCount ?? 0);
  const delay = now.bufferDelay - (before?.bufferDelay ?? 0);
  if (now.roundTrip === undefined && count <= 0) return undefined;
  return {
    networkMs: ((now.roundTrip ?? 0) * 1000) / 2,
    bufferMs: count > 0 ? (delay / count) * 1000 : 0,
  };
}

/** A duration for a reader: `85 ms`, `420 ms`, `1.3 s`. */
export function formatMs(ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
