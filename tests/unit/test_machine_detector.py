"""A machine is known by what it says, and by nothing else."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from pipecat.classifiers.base_classifier import BaseClassifier, ChoiceResult
from pipecat.frames.frames import (
    Frame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.tests.utils import SleepFrame

from processors.machine_detector import MachineDetector
from tests.fakes.pipeline import run_test

TIMEOUT = 0.05
"""Seconds of silence after which the detector decides."""


class Judge(BaseClassifier):
    """Takes whoever says "message" for a machine."""

    async def _ask(
        self, state: Any, questions: Mapping[str, Any], images: Sequence[Any] = ()
    ) -> tuple[dict[str, Any], None]:
        choice = "voicemail" if "message" in state else "conversation"
        result = ChoiceResult(choice=choice, probabilities={choice: 1.0}, confidence=1.0)
        return dict.fromkeys(questions, result), None


def said(text: str) -> list[Frame]:
    """A turn of whoever has answered; empty where nobody could understand it."""
    frames: list[Frame] = [UserStartedSpeakingFrame(), TranscriptionFrame(text or " ", "", "")]
    return [*frames, UserStoppedSpeakingFrame(), SleepFrame(TIMEOUT * 6)]


@pytest.mark.parametrize(
    ("turns", "verdicts"),
    [
        ([""], []),
        (["", "", "please leave a message"], ["machine"]),
        (["", "hello"], ["person"]),
        (["hello", "please leave a message"], ["person"]),
        (["please leave a message", "hello"], ["machine"]),
    ],
)
async def test_the_first_words_decide(turns: list[str], verdicts: list[str]) -> None:
    """A noise that nobody understands is neither a person nor a machine; a verdict stays."""
    detector = MachineDetector(
        classifier=Judge(), decision_timeout=TIMEOUT, voicemail_response_delay=TIMEOUT
    )
    told: list[str] = []

    @detector.event_handler("on_conversation_detected")
    async def person(_: object) -> None:
        told.append("person")

    @detector.event_handler("on_voicemail_detected")
    async def machine(_: object) -> None:
        told.append("machine")

    def frames() -> Iterator[Frame]:
        for turn in turns:
            yield from said(turn)
            # Who has said something is told from then on.
            while turn and not told:
                yield SleepFrame(TIMEOUT)

    await run_test(detector, frames_to_send=frames())
    assert told == verdicts


async def test_a_call_that_ends_while_the_model_thinks_decides_nothing() -> None:
    """Who hangs up before the model has answered was neither a person nor a machine."""
    asked = asyncio.Event()

    class Slow(Judge):
        async def _ask(
            self, state: Any, questions: Mapping[str, Any], images: Sequence[Any] = ()
        ) -> tuple[dict[str, Any], None]:
            asked.set()
            await asyncio.sleep(3600)
            return await super()._ask(state, questions, images)

    detector = MachineDetector(
        classifier=Slow(), decision_timeout=TIMEOUT, voicemail_response_delay=TIMEOUT
    )
    told: list[str] = []

    @detector.event_handler("on_conversation_detected")
    @detector.event_handler("on_voicemail_detected")
    async def decided(_: object) -> None:
        told.append("decided")

    await run_test(detector, frames_to_send=said("please leave a message"))
    assert asked.is_set()
    assert told == []
