import { create } from "./dom";
import { saidText, type Turn } from "./transcript";

/** How many messages are kept for a reader that is slower than the conversation. */
const KEPT = 5;

/** What a screen reader is told, in a live region that nobody sees. */
export class Announcer {
  /** How many turns have been told. */
  private told = 0;

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
  }

  /**
   * Tells the turns that are complete.
   *
   * The words on the page come one by one, far too often to be read out; a turn is complete when
   * the next one begins, or the call ends.
   *
   * @param names - What the two sides are called.
   * @param all - Whether the last turn is complete, too.
   */
  tell(turns: readonly Turn[], names: Record<Turn["side"], string>, all: boolean): void {
    const complete = turns.slice(this.told, all ? undefined : -1);
    if (complete.length === 0) return;
    this.told += complete.length;
    this.say(complete.map((turn) => `${names[turn.side]}: ${saidText(turn)}`).join(" "));
  }
}
