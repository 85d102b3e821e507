"""A language model for both sides: an OpenAI-compatible endpoint on loopback with a fixed pace."""

import asyncio
import contextlib
import json
from itertools import takewhile
from typing import Any, Self

from aiohttp import web

FIRST_TOKEN_SECONDS = 0.12
"""From a request to its first token."""

TOKEN_SECONDS = 0.015
"""From one token to the next."""

STORY_REQUEST = "Please tell me a long story."
"""A turn that `STORY` answers."""

QUESTION = "Can you hear me?"
"""A turn that `ANSWER` answers, like any other."""

ANSWER = "Yes, I can hear you well."

STORY = " ".join(
    f"On day {day} the old ferryman crossed the river with a traveller who told him of the sea, "
    "and in the evening he sat by the fire and thought of ships with sails as white as snow."
    for day in ("one", "two", "three", "four", "five", "six", "seven", "eight")
)
"""More than a minute of speech, so that it can be interrupted anywhere."""


class PacedModel:
    """The endpoint, while its context is entered.

    A request gets the story if the caller has asked for one since the agent last spoke, and else
    `ANSWER`. The last message alone would not do: what the recogniser makes of earlier speech may
    come behind it.
    """

    def __init__(self, story: str = STORY) -> None:
        """Prepare the endpoint.

        Args:
            story: What it tells who asks for a story.
        """
        self._story = story
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that send OpenAI's client here."""
        port = self._runner.addresses[0][1]
        return {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
            "OPENAI_API_KEY": "bench",
            "PARLEY_LLM_MODEL": "bench",
        }

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        recent = list(takewhile(lambda m: m["role"] != "assistant", reversed(body["messages"])))
        story = any(message["content"] == STORY_REQUEST for message in recent)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        # Whoever is interrupted hangs up.
        with contextlib.suppress(ConnectionResetError):
            await asyncio.sleep(FIRST_TOKEN_SECONDS)
            await response.prepare(request)
            for number, word in enumerate((self._story if story else ANSWER).split()):
                token = f" {word}" if number else word
                await response.write(_event(body["model"], {"content": token}))
                await asyncio.sleep(TOKEN_SECONDS)
            await response.write(_event(body["model"], {}, "stop"))
            await response.write(b"data: [DONE]\n\n")
        return response


def _event(model: str, delta: dict[str, Any], finish: str | None = None) -> bytes:
    """One chunk of a completion, as the API streams it."""
    chunk = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return f"data: {json.dumps(chunk)}\n\n".encode()
