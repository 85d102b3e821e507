"""Start tokens, for a site whose pages start calls and are not to know the key."""

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from bot.server.access import Keys
from bot.server.openapi import answers

MAX_SECONDS = 3600
"""The longest that a token may be good for."""


class TokenRequest(BaseModel):
    """What a token is to be.

    Attributes:
        seconds: How long it is good for.
    """

    seconds: int = Field(default=300, ge=1, le=MAX_SECONDS)


class StartToken(BaseModel):
    """A token with which calls may be started: `Authorization: Bearer TOKEN` on `POST /start`.

    Attributes:
        token: The token.
        expires: Until when it is good, in seconds since 1970.
    """

    token: str
    expires: int


def router(keys: Keys) -> APIRouter:
    """`POST /tokens` makes a token.

    Args:
        keys: What it is made with.
    """
    api = APIRouter()

    @api.post("/tokens", responses=answers(400))
    async def make_token(request: TokenRequest | None = None) -> StartToken:
        if not keys:
            raise HTTPException(400, "no token is needed: the agent has no PARLEY_API_KEY")
        token, expires = keys.sign((request or TokenRequest()).seconds)
        return StartToken(token=token, expires=expires)

    return api
