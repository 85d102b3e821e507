"""Voicemail on a line that cannot tell: the call listens, and asks its language model."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
import pytest

from bot.agent import Agent
from bot.call import Calls
from bot.engines import Engines, Mind, Part
from bot.pipeline import MACHINE_QUIET_SECONDS
from bot.settings import Settings
from services.llm.openai import openai_llm
from services.llm.responder import ResponderLLMService
from services.openai_endpoint import openai_client
from tests.callers.audio import Samples, resample
from tests.callers.phone import RATE
from tests.callers.phone_exotel import OUTBOUND, ExotelNetwork
from tests.callers.phone_place import MESSAGE, Place, phone_place, understood
from tests.fakes.line import FakeLine
from tests.fakes.openai_server import FakeOpenAI

MACHINE = "You have reached our office. Please leave your message after the tone."

AGENT = Agent(greeting="Hello.", voicemail=MESSAGE)

Open = Callable[[str], AbstractAsyncContextManager[Place[ExotelNetwork]]]


def verdict(asked: str) -> Any:
    """What a model answers that is asked who has answered, from what was heard of them."""
    heard = asked.partition("Input:")[2].partition("Question")[0].split()
    machine = bool({"reached", "leave", "message", "after", "tone"} & set(heard))
    choice = "voicemail" if machine else "conversation"
    return {
        "voicemail": {
            "choice": choice,
            "probabilities": {"conversation": 1 - machine, "voicemail": int(machine)},
        }
    }


@pytest.fixture
async def model() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as model:
        model.judge = verdict
        yield model


@pytest.fixture
async def thinking(
    settings: Settings, engines: Engines, model: FakeOpenAI
) -> AsyncIterator[Engines]:
    """Engines whose calls have a language model."""
    client = openai_client(model.api_key, model.base_url)
    mind = Mind(
        lambda agent: openai_llm(
            client, model="fake-1", system_instruction=agent.prompt, silence_secs=10
        ),
        client.close,
    )
    part = Part("", "", "", "")
    yield Engines(settings, (engines.speech, part), (engines.hearing, part), (mind, part))
    await client.close()


@pytest.fixture
def open_place(settings: Settings, thinking: Engines) -> Open:
    """Opens a place, with what the setting `voicemail` is to be."""
    return lambda voicemail: phone_place(
        settings, thinking, ExotelNetwork, AGENT, voicemail=voicemail
    )


async def spoken(engines: Engines, text: str) -> Samples:
    """The embedded voice, as a telephone carries it."""
    chunks = [chunk async for chunk in engines.speech.speak(text, engines.first_voice(), 1.0)]
    samples = np.frombuffer(b"".join(chunk.pcm for chunk in chunks), "<i2")
    return resample(samples, chunks[0].sample_rate, RATE)


async def test_a_machine_is_hung_up_on(open_place: Open, engines: Engines) -> None:
    """When it pauses; it has been greeted by then, as a person would have been."""
    async with open_place("hang-up") as place, await place.network.call(**OUTBOUND) as callee:
        await callee.wait_for_speech()
        origin = (await place.only_call()).line.origin
        said = await callee.say(await spoken(engines, MACHINE))
        assert await callee.wait_for_end() > said.end
        assert origin.data["answered_by"] == "machine"
        await place.until_calls(0)


async def test_a_machine_is_left_a_message(open_place: Open, engines: Engines) -> None:
    """Once it has been quiet for a while, to the message's end; then it is hung up."""
    async with open_place("message") as place, await place.network.call(**OUTBOUND) as callee:
        await callee.wait_for_speech()
        await callee.say(await spoken(engines, MACHINE))
        over = await callee.wait_for_said()
        began = await callee.wait_for_speech(after=over)
        ended = await callee.wait_for_end()
        # What is said ends in some silence of its own, which counts as quiet.
        assert began - over > MACHINE_QUIET_SECONDS - 1
        await place.until_calls(0)
    assert understood(callee.sent(began - 0.5, ended))


async def test_a_person_is_talked_with(
    open_place: Open, engines: Engines, model: FakeOpenAI
) -> None:
    """They are greeted before they have said a word, and stay on the line when they have."""
    async with open_place("hang-up") as place, await place.network.call(**OUTBOUND) as callee:
        await callee.wait_for_speech()
        call = await place.only_call()
        await callee.say(await spoken(engines, "Hello? Good morning."))
        await place.until(lambda: "answered_by" in call.line.origin.data)
        assert call.line.origin.data["answered_by"] == "human"
        asked = len(model.requests)
        await callee.press("42#")
        await place.until(lambda: len(model.requests) > asked)
        assert not callee.ended_at
        assert model.judged


async def test_a_model_that_fails_hangs_up_on_nobody(
    open_place: Open, engines: Engines, model: FakeOpenAI
) -> None:
    """A machine that cannot be told from a person is taken for one."""
    async with open_place("hang-up") as place, await place.network.call(**OUTBOUND) as callee:
        model.judge = None
        await callee.wait_for_speech()
        call = await place.only_call()
        await callee.say(await spoken(engines, MACHINE))
        await place.until(lambda: "answered_by" in call.line.origin.data)
        assert call.line.origin.data["answered_by"] == "human"
        assert not callee.ended_at


async def test_who_calls_the_agent_is_no_machine(open_place: Open) -> None:
    """Only calls that the agent has placed are listened to in this way, and only where wanted."""
    async with open_place("hang-up") as place, await place.network.call() as caller:
        await caller.wait_for_speech()
        assert (await place.only_call())._conversation.detector is None
    async with open_place("ignore") as place, await place.network.call(**OUTBOUND) as callee:
        await callee.wait_for_speech()
        assert (await place.only_call())._conversation.detector is None


async def test_rules_do_not_judge(settings: Settings, engines: Engines) -> None:
    """Without a language model nobody is taken for a machine, and the log says so."""
    calls = Calls(settings, engines, AGENT)
    assert not engines.judges
    call = calls.start(lambda: FakeLine(detect_machine=True))
    assert call._conversation.detector is None
    assert isinstance(engines.llm(AGENT), ResponderLLMService)
    await call.cancel()
    await call.ended.wait()
