"""After a barge-in, what the mind remembers of the agent's words is what the caller heard."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from av import AudioFrame
from pipecat.transports.smallwebrtc.transport import RawAudioTrack

from bot.agent import Agent
from bot.engines import Engines
from bot.settings import Settings
from tests.callers.audio import AUDIBLE_DB, level_db, save_wav, silence
from tests.callers.browser import BrowserCaller
from tests.callers.local_server import LocalServer, serve
from tests.callers.recordings import Recording
from tests.callers.webrtc import SAMPLE_RATE, WebRTCCaller

EDGE = 0.2
"""Seconds of sound around the cut within which a word may count as heard or not: the wire holds
some audio."""

BROWSER_EDGE = 1.2
"""The same for a browser: a busy one drops and mends what comes late. The story is far longer."""

WINDOW_SECONDS = 0.01
"""Length of the windows in which sound is told from silence."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """When the agent's sound was sent, in `time.monotonic()`, and how many seconds of it."""
    sound: list[tuple[float, float]] = []
    take = RawAudioTrack.recv

    async def recv(track: RawAudioTrack) -> AudioFrame:
        frame: AudioFrame = await take(track)
        if level_db(frame.to_ndarray()[0]) > AUDIBLE_DB:
            sound.append((time.monotonic(), frame.samples / frame.sample_rate))
        return frame

    monkeypatch.setattr(RawAudioTrack, "recv", recv)
    return sound


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


async def timeline(engines: Engines, texts: Sequence[str]) -> list[tuple[str, float]]:
    """The words of some texts, each with the seconds of sound up to its end.

    Silence does not count: where a busy machine takes its time for a sentence, there is more.
    """
    voice = engines.parts[0].model
    words: list[tuple[str, float]] = []
    before = 0.0
    for text in texts:
        chunks = [chunk async for chunk in engines.speech.speak(text, voice, 1.0)]
        rate = chunks[0].sample_rate
        pcm = np.frombuffer(b"".join(chunk.pcm for chunk in chunks), np.int16)
        window = round(WINDOW_SECONDS * rate)
        levels = [level_db(pcm[i : i + window]) for i in range(0, len(pcm), window)]
        sound = before + np.cumsum([0, *(level > AUDIBLE_DB for level in levels)]) * WINDOW_SECONDS
        for word in (word for chunk in chunks for word in chunk.words):
            end = min(len(levels), ceil(word.end * rate / window))
            words.append((word.text, float(sound[end])))
        before = float(sound[-1])
    return words


def check(words: list[str], times: list[tuple[str, float]], heard: float, edge: float) -> None:
    """The words are a beginning of the story that ends where `heard` seconds of sound did."""
    assert words == [text for text, _ in times[: len(words)]]
    must = [end for _, end in times if end <= heard - edge]
    may = [end for _, end in times if end <= heard + edge]
    assert len(must) >= 5
    assert len(must) <= len(words) <= len(may)


async def test_the_context_holds_what_a_webrtc_caller_heard(
    local_server: LocalServer,
    engines: Engines,
    recording: Recording,
    sent: list[tuple[float, float]],
) -> None:
    """The story, talked over, is in the context up to the last word that was played."""
    async with WebRTCCaller(local_server.url) as caller:
        greeted = await caller.wait_for_speech()
        asked = await caller.wait_for_silence(greeted, hold=0.6)
        caller.send_text("tell me a story")
        await caller.wait_for_words(12, asked)
        talk = await caller.say(recording("goforward", SAMPLE_RATE))
        # The story pauses by itself, too.
        cut = await caller.wait_for_message("bot-interrupted", after=talk.start)
        silent = await caller.wait_for_silence(cut.at)
        answered = await caller.wait_for_speech(silent + 0.1)
        await caller.wait_for_words(2, answered - 0.5)

        told = [s.text for s in caller.segments.values() if asked <= s.at < talk.end]
        words = await timeline(engines, told)
        heard = sum(seconds for at, seconds in sent if asked < at < silent)
        check(remembered(local_server), words, heard, EDGE)


@pytest.mark.browser
async def test_the_context_holds_what_a_browser_played(
    local_server: LocalServer, engines: Engines, recording: Recording, tmp_path: Path
) -> None:
    """The same in Chromium, whose microphone talks over the story by itself."""
    microphone = tmp_path / "mouth.wav"
    sound = [silence(12.0, SAMPLE_RATE), recording("goforward", SAMPLE_RATE)]
    save_wav(microphone, sound, SAMPLE_RATE)

    def call() -> tuple[list[str], list[str], float]:
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
            # What came while it sounded: a busy browser mends sound that comes late.
            played = pairwise(p for p in page.playback() if begun - 0.2 < p.at < answered)
            heard = sum((q.position - p.position) % 2**32 for p, q in played if q.audible)
            return words, list(told.values()), heard / SAMPLE_RATE

    words, told, heard = await asyncio.to_thread(call)
    check(words, await timeline(engines, told), heard, BROWSER_EDGE)
