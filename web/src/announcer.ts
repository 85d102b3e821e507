import type { Phase } from "./call";
import { create } from "./dom";
import { saidText, type Turn } from "./transcript";

/** How many messages are kept for a reader that is slower than the conversation. */
const KEPT = 5;

/** What a screen reader is told, in a live region that nobody sees. */
export class Announcer {
  /** How many turns have been told. */
  private told = 0;
  private broken = false;

  /** @param region - The live region. */
  constructor(private readonly region: HTMLElement) {}

  /** Says something, once the reader is done with what it is saying. */
  say(text: string): void {
    this.region.append(create("p", "", text));
    while (this.region.childElementCount > KEPT) this.region.firstElementChild?.remove();
  }

  /** A new conversation begins. */
  clear(): void {
    this.told = 0;
    this.broken = false;
  }

  /**
   * Tells that the connection broke, or is back: of the other phases a caller hears.
   *
   * @param text - The phase, in words.
   */
  follow(phase: Phase, text: string): void {
    const broken = phase === "reconnecting";
    if (broken !== this.broken) this.say(text);
    this.broken = broken;
  }

  /**
   * Tells the turns that are complete.
   *
   * The words on the page come one by one, far too often to be read out; a turn is complete when
   * the next one begins that is more than an aside, or the call ends.
   *
   * @param names - What the two sides are called.
   * @param all - Whether the last turn is complete, too.
   */
  tell(turns: readonly Turn[], names: Record<Turn["side"], string>, all: boolean): void {
    const asides = turns.map((turn) => turn.side === "caller" && turn.aside);
    const complete = turns.slice(this.told, all ? undefined : asides.lastIndexOf(false));
    this.told += complete.length;
    const said = complete.filter((turn) => saidText(turn));
    if (said.length === 0) return;
    this.say(said.map((turn) => `${names[turn.side]}: ${saidText(turn)}`).join(" "));
  }
}
