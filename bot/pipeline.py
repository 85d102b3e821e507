"""The conversation: one list of processors, in the order in which frames flow."""

from dataclasses import dataclass
from typing import Any

from pipecat.audio.turn.smart_turn.base_smart_turn import SmartTurnParams
from pipecat.audio.vad.vad_analyzer import VADParams
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
from bot.settings import Settings
from processors.hang_up import HangUp
from processors.llm_apology import LLMApology
from services.detectors import SharedSileroVADAnalyzer, SharedSmartTurnAnalyzer
from services.tts.service import SpeechTTSService


@dataclass(frozen=True)
class Conversation:
    """A pipeline, and the parts of it that a call speaks to.

    Attributes:
        pipeline: The processors, joined.
        context: What the LLM knows: what was said, and the tools.
        caller: Gathers the caller's turns.
    """

    pipeline: Pipeline
    context: LLMContext
    caller: LLMUserAggregator


def build(
    transport: BaseTransport,
    stt: STTService,
    llm: LLMService[Any],
    tts: SpeechTTSService,
    agent: Agent,
    settings: Settings,
) -> Conversation:
    """One call's conversation."""
    context = LLMContext(tools=agent.tool_functions())
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
            user_turn_strategies=UserTurnStrategies(stop=[_turn_end(settings)]),
            user_idle_timeout=settings.idle_seconds,
        ),
    )
    pipeline = Pipeline(
        [
            transport.input(),
            stt,
            caller,
            LLMApology(apology=agent.apology, out_of_order=agent.out_of_order),
            llm,
            HangUp(goodbye=agent.goodbye),
            tts,
            transport.output(),
            answers,
        ]
    )
    return Conversation(pipeline, context, caller)


def _turn_end(settings: Settings) -> BaseUserTurnStopStrategy:
    """What decides that the caller has finished."""
    if settings.turn_end == "timeout":
        return SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=settings.turn_timeout_seconds)
    return TurnAnalyzerUserTurnStopStrategy(
        turn_analyzer=SharedSmartTurnAnalyzer(
            params=SmartTurnParams(stop_secs=settings.turn_stop_seconds)
        )
    )
