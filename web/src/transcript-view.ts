import { create } from "./dom";
import { formatMs, type Waterfall } from "./latency";
import { saidText, type Turn, unsaidText } from "./transcript";

/** What the sides of a conversation are called, and what is said of a turn that was cut short. */
export interface TranscriptNames {
  agent: string;
  caller: string;
  /** The caller, in writing. */
  typed: string;
  interrupted: string;
}

/** The conversation, one list item a turn. */
export class TranscriptView {
  private readonly turns = new Map<number, HTMLElement>();
  private waiting: Waterfall | undefined;

  /**
   * @param list - Where it is shown.
   * @param names - What the two sides are called now.
   */
  constructor(
    private readonly list: HTMLElement,
    private readonly names: () => TranscriptNames,
  ) {}

  /** Empties the list for the next call. */
  clear(): void {
    this.waiting = undefined;
    this.turns.clear();
    this.list.replaceChildren();
  }

  /** Shows a turn as it is now; a turn of which nothing has been heard yet is not shown. */
  show(turn: Turn): void {
    const said = saidText(turn);
    let item = this.turns.get(turn.id);
    if (!item) {
      if (!said) return;
      item = this.add(turn);
    }
    this.follow(() => this.fill(item, turn, said));
    if (turn.side === "agent") item.dataset.interrupted = String(turn.interrupted);
  }

  /** Puts a turn's latency beside it, or beside the one that is about to begin. */
  showLatency(latency: Waterfall): void {
    const last = [...this.turns.values()].pop();
    if (!last?.matches(".turn-agent") || last.querySelector(".turn-latency")) {
      this.waiting = latency;
      return;
    }
    this.waiting = undefined;
    last
      .querySelector(".turn-who")
      ?.append(create("span", "turn-latency", formatMs(latency.totalMs)));
  }

  private add(turn: Turn): HTMLElement {
    const agent = turn.side === "agent";
    const item = create("li", `turn turn-${turn.side}`);
    item.dataset.testid = agent ? "turn-agent" : "turn-user";
    if (turn.side === "caller" && turn.aside) item.classList.add("turn-aside");
    const typed = turn.side === "caller" && turn.typed;
    const name = this.names()[typed ? "typed" : turn.side];
    const who = create("p", "turn-who");
    who.append(create("span", "turn-name", name));
    item.append(who, create("p", "turn-words"));
    this.turns.set(turn.id, item);
    this.follow(() => this.list.append(item));
    if (!agent) this.waiting = undefined;
    else if (this.waiting) this.showLatency(this.waiting);
    return item;
  }

  private fill(item: HTMLElement, turn: Turn, said: string): void {
    const words = item.querySelector(".turn-words");
    if (!words) return;
    words.querySelector(".unsaid")?.remove();
    if (turn.side === "caller") {
      words.textContent = turn.text;
      if (turn.interim) words.append(create("span", "interim", ` ${turn.interim}`));
      return;
    }
    // Only what has come since is added, so that each word can appear for itself.
    const shown = words.textContent ?? "";
    if (said.startsWith(shown)) {
      if (said.length > shown.length)
        words.append(create("span", "word", said.slice(shown.length)));
    } else {
      words.replaceChildren(create("span", "word", said));
    }
    if (!turn.interrupted) return;
    const unsaid = create("span", "unsaid");
    const cut = unsaidText(turn);
    unsaid.append(create("span", "sr-only", ` (${this.names().interrupted})`));
    if (cut) unsaid.append(" ", create("s", "", cut));
    words.append(unsaid);
  }

  /** Keeps the newest words in sight, unless the reader has scrolled up to older ones. */
  private follow(change: () => void): void {
    const { list } = this;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    change();
    if (atEnd) list.scrollTop = list.scrollHeight;
  }
}
