"""Keys are a turn, or what the tool gets that waits for them: never both, and never nothing."""

import asyncio
from functools import partial
from typing import Any

import pytest
from loguru import logger
from pipecat.audio.dtmf.types import KeypadEntry
from pipecat.frames.frames import (
    FunctionCallCancelFrame,
    InputDTMFFrame,
    InputTransportMessageFrame,
    InterruptionFrame,
    OutputDTMFFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.serializers.vonage import VonageFrameSerializer
from pipecat.tests.utils import SleepFrame
from pipecat.turns.types import ProcessFrameResult
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy

from bot.agent import ask_for_digits
from processors.digits import (
    MAX_DIGITS,
    Digits,
    DigitsRequestFrame,
    DigitsTurnStop,
    wait_for_digits,
)
from processors.rtvi import CallerRTVIProcessor
from services.llm.responder import ResponderLLMService
from services.serve import log_to_stderr
from tests.fakes import text_call
from tests.fakes.pipeline import run_test
from tests.fakes.text_call import TextCall

PAUSE = 0.2


def keys(pressed: str) -> list[InputDTMFFrame]:
    """One frame for each key."""
    return [InputDTMFFrame(KeypadEntry(key)) for key in pressed]


def call() -> TextCall:
    """A call with a keypad, and an agent that asks for digits when told to."""
    digits = Digits(pause_seconds=PAUSE)
    return TextCall(ResponderLLMService(), [ask_for_digits], before=[digits])


async def press(call: TextCall, pressed: str) -> None:
    """Press keys."""
    await call.worker.queue_frames(keys(pressed))


async def ask(call: TextCall) -> None:
    """Have the agent ask for digits, and wait until it waits for them."""
    await call.tell("let me type in my number")
    await call.until_seen(DigitsRequestFrame)


def turns(call: TextCall) -> list[str]:
    """What reached the context as the caller's."""
    messages: list[Any] = call.context.messages
    return [message["content"] for message in messages if message["role"] == "user"]


@pytest.mark.parametrize(
    ("frames", "texts"),
    [
        (keys("12#"), ["DTMF: 12#"]),
        ([*keys("12*"), SleepFrame(2 * PAUSE)], ["DTMF: 12*"]),
        ([*keys("1#"), *keys("2#")], ["DTMF: 1#", "DTMF: 2#"]),
        (keys("7" * (MAX_DIGITS + 1) + "#"), ["DTMF: " + "7" * MAX_DIGITS, "DTMF: 7#"]),
    ],
)
async def test_keys_make_a_turn(frames: list[Any], texts: list[str]) -> None:
    """The terminator, a pause or a full turn ends it; its first key interrupts the agent."""
    down, _ = await run_test(Digits(pause_seconds=PAUSE), frames_to_send=frames)
    turns = [frame for frame in down if isinstance(frame, TranscriptionFrame)]
    assert [turn.text for turn in turns] == texts
    assert all(turn.finalized for turn in turns)
    assert sum(isinstance(frame, InterruptionFrame) for frame in down) == len(texts)


async def test_the_model_answers_a_turn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for speech to follow the keys."""
    patient = partial(SpeechTimeoutUserTurnStopStrategy, user_speech_timeout=60.0)
    monkeypatch.setattr(text_call, "SpeechTimeoutUserTurnStopStrategy", patient)
    # Pipecat ends a turn after 5 s, whatever the strategies wait for.
    async with call() as conversation, asyncio.timeout(4.0):
        await press(conversation, "12#")
        await conversation.until(lambda _: "You pressed 1 2." in conversation.text())
    assert turns(conversation) == ["DTMF: 12#"]


async def test_a_tool_gets_the_keys_and_nobody_else() -> None:
    """What a tool asked for is its result, and no turn; the agent is hushed by the first key."""
    async with call() as conversation, asyncio.timeout(5.0):
        await ask(conversation)
        await press(conversation, "0042#")
        await conversation.until(lambda _: "You pressed 0 0 4 2." in conversation.text())
        assert len(conversation.seen(InterruptionFrame)) == 1
        assert not conversation.seen(TranscriptionFrame)
        assert not conversation.seen(FunctionCallCancelFrame)
        # And from then on keys are turns again.
        await press(conversation, "5#")
        await conversation.until(lambda _: "You pressed 5." in conversation.text())
    assert turns(conversation) == ["let me type in my number", "DTMF: 5#"]


async def test_the_voice_ends_the_wait_and_no_key_is_lost() -> None:
    """A caller who speaks is listened to; the keys pressed before belong to the next turn."""
    async with call() as conversation, asyncio.timeout(5.0):
        await ask(conversation)
        await press(conversation, "12")
        await conversation.until_seen(InterruptionFrame)
        await conversation.worker.queue_frame(InterruptionFrame())
        await conversation.until_seen(FunctionCallCancelFrame)
        await press(conversation, "34#")
        await conversation.until(lambda _: "You pressed 1 2 3 4." in conversation.text())
    assert turns(conversation)[-1] == "DTMF: 1234#"


class Asker:
    """A tool's side of the wait, with a keypad instead of a pipeline."""

    def __init__(self) -> None:
        self.request: DigitsRequestFrame | None = None
        self.pushed: list[object] = []

    async def push_frame(self, frame: object, *_: object) -> None:
        """Take the request, and what hushes the agent."""
        if isinstance(frame, DigitsRequestFrame):
            self.request = frame
        else:
            self.pushed.append(frame)


@pytest.mark.parametrize(
    ("pressed", "count", "digits"),
    [
        ("1234", 4, "1234"),
        ("12#", 4, "12"),
        ("#", 0, ""),
        ("*1#", 0, "*1"),
        ("9" * 40, 0, "9" * MAX_DIGITS),
        ("12", 0, "12"),
        ("", 4, ""),
    ],
)
async def test_how_a_wait_ends(pressed: str, count: int, digits: str) -> None:
    """With the terminator, with as many digits as were asked for, or when no more are pressed."""
    asker: Any = Asker()
    wait = asyncio.create_task(
        wait_for_digits(asker, count=count, first_seconds=0.1, next_seconds=0.1)
    )
    await asyncio.sleep(0)
    for key in pressed:
        asker.request.keys.put_nowait(KeypadEntry(key))
    assert await wait == digits
    assert asker.request.open is False
    assert asker.request.answered is True
    assert len(asker.pushed) == bool(pressed)


async def test_a_terminator_out_of_habit_is_no_turn() -> None:
    """The key that nobody needed, after the last of as many as were asked for, is swallowed."""
    request = DigitsRequestFrame(pressed=keys("12"), open=False, answered=True)  # type: ignore[arg-type]
    digits = Digits(pause_seconds=PAUSE)
    frames = [request, *keys("#"), *keys("3#")]
    down, _ = await run_test(digits, frames_to_send=frames)
    assert [f.text for f in down if isinstance(f, TranscriptionFrame)] == ["DTMF: 3#"]


async def test_digits_do_not_end_a_turn_that_is_spoken() -> None:
    """While the caller speaks it is for the other strategies to find the end."""
    strategy, ended = DigitsTurnStop(), []

    @strategy.event_handler("on_user_turn_stopped")
    async def stopped(*_: object) -> None:
        ended.append(True)

    pressed = TranscriptionFrame("DTMF: 1", "", "")
    assert (
        await strategy.process_frame(VADUserStartedSpeakingFrame()) is ProcessFrameResult.CONTINUE
    )
    assert await strategy.process_frame(pressed) is ProcessFrameResult.CONTINUE
    await strategy.process_frame(VADUserStoppedSpeakingFrame())
    spoken = TranscriptionFrame("my number", "", "")
    assert await strategy.process_frame(spoken) is ProcessFrameResult.CONTINUE
    assert not ended
    assert await strategy.process_frame(pressed) is ProcessFrameResult.STOP
    assert ended == [True]


async def test_no_log_tells_what_was_pressed(capsys: pytest.CaptureFixture[str]) -> None:
    """Not even the most talkative one: it may be a card's number."""
    vonage = VonageFrameSerializer()
    log_to_stderr("debug")
    try:
        logger.debug("context: [{}]", {"role": "user", "content": "DTMF: 4111111111111111#"})
        logger.debug('result: {\\"digits\\": \\"4111\\"}')
        logger.debug("frame: {}", keys("5")[0])
        logger.debug("[press_keys:1] with arguments {}", {"keys": "4711"})
        logger.debug("frame: {}", OutputDTMFFrame.from_string("4711"))
        # A room tells of a key with what it calls a tone, a digit or a code.
        logger.debug("room DTMF event: {}", {"tone": "8", "digit": "8", "code": 8, "from": "x"})
        await vonage.deserialize('{"event": "websocket:dtmf", "digit": "9"}')
    finally:
        logger.remove()
    log = capsys.readouterr().err
    assert "DTMF event: ***\n" in log
    assert "DTMF digit: ***\n" in log
    assert "4111" not in log
    assert "4711" not in log
    assert "tone: ***" in log
    assert "buttons: ***" in log


@pytest.mark.parametrize(
    ("count", "taken"), [(1, 1), (MAX_DIGITS, MAX_DIGITS), (MAX_DIGITS + 1, 0)]
)
async def test_a_page_may_press_keys(count: int, taken: int) -> None:
    """As a telephone does, and no more at once than anybody can."""
    message = {"label": "rtvi-ai", "id": "1", "type": "dtmf", "data": {"buttons": ["7"] * count}}
    frames = [InputTransportMessageFrame(message), SleepFrame(0.1)]
    down, _ = await run_test(CallerRTVIProcessor(), frames_to_send=frames)
    assert sum(isinstance(frame, InputDTMFFrame) for frame in down) == taken


async def test_a_page_that_floods_is_not_heard_to_the_end() -> None:
    """Each message can be a question to the model; what the line itself sends is not counted."""
    key = {"label": "rtvi-ai", "id": "1", "type": "dtmf", "data": {"buttons": ["7"]}}
    left = 3

    def allow() -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    rtvi = CallerRTVIProcessor(also=frozenset({"raw-audio"}), allow=allow)
    audio = {"label": "rtvi-ai", "id": "2", "type": "raw-audio", "data": {}}
    flood = [InputTransportMessageFrame(message) for message in [audio, key] * 5]
    down, _ = await run_test(rtvi, frames_to_send=[*flood, SleepFrame(0.1)])
    assert sum(isinstance(frame, InputDTMFFrame) for frame in down) == 3
    assert left == -2
