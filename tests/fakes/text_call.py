"""A call without sound: what is typed reaches a language model service, and frames are watched."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

from pipecat.adapters.llm.schemas.direct_function import DirectFunction
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    LLMFullResponseEndFrame,
    LLMMessagesAppendFrame,
    LLMTextFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.llm_service import LLMService
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner

from processors.digits import DigitsTurnStop
from processors.hang_up import HangUp
from processors.llm_apology import LLMApology

APOLOGY = "Sorry."
OUT_OF_ORDER = "Out of order."
GOODBYE = "Goodbye from the agent."

F = TypeVar("F", bound=Frame)


class _Watcher(BaseObserver):
    """Keeps every frame once, however many processors it passes."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self.changed = asyncio.Condition()
        self._seen: set[int] = set()

    async def on_push_frame(self, data: FramePushed) -> None:
        if data.frame.id not in self._seen:
            self._seen.add(data.frame.id)
            async with self.changed:
                self.frames.append(data.frame)
                self.changed.notify_all()


class TextCall:
    """The conversation's processors around an LLM service, as in the bot, with nothing to hear.

    Attributes:
        llm: The service.
        context: What the model is given.
        worker: Runs the pipeline.
    """

    def __init__(
        self,
        llm: LLMService[Any],
        tools: Sequence[FunctionSchema | DirectFunction] = (),
        after: Sequence[FrameProcessor] = (),
        before: Sequence[FrameProcessor] = (),
    ) -> None:
        self.llm = llm
        self.context = LLMContext(tools=list(tools))
        # Nothing is heard, so that no model has to tell where a turn ends.
        turns = UserTurnStrategies(stop=[DigitsTurnStop(), SpeechTimeoutUserTurnStopStrategy()])
        user, assistant = LLMContextAggregatorPair(
            self.context, user_params=LLMUserAggregatorParams(user_turn_strategies=turns)
        )
        self._watcher = _Watcher()
        self.worker = PipelineWorker(
            Pipeline(
                [
                    *before,
                    user,
                    LLMApology(apology=APOLOGY, out_of_order=OUT_OF_ORDER),
                    llm,
                    HangUp(goodbye=GOODBYE),
                    *after,
                    assistant,
                ]
            ),
            params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
            observers=[self._watcher],
            enable_rtvi=False,
            idle_timeout_secs=None,
        )
        self._ended: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        started = asyncio.Event()

        @self.worker.event_handler("on_pipeline_started")
        async def _started(*_: object) -> None:
            started.set()

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(self.worker)
        self._ended = asyncio.create_task(runner.run())
        await started.wait()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.worker.cancel()
        await self.ended()

    async def ended(self) -> None:
        """Wait until the pipeline has ended."""
        assert self._ended is not None
        await self._ended

    async def tell(self, text: str, role: str = "user") -> None:
        """Put a message into the context and have the model answer it."""
        message: Any = {"role": role, "content": text}
        await self.worker.queue_frame(LLMMessagesAppendFrame([message], run_llm=True))

    async def ask(self, text: str, role: str = "user") -> str:
        """Say something, and wait for the answer that has words."""
        begin = len(self._watcher.frames)
        await self.tell(text, role)
        await self.until(lambda frames: _answer(frames) is not None, begin)
        return _answer(self._watcher.frames[begin:]) or ""

    def seen(self, kind: type[F]) -> list[F]:
        """The frames of a kind that have been pushed so far."""
        return [frame for frame in self._watcher.frames if isinstance(frame, kind)]

    async def until(self, holds: Callable[[Sequence[Frame]], bool], begin: int = 0) -> None:
        """Wait until something holds of the frames since the `begin`th."""
        async with self._watcher.changed:
            await self._watcher.changed.wait_for(lambda: holds(self._watcher.frames[begin:]))

    async def until_seen(self, kind: type[F], count: int = 1) -> list[F]:
        """Wait for `count` frames of a kind."""
        await self.until(lambda _: len(self.seen(kind)) >= count)
        return self.seen(kind)

    def text(self) -> str:
        """All that the model has said so far."""
        return "".join(frame.text for frame in self.seen(LLMTextFrame))

    def errors(self) -> list[str]:
        """The errors reported so far."""
        return [frame.error for frame in self.seen(ErrorFrame)]


def _answer(frames: Sequence[Frame]) -> str | None:
    """The words of the last complete answer that has any."""
    words = ""
    for frame in frames:
        if isinstance(frame, LLMTextFrame):
            words += frame.text
        elif isinstance(frame, LLMFullResponseEndFrame) and words:
            return words
    return None
