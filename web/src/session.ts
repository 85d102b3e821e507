import { fetchInTime } from "./fetch";
import { fetchWithKey, isKey } from "./key";
import { forbidden, type Problem, ProblemError, refused, UNREACHABLE } from "./problems";
import { readDetail } from "./protocol";

/** Who is called. */
export interface Server {
  /** Its address without a slash at the end; empty for the server that the page came from. */
  address: string;
  /** A start token that it has made (`POST /tokens`); empty where it asks for none. */
  token: string;
}

export const OWN_SERVER: Server = { address: "", token: "" };

/**
 * Asks a server for a session.
 *
 * @param request - What is asked for.
 * @returns The body of the answer, which nobody has looked at yet.
 * @throws ProblemError if there is none.
 */
export async function openSession(
  { address, token }: Server,
  request: { transport: string; body?: object },
  signal: AbortSignal,
): Promise<unknown> {
  if (token && !isKey(token)) {
    throw new ProblemError(refused(401, "the token is none: no header can carry it", null));
  }
  let response: Response;
  try {
    const own = !address && !token;
    response = await (own ? fetchWithKey : fetchInTime)(`${address}/start`, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        ...(token && { Authorization: `Bearer ${token}` }),
      },
      body: JSON.stringify(request),
      signal,
    });
  } catch {
    throw new ProblemError(await unreached(address));
  }
  if (!response.ok) throw new ProblemError(await refusal(response));
  return response.json().catch(() => undefined);
}

/** What a server that said no has to say about it. */
export async function refusal(response: Response): Promise<Problem> {
  const body: unknown = await response.json().catch(() => undefined);
  return refused(response.status, readDetail(body), response.headers.get("Retry-After"));
}

/**
 * Why a request came to nothing.
 *
 * Browsers keep from a page what a server of another origin answers to one that it does not
 * welcome: all the page learns is whether anybody answers.
 */
export async function unreached(address: string): Promise<Problem> {
  if (!address || new URL(address).origin === location.origin) return UNREACHABLE;
  try {
    await fetchInTime(`${address}/health`, { mode: "no-cors", cache: "no-store" });
  } catch {
    return UNREACHABLE;
  }
  return forbidden(location.origin);
}
