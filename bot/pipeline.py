"""The conversation: one list of processors, in the order in which frames flow."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipecat.audio.turn.smart_turn.base_smart_turn import SmartTurnParams
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.classifiers.llm.classifier import LLMClassifier
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregator,
    LLMUserAggregatorParams,
)
from pipecat.services.llm_service import LLMService
from pipecat.services.stt_service import STTService
from pipecat.transports.base_transport import BaseTransport
from pipecat.turns.user_stop import (
    BaseUserTurnStopStrategy,
    SpeechTimeoutUserTurnStopStrategy,
    TurnAnalyzerUserTurnStopStrategy,
)
from pipecat.turns.user_turn_strategies import UserTurnStrategies

from bot.agent import Agent
from bot.media_sender import use_media_sender
from bot.settings import Settings
from processors.digits import Digits, DigitsTurnStop
from processors.hang_up import HangUp
from processors.llm_apology import LLMApology
from processors.machine_detector import MachineDetector
from processors.wake_word import Listener, WakeWord
from services.detectors import SharedSileroVADAnalyzer, SharedSmartTurnAnalyzer
from services.tts.service import SpeechTTSService

MACHINE_QUIET_SECONDS = 2.0
"""How long a machine has to have been quiet before a message is left."""


@dataclass(frozen=True)
class Conversation:
    """A pipeline, and the parts of it that a call speaks to.

    Attributes:
        pipeline: The processors, joined.
        context: What the LLM knows: what was said, and the tools.
        caller: Gathers the caller's turns.
        llm: What thinks. What it pushes comes to the voice in order with its answers.
        wake_word: What waits for the wake word, if anything does.
        detector: What finds out whether a machine has answered, if anything does.
    """

    pipeline: Pipeline
    context: LLMContext
    caller: LLMUserAggregator
    llm: LLMService[Any]
    wake_word: WakeWord | None
    detector: MachineDetector | None


def build(
    transport: BaseTransport,
    stt: STTService,
    llm: LLMService[Any],
    tts: SpeechTTSService,
    agent: Agent,
    settings: Settings,
    *,
    can_transfer: bool = False,
    detect_machine: bool = False,
    listen: Callable[[], Listener] | None = None,
) -> Conversation:
    """One call's conversation.

    Args:
        transport: What carries it.
        stt: What hears.
        llm: What thinks.
        tts: What speaks.
        agent: Who answers.
        settings: The settings in force.
        can_transfer: Whether the caller can be put through to somebody else.
        detect_machine: Whether the LLM is to say if a machine has answered.
        listen: Begins to listen for the wake word; None where none is needed.
    """
    use_media_sender()
    wake_word = listen and WakeWord(
        listen, seconds=settings.wake_seconds, greeting=agent.greeting, woken=agent.woken
    )
    # A message waits for the machine to be quiet; to hang up on it needs no waiting.
    quiet = MACHINE_QUIET_SECONDS if settings.voicemail == "message" else 0
    detector = (
        MachineDetector(classifier=LLMClassifier(llm=llm), voicemail_response_delay=quiet)
        if detect_machine
        else None
    )
    context = LLMContext(tools=agent.tool_functions(can_transfer=can_transfer))
    caller, answers = LLMContextAggregatorPair(
        context,
        user_params=LLMUserAggregatorParams(
            vad_analyzer=SharedSileroVADAnalyzer(
                params=VADParams(
                    confidence=settings.vad_confidence,
                    start_secs=settings.vad_start_seconds,
                    stop_secs=settings.vad_stop_seconds,
                    min_volume=settings.vad_min_volume,
                )
            ),
            user_turn_strategies=UserTurnStrategies(stop=[DigitsTurnStop(), _turn_end(settings)]),
            # Who has to say a wake word is silent most of the time.
            user_idle_timeout=0 if wake_word else settings.idle_seconds,
        ),
    )
    pipeline = Pipeline(
        [
            transport.input(),
            *([wake_word] if wake_word else []),
            stt,
            # Without its gate, so that a person is not kept waiting.
            *([detector] if detector else []),
            Digits(pause_seconds=settings.digits_seconds),
            caller,
            LLMApology(apology=agent.apology, out_of_order=agent.out_of_order),
            llm,
            HangUp(goodbye=agent.goodbye),
            tts,
            transport.output(),
            answers,
        ]
    )
    return Conversation(pipeline, context, caller, llm, wake_word, detector)


def _turn_end(settings: Settings) -> BaseUserTurnStopStrategy:
    """What decides that the caller has finished."""
    if settings.turn_end == "timeout":
        return SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=settings.turn_timeout_seconds)
    return TurnAnalyzerUserTurnStopStrategy(
        turn_analyzer=SharedSmartTurnAnalyzer(
            params=SmartTurnParams(stop_secs=settings.turn_stop_seconds)
        )
    )
