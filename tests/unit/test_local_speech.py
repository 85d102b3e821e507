"""An engine of this process: in threads that nobody waits for, each utterance for itself."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from services.errors import EngineError, UnknownVoiceError
from services.tts import local
from services.tts.engine import Chunk
from services.tts.local import AHEAD_LIMIT_S, LocalSpeech
from tests.fakes.speech_engine import VOICES, FakeSpeechEngine

TEN = "one two three four five six seven eight nine ten."
CHUNK_S = 0.08


async def until(condition: Callable[[], object]) -> None:
    """Wait for what threads bring about."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads tell nobody.
            await asyncio.sleep(0.001)


@asynccontextmanager
async def speech(engine: FakeSpeechEngine, **options: Any) -> AsyncIterator[LocalSpeech]:
    """Speech through an engine, closed in the end."""
    running = LocalSpeech(engine, **options)
    try:
        yield running
    finally:
        if engine.gated:
            engine.permit(10_000)
        await running.close()


async def read(running: LocalSpeech, text: str, voice: str = "alto") -> list[Chunk]:
    """All of an utterance."""
    return [chunk async for chunk in running.speak(text, voice, 1.0)]


def seconds(chunks: list[Chunk]) -> float:
    return sum(len(chunk.pcm) / 2 / chunk.sample_rate for chunk in chunks)


def compute(busy: threading.Event, free: threading.Event) -> bool:
    """Be busy with a chunk until a test lets go; it does not fail."""
    busy.set()
    assert free.wait(10)
    return False


# Speaking


async def test_chunks_come_as_the_engine_gives_them() -> None:
    """All of them in order, their words with them; name and voices are the engine's."""
    engine = FakeSpeechEngine()
    async with speech(engine) as running:
        chunks = await read(running, TEN)
        expected = list(FakeSpeechEngine().speak(TEN, "alto", 1.0, threading.Event()))
        assert chunks == expected
        assert (running.name, running.voices()) == ("fake", VOICES)


async def test_a_chunk_comes_before_the_next_is_computed() -> None:
    """Nothing is held back for more to come."""
    engine = FakeSpeechEngine(gated=True)
    async with speech(engine) as running, aclosing(running.speak(TEN, "alto", 1.0)) as chunks:
        for count in range(1, 4):
            engine.permit(1)
            await asyncio.wait_for(anext(chunks), 5)
            assert engine.utterances[0].chunks == count


@pytest.mark.parametrize(("text", "voice"), [("", "alto"), ("one", "")])
async def test_no_text_and_no_voice(text: str, voice: str) -> None:
    """Nothing to say is no audio; no voice is the engine's default one."""
    async with speech(FakeSpeechEngine()) as running:
        chunks = await read(running, text, voice)
        assert [word.text for chunk in chunks for word in chunk.words] == text.split()


async def test_many_speak_at_once() -> None:
    """None waits for another's end, and each gets its own words."""
    engine = FakeSpeechEngine(gated=True)
    async with speech(engine) as running:
        texts = [f"this is number {n}" for n in range(20)]
        reading = [asyncio.create_task(read(running, text)) for text in texts]
        await until(lambda: len(engine.utterances) == 20)
        engine.permit(1000)
        for text, chunks in zip(texts, await asyncio.gather(*reading), strict=True):
            assert " ".join(word.text for chunk in chunks for word in chunk.words) == text


# Stopping


async def test_closing_stops_the_engine_and_waits_for_nothing() -> None:
    """Whoever closes goes on while the chunk being computed, the last one, is finished."""
    busy, free = threading.Event(), threading.Event()
    engine = FakeSpeechEngine()
    engine.fail = lambda text, chunks: text == TEN and chunks == 1 and compute(busy, free)
    async with speech(engine) as running:
        chunks = running.speak(TEN, "alto", 1.0)
        await anext(chunks)
        await until(busy.is_set)
        await asyncio.wait_for(chunks.aclose(), 1)
        assert engine.utterances[0].stop.is_set()
        assert not engine.utterances[0].ended.is_set()
        free.set()
        await until(engine.utterances[0].ended.is_set)
        assert engine.utterances[0].stopped
        assert engine.utterances[0].chunks == 2


async def test_cancelling_the_reader_stops_the_engine() -> None:
    """As closing does, also before the first chunk."""
    engine = FakeSpeechEngine(gated=True)
    async with speech(engine) as running:
        reading = asyncio.create_task(read(running, TEN))
        await until(lambda: engine.utterances)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(reading, 1)
        engine.permit(10)
        await until(engine.utterances[0].ended.is_set)
        assert engine.utterances[0].stopped
        assert engine.utterances[0].chunks == 0


async def test_a_reader_that_is_forgotten_stops_the_engine() -> None:
    """A generator that nobody closes is closed when it is collected."""
    engine = FakeSpeechEngine(gated=True)
    async with speech(engine) as running:
        chunks = running.speak(TEN, "alto", 1.0)
        engine.permit(1)
        await anext(chunks)
        del chunks
        await until(engine.utterances[0].stop.is_set)
        engine.permit(100)
        await until(engine.utterances[0].ended.is_set)
        assert engine.utterances[0].stopped


async def test_what_is_ended_before_it_has_a_thread_computes_nothing() -> None:
    """A text that waits for a thread when it is closed never reaches the engine."""
    engine = FakeSpeechEngine(gated=True)
    async with speech(engine, threads=1) as running:
        first = asyncio.create_task(read(running, "one"))
        await until(lambda: engine.utterances)
        second = asyncio.create_task(read(running, "two"))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        engine.permit(100)
        await first
        await read(running, "three")
        assert [utterance.text for utterance in engine.utterances] == ["one", "three"]


