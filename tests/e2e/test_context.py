"""After a barge-in, what the mind remembers of the agent's words is what the caller heard."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import accumulate
from pathlib import Path

import pytest

from bot.agent import Agent
from bot.engines import Engines
from bot.settings import Settings
from services.tts.engine import Word
from tests.callers.audio import save_wav, silence
from tests.callers.browser import BrowserCaller
from tests.callers.local_server import LocalServer, serve
from tests.callers.recordings import Recording
from tests.callers.webrtc import SAMPLE_RATE, WebRTCCaller

EDGE = 0.2
"""Seconds around the cut within which a word may count as heard or not: the wire holds some audio,
and the silence that is measured begins where the last sound fell below the threshold."""

BROWSER_EDGE = 0.35
"""The same for a browser, whose playout is looked at every 40 ms and buffers some more."""


@pytest.fixture
async def local_server(settings: Settings, engines: Engines) -> AsyncIterator[LocalServer]:
    async with serve(settings, engines, Agent()) as server:
        yield server


def remembered(server: LocalServer) -> list[str]:
    """The agent's words of the story, its second turn, in the only call's context."""
    (call,) = server.calls
    said = [m for m in call.context.get_messages() if isinstance(m, dict)]
    turns = [str(m.get("content")) for m in said if m.get("role") == "assistant"]
    return turns[1].split()


async def timeline(engines: Engines, texts: Sequence[str]) -> list[Word]:
    """Where each word of consecutive texts lies, in seconds from the first one's first sound."""
    voice = engines.parts[0].model
    spoken = [[chunk async for chunk in engines.speech.speak(text, voice, 1.0)] for text in texts]
    lengths = [sum(len(c.pcm) / 2 / c.sample_rate for c in chunks) for chunks in spoken]
    words = [
        Word(word.text, word.start + offset, word.end + offset)
        for chunks, offset in zip(spoken, accumulate(lengths, initial=0.0), strict=False)
        for chunk in chunks
        for word in chunk.words
    ]
    first = words[0].start
    return [Word(word.text, word.start - first, word.end - first) for word in words]


def check(words: list[str], times: list[Word], least: float, most: float) -> None:
    """The words are a beginning of the story that ends from `least` to `most` seconds into it."""
    assert words == [w.text for w in times[: len(words)]]
    must = [w for w in times if w.end <= least]
    may = [w for w in times if w.end <= most]
    assert len(must) >= 5
    assert len(must) <= len(words) <= len(may)


async def test_the_context_holds_what_a_webrtc_caller_heard(
    local_server: LocalServer, engines: Engines, recording: Recording
) -> None:
    """The story, talked over, is in the context up to the last word that was played."""
    async with WebRTCCaller(local_server.url) as caller:
        greeted = await caller.wait_for_speech()
        asked = await caller.wait_for_silence(greeted, hold=0.6)
        caller.send_text("tell me a story")
        begun = await caller.wait_for_speech(asked)
        await caller.wait_for_words(12, asked)
        talk = await caller.say(recording("goforward", SAMPLE_RATE))
        silent = await caller.wait_for_silence(talk.start)
        answered = await caller.wait_for_speech(silent + 0.1)
        await caller.wait_for_words(2, answered - 0.5)

        told = [s.text for s in caller.segments.values() if asked <= s.at < talk.end]
        words = await timeline(engines, told)
        heard = silent - begun
        check(remembered(local_server), words, heard - EDGE, heard + EDGE)


@pytest.mark.browser
async def test_the_context_holds_what_a_browser_played(
    local_server: LocalServer, engines: Engines, recording: Recording, tmp_path: Path
) -> None:
    """The same in Chromium, whose microphone talks over the story by itself.

    A busy machine's sound comes late, and falls behind the clock by which words are counted: they
    end between the sound that came and the time that passed, which are the same on an idle one.
    """
    microphone = tmp_path / "mouth.wav"
    sound = [silence(12.0, SAMPLE_RATE), recording("goforward", SAMPLE_RATE)]
    save_wav(microphone, sound, SAMPLE_RATE)

    def call() -> tuple[list[str], list[str], float, float]:
        with BrowserCaller(local_server.url, microphone) as page:
            page.click("connect")
            page.wait_for(lambda: page.messages("bot-stopped-speaking"), "the greeting's end")
            greeted = page.messages("bot-stopped-speaking")[0]["at"]
            page.type("text-input", "tell me a story")
            page.click("text-send")

            def since(kind: str) -> list[float]:
                return [m["at"] for m in page.messages(kind) if m["at"] > greeted]

            page.wait_for(lambda: since("bot-started-speaking"), "the story")
            begun = since("bot-started-speaking")[0]
            page.wait_for(lambda: [at for at in since("bot-interrupted") if at > begun], "the cut")
            cut = next(at for at in since("bot-interrupted") if at > begun)
            page.wait_for(
                lambda: [at for at in since("bot-started-speaking") if at > cut], "the next answer"
            )
            answered = next(at for at in since("bot-started-speaking") if at > cut)
            words = remembered(local_server)
            told = {
                m["data"]["segment_id"]: m["data"]["text"]
                for m in page.messages("bot-output")
                if greeted < m["at"] < cut
            }
            sounds = [p for p in page.playback() if p.audible and begun - 0.2 < p.at < answered]
            came = (sounds[-1].position - sounds[0].position) % 2**32 / SAMPLE_RATE
            return words, list(told.values()), came, sounds[-1].at - sounds[0].at

    words, told, came, passed = await asyncio.to_thread(call)
    times = await timeline(engines, told)
    check(words, times, min(came, passed) - BROWSER_EDGE, max(came, passed) + BROWSER_EDGE)
