"""An OpenAI-compatible endpoint, asked from threads that must be able to leave at once.

The official SDK asks; it runs on an event loop in a thread of its own. A thread that is blocked in
a socket cannot be called back: a task on a loop can, wherever it is, and its connection is closed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import CancelledError, wait
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from threading import Event, Lock, Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import openai
from openai import AsyncAPIResponse, AsyncOpenAI, DefaultAsyncHttpxClient

from services.errors import BusyError, EngineError, UnknownVoiceError, one_line
from services.reach import LOOPBACK

T = TypeVar("T")

OPENAI_URL = "https://api.openai.com/v1"
"""Where there is no other address."""

CONNECT_S = 3.0
"""How long connecting may take."""

SILENCE_S = 20.0
"""How long an endpoint may take to begin its answer, and from one piece of it to the next."""

_POLL_S = 0.02
# How soon a thread that waits for an answer sees that it is to stop.

_END_LIMIT_S = 2.0

_NO_KEY = "none"  # The SDK wants one; endpoints without keys ignore it.


def openai_client(api_key: str | None, base_url: str | None, *, retries: int = 1) -> AsyncOpenAI:
    """A client of the official SDK, to be shared by all that ask an endpoint.

    A client of its own would cost each call 16 ms of a blocked event loop, most of it spent on
    reading the root certificates, and a TLS handshake before its first answer. Close it when the
    process ends (`await client.close()`); it belongs to the event loop that first uses it.

    Args:
        api_key: What the endpoint wants to see; None where it wants nothing.
        base_url: The endpoint's address; None for OpenAI's own.
        retries: How often the SDK asks again after a failure that may pass.
    """
    # Connections stay open from one turn to the next. The SDK takes the limits of either
    # generation of its HTTP client.
    limits: Any = httpx.Limits(
        max_keepalive_connections=100, max_connections=1000, keepalive_expiry=None
    )
    return AsyncOpenAI(
        api_key=api_key or _NO_KEY,
        base_url=base_url or OPENAI_URL,
        # Waiting for an answer has limits of its own, where it is waited for; the SDK's would
        # start anew with each attempt.
        timeout=openai.Timeout(None, connect=CONNECT_S),
        max_retries=retries,
        http_client=DefaultAsyncHttpxClient(
            limits=limits,
            # A proxy from the environment cannot reach this machine's own loopback.
            trust_env=urlsplit(base_url or OPENAI_URL).hostname not in LOOPBACK,
        ),
    )


class Endpoint:
    """One endpoint and the connections to it; for several threads at once.

    Attributes:
        host: Where it is, for messages: without a path, a user or a password.
        is_openai: Whether it is OpenAI's own.
    """

    def __init__(
        self, base_url: str | None, api_key: str | None, *, silence_s: float = SILENCE_S
    ) -> None:
        """Start the thread. Nothing is connected to before something is asked.

        Args:
            base_url: The address, which ends in `/v1` as a rule; None for OpenAI's own.
            api_key: What it wants to see; None where it wants nothing.
            silence_s: See `SILENCE_S`.
        """
        parts = urlsplit(base_url or OPENAI_URL)
        self.host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
        self.is_openai = parts.hostname == urlsplit(OPENAI_URL).hostname
        self._key = api_key
        self._silence_s = silence_s
        # The SDK waits between attempts, for as long as the endpoint says: nobody would speak
        # meanwhile, though another worker could.
        self._client = openai_client(api_key, base_url, retries=0)
        self._closing = Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        started = Event()
        self._thread = Thread(
            target=asyncio.run, args=(self._serve(started),), name="openai", daemon=True
        )
        self._thread.start()
        started.wait()

    def ask(
        self, request: Callable[[AsyncOpenAI], Awaitable[T]], stop: Event, *, about: str
    ) -> T | None:
        """Ask for something that comes whole.

        Args:
            request: Asks it of the client that it is given.
            stop: Gives the request up and closes its connection.
            about: What is asked for, for messages: a model, as a rule.

        Returns:
            The answer, or None where `stop` was set before it came.

        Raises:
            UnknownVoiceError: The endpoint says that the voice is wrong.
            BusyError: It takes no more requests for now.
            EngineError: It refused, failed or did not answer.
        """
        with self._explained(about):
            try:
                return self._retried(lambda: request(self._client), stop)
            except _StoppedError:
                return None

    @contextmanager
    def stream(
        self,
        request: Callable[[AsyncOpenAI], AbstractAsyncContextManager[AsyncAPIResponse[bytes]]],
        stop: Event,
        *,
        about: str,
    ) -> Iterator["Answer | None"]:
        """Ask for something that comes piece by piece. What is left of it is not read.

        Args:
            request: Asks it of the client that it is given.
            stop: Gives the request up and closes its connection.
            about: What is asked for, for messages: a model, as a rule.

        Yields:
            The answer once it has begun, or None where `stop` was set before.

        Raises:
            EngineError: As from `ask`.
        """
        opened = AsyncExitStack()
        try:
            answer = None
            with self._explained(about):
                try:
                    response = self._retried(
                        lambda: opened.enter_async_context(request(self._client)), stop
                    )
                    answer = Answer(response.headers, self._pieces(response, stop, about))
                except _StoppedError:
                    pass
            yield answer
        finally:
            # The loop does it; nobody waits for that.
            if not self._closed:
                asyncio.run_coroutine_threadsafe(opened.aclose(), self._loop)

    def close(self) -> None:
        """End what is under way, close the connections and the thread. Safe to call twice."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_END_LIMIT_S)

    async def _serve(self, started: Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        started.set()
        async with self._client:
            await self._end.wait()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

    def _pieces(
        self, response: AsyncAPIResponse[bytes], stop: Event, about: str
    ) -> Iterator[bytes]:
        pieces = aiter(response.iter_bytes())
        with self._explained(about):
            try:
                while (piece := self._wait(lambda: anext(pieces, None), stop)) is not None:
                    yield piece
            except _StoppedError:
                return

    def _retried(self, work: Callable[[], Awaitable[T]], stop: Event) -> T:
        """Do `work`; twice where its connection, kept from before, turns out to be closed."""
        try:
            return self._wait(work, stop)
        except openai.APITimeoutError:
            raise
        except openai.APIConnectionError:
            return self._wait(work, stop)

    def _wait(self, work: Callable[[], Awaitable[T]], stop: Event) -> T:
        """Do something on the loop and wait for it.

        Raises:
            _StoppedError: `stop` was set, or the endpoint is closed; `work` was cancelled.
            TimeoutError: It took longer than the endpoint may be silent.
            Exception: Whatever else it raised.
        """

        async def limited() -> T:
            async with asyncio.timeout(self._silence_s):
                return await work()

        if stop.is_set() or self._closed:
            raise _StoppedError
        future = asyncio.run_coroutine_threadsafe(limited(), self._loop)
        while not wait((future,), _POLL_S).done:
            if stop.is_set() or not self._thread.is_alive():
                future.cancel()
                raise _StoppedError
        try:
            return future.result()
        except CancelledError:
            raise _StoppedError from None

    @contextmanager
    def _explained(self, about: str) -> Iterator[None]:
        """Tell as one line what went wrong."""
        try:
            yield
        except (EngineError, _StoppedError):
            raise
        except openai.APIStatusError as error:
            raise self._refusal(error, about) from None
        except openai.APITimeoutError:
            raise EngineError(f"{self.host} cannot be reached within {CONNECT_S:g} s") from None
        except TimeoutError:
            raise EngineError(f"{self.host} was silent for {self._silence_s:g} s") from None
        except openai.APIConnectionError as error:
            raise EngineError(
                f"{self.host} cannot be reached: {one_line(error.__cause__ or error)}"
            ) from None
        except Exception as error:
            # A transport's errors have no class in common: that depends on the SDK's version.
            reason = f"{type(error).__name__}: {one_line(error.__cause__ or error)}"
            raise EngineError(f"the answer of {self.host} broke off ({reason})") from None

    def _refusal(self, error: openai.APIStatusError, about: str) -> EngineError:
        said = self._said(error)
        match error.status_code:
            case 401 if self._key is None:
                return EngineError(f"{self.host} wants an API key, and none is set")
            case 401:
                # Not in the endpoint's words: they may quote the key.
                return EngineError(f"{self.host} does not accept the API key")
            case 403:
                return EngineError(f"the API key may not use {about} at {self.host}")
            case 404:
                return EngineError(
                    f"{self.host} knows no {about}, or its address is not an API's, which ends in "
                    f"/v1 as a rule{said}"
                )
            case 429 if error.code == "insufficient_quota":
                return EngineError(f"the quota at {self.host} is used up")
            case 429 | 503:
                return BusyError(f"{self.host} takes no more requests for now{said}")
            case 400 | 422 if error.param == "voice":
                return UnknownVoiceError(f"{self.host} has no such voice{said}")
            case code if code < 500:
                return EngineError(f"{self.host} refuses{said or f': status {code}'}")
            case code:
                return EngineError(f"{self.host} failed with status {code}{said}")

    def _said(self, error: openai.APIStatusError) -> str:
        """What the endpoint says of a refusal, to be appended; OpenAI's way or FastAPI's."""
        body = error.body
        said = (body.get("message") or body.get("detail")) if isinstance(body, Mapping) else None
        if not said:
            return ""
        line = " ".join(str(said).split())
        if self._key:
            line = line.replace(self._key, "***")
        return f": {line[:200]}"


class Answer:
    """An answer that comes piece by piece.

    Attributes:
        media_type: What it says it is, in lower case and without parameters; empty where it does
            not say.
        parameters: The media type's parameters.
        pieces: The bytes, as they come. They end early where the request is stopped.
    """

    def __init__(self, headers: Mapping[str, str], pieces: Iterator[bytes]) -> None:
        media_type, *parameters = headers.get("content-type", "").split(";")
        self.media_type = media_type.strip().lower()
        pairs = (parameter.partition("=") for parameter in parameters)
        self.parameters = {name.strip().lower(): value.strip(' "') for name, _, value in pairs}
        self.pieces = pieces


class _StoppedError(Exception):
    """Nobody waits for the answer any more."""
