/** Something that went wrong, in words for the caller: what, and what to do about it. */
export interface Problem {
  title: string;
  advice: string;
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
        title: "The microphone is blocked",
        advice:
          "Allow it for this page, with the microphone or lock symbol beside the address " +
          "(and in the system's privacy settings, if it is off there), then try again.",
      };
    case "NotFoundError":
    case "OverconstrainedError":
      return {
        title: "No microphone found",
        advice: "Plug one in or switch it on, then try again.",
      };
    case "NotReadableError":
    case "AbortError":
      return {
        title: "The microphone does not answer",
        advice: "Another program may be using it. Close that one, then try again.",
      };
    default:
      return {
        title: "The microphone could not be opened",
        advice: error instanceof Error && error.message ? error.message : "Try again.",
      };
  }
}

/** No answer from the server. */
export const UNREACHABLE: Problem = {
  title: "The server cannot be reached",
  advice: "Check that the bot is running and that this machine is connected to it, then try again.",
};

/** The server took the call, but the bot did not get ready in time. */
export const NO_ANSWER: Problem = {
  title: "Nobody picked up",
  advice:
    "The server answered, but the call did not come about. A firewall between here and there may " +
    "be holding back its audio (UDP).",
};

/** The connection broke during the call. */
export const LOST: Problem = {
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
      title: "All lines are busy",
      advice: [detail && sentence(detail), again].filter(Boolean).join(" "),
    };
  }
  return {
    title: "The server refused the call",
    advice: detail ? sentence(detail) : `It answered with status ${status}.`,
  };
}

/** Why the bot ended the call, in words. */
export function farewell(reason: string, detail = ""): Problem {
  switch (reason) {
    case "goodbye":
      return { title: "Goodbye", advice: "The agent hung up." };
    case "hangup":
      return { title: "Call ended", advice: "You hung up." };
    case "max-length":
      return { title: "Time is up", advice: "The call reached the longest that a call may be." };
    case "idle":
      return { title: "Call ended", advice: "It had been silent for a while." };
    case "shutdown":
      return { title: "Call ended", advice: "The server is being restarted. Call again soon." };
    case "error":
      return {
        title: "The agent had to hang up",
        advice: detail ? sentence(detail) : "Something went wrong on the server.",
      };
    default:
      return { title: "Call ended", advice: "The agent hung up." };
  }
}

/** A message from elsewhere as a sentence: it begins with a capital and ends with a full stop. */
function sentence(text: string): string {
  const trimmed = text.trim();
  const capital = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?…]$/.test(capital) ? capital : `${capital}.`;
}
