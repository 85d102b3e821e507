"""The built-in responder as a Pipecat LLM service: it answers by rules, with no model at all."""

import asyncio
import re
import uuid
from collections.abc import Sequence
from typing import Any

from pipecat.frames.frames import (
    Frame,
    FunctionCallFromLLM,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
)
from pipecat.metrics.metrics import LLMTokenUsage
from pipecat.processors.aggregators.llm_context import (
    LLMContext,
    LLMContextMessage,
    LLMSpecificMessage,
    is_given,
    standard_message_text,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings
from pipecat.utils.tracing.service_decorators import traced_llm

from services.llm.rules import Reply, Turn, reply

MODEL = "built-in responder"
"""What metrics and logs call it: plainly not a language model."""


class ResponderLLMService(LLMService):
    """Answers from `services.llm.rules`, frame for frame as a streaming language model does.

    A context in; tokens out between `LLMFullResponseStartFrame` and `LLMFullResponseEndFrame`; tool
    calls through `run_function_calls`, their results read from the context of the next run. An
    interruption cancels it in mid-stream. It keeps nothing between runs. The words of the context
    and of the answer are what it reports as tokens.
    """

    def __init__(self, *, name: str = "Parley", token_delay: float = 0.0, **kwargs: Any) -> None:
        """Create the service.

        Args:
            name: What the agent calls itself when asked.
            token_delay: Seconds before each token; 0 streams as fast as the pipeline takes them.
            **kwargs: Passed on to `LLMService`.
        """
        super().__init__(
            settings=LLMSettings(
                model=MODEL,
                system_instruction=None,
                temperature=None,
                max_tokens=None,
                top_p=None,
                top_k=None,
                frequency_penalty=None,
                presence_penalty=None,
                seed=None,
                filter_incomplete_user_turns=False,
                user_turn_completion_config=None,
            ),
            **kwargs,
        )
        self._agent = name
        self._token_delay = token_delay

    def can_generate_metrics(self) -> bool:
        """Whether it reports metrics: yes, those of any LLM."""
        return True

    async def run_inference(
        self,
        context: LLMContext,
        max_tokens: int | None = None,
        system_instruction: str | None = None,
        response_schema: dict[str, Any] | None = None,
    ) -> str | None:
        """The answer to `context`, outside the pipeline and without calling tools.

        Args:
            context: The conversation to answer.
            max_tokens: Ignored.
            system_instruction: Ignored: rules take no instruction.
            response_schema: Ignored, as in any service that cannot enforce one.
        """
        return reply(_turns(context.messages), (), self._agent).text

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Answer a context; pass everything else on.

        Args:
            frame: The frame to process.
            direction: Where it travels.
        """
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        try:
            await self.push_frame(LLMFullResponseStartFrame())
            await self.start_processing_metrics()
            await self._process_context(frame.context)
        except Exception as error:
            await self.push_error(f"The built-in responder failed: {error}", exception=error)
        finally:
            await self.stop_processing_metrics()
            await self.push_frame(LLMFullResponseEndFrame())

    @traced_llm
    async def _process_context(self, context: LLMContext) -> None:
        await self.start_ttfb_metrics()
        turns = _turns(context.messages)
        answer = reply(turns, self._tools(context), self._agent)
        tokens = re.findall(r"\s*\S+", answer.text)
        await self.start_llm_usage_metrics(_usage(turns, tokens))
        for token in tokens:
            # Even without a delay the loop gets a turn between tokens, as it does between the
            # chunks of a real stream, so that an interruption takes effect at once.
            await asyncio.sleep(self._token_delay)
            await self.stop_ttfb_metrics()
            await self._push_llm_text(token)
        await self._call(answer, context)

    async def _call(self, answer: Reply, context: LLMContext) -> None:
        if answer.call is None:
            return
        await self.stop_ttfb_metrics()
        call = FunctionCallFromLLM(
            function_name=answer.call.tool,
            tool_call_id=f"call_{uuid.uuid4().hex}",
            arguments=answer.call.arguments,
            context=context,
        )
        await self.run_function_calls([call])

    def _tools(self, context: LLMContext) -> set[str]:
        """The names of the tools that the context offers and that can be run."""
        if not is_given(context.tools):
            return set()
        names = {tool.name for tool in context.tools.standard_tools}
        return {name for name in names if self.has_function(name)}


def _usage(turns: Sequence[Turn], tokens: Sequence[str]) -> LLMTokenUsage:
    prompt = sum(len(turn.text.split()) for turn in turns)
    return LLMTokenUsage(
        prompt_tokens=prompt, completion_tokens=len(tokens), total_tokens=prompt + len(tokens)
    )


def _turns(messages: Sequence[LLMContextMessage]) -> list[Turn]:
    """A context's messages as the rules take them; other services' own messages are left out."""
    turns: list[Turn] = []
    called: dict[str, str] = {}
    for message in messages:
        if isinstance(message, LLMSpecificMessage):
            continue
        text = standard_message_text(message)
        match message["role"]:
            case "user":
                turns.append(Turn("user", text))
            case "assistant":
                for call in message.get("tool_calls") or ():
                    if call["type"] == "function":
                        called[call["id"]] = call["function"]["name"]
                if text:
                    turns.append(Turn("assistant", text))
            case "tool":
                tool = called.get(message["tool_call_id"], "")
                turns.append(Turn("tool", text, tool))
            case "system" | "developer":
                turns.append(Turn("developer", text))
    return turns
