import { Call, type Phase } from "../call";
import type { OpenLine } from "../line";
import { NOT_SENT, type Outcome, type Problem, ProblemError, UNREACHABLE } from "../problems";
import { saidText, type Turn } from "../transcript";
import { openWebRtc } from "../webrtc";
import { ATTRIBUTES, type Options, readOptions } from "./options";
import { type State, WidgetView } from "./view";
import { languageOf } from "./words";

/** What the page is told of a turn each time it changes. */
export interface TurnDetail {
  id: number;
  side: "agent" | "caller";
  /** The words that have been heard so far. */
  text: string;
  /** Whether the caller typed it. */
  typed: boolean;
  /** Whether the caller cut it short. */
  interrupted: boolean;
}

/**
 * `<parley-agent>`: a button that opens a panel, from which a caller talks to an agent.
 *
 * Everything is in a shadow root. The page hears of it by events: `parley:open`, `parley:close`,
 * `parley:call-started`, `parley:transcript`, `parley:error`, `parley:call-ended`.
 */
export class ParleyAgent extends HTMLElement {
  static readonly observedAttributes = [...ATTRIBUTES, "hidden"];

  /** The server that is called where the element names none. */
  static server = "";

  /** The widget of the page that has a call: a page has one microphone and one ear. */
  private static calling: ParleyAgent | undefined;

  private readonly view: WidgetView;
  private readonly dark = matchMedia("(prefers-color-scheme: dark)");
  private options: Options;
  private call: Call | undefined;
  private phase: Phase = "connecting";
  private talked = false;

  constructor() {
    super();
    this.options = this.readOptions();
    this.view = new WidgetView(
      this.attachShadow({ mode: "open" }),
      (now) => this.call?.readLevels(now) ?? { mic: 0, agent: 0 },
    );
    this.listen();
  }

  connectedCallback(): void {
    this.dark.addEventListener("change", this.restyle);
    this.view.narrow.addEventListener("change", this.fit);
    addEventListener("pagehide", this.leave);
    this.apply();
    // What is taken from a document is modal no more.
    this.fit();
  }

  disconnectedCallback(): void {
    this.dark.removeEventListener("change", this.restyle);
    this.view.narrow.removeEventListener("change", this.fit);
    removeEventListener("pagehide", this.leave);
    // A page that only moves the element keeps its call.
    queueMicrotask(() => {
      if (!this.isConnected) this.leave();
    });
  }

  attributeChangedCallback(): void {
    if (this.isConnected) this.apply();
  }

  /** Shows the panel. */
  open(): void {
    if (this.view.isOpen || this.hidden) return;
    this.view.open(true);
    this.restyle();
    this.tell("open");
  }

  /** Hides the panel, and puts a focus that is in it on the button; a call goes on. */
  close(): void {
    if (!this.view.isOpen) return;
    this.view.open(false);
    this.tell("close");
  }

  /** Ends the call, if there is one. */
  hangUp(): void {
    this.call?.hangUp();
  }

  private readonly leave = () => this.hangUp();

  private readonly fit = () => this.view.fit();

  private readonly restyle = () => {
    const { theme } = this.options;
    this.view.restyle(theme === "auto" ? this.dark.matches : theme === "dark");
  };

  private readOptions(): Options {
    return readOptions((name) => this.getAttribute(name), ParleyAgent.server);
  }

  private apply(): void {
    this.options = this.readOptions();
    const page = this.closest<HTMLElement>("[lang]")?.lang ?? "";
    this.view.apply(this.options, languageOf(this.options.language || page));
    this.restyle();
    // A modal dialog keeps the page from its visitor also where it cannot be seen.
    if (this.hidden) this.close();
  }

  private tell(name: string, detail?: unknown): void {
    const event = new CustomEvent(`parley:${name}`, { bubbles: true, composed: true, detail });
    this.dispatchEvent(event);
  }

