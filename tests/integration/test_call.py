"""A call's life on a line without a network."""

import asyncio

from tests.fakes.line import FakeLine
from tests.fakes.speech_engine import FakeSpeechEngine
from tests.integration.test_transfer import calls


async def test_a_call_that_is_cancelled_at_once_ends_at_once() -> None:
    """It does not matter whether its pipeline has begun to run."""
    process = calls(FakeSpeechEngine())
    for turns in range(3):
        line = FakeLine()
        call = process.start(lambda line=line: line)
        for _ in range(turns):
            await asyncio.sleep(0)
        await call.cancel()
        async with asyncio.timeout(5.0):
            await call.ended.wait()
        assert line.closed
    await asyncio.sleep(0)  # The process forgets a call once its task is over.
    assert not list(process)
