"""What a record takes down of a call: nothing of who is not heard, and no number whole."""

import json
from decimal import Decimal
from typing import Any

import numpy as np
from pipecat.audio.dtmf.types import KeypadEntry
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    ErrorFrame,
    Frame,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    OutputDTMFFrame,
    TranscriptionFrame,
    TTSTextFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import FramePushed
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import BaseTransport
from pipecat.utils.errors import ErrorCategory

from bot.records.transcript import turns
from processors.digits import PREFIX
from processors.frame_log import FrameLog, Side

RATE = 16000


class Ends(BaseTransport):
    """A transport of which the ends alone matter."""

    def __init__(self) -> None:
        super().__init__()
        self._ends = IdentityFilter(), IdentityFilter()

    def input(self) -> FrameProcessor:
        return self._ends[0]

    def output(self) -> FrameProcessor:
        return self._ends[1]


class Notes:
    """A journal that is looked at."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.entries: list[dict[str, Any]] = []

    def begin(self) -> None:
        pass

    def audio(self, side: Side, at: float, pcm: bytes, rate: int) -> None:
        self.heard.append(pcm)

    def note(self, event: str, at: float | None = None, **data: Any) -> None:
        self.entries.append({"t": at, "event": event, **data})


def sound(value: int) -> InputAudioRawFrame:
    return InputAudioRawFrame(value.to_bytes(2, "little") * 320, RATE, 1)


def pushed(frame: Frame, source: FrameProcessor, at: float = 0.0) -> FramePushed:
    return FramePushed(source, source, frame, FrameDirection.DOWNSTREAM, int(at * 1e9))


async def noted(*frames: Frame) -> list[dict[str, Any]]:
    """What is noted of frames, a second apart."""
    transport, notes = Ends(), Notes()
    log = FrameLog(notes, transport)
    await log.on_push_frame(pushed(sound(0), transport.input()))
    for at, frame in enumerate(frames, 1):
        await log.on_push_frame(pushed(frame, transport.input(), at))
    return notes.entries


async def test_who_is_not_heard_is_not_recorded() -> None:
    """Of the caller's audio there is what the wake word lets through, and no more."""
    transport, notes, wake_word = Ends(), Notes(), IdentityFilter()
    log = FrameLog(notes, transport, wake_word=wake_word)
    private, meant = sound(1), sound(2)
    await log.on_push_frame(pushed(private, transport.input(), 1))
    await log.on_push_frame(pushed(meant, transport.input(), 2))
    await log.on_push_frame(pushed(meant, wake_word, 2))
    assert {int(value) for pcm in notes.heard for value in np.frombuffer(pcm, "<i2")} == {2}


async def test_no_key_and_no_number_of_a_tool_is_there() -> None:
    """Of keys there is when; of tools' numbers, however they are written, two digits at most."""
    given = {
        "card": "4111 1111 1111 1111",
        "pin": "4711",
        "cvv": 123,
        "at": "19:43",
        "n": [12, 2.5],
        "by dots": "06.12.34.56.78",
        "by hard spaces": "06\u00a012\u00a034\u201156\u00a078",
        "by dashes": "06 - 12 - 34 - 56 - 78",
        "by thin spaces": "06\u200912\u200934\u221256\u200978",
        "price": "19.99",
        "weight": 2.125,
        "as a float": 4930123456.0,
        "in an object": Decimal(4930123456),
        "4930123456": "who",
    }
    entries = await noted(
        InputDTMFFrame(KeypadEntry.SEVEN),
        OutputDTMFFrame(button=KeypadEntry.SEVEN),
        FunctionCallInProgressFrame("pay", "call", given),
        FunctionCallResultFrame("pay", "call", given, {"digits": "471147", "paid": True}),
        ErrorFrame("pay: no such card: '4111111111111111'", category=ErrorCategory.APPLICATION),
        ErrorFrame("the status 500", category=ErrorCategory.UNKNOWN),
    )
    assert [entry["event"] for entry in entries] == [
        *("dtmf", "dtmf-sent", "tool-call", "tool-result", "error", "error"),
    ]
    assert all(entry.keys() == {"t", "event"} for entry in entries[:2])
    shown = {
        "card": "***11",
        "pin": "***",
        "cvv": "***",
        "at": "19:43",
        "n": [12, 2.5],
        "by dots": "***78",
        "by hard spaces": "***78",
        "by dashes": "***78",
        "by thin spaces": "***78",
        "price": "19.99",
        "weight": 2.125,
        "as a float": "***56.0",
        "in an object": "***56",
        "***56": "who",
    }
    assert entries[2]["arguments"] == shown
    assert entries[3]["result"] == {"digits": "***47", "paid": True}
    assert entries[4]["message"] == "pay: no such card: '***11'"
    assert entries[5]["message"] == "the status 500"
    assert given["pin"] == "4711"


async def test_a_turn_that_was_pressed_is_one_of_its_own_and_masked() -> None:
    """It is no part of what was said before, and shows no more of a number than a log would."""
    said = TranscriptionFrame("my number is", "", "")
    entries = await noted(
        said,
        TranscriptionFrame(f"{PREFIX}4711#", "", ""),
        TranscriptionFrame(f"{PREFIX}471147#", "", ""),
    )
    found = turns(entries, np.zeros((500, 2), np.uint8))
    assert [turn["text"] for turn in found] == ["my number is", "DTMF: ***", "DTMF: ***47"]
    assert "47114" not in json.dumps(entries)


async def test_keys_take_no_time_from_what_was_said() -> None:
    """A key between the caller's words and their transcript leaves the words where they were."""
    entries = await noted(
        VADUserStartedSpeakingFrame(start_secs=0.2),
        VADUserStoppedSpeakingFrame(stop_secs=0.2),
        TranscriptionFrame(f"{PREFIX}1#", "", ""),
        TranscriptionFrame("and this", "", ""),
    )
    pressed, said = (entry for entry in entries if entry["event"] == "heard")
    assert pressed["segments"][0]["start"] == 3
    assert (said["segments"][0]["start"], said["segments"][0]["end"]) == (0.7, 2)


async def test_what_cannot_be_talked_over_is_not_cut() -> None:
    """An interruption cuts the reply that is spoken, unless that goes on to its end."""
    for interruptible in (True, False):
        transport, notes = Ends(), Notes()
        log = FrameLog(notes, transport)
        await log.on_push_frame(pushed(sound(0), transport.input()))
        word = TTSTextFrame("This", "word", context_id="1")
        word.interruptible = interruptible
        for at, frame in enumerate((BotStartedSpeakingFrame(), word, InterruptionFrame()), 1):
            await log.on_push_frame(pushed(frame, transport.output(), at))
        (turn,) = turns(notes.entries, np.zeros((500, 2), np.uint8))
        assert (turn["text"], turn["cut"]) == ("This", interruptible)
