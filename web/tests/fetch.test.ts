import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { fetchInTime } from "../src/fetch";

/** A server that answers when it is told to, and sees that nobody waits for it any more. */
function slowServer(): { answer(): void } {
  let answer = () => {};
  mock.method(globalThis, "fetch", (_: string, { signal }: RequestInit) => {
    return new Promise<Response>((resolve, reject) => {
      answer = () => resolve(new Response("late"));
      signal?.addEventListener("abort", () => reject(signal.reason));
    });
  });
  return { answer: () => answer() };
}

test("a server that does not answer is given up, and one that does is heard out", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const server = slowServer();
  t.after(() => mock.restoreAll());

  const unanswered = assert.rejects(fetchInTime("/start"), { name: "AbortError" });
  t.mock.timers.tick(20_000);
  await unanswered;

  const answered = fetchInTime("/start");
  server.answer();
  const response = await answered;
  t.mock.timers.tick(20_000);
  assert.equal(await response.text(), "late");
});

test("who no longer wants an answer need not wait for it", async (t) => {
  slowServer();
  t.after(() => mock.restoreAll());
  const hungUp = new AbortController();
  const unanswered = assert.rejects(fetchInTime("/start", { signal: hungUp.signal }), {
    name: "AbortError",
  });
  hungUp.abort();
  await unanswered;
});
