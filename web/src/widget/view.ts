import { Announcer } from "../announcer";
import type { Phase } from "../call";
import { create, showLevel } from "../dom";
import { Figure, type FigureState, type Levels } from "../figure";
import type { Problem } from "../problems";
import { type TranscriptNames, TranscriptView } from "../transcript-view";
import { inkOn } from "./colour";
import type { Options } from "./options";
import css from "./widget.css?inline";
import { translate, wordsOf } from "./words";

/** What the panel shows: a call's phase, or that there is none. */
export type State =
  | { kind: "idle" }
  | { kind: "call"; phase: Phase }
  | { kind: "ended"; failed: boolean; problem: Problem };

/** Figures of lines and dots, drawn in the colour of the text. */
const MICROPHONE = "M9 6a3 3 0 0 1 6 0v5a3 3 0 0 1-6 0zM5.5 11.5a6.5 6.5 0 0 0 13 0M12 18v3";
const SLASH = "M4 4l16 16";
const ARROW = "M12 19V5M6 11l6-6 6 6";
const CHEVRON = "M6 9.5l6 6 6-6";
const CROSS = "M7 7l10 10M17 7L7 17";
const RECEIVER =
  "M3.2 13.6c4.9-4.5 12.7-4.5 17.6 0 .6.6.7 1.4.3 2.1l-.9 1.4c-.4.7-1.2.9-1.9.7l-2.9-1.1a1.5 1.5 0 " +
  "0 1-1-1.4v-1.5a8.7 8.7 0 0 0-4.8 0v1.5a1.5 1.5 0 0 1-1 1.4l-2.9 1.1c-.7.2-1.5 0-1.9-.7l-.9-1.4c" +
  "-.4-.7-.3-1.5.3-2.1z";
/** Two voices that overlap. */
const MARK = "M18 12a6.5 6.5 0 1 1-13 0a6.5 6.5 0 1 1 13 0M27 12a6.5 6.5 0 1 1-13 0a6.5 6.5 0 1 1 13 0";

const QUIETLY: FocusOptions = { preventScroll: true };

let styles: CSSStyleSheet | undefined;

/** The style sheet, which all widgets of a page share; made so, no policy of the page forbids it. */
function sheet(): CSSStyleSheet {
  if (!styles) {
    styles = new CSSStyleSheet();
    styles.replaceSync(css);
  }
  return styles;
}

