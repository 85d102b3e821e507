/** The voices that an agent has, in words. */

import type { Voice, VoiceState } from "./protocol";

/** Voices that belong together in a list. */
export interface VoiceGroup {
  name: string;
  voices: { name: string; text: string }[];
}

/** How engines write themselves, where that is not their name with a capital. */
const ENGINES: Record<string, string> = {
  cosyvoice: "CosyVoice",
  openai: "OpenAI",
  pocket: "Pocket TTS",
  xtts: "XTTS",
};

/** The engine in a name of the form `ENGINE/NAME`; empty where the name has none. */
function engineOf(name: string): string {
  const engine = name.slice(0, Math.max(name.indexOf("/"), 0));
  return ENGINES[engine] ?? engine.charAt(0).toUpperCase() + engine.slice(1);
}

/** What a person reads: `Piper · lessac, medium (en-US)`. */
export function voiceText({ name, label, language }: Voice): string {
  const engine = engineOf(name);
  // A list of one engine's voices is divided by language, which so need not be repeated.
  if (!engine) return label;
  const own = label === name ? name.slice(name.indexOf("/") + 1) : label;
  const spoken = language && !own.includes(language) ? ` (${language})` : "";
  return `${engine} · ${own}${spoken}`;
}

/** The voices by engine, or by language where all are one engine's; each in its first one's place. */
export function groupVoices(voices: readonly Voice[]): VoiceGroup[] {
  const groups = new Map<string, VoiceGroup>();
  for (const voice of voices) {
    const name = engineOf(voice.name) || voice.language;
    const group = groups.get(name) ?? { name, voices: [] };
    group.voices.push({ name: voice.name, text: voiceText(voice) });
    groups.set(name, group);
  }
  return [...groups.values()];
}

/** The voices of a conversation as they come and go. */
export class VoiceList {
  voices: readonly Voice[] = [];
  /** The name of the voice that the next sentence is spoken with; empty while nobody speaks. */
  voice = "";
  /** The name of the voice that was asked for. */
  wanted = "";

  private readonly texts = new Map<string, string>();

  /** Takes note of which voices there are. */
  update({ voices, voice, wanted }: VoiceState): void {
    Object.assign(this, { voices, voice, wanted });
    for (const one of voices) this.texts.set(one.name, voiceText(one));
  }

  /** Says so where the agent cannot speak with the voice that was asked for. */
  note(): string {
    if (!this.voice) return "No voice can be reached at the moment.";
    if (this.voice === this.wanted) return "";
    const [away, present] = [this.wanted, this.voice].map((name) => this.texts.get(name) ?? name);
    return `${away} is away. Until it is back, you hear ${present}.`;
  }
}
