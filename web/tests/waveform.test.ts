import assert from "node:assert/strict";
import { test } from "node:test";

import { Tiles } from "../src/record/waveform";

test("loudness that could not be fetched is asked for again, but not with every frame", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  let asked = 0;
  Object.assign(globalThis, {
    sessionStorage: { getItem: () => null },
    fetch: async () => {
      asked += 1;
      return new Response("{}", { status: 500 });
    },
  });
  const tiles = new Tiles("id", 10, 100, () => {});
  const draw = async () => {
    tiles.between(0, 10);
    await new Promise(setImmediate);
  };
  await draw();
  await draw();
  assert.equal(asked, 1);
  t.mock.timers.tick(2_000);
  await draw();
  assert.equal(asked, 2);
});