// No markup is parsed anywhere, since a page may require Trusted Types.
function drawing(box: string, ...paths: string[]): SVGSVGElement {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", box);
  svg.setAttribute("aria-hidden", "true");
  for (const d of paths) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

function button(className: string, ...paths: string[]): HTMLButtonElement {
  const made = create("button", className);
  made.type = "button";
  if (paths.length > 0) made.append(drawing("0 0 24 24", ...paths));
  return made;
}

function label(control: HTMLElement, text: string): void {
  control.setAttribute("aria-label", text);
  control.title = text;
}

function meter(className: string): HTMLElement {
  const made = create("div", `meter ${className}`);
  made.setAttribute("role", "meter");
  made.setAttribute("aria-valuemin", "0");
  made.setAttribute("aria-valuemax", "100");
  made.append(create("span", "meter-name"), create("span", "meter-bar"));
  return made;
}

/** The widget as it is seen: a button, and the panel that it opens. */
export class WidgetView {
  readonly launcher = button("launcher");
  readonly close = button("icon close", CHEVRON);
  readonly connect = button("connect");
  readonly mute = button("round mute", MICROPHONE, SLASH);
  readonly hangUp = button("round hangup", RECEIVER);
  readonly problemClose = button("icon problem-close", CROSS);
  readonly bar = create("form", "bar");
  readonly text = create("input", "text");
  readonly audio = create("audio", "audio");
  readonly transcript: TranscriptView;
  readonly announcer: Announcer;

  private readonly root = create("div", "root");
  readonly panel = create("dialog", "panel");
  /** Whether the panel is all of the screen; as the style sheet has it. */
  readonly narrow = matchMedia("(max-width: 480px)");
  private readonly name = create("p", "name");
  private readonly status = create("p", "status");
  private readonly greeting = create("p", "greeting");
  private readonly note = create("p", "note");
  private readonly problem = create("div", "problem");
  private readonly problemTitle = create("p", "problem-title");
  private readonly problemAdvice = create("p", "problem-advice");
  private readonly list = create("ol", "transcript");
  private readonly send = button("round send", ARROW);
  private readonly callerLevel = meter("meter-caller");
  private readonly agentLevel = meter("meter-agent");
  private readonly caption = create("span", "caption");
  private readonly live = create("div", "sr-only");
  private readonly figure: Figure;

  private words = wordsOf("en");
  private options: Options | undefined;
  private state: State = { kind: "idle" };
  private muted = false;

  /**
   * @param shadow - Where it is put.
   * @param levels - Reads how loud both sides are at a time in milliseconds.
   */
  constructor(
    private readonly shadow: ShadowRoot,
    levels: (now: number) => Levels,
  ) {
    shadow.adoptedStyleSheets = [sheet()];
    const { root, panel, live } = this;

    this.panel.id = "panel";
    this.launcher.append(drawing("0 0 32 24", MARK), this.caption);
    this.launcher.setAttribute("aria-controls", this.panel.id);
    this.launcher.setAttribute("aria-haspopup", "dialog");
    this.launcher.setAttribute("aria-expanded", "false");
    this.status.tabIndex = -1;
    this.list.tabIndex = 0;
    this.problem.setAttribute("role", "alert");
    this.problem.hidden = true;
    this.problem.append(this.problemTitle, this.problemAdvice, this.problemClose);
    this.text.type = "text";
    this.text.maxLength = 2000;
    this.text.autocomplete = "off";
    this.text.enterKeyHint = "send";
    this.send.type = "submit";
    this.bar.append(this.mute, this.text, this.send, this.hangUp);

    const header = create("header", "header");
    header.append(this.name, this.close);
    const canvas = create("canvas", "figure");
    canvas.setAttribute("aria-hidden", "true");
    const meters = create("div", "meters");
    meters.append(this.callerLevel, this.agentLevel);
    const stage = create("div", "stage");
    stage.append(canvas, this.status, this.greeting, meters);
    const foot = create("div", "foot");
    foot.append(this.connect, this.note);
    panel.append(header, stage, this.problem, this.list, foot, this.bar);
    live.setAttribute("aria-live", "polite");
    root.append(panel, this.launcher, live, this.audio);
    shadow.append(root);

    this.transcript = new TranscriptView(this.list, () => this.names);
    this.announcer = new Announcer(live);
    this.figure = new Figure(canvas, (now) => {
      const read = levels(now);
      showLevel(this.callerLevel, read.mic);
      showLevel(this.agentLevel, read.agent);
      this.launcher.style.setProperty("--level", Math.max(read.mic, read.agent).toFixed(2));
      return read;
    });
    this.nameParts();
  }

  /** What the sides of the conversation are called. */
  get names(): TranscriptNames {
    const { words } = this;
    const agent = this.options?.agent || words.agent;
    return { agent, caller: words.caller, typed: words.typed, interrupted: words.interrupted };
  }

  get isOpen(): boolean {
    return this.root.dataset.open === "true";
  }

  /** Shows what the page asks for, in these words. */
  apply(options: Options, language: string): void {
    const words = wordsOf(language);
    this.options = options;
    this.words = words;
    this.root.lang = language;
    this.root.dataset.position = options.position;
    const known = options.color && CSS.supports("color", options.color);
    if (known) this.root.style.setProperty("--agent", options.color);
    else this.root.style.removeProperty("--agent");
    this.name.textContent = options.agent;
    this.panel.setAttribute("aria-label", options.agent || words.agent);
    this.note.textContent = words.microphone;
    this.list.setAttribute("aria-label", words.transcript);
    this.text.placeholder = words.write;
    this.text.setAttribute("aria-label", words.write);
    label(this.close, words.close);
    label(this.problemClose, words.close);
    label(this.send, words.send);
    label(this.hangUp, words.hangUp);
    for (const [level, name, text] of [
      [this.callerLevel, this.names.caller, words.callerLevel],
      [this.agentLevel, this.names.agent, words.agentLevel],
    ] as const) {
      level.setAttribute("aria-label", text);
      const shown = level.querySelector(".meter-name");
      if (shown) shown.textContent = name;
    }
    this.render();
  }

  /** Takes on the light or the dark theme, and with it the colours that the page has now. */
  restyle(dark: boolean): void {
    this.root.dataset.theme = dark ? "dark" : "light";
    this.root.style.setProperty("--on-agent", inkOn(getComputedStyle(this.root).outlineColor));
    this.figure.restyle();
  }

  /** Shows or hides the panel. */
  open(open: boolean): void {
    this.root.dataset.open = String(open);
    this.launcher.setAttribute("aria-expanded", String(open));
    // A modal dialog silences all that is outside of it; and nothing is read out twice.
    this.live.replaceChildren();
    (open ? this.panel : this.root).append(this.live);
    if (open) {
      this.fit();
    } else {
      this.panel.close();
      if (this.panel.contains(this.shadow.activeElement)) this.launcher.focus(QUIETLY);
    }
    this.figure.show(this.figureState, this.muted);
  }

  /** Has the open panel stand beside the page, or in its place where it covers all of it. */
  fit(): void {
    if (!this.isOpen) return;
    const { activeElement } = this.shadow;
    this.panel.close();
    if (this.narrow.matches && this.panel.isConnected) {
      this.panel.showModal();
      this.status.focus(QUIETLY);
    } else {
      // Unlike show(), it leaves the focus where it is.
      this.panel.open = true;
    }
    if (activeElement instanceof HTMLElement) activeElement.focus(QUIETLY);
  }

  /** Moves the focus to what the visitor does next. */
  focus(): void {
    // A field would bring up the keyboard of a phone, and with it cover the conversation.
    const inCall = this.narrow.matches ? this.status : this.text;
    (this.connect.hidden ? inCall : this.connect).focus(QUIETLY);
  }

  /** Shows a state of the call. */
  show(state: State, muted: boolean): void {
    const begun = state.kind === "call" && this.state.kind !== "call";
    const over = state.kind === "ended" && this.state.kind === "call";
    // A key pressed too long must not press a button that has only just come.
    const held = this.root.contains(this.shadow.activeElement);
    this.state = state;
    this.muted = muted;
    if (begun) this.hideProblem();
    if (begun) delete this.root.dataset.talk;
    if (state.kind === "call") this.announcer.follow(state.phase, this.words.phases[state.phase]);
    if (state.kind === "ended") this.tellEnd(state.failed, state.problem);
    this.render();
    if (held && this.isOpen) {
      if (begun) this.status.focus(QUIETLY);
      if (over) this.connect.focus(QUIETLY);
    }
  }

  /** Makes room for the conversation; the call is connected. */
  openFloor(): void {
    this.root.dataset.talk = "true";
  }

  /** Shows a problem; the alert is read out by itself. */
  showProblem(problem: Problem): void {
    const { title, advice } = translate(problem, this.words);
    this.problemTitle.textContent = title;
    this.problemAdvice.textContent = advice;
    this.problem.hidden = false;
  }

  /** Takes a problem away. */
  hideProblem(): void {
    this.problem.hidden = true;
  }

  /** Tells a screen reader whether the caller is heard. */
  tellMuted(): void {
    this.announcer.say(this.muted ? this.words.muted : this.words.unmuted);
  }

  /** Shows and says how a call ended; what failed is an alert, which is read out where it shows. */
  private tellEnd(failed: boolean, problem: Problem): void {
    const { title, advice } = translate(problem, this.words);
    if (failed) this.showProblem(problem);
    if (!failed || !this.isOpen) this.announcer.say(`${title}. ${advice}`);
  }

  /** Names the parts as tests look for them. */
  private nameParts(): void {
    const parts: Record<string, HTMLElement> = {
      launcher: this.launcher,
      panel: this.panel,
      close: this.close,
      status: this.status,
      greeting: this.greeting,
      connect: this.connect,
      error: this.problem,
      transcript: this.list,
      "mic-level": this.callerLevel,
      "agent-level": this.agentLevel,
      mute: this.mute,
      "text-input": this.text,
      "text-send": this.send,
      hangup: this.hangUp,
    };
    for (const [name, part] of Object.entries(parts)) part.dataset.testid = name;
  }

  private get figureState(): FigureState {
    const { state } = this;
    if (state.kind === "call") return state.phase;
    if (state.kind === "idle") return "idle";
    return state.failed ? "error" : "ended";
  }

  private statusText(): string {
    const { state, words } = this;
    if (state.kind === "idle") return words.ready;
    if (state.kind === "call") {
      const muted = this.muted && (state.phase === "listening" || state.phase === "asleep");
      return muted ? words.muted : words.phases[state.phase];
    }
    if (!state.failed) return translate(state.problem, words).title;
    return this.root.dataset.talk ? words.problems.ended[0] : words.notConnected;
  }

  private render(): void {
    const { state, words, options } = this;
    const inCall = state.kind === "call";
    this.root.dataset.state = stateName(state);
    this.status.textContent = this.statusText();
    this.greeting.textContent =
      state.kind === "ended"
        ? translate(state.problem, words).advice
        : options?.greeting || words.greeting;
    this.greeting.hidden = inCall || (state.kind === "ended" && state.failed);
    const again = state.kind === "ended" && state.failed ? words.retry : words.again;
    this.connect.textContent = state.kind === "idle" ? words.start : again;
    this.connect.hidden = inCall;
    this.note.hidden = state.kind !== "idle";
    this.bar.hidden = !inCall;
    this.mute.setAttribute("aria-pressed", String(this.muted));
    // The state says whether it is pressed; a name that changed with it would deny it.
    label(this.mute, words.mute);
    if (this.muted) this.mute.title = words.unmute;
    this.caption.textContent = inCall ? words.inCall : words.open(options?.agent ?? "");
    label(this.launcher, this.caption.textContent);
    this.figure.show(this.figureState, this.muted);
  }
}

function stateName(state: State): string {
  if (state.kind === "idle") return "idle";
  if (state.kind === "ended") return state.failed ? "error" : "ended";
  const waiting = state.phase === "microphone" || state.phase === "reconnecting";
  return waiting ? "connecting" : state.phase;
}
