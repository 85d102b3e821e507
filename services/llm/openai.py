"""Any OpenAI-compatible endpoint as a Pipecat LLM service: OpenAI's own, Ollama, vLLM and others.

Pipecat's `OpenAILLMService` does the talking. Added to it are one HTTP client for all calls of the
process, limits on how long the model may stay silent, and errors that name the cure.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import openai
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.services.openai.base_llm import OpenAILLMSettings
from pipecat.services.openai.llm import OpenAILLMService

from services.openai_endpoint import OPENAI_URL

TOTAL_SECS = 60.0
"""How long an answer may take from the request to its end."""


class LLMRefusedError(Exception):
    """The endpoint refused a request; the message names the setting to look at.

    Attributes:
        status_code: The HTTP status, from which Pipecat tells a permanent failure from a passing
            one (`pipecat.utils.errors`).
    """

    def __init__(self, message: str, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


class EmptyAnswerError(Exception):
    """The endpoint's answer has neither words nor a tool call: it may not be an API at all."""


class OpenAICompatibleLLMService(OpenAILLMService):
    """`OpenAILLMService` on a shared client, with limits and legible errors.

    When the model stays silent for too long, or talks for too long, the run ends with
    `on_completion_timeout` and an `ErrorFrame`, as Pipecat's own timeouts do. What has been said by
    then is kept.

    Attributes:
        silence_secs: How long the model may take to its first token, and from one to the next.
        total_secs: How long an answer may take from the request to its end.
    """

    def __init__(
        self,
        *,
        client: AsyncOpenAI,
        settings: OpenAILLMSettings,
        silence_secs: float,
        total_secs: float = TOTAL_SECS,
        **kwargs: Any,
    ) -> None:
        """Create the service.

        Args:
            client: From `services.openai_endpoint.openai_client`.
            settings: The model, its system instruction and its parameters.
            silence_secs: How long the model may take to its first token, and from one to the next.
            total_secs: How long an answer may take from the request to its end.
            **kwargs: Passed on to `OpenAILLMService`.
        """
        self._shared_client = client
        self.silence_secs = silence_secs
        self.total_secs = total_secs
        # Elsewhere than at OpenAI the role may be unknown; Pipecat then sends such messages as the
        # user's.
        self.supports_developer_role = client.base_url.host == urlsplit(OPENAI_URL).hostname
        super().__init__(settings=settings, **kwargs)

    def create_client(self, *args: Any, **kwargs: Any) -> AsyncOpenAI:
        """The shared client, in place of one of the service's own.

        Args:
            *args: Ignored: the shared client has its key and address.
            **kwargs: Likewise.
        """
        return self._shared_client

    async def get_chat_completions(self, context: LLMContext) -> AsyncStream[ChatCompletionChunk]:
        """Ask for an answer to `context`, as a stream that keeps the limits.

        Args:
            context: The conversation and its tools.

        Raises:
            httpx.TimeoutException: The model did not begin to answer in time.
            LLMRefusedError: The endpoint refused the request.
            ConnectionError: The endpoint cannot be reached.

        The stream raises the first of these too, and `EmptyAnswerError`.
        """
        limits = _Limits(self.silence_secs, self.total_secs)
        try:
            with self._legible():
                async with asyncio.timeout_at(limits.deadline):
                    stream = await super().get_chat_completions(context)
        except (TimeoutError, openai.APITimeoutError) as error:
            raise limits.exceeded() from error
        # The service iterates over the stream and closes it: all that the wrapper offers.
        return cast("AsyncStream[ChatCompletionChunk]", _LimitedStream(stream, limits))

    async def run_inference(
        self,
        context: LLMContext,
        max_tokens: int | None = None,
        system_instruction: str | None = None,
        response_schema: dict[str, Any] | None = None,
    ) -> str | None:
        """The answer to `context` in one piece, outside the pipeline; see `LLMService`.

        Args:
            context: The conversation to answer.
            max_tokens: The longest that the answer may be.
            system_instruction: What stands in place of the agent's prompt.
            response_schema: What JSON the answer is to be.

        Raises:
            LLMRefusedError: The endpoint refused the request.
            ConnectionError: The endpoint cannot be reached.
            openai.APITimeoutError: It does not answer in time.
        """
        with self._legible():
            return await super().run_inference(
                context, max_tokens, system_instruction, response_schema
            )

    @contextmanager
    def _legible(self) -> Iterator[None]:
        """Raise errors of the endpoint's, but for its silence, in words of our own.

        Its own may quote the request, the key included, and what is raised reaches the log and the
        caller's client.
        """
        try:
            yield
        except openai.APITimeoutError:
            raise
        except openai.APIConnectionError as error:
            raise ConnectionError(
                f"{self._host} cannot be reached: check OPENAI_BASE_URL and the network"
            ) from error
        except openai.APIStatusError as error:
            raise LLMRefusedError(self._refusal(error), error.status_code) from None

    @property
    def _host(self) -> str:
        return self._shared_client.base_url.host

    def _refusal(self, error: openai.APIStatusError) -> str:
        match error.status_code:
            case 401:
                return f"{self._host} does not accept the key in OPENAI_API_KEY; set a valid one"
            case 403:
                return f"OPENAI_API_KEY may not use {self.settings.model} at {self._host}"
            case 404:
                return (
                    f"{self._host} knows no model {self.settings.model}: "
                    "check its name and OPENAI_BASE_URL"
                )
            case 429:
                return f"{self._host} lets OPENAI_API_KEY ask no more for now (rate or quota)"
            case code:
                return f"{self._host} answered with the status {code}"


