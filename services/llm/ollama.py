"""Is there an Ollama on this machine? It is then spoken to through its OpenAI-compatible API."""

import httpx
from pydantic import BaseModel, ValidationError

from services.reach import within

LOOK_SECS = 0.3
"""How long a start may wait for an Ollama that is not there."""

_MAX_BODY = 1 << 20


class _Details(BaseModel):
    family: str = ""


class _Model(BaseModel):
    name: str
    details: _Details = _Details()

    @property
    def chats(self) -> bool:
        """Whether it is not one of those that only embed text."""
        return "embed" not in self.name and "bert" not in self.details.family


class _Tags(BaseModel):
    """The answer to `GET /api/tags`: the models on the machine, the one changed last first."""

    models: list[_Model] = []


def ollama_base_url(url: str) -> str:
    """The OpenAI-compatible base URL of the Ollama at `url`."""
    return f"{url.rstrip('/')}/v1"


def find_ollama(url: str, model: str | None) -> str | None:
    """The chat model that an Ollama at `url` offers.

    Blocks for up to `LOOK_SECS`: call it at start or from a thread, not from a running event loop.

    Args:
        url: Where it may be.
        model: The model wanted, with or without its tag; None takes the first that can chat.

    Returns:
        The model's full name, such as "llama3.2:latest"; None where no Ollama answers in time, or
        it has no such model.
    """
    try:
        tags = _Tags.model_validate_json(
            within(LOOK_SECS, lambda: _get(f"{url.rstrip('/')}/api/tags"))
        )
    except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, ValidationError):
        return None
    names = [found.name for found in tags.models if found.chats]
    if model is None:
        return names[0] if names else None
    return next((name for name in names if model in (name, name.removesuffix(":latest"))), None)


def _get(url: str) -> bytes:
    """The body at `url`."""
    body = b""
    # What is local is not behind the environment's proxy.
    with (
        httpx.Client(timeout=LOOK_SECS, trust_env=False) as http,
        http.stream("GET", url) as response,
    ):
        response.raise_for_status()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > _MAX_BODY:
                raise httpx.DecodingError("longer than any list of models")
    return body
