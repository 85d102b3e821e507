/**
 * What the page and the bot say to each other, and the reading of it.
 *
 * Whatever comes over the wire is `unknown` until a function here has looked at it; a message that
 * does not have the expected form is ignored, so that an older page survives a newer bot.
 */

/** A voice that the agent can speak with. */
export interface Voice {
  name: string;
  label: string;
  language: string;
}

/** The voices that a call may have now, the one that it has, and the one that was asked for. */
export interface VoiceState {
  voices: readonly Voice[];
  voice: string;
  wanted: string;
}

/** Who answers and with what, from `GET /api/agent`. */
export interface AgentInfo {
  name: string;
  tts: { engine: string; voice: string; voices: Voice[] };
  stt: { engine: string; model: string };
  llm: { engine: string; model: string };
}

/** A part of the agent's turn, mostly a sentence: how much of it has been heard. */
export interface Segment {
  id: number;
  said: string;
  unsaid: string;
}

/** What the caller said or typed. */
export interface CallerInput {
  text: string;
  kind: "transcription" | "chat" | "backchannel";
  final: boolean;
}

/** One stage of a turn's latency, in milliseconds. */
export interface Stage {
  key: string;
  label: string;
  ms: number;
}

/** A turn's latency, from the caller's last sound to the agent's first, as the bot measured it. */
export interface TurnLatency {
  turn: number;
  totalMs: number;
  stages: Stage[];
}

/** The end of a call, as the bot announces it. */
export interface CallEnded {
  reason: string;
}

type Fields = Record<string, unknown>;

function fields(value: unknown): Fields | undefined {
  return typeof value === "object" && value !== null ? (value as Fields) : undefined;
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function items(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

/** Reads the body of `GET /api/agent`. */
export function readAgentInfo(body: unknown): AgentInfo | undefined {
  const agent = fields(body);
  if (!agent) return undefined;
  const tts = fields(agent.tts) ?? {};
  const stt = fields(agent.stt) ?? {};
  const llm = fields(agent.llm) ?? {};
  return {
    name: text(agent.name),
    tts: {
      engine: text(tts.engine),
      voice: text(tts.voice),
      voices: readVoices(tts.voices),
    },
    stt: { engine: text(stt.engine), model: text(stt.model) },
    llm: { engine: text(llm.engine), model: text(llm.model) },
  };
}

function readVoices(list: unknown): Voice[] {
  return items(list).flatMap((item) => {
    const voice = fields(item);
    const name = text(voice?.name);
    if (!name) return [];
    return [{ name, label: text(voice?.label) || name, language: text(voice?.language) }];
  });
}

/**
 * Reads the data of an RTVI `bot-output` message (protocol 2.0.0 and later).
 *
 * Text that will not be spoken counts as said: there is no later message about it.
 */
export function readBotOutput(data: unknown): Segment | undefined {
  const output = fields(data);
  if (!output || typeof output.segment_id !== "number") return undefined;
  const progress = fields(output.spoken_progress);
  return {
    id: output.segment_id,
    said: progress ? text(progress.accumulated_text) : text(output.text),
    unsaid: progress ? text(progress.remaining_text) : "",
  };
}

/** Reads the data of an RTVI `user-input` message. */
export function readUserInput(data: unknown): CallerInput | undefined {
  const input = fields(data);
  const said = text(input?.text).trim();
  if (!said) return undefined;
  const kind = input?.input_type;
  if (kind !== "transcription" && kind !== "chat" && kind !== "backchannel") return undefined;
  return { text: said, kind, final: input?.final === true };
}

/** Reads a `turn-latency` server message. */
export function readTurnLatency(data: unknown): TurnLatency | undefined {
  const message = fields(data);
  if (message?.type !== "turn-latency" || typeof message.total_ms !== "number") return undefined;
  return {
    turn: typeof message.turn === "number" ? message.turn : 0,
    totalMs: message.total_ms,
    stages: items(message.stages).flatMap((item) => {
      const stage = fields(item);
      if (!stage || typeof stage.ms !== "number") return [];
      const key = text(stage.key) || "other";
      return [{ key, label: text(stage.label) || key, ms: stage.ms }];
    }),
  };
}

/** Reads a `voices` server message. */
export function readVoiceState(data: unknown): VoiceState | undefined {
  const message = fields(data);
  if (message?.type !== "voices") return undefined;
  const voice = text(message.voice);
  return { voices: readVoices(message.voices), voice, wanted: text(message.wanted) || voice };
}

/** Reads a `wake` server message: whether the agent hears, or waits for its wake word. */
export function readAwake(data: unknown): boolean | undefined {
  const message = fields(data);
  return message?.type === "wake" && typeof message.awake === "boolean" ? message.awake : undefined;
}

/** Reads a `call-ended` server message. */
export function readCallEnded(data: unknown): CallEnded | undefined {
  const message = fields(data);
  if (message?.type !== "call-ended") return undefined;
  return { reason: text(message.reason) };
}

/** The sentence in an RTVI `error` or `error-response` message's data. */
export function readError(data: unknown): string {
  const error = fields(data);
  return text(error?.error) || text(error?.message);
}

/** The sentence in a JSON error body, `{"detail": "…"}`. */
export function readDetail(body: unknown): string {
  return text(fields(body)?.detail);
}

/** The `sessionId` and ICE servers in the answer to `POST /start`. */
export function readStart(
  body: unknown,
): { sessionId: string; iceServers: RTCIceServer[] } | undefined {
  const start = fields(body);
  const sessionId = text(start?.sessionId);
  if (!sessionId) return undefined;
  const iceServers = items(fields(start?.iceConfig)?.iceServers) as RTCIceServer[];
  return { sessionId, iceServers };
}

/** The room in the answer to `POST /start` for Daily, and the token that opens it. */
export function readRoom(body: unknown): { url: string; token: string } | undefined {
  const start = fields(body);
  const url = text(start?.dailyRoom);
  return url.startsWith("https://") ? { url, token: text(start?.dailyToken) } : undefined;
}