class _Limits:
    """When the model must have said its next word.

    Attributes:
        deadline: By then, in the event loop's time.
    """

    def __init__(self, silence_secs: float, total_secs: float) -> None:
        self._silence_secs = silence_secs
        self._total_secs = total_secs
        self._end = asyncio.get_running_loop().time() + total_secs
        self.heard()

    def heard(self) -> None:
        """The model said something: it may be silent for as long again."""
        now = asyncio.get_running_loop().time()
        self.deadline = min(now + self._silence_secs, self._end)

    def exceeded(self) -> httpx.ReadTimeout:
        """The error for a deadline that passed: one that Pipecat knows as a timeout."""
        if self.deadline >= self._end:
            return httpx.ReadTimeout(f"the model had not finished after {self._total_secs:g} s")
        return httpx.ReadTimeout(f"the model was silent for {self._silence_secs:g} s")


class _LimitedStream:
    """The chunks of a stream, each by its deadline."""

    def __init__(self, stream: AsyncStream[ChatCompletionChunk], limits: _Limits) -> None:
        self._stream = stream
        self._limits = limits

    async def __aiter__(self) -> AsyncIterator[ChatCompletionChunk]:
        chunks = aiter(self._stream)
        answered = False
        while True:
            try:
                async with asyncio.timeout_at(self._limits.deadline):
                    chunk = await anext(chunks, None)
            except TimeoutError as error:
                raise self._limits.exceeded() from error
            if chunk is None:
                break
            # An empty first delta, a comment or a usage report is not yet a word.
            if any(choice.delta.content or choice.delta.tool_calls for choice in chunk.choices):
                self._limits.heard()
                answered = True
            yield chunk
        if not answered:
            raise EmptyAnswerError("the model gave no answer; does OPENAI_BASE_URL end in /v1?")

    async def close(self) -> None:
        """Give the connection back, or drop it in mid-answer."""
        await self._stream.close()


def openai_llm(
    client: AsyncOpenAI,
    *,
    model: str,
    system_instruction: str,
    silence_secs: float,
    temperature: float | None = None,
    total_secs: float = TOTAL_SECS,
) -> OpenAICompatibleLLMService:
    """One call's language model.

    Args:
        client: From `services.openai_endpoint.openai_client`, shared by all calls.
        model: The model's name at the endpoint.
        system_instruction: The agent's prompt.
        silence_secs: How long the model may take to its first token, and from one to the next.
        temperature: 0 to 2; None leaves it to the endpoint.
        total_secs: How long an answer may take from the request to its end.
    """
    settings = OpenAILLMSettings(model=model, system_instruction=system_instruction)
    if temperature is not None:
        settings.temperature = temperature
    return OpenAICompatibleLLMService(
        client=client, settings=settings, silence_secs=silence_secs, total_secs=total_secs
    )
