import { fetchInTime } from "./fetch";

const STORED = "parley-key";

/** Whether a text may be a key: one that no header can carry is none, and cannot even be sent. */
export function isKey(text: string): boolean {
  return /^[!-~]+$/.test(text);
}

/** The key that the tab keeps, if there is one. */
export function keptKey(): string | null {
  const key = sessionStorage.getItem(STORED);
  return key && isKey(key) ? key : null;
}

/** Keeps a key for as long as the tab is open; null forgets it. */
export function keepKey(key: string | null): void {
  if (key) sessionStorage.setItem(STORED, key);
  else sessionStorage.removeItem(STORED);
}

/**
 * Fetches from the page's own server, with the key that the tab keeps.
 *
 * Where the server wants a key and has none, or a wrong one, the person is asked for it.
 */
export async function fetchWithKey(path: string, init: RequestInit): Promise<Response> {
  const response = await send(path, init);
  if (response.status !== 401) return response;
  const key = window.prompt("This agent asks for its key, PARLEY_API_KEY:")?.trim();
  if (!key || !isKey(key)) return response;
  const again = await send(path, init, key);
  if (again.status !== 401) keepKey(key);
  return again;
}

/** Fetches from the page's own server, with a key if there is one. */
export function send(path: string, init: RequestInit, key = keptKey()): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  return fetchInTime(path, { ...init, headers });
}
