import assert from "node:assert/strict";
import { test } from "node:test";

import { farewell, refused } from "../src/problems";
import { readRoom } from "../src/protocol";
import { inkOn } from "../src/widget/colour";
import { readOptions, serverOf } from "../src/widget/options";
import { languageOf, LANGUAGES, translate, wordsOf } from "../src/widget/words";

const options = (attributes: Record<string, string>) =>
  readOptions((name) => attributes[name], "https://host");

test("a widget without attributes calls the server that its script came from", () => {
  assert.deepEqual(options({}), {
    server: { address: "https://host", token: "" },
    agent: "",
    greeting: "",
    position: "bottom-right",
    color: "",
    language: "",
    theme: "auto",
    transport: "webrtc",
  });
});

test("what has no meaning counts as not given", () => {
  const read = options({
    server: "javascript:alert(1)",
    position: "middle",
    theme: "pink",
    transport: "pigeon",
  });
  assert.deepEqual(read, options({}));
});

test("attributes are read as they are written", () => {
  const read = options({
    server: "https://other:8443/voice/",
    token: "t",
    agent: " Rye ",
    position: "TOP-left",
    theme: "dark",
  });
  assert.deepEqual(read.server, { address: "https://other:8443/voice", token: "t" });
  assert.equal(read.agent, "Rye");
  assert.equal(read.position, "top-left");
  assert.equal(read.theme, "dark");
});

test("a server may lie below a path", () => {
  assert.equal(serverOf("https://host/widget.js"), "https://host");
  assert.equal(serverOf("https://host/voice/widget.js?v=2"), "https://host/voice");
});

test("a language tag finds the panel's words, and an unknown one English", () => {
  assert.equal(languageOf("de-AT"), "de");
  assert.equal(languageOf("FR"), "fr");
  assert.equal(languageOf("tlh"), "en");
  assert.equal(languageOf("constructor"), "en");
  assert.equal(languageOf(""), "en");
});

test("every language has a word for everything that English has one for", () => {
  const { en, ...others } = LANGUAGES;
  assert.ok(en);
  for (const [language, words] of Object.entries(others)) {
    for (const [key, value] of Object.entries(words)) {
      const all = typeof value === "object" ? Object.values(value).flat() : [value];
      for (const one of all) assert.ok(one, `${language}: ${key}`);
    }
    assert.notEqual(words.greeting, en.greeting);
    assert.match(words.open("Rye"), /Rye/);
  }
});

test("a problem is told in the visitor's language, and keeps its code", () => {
  const busy = translate(refused(503, "all 8 lines are busy", "10"), wordsOf("de"));
  assert.equal(busy.code, "busy");
  assert.equal(busy.title, "Alle Leitungen sind besetzt");
  assert.equal(translate(farewell("goodbye"), wordsOf("en")).title, "Goodbye");
});

test("a server's refusals have codes of their own", () => {
  assert.equal(refused(403, "this origin may not call", null).code, "forbidden");
  assert.equal(refused(429, "too many calls are being started", "3").code, "busy");
  assert.equal(refused(400, "there is no transport 'daily'", null).code, "refused");
});

test("what is written on a colour can be read", () => {
  assert.equal(inkOn("rgb(18, 120, 107)"), "#ffffff");
  assert.equal(inkOn("rgb(255, 221, 0)"), "#171310");
  assert.equal(inkOn("rgba(0, 0, 0, 0.5)"), "#ffffff");
  assert.equal(inkOn("color(srgb 0.9 0.9 0.9)"), "#171310");
  assert.equal(inkOn("oklch(0.9 0.1 90)"), "#ffffff");
  assert.equal(inkOn(""), "#ffffff");
});

test("a Daily room is entered with its token, over https alone", () => {
  const url = "https://x.daily.co/r";
  assert.deepEqual(readRoom({ dailyRoom: url, dailyToken: "a" }), { url, token: "a" });
  assert.deepEqual(readRoom({ dailyRoom: url }), { url, token: "" });
  assert.equal(readRoom({ dailyRoom: "javascript:alert(1)", dailyToken: "" }), undefined);
  assert.equal(readRoom({ dailyRoom: "http://x.daily.co/r" }), undefined);
  assert.equal(readRoom({ sessionId: "s" }), undefined);
});
