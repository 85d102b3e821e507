import type { CallerInput, Segment } from "./protocol";

/** What the caller contributed. */
export interface CallerTurn {
  side: "caller";
  id: number;
  /** What has been recognised for good. */
  text: string;
  /** What the recogniser thinks it hears at the moment; empty once that is settled. */
  interim: string;
  /** Whether the caller typed it. */
  typed: boolean;
  /** Whether it is a short acknowledgement that leaves the floor to the agent. */
  aside: boolean;
}

/** What the agent contributed. */
export interface AgentTurn {
  side: "agent";
  id: number;
  segments: Segment[];
  /** Whether the caller cut it short; what is unsaid then stays unsaid. */
  interrupted: boolean;
}

export type Turn = CallerTurn | AgentTurn;

/** A pause after which what the agent says next is a turn of its own, in milliseconds. */
export const PAUSE_BETWEEN_AGENT_TURNS = 2500;

/**
 * The conversation as it has been heard so far: turns of the caller and of the agent, in order.
 *
 * Fed with what the bot reports, in the order in which it does; knows nothing of the page.
 */
export class Transcript {
  readonly turns: Turn[] = [];
  private nextId = 1;
  /** When the agent last fell silent, or undefined while it speaks. */
  private silentSince: number | undefined;

  /** The agent's turn in progress or the last one, unless the caller has spoken since. */
  private get openAgentTurn(): AgentTurn | undefined {
    for (let i = this.turns.length - 1; i >= 0; i--) {
      const turn = this.turns[i];
      if (turn?.side === "agent") return turn;
      if (turn && !turn.aside) return undefined;
    }
    return undefined;
  }

  private find(segmentId: number): { turn: AgentTurn; segment: Segment } | undefined {
    for (let i = this.turns.length - 1; i >= 0; i--) {
      const turn = this.turns[i];
      if (turn?.side !== "agent") continue;
      const segment = turn.segments.find((candidate) => candidate.id === segmentId);
      if (segment) return { turn, segment };
    }
    return undefined;
  }

  /**
   * Takes in how far the agent has come with a segment.
   *
   * @param update - The segment's state; a segment that is not known yet is added.
   * @param now - The time in milliseconds, on any clock that only moves forward.
   * @returns The turn that changed.
   */
  hearAgent(update: Segment, now: number): AgentTurn {
    const known = this.find(update.id);
    if (known) {
      known.segment.said = update.said;
      known.segment.unsaid = update.unsaid;
      return known.turn;
    }
    let turn = this.openAgentTurn;
    const pause = this.silentSince === undefined ? 0 : now - this.silentSince;
    if (!turn || turn.interrupted || pause > PAUSE_BETWEEN_AGENT_TURNS) {
      turn = { side: "agent", id: this.nextId++, segments: [], interrupted: false };
      this.turns.push(turn);
    }
    turn.segments.push({ ...update });
    return turn;
  }

  /** The agent has started to be heard. */
  agentStarted(): void {
    this.silentSince = undefined;
  }

  /** The agent has fallen silent, at `now` milliseconds on the clock of {@link hearAgent}. */
  agentStopped(now: number): void {
    this.silentSince = now;
  }

  /**
   * The agent gives way to the caller.
   *
   * @param audible - Whether the agent was making a sound when it was stopped: a turn of which
   *   every word has begun is cut short by that alone.
   * @returns The turn that was cut, or undefined when the agent had said all that it had to say.
   */
  interrupt(audible: boolean): AgentTurn | undefined {
    const turn = this.openAgentTurn;
    if (!turn || turn.interrupted) return undefined;
    if (!audible && turn.segments.every((segment) => !segment.unsaid.trim())) return undefined;
    turn.interrupted = true;
    return turn;
  }

  /**
   * Takes in what the caller said or typed.
   *
   * @returns The turn that changed: the caller's last, when the agent has said nothing since.
   */
  hearCaller(input: CallerInput): CallerTurn {
    const last = this.turns[this.turns.length - 1];
    const aside = input.kind === "backchannel";
    const typed = input.kind === "chat";
    let turn: CallerTurn;
    if (last?.side === "caller" && last.aside === aside && last.typed === typed) {
      turn = last;
    } else {
      turn = { side: "caller", id: this.nextId++, text: "", interim: "", typed, aside };
      this.turns.push(turn);
    }
    if (input.final) {
      turn.text = turn.text ? `${turn.text} ${input.text}` : input.text;
      turn.interim = "";
    } else {
      turn.interim = input.text;
    }
    return turn;
  }
}

/** The words of a turn that have been heard, joined as they are written. */
export function saidText(turn: Turn): string {
  if (turn.side === "caller") return [turn.text, turn.interim].filter(Boolean).join(" ");
  return join(turn.segments.map((segment) => segment.said));
}

/** The words that an interrupted turn of the agent no longer came to; empty for any other turn. */
export function unsaidText(turn: Turn): string {
  if (turn.side === "caller" || !turn.interrupted) return "";
  return join(turn.segments.map((segment) => segment.unsaid));
}

function join(parts: string[]): string {
  return parts
    .map((part) => part.trim())
    .filter(Boolean)
    .join(" ");
}
