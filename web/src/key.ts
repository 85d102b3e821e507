const STORED = "parley-key";

/**
 * Fetches from the page's own server, with the key that the tab keeps.
 *
 * Where the server wants a key and has none, or a wrong one, the person is asked for it.
 */
export async function fetchWithKey(path: string, init: RequestInit): Promise<Response> {
  const response = await send(path, init, sessionStorage.getItem(STORED));
  if (response.status !== 401) return response;
  const key = window.prompt("This agent asks for its key, PARLEY_API_KEY:")?.trim();
  if (!key) return response;
  const again = await send(path, init, key);
  if (again.status !== 401) sessionStorage.setItem(STORED, key);
  return again;
}

function send(path: string, init: RequestInit, key: string | null): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  return fetch(path, { ...init, headers });
}
