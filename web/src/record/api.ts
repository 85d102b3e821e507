import { send } from "../key";

/** What the server knows of recorded calls; `bot/server/records.py` has the other half. */

export interface Stretch {
  text: string;
  start: number;
  end: number;
}

export interface Latency {
  turn: number;
  total_ms: number;
  stages: { key: string; label: string; ms: number }[];
}

export interface Turn {
  side: "caller" | "agent";
  start: number;
  end: number;
  text: string;
  typed: boolean;
  cut: boolean;
  latency: Latency | null;
  segments: Stretch[];
  words: Stretch[];
}

export interface About {
  id: string;
  agent: string;
  voice: string;
  origin: { transport: string; caller: string; called: string; outbound: boolean };
  started: string;
  ended?: string | null;
  seconds?: number | null;
  reason?: string | null;
  complete?: boolean | null;
}

export interface Recorded extends About {
  in_progress: boolean;
  audio_seconds: number;
  turns: Turn[];
}

export interface Peaks {
  start: number;
  end: number;
  caller: number[];
  agent: number[];
}

/** The server refuses; `status` is 401 where it asks for a key. */
export class RefusedError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** Asks the server, with the key if there is one. */
export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const response = await send(`./calls${path}`, init);
  if (!response.ok) {
    const told = (await response.json().catch(() => ({}))) as { detail?: string };
    throw new RefusedError(response.status, told.detail ?? `the server says ${response.status}`);
  }
  return response;
}

/** The latest records; null where calls are not recorded. */
export async function records(): Promise<About[] | null> {
  const told = (await (await ask("?limit=200")).json()) as { records?: About[] };
  return told.records ?? null;
}

/** One record. */
export async function record(id: string): Promise<Recorded> {
  return (await (await ask(`/${id}`)).json()) as Recorded;
}

/** How loud both sides were. */
export async function peaks(
  id: string,
  start: number,
  end: number,
  columns: number,
): Promise<Peaks> {
  const query = new URLSearchParams({
    start: start.toFixed(2),
    end: end.toFixed(2),
    columns: String(Math.max(1, Math.min(4096, Math.round(columns)))),
  });
  return (await (await ask(`/${id}/peaks?${query}`)).json()) as Peaks;
}