  private listen(): void {
    const { view } = this;
    // The second press of a double click would take back the first, or fall on what has only just
    // come in its place.
    const once = (press: () => void) => (event: MouseEvent) => {
      if (event.detail < 2) press();
    };
    view.launcher.addEventListener("click", once(() => this.toggle()));
    view.connect.addEventListener("click", once(() => this.start()));
    view.hangUp.addEventListener("click", once(() => this.hangUp()));
    view.close.addEventListener("click", () => this.close());
    // The browser closes it, too: a phone has a gesture for that.
    view.panel.addEventListener("close", () => {
      if (!view.panel.open) this.close();
    });
    view.problemClose.addEventListener("click", () => {
      view.hideProblem();
      view.focus();
    });
    view.mute.addEventListener("click", () => this.toggleMute());
    view.bar.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.sendText();
    });
    this.listenToKeys();
  }

  private listenToKeys(): void {
    for (const kind of ["keydown", "keypress", "keyup"] as const) {
      this.shadowRoot?.addEventListener(kind, (event) => {
        // The page's own keys must not be pressed by who writes here: to the page, the keys come
        // from an element that is no field.
        event.stopPropagation();
        if (kind !== "keydown") return;
        const { key, repeat, isComposing } = event as KeyboardEvent;
        // Held down, it would press what has only just come, too.
        if (key === "Enter" && repeat) event.preventDefault();
        // In a word that is being composed, it takes back the word.
        if (key === "Escape" && !isComposing) this.close();
      });
    }
  }

  private toggle(): void {
    if (this.view.isOpen) {
      this.close();
      return;
    }
    this.open();
    this.view.focus();
  }

  private start(): void {
    if (this.call) return;
    ParleyAgent.calling?.hangUp();
    ParleyAgent.calling = this;
    this.talked = false;
    const { view, options } = this;
    view.transcript.clear();
    view.announcer.clear();
    const call: Call = new Call(
      view.audio,
      {
        phase: (phase) => {
          this.phase = phase;
          this.showPhase();
        },
        turn: (turn) => {
          view.transcript.show(turn);
          view.announcer.tell(call.transcript.turns, view.names, false);
          this.tell("transcript", turnDetail(turn));
        },
        notice: (problem) => (problem ? this.complain(problem) : view.hideProblem()),
        ended: (outcome) => {
          view.announcer.tell(call.transcript.turns, view.names, true);
          this.ended(outcome);
        },
      },
      options.server,
    );
    this.call = call;
    void call.start(options.transport === "daily" ? openDaily : openWebRtc);
  }

  private showPhase(): void {
    const { phase, view } = this;
    const connected = phase !== "microphone" && phase !== "connecting" && phase !== "reconnecting";
    this.show({ kind: "call", phase });
    if (!connected || this.talked) return;
    this.talked = true;
    view.openFloor();
    this.tell("call-started");
  }

  private show(state: State): void {
    this.view.show(state, state.kind === "call" && this.call?.muted === true);
  }

  private complain(problem: Problem): void {
    this.view.showProblem(problem);
    this.tell("error", problem);
  }

  private ended(outcome: Outcome): void {
    this.call = undefined;
    if (ParleyAgent.calling === this) ParleyAgent.calling = undefined;
    this.show({ kind: "ended", ...outcome });
    if (outcome.failed) this.tell("error", outcome.problem);
    this.tell("call-ended", { reason: outcome.problem.code, failed: outcome.failed });
  }

  private toggleMute(): void {
    const { call } = this;
    if (!call) return;
    call.muted = !call.muted;
    this.showPhase();
    this.view.tellMuted();
  }

  private async sendText(): Promise<void> {
    const text = this.view.text.value.trim();
    if (!text || !this.call) return;
    try {
      await this.call.sendText(text);
      this.view.text.value = "";
    } catch {
      this.complain(NOT_SENT);
    }
  }
}

/** Enters a Daily room, with code that comes from where the widget came from. */
const openDaily: OpenLine = async (microphone, events) => {
  const file = `${ParleyAgent.server}/widget-daily.js`;
  try {
    const daily: typeof import("./daily") = await import(/* @vite-ignore */ file);
    return new daily.DailyLine(microphone, events);
  } catch (error) {
    throw new ProblemError({ ...UNREACHABLE, advice: String(error) });
  }
};

function turnDetail(turn: Turn): TurnDetail {
  const { id, side } = turn;
  return {
    id,
    side,
    text: saidText(turn),
    typed: side === "caller" && turn.typed,
    interrupted: side === "agent" && turn.interrupted,
  };
}