# Slow readers


async def test_a_slow_reader_holds_back_its_own_utterance_only() -> None:
    """So much is computed ahead and no more; others speak meanwhile, and none of it is lost."""
    engine = FakeSpeechEngine(word_secs=60.0)
    async with speech(engine) as running:
        async with aclosing(running.speak("long longer", "alto", 1.0)) as chunks:
            first = await anext(chunks)
            slow = engine.utterances[0]
            most = AHEAD_LIMIT_S / CHUNK_S + 2
            await until(lambda: slow.chunks >= AHEAD_LIMIT_S / CHUNK_S)
            async with aclosing(running.speak("other", "alto", 1.0)) as others:
                await asyncio.wait_for(anext(others), 5)
            assert slow.chunks <= most
            rest = [chunk async for chunk in chunks]
        assert seconds([first, *rest]) == pytest.approx(120)


async def test_an_utterance_that_waits_for_its_reader_can_be_ended() -> None:
    """It stops as any other does."""
    engine = FakeSpeechEngine(word_secs=60.0)
    async with speech(engine) as running:
        chunks = running.speak("long", "alto", 1.0)
        await anext(chunks)
        await until(lambda: engine.utterances[0].chunks >= AHEAD_LIMIT_S / CHUNK_S)
        await chunks.aclose()
        await until(engine.utterances[0].ended.is_set)


async def test_one_utterance_at_a_time_waits_for_no_reader() -> None:
    """An engine whose utterances wait for each other is freed as soon as it can be."""
    engine = FakeSpeechEngine(word_secs=60.0, at_once=1)
    async with speech(engine) as running, aclosing(running.speak("long", "alto", 1.0)) as chunks:
        await anext(chunks)
        await until(engine.utterances[0].ended.is_set)
        assert not engine.utterances[0].stopped


# Failing


@pytest.mark.parametrize("error", [EngineError("no"), ValueError("a bug"), OSError(5, "gone")])
async def test_what_the_engine_raises_comes_after_its_chunks(error: Exception) -> None:
    """Whoever reads gets all audio there is, and the error as it was raised."""
    engine = FakeSpeechEngine()

    def fail(_text: str, chunks: int) -> bool:
        if chunks == 3:
            raise error
        return False

    engine.fail = fail
    async with speech(engine) as running:
        chunks = running.speak(TEN, "alto", 1.0)
        for _ in range(3):
            assert await anext(chunks)
        with pytest.raises(type(error)) as caught:
            await anext(chunks)
        assert caught.value is error
        engine.fail = lambda *_: False
        assert await read(running, TEN)


async def test_a_panic_is_an_error() -> None:
    """What is no `Exception` ends one utterance, not whoever reads it."""
    engine = FakeSpeechEngine()

    def fail(*_: object) -> bool:
        raise SystemExit(3)

    engine.fail = fail
    async with speech(engine) as running:
        with pytest.raises(EngineError, match=r"SystemExit\(3\)"):
            await read(running, TEN)


async def test_an_unknown_voice_is_an_error() -> None:
    """The engine's own."""
    async with speech(FakeSpeechEngine()) as running:
        with pytest.raises(UnknownVoiceError):
            await read(running, TEN, "nobody")


async def test_an_engine_that_falls_silent_has_failed() -> None:
    """No chunk within the limit is an error and stops the utterance."""
    engine = FakeSpeechEngine(gated=True)
    async with speech(engine) as running:
        engine.permit(1)
        chunks = running.speak(TEN, "alto", 1.0)
        await anext(chunks)
        # Not sooner: a busy machine may take as long for the first chunk.
        running._silence_limit_s = 0.05
        with pytest.raises(EngineError, match=r"no audio for 0\.05 s"):
            await anext(chunks)
        engine.permit(10)
        await until(engine.utterances[0].ended.is_set)
        assert engine.utterances[0].stopped


# The end


async def test_the_end_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is spoken ends with an error, also what has no thread yet; the engine is closed last."""
    monkeypatch.setattr(local, "_END_LIMIT_S", 60)
    before = set(threading.enumerate())
    engine = FakeSpeechEngine(gated=True)
    running = LocalSpeech(engine, threads=2)
    reading = [asyncio.create_task(read(running, TEN)) for _ in range(3)]
    await until(lambda: len(engine.utterances) == 2)
    closing = asyncio.create_task(running.close())
    for result in await asyncio.gather(*reading, return_exceptions=True):
        assert isinstance(result, EngineError)
        assert str(result) == "fake was closed"
    assert not engine.closed
    engine.permit(10)
    await asyncio.wait_for(closing, 5)
    assert engine.closed
    assert all(utterance.ended.is_set() for utterance in engine.utterances)
    assert len(engine.utterances) == 2
    await until(lambda: not [t for t in set(threading.enumerate()) - before if "speech" in t.name])
    await running.close()
    with pytest.raises(EngineError, match="fake was closed"):
        await read(running, TEN)


async def test_the_end_waits_for_no_engine_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit to what closing waits for."""
    monkeypatch.setattr(local, "_END_LIMIT_S", 0.05)
    engine = FakeSpeechEngine(gated=True)
    running = LocalSpeech(engine)
    reading = asyncio.create_task(read(running, TEN))
    await until(lambda: engine.utterances)
    await asyncio.wait_for(running.close(), 5)
    assert engine.closed
    assert isinstance(await asyncio.gather(reading, return_exceptions=True), list)
    engine.permit(10)
    await until(engine.utterances[0].ended.is_set)
