import type { Server } from "../session";

/** What a page asks of a widget. */
export interface Options {
  server: Server;
  /** What the panel calls the agent; empty for no name. */
  agent: string;
  /** What the panel says before a call; empty for words of its own. */
  greeting: string;
  position: Position;
  /** Any CSS colour; empty for the style sheet's. */
  color: string;
  /** A language tag, empty for the page's. */
  language: string;
  theme: "light" | "dark" | "auto";
  transport: "webrtc" | "daily";
}

const POSITIONS = ["bottom-right", "bottom-left", "top-right", "top-left"] as const;
export type Position = (typeof POSITIONS)[number];

/** The attributes of `<parley-agent>`; on the script they are spelled with `data-` before them. */
export const ATTRIBUTES = [
  "server",
  "token",
  "agent",
  "greeting",
  "position",
  "color",
  "language",
  "theme",
  "transport",
] as const;

/**
 * Reads the attributes of a widget; what has no meaning counts as not given.
 *
 * @param attribute - Looks one up.
 * @param server - The address of the server that the script came from.
 */
export function readOptions(
  attribute: (name: string) => string | null | undefined,
  server: string,
): Options {
  const read = (name: (typeof ATTRIBUTES)[number]) => attribute(name)?.trim() ?? "";
  const one = <T extends string>(name: (typeof ATTRIBUTES)[number], first: T, ...others: T[]) =>
    others.find((other) => other === read(name).toLowerCase()) ?? first;
  return {
    server: { address: address(read("server")) ?? server, token: read("token") },
    agent: read("agent"),
    greeting: read("greeting"),
    position: one<Position>("position", ...POSITIONS),
    color: read("color"),
    language: read("language"),
    theme: one("theme", "auto", "light", "dark"),
    transport: one("transport", "webrtc", "daily"),
  };
}

/** The folder of the server that a script's address lies in, without a slash at its end. */
export function serverOf(script: string): string {
  return new URL(".", script).href.replace(/\/$/, "");
}

function address(text: string): string | undefined {
  return /^https?:\/\/[^/\s]+/.test(text) ? text.replace(/\/+$/, "") : undefined;
}
