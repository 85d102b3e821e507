"""An engine that hears, in this process: in threads that nobody waits for."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from services.errors import EngineError
from services.stt import local
from services.stt.local import LocalHearing
from tests.fakes.hearing_engine import FakeHearingEngine, heard

PCM = bytes(3200)


async def until(condition: Callable[[], object]) -> None:
    """Wait for what threads bring about."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads tell nobody.
            await asyncio.sleep(0.001)


async def test_the_engine_is_asked_and_answers() -> None:
    """Samples and language get there as they are, and the transcript comes back."""
    engine = FakeHearingEngine(heard("hallo", language="de"))
    hearing = LocalHearing(engine)
    assert hearing.name == "fake"
    assert (await hearing.transcribe(PCM, "de")).text == "hallo"
    assert (engine.requests[0].pcm, engine.requests[0].language) == (PCM, "de")
    await hearing.close()


@pytest.mark.parametrize("error", [EngineError("no"), ValueError("a bug")])
async def test_what_the_engine_raises_is_raised(error: Exception) -> None:
    """And the next utterance is heard."""
    hearing = LocalHearing(FakeHearingEngine(error, heard("still here")))
    with pytest.raises(type(error)) as caught:
        await hearing.transcribe(PCM, "en")
    assert caught.value is error
    assert (await hearing.transcribe(PCM, "en")).text == "still here"
    await hearing.close()


async def test_several_are_heard_at_once() -> None:
    """The engine alone says how many wait."""
    engine = FakeHearingEngine(*(heard("yes") for _ in range(5)), gated=True)
    hearing = LocalHearing(engine)
    asking = [asyncio.create_task(hearing.transcribe(PCM, "en")) for _ in range(5)]
    await until(lambda: len(engine.requests) == 5)
    for _ in asking:
        engine.permit()
    assert [answer.text for answer in await asyncio.gather(*asking)] == ["yes"] * 5
    await hearing.close()


async def test_who_asks_no_more_stops_the_engine() -> None:
    """At once, and without waiting for it."""
    engine = FakeHearingEngine(heard("too late"), gated=True)
    hearing = LocalHearing(engine)
    asking = asyncio.create_task(hearing.transcribe(PCM, "en"))
    await until(lambda: engine.requests)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asking, 1)
    assert engine.requests[0].stop.is_set()
    await until(engine.requests[0].ended.is_set)
    await hearing.close()


async def test_who_is_cancelled_before_there_is_a_thread_is_not_heard() -> None:
    """The engine is not asked for nobody."""
    engine = FakeHearingEngine(heard("one"), heard("three"), gated=True)
    hearing = LocalHearing(engine, threads=1)
    first = asyncio.create_task(hearing.transcribe(PCM, "en"))
    await until(lambda: engine.requests)
    second = asyncio.create_task(hearing.transcribe(PCM, "de"))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    third = asyncio.create_task(hearing.transcribe(PCM, "fr"))
    engine.permit()
    engine.permit()
    assert [(await task).text for task in (first, third)] == ["one", "three"]
    assert [request.language for request in engine.requests] == ["en", "fr"]
    await hearing.close()


async def test_the_end_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who still asks gets an error, also without a thread; the engine is told to stop, and closed.

    Whoever asks is not cancelled by it.
    """
    monkeypatch.setattr(local, "_END_LIMIT_S", 60)
    before = set(threading.enumerate())
    engine = FakeHearingEngine(gated=True)
    hearing = LocalHearing(engine, threads=2)
    asking = [asyncio.create_task(hearing.transcribe(PCM, "en")) for _ in range(3)]
    await until(lambda: len(engine.requests) == 2)
    await asyncio.wait_for(hearing.close(), 5)
    for answer in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(answer, EngineError)
        assert str(answer) == "fake was closed"
    assert engine.closed
    assert len(engine.requests) == 2
    assert all(request.ended.is_set() for request in engine.requests)
    await until(lambda: not [t for t in set(threading.enumerate()) - before if "hearing" in t.name])
    await hearing.close()
    with pytest.raises(EngineError, match="fake was closed"):
        await hearing.transcribe(PCM, "en")


async def test_the_end_waits_for_no_engine_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit to what closing waits for."""
    monkeypatch.setattr(local, "_END_LIMIT_S", 0.05)
    free = threading.Event()
    engine = FakeHearingEngine()
    monkeypatch.setattr(engine, "transcribe", lambda *_: free.wait(10) and heard("late"))
    hearing = LocalHearing(engine)
    asking = asyncio.create_task(hearing.transcribe(PCM, "en"))
    await asyncio.sleep(0)
    await asyncio.wait_for(hearing.close(), 5)
    assert engine.closed
    with pytest.raises(EngineError, match="fake was closed"):
        await asking
    free.set()
