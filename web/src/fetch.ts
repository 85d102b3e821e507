/** How long a server may take to begin its answer, in ms. */
const ANSWER_TIMEOUT = 20_000;

/**
 * Fetches, unless the server takes too long to answer; what follows its headers may take its time.
 *
 * @throws DOMException, an `AbortError`, where it does.
 */
export async function fetchInTime(url: string, init: RequestInit = {}): Promise<Response> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), ANSWER_TIMEOUT);
  const signal = init.signal ? AbortSignal.any([init.signal, late.signal]) : late.signal;
  try {
    return await fetch(url, { ...init, signal });
  } finally {
    clearTimeout(timer);
  }
}
