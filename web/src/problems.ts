/** What went wrong, or how a call ended, in a word for programs. */
export type ProblemCode =
  | "insecure"
  | "microphone-blocked"
  | "microphone-missing"
  | "microphone-busy"
  | "microphone-failed"
  | "sound-locked"
  | "unreachable"
  | "forbidden"
  | "busy"
  | "refused"
  | "no-answer"
  | "lost"
  | "not-sent"
  | "voice"
  | "error"
  | "goodbye"
  | "hangup"
  | "max-length"
  | "idle"
  | "shutdown"
  | "ended";

/** Something that went wrong, in words for the caller: what, and what to do about it. */
export interface Problem {
  code: ProblemCode;
  title: string;
  advice: string;
}

/** How a call ended: as calls do, or because something went wrong. */
export interface Outcome {
  failed: boolean;
  problem: Problem;
}

/** A problem on its way to the page. */
export class ProblemError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.title);
  }
}

/** The page is not in a secure context, so that the browser hides the microphone from it. */
export function insecureContext(origin: string): Problem {
  return {
    code: "insecure",
    title: "The browser keeps the microphone from this address",
    advice:
      `${origin} is neither https nor localhost; browsers give no other page a microphone. ` +
      "Open the page as https, or as http://localhost on the machine it runs on.",
  };
}

/** What `getUserMedia` rejected with. */
export function microphoneProblem(error: unknown): Problem {
  const name = error instanceof DOMException ? error.name : "";
  switch (name) {
    case "NotAllowedError":
    case "SecurityError":
      return {
        code: "microphone-blocked",
        title: "The microphone is blocked",
        advice:
          "Allow it for this page, with the microphone or lock symbol beside the address " +
          "(and in the system's privacy settings, if it is off there), then try again.",
      };
    case "NotFoundError":
    case "OverconstrainedError":
      return {
        code: "microphone-missing",
        title: "No microphone found",
        advice: "Plug one in or switch it on, then try again.",
      };
    case "NotReadableError":
    case "AbortError":
      return {
        code: "microphone-busy",
        title: "The microphone does not answer",
        advice: "Another program may be using it. Close that one, then try again.",
      };
    default:
      return {
        code: "microphone-failed",
        title: "The microphone could not be opened",
        advice: error instanceof Error && error.message ? error.message : "Try again.",
      };
  }
}

/** The browser plays no sound until the caller has touched the page. */
export const SOUND_LOCKED: Problem = {
  code: "sound-locked",
  title: "The browser is holding back the sound",
  advice: "Click or tap anywhere on the page to hear the agent.",
};

/** What the caller typed did not reach the bot. */
export const NOT_SENT: Problem = {
  code: "not-sent",
  title: "That was not sent",
  advice: "The call is not connected yet. Try again in a moment.",
};

/** The server takes no calls from pages of this origin. */
export function forbidden(origin: string): Problem {
  return {
    code: "forbidden",
    title: "This site may not call the agent",
    advice: `The server does not know ${origin}; its --allowed-origins has to name it.`,
  };
}

/** No answer from the server. */
export const UNREACHABLE: Problem = {
  code: "unreachable",
  title: "The server cannot be reached",
  advice: "Check that the bot is running and that this machine is connected to it, then try again.",
};

/** The server took the call, but the bot did not get ready in time. */
export const NO_ANSWER: Problem = {
  code: "no-answer",
  title: "Nobody picked up",
  advice:
    "The server answered, but the call did not come about. A firewall between here and there may " +
    "be holding back its audio (UDP).",
};

/** The connection broke during the call. */
export const LOST: Problem = {
  code: "lost",
  title: "The connection was lost",
  advice: "The call could not be taken up again. Check the network, then call again.",
};

/** The server turned the call away with an HTTP status. */
export function refused(status: number, detail: string, retryAfter: string | null): Problem {
  if (status === 503) {
    const seconds = Number(retryAfter);
    const when = seconds > 0 ? `in ${seconds === 1 ? "a second" : `${seconds} seconds`}` : "soon";
    const again = /\bagain\b/i.test(detail) ? "" : `Try again ${when}.`;
    return {
      code: "busy",
      title: "All lines are busy",
      advice: [detail && sentence(detail), again].filter(Boolean).join(" "),
    };
  }
  if (status === 429) {
    return { code: "busy", title: "Too many calls from here", advice: sentence(detail) };
  }
  return {
    code: status === 403 ? "forbidden" : "refused",
    title: "The server refused the call",
    advice: detail ? sentence(detail) : `It answered with status ${status}.`,
  };
}

/** Why the bot ended the call, in words. */
export function farewell(reason: string, detail = ""): Problem {
  switch (reason) {
    case "goodbye":
      return { code: "goodbye", title: "Goodbye", advice: "The agent hung up." };
    case "hangup":
      return { code: "hangup", title: "Call ended", advice: "You hung up." };
    case "max-length":
      return {
        code: "max-length",
        title: "Time is up",
        advice: "The call reached the longest that a call may be.",
      };
    case "idle":
      return { code: "idle", title: "Call ended", advice: "It had been silent for a while." };
    case "shutdown":
      return {
        code: "shutdown",
        title: "Call ended",
        advice: "The server is being restarted. Call again soon.",
      };
    case "error":
      return {
        code: "error",
        title: "The agent had to hang up",
        advice: detail ? sentence(detail) : "Something went wrong on the server.",
      };
    default:
      return { code: "ended", title: "Call ended", advice: "The agent hung up." };
  }
}

/** A message from elsewhere as a sentence: it begins with a capital and ends with a full stop. */
function sentence(text: string): string {
  const trimmed = text.trim();
  const capital = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?…]$/.test(capital) ? capital : `${capital}.`;
}
