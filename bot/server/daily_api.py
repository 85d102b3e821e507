"""Daily's REST API: rooms, and the tokens that let people into them.

What it says and takes is as in Daily's document "REST API".
"""

import asyncio
import re
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import httpx
from loguru import logger
from pipecat.transports.daily.utils import (
    DailyMeetingTokenParams,
    DailyMeetingTokenProperties,
    DailyRoomObject,
    DailyRoomParams,
    DailyRoomProperties,
)
from pydantic import BaseModel, ValidationError

from bot.line import mask_number
from services.errors import one_line

API_SECONDS = 5.0
"""How long one request of Daily's REST API may take."""

API_TRIES = 3
"""How often a request is made that Daily answers with 429."""

API_PAUSE = 0.5
"""Seconds until such a request is made again; twice as many each time after."""

M = TypeVar("M", bound=BaseModel)


class DailyError(Exception):
    """Daily's REST API does not do what it was asked for; the message is one line."""

    def __init__(self, message: str, status: int = 0) -> None:
        """Keep what was said.

        Args:
            message: It in one line.
            status: The answer's HTTP status; 0 where there was no answer that can be read.
        """
        super().__init__(message)
        self.status = status


class DailyApi:
    """Asks Daily's REST API.

    Pipecat's `DailyRESTHelper` gives an answer no limit of its own, raises errors whose status only
    a person can read, and puts nobody out of a room.
    """

    def __init__(self, url: str, key: str) -> None:
        """Get ready to ask; nothing is asked yet.

        Args:
            url: The API's address, without a slash at its end.
            key: The domain's key.
        """
        self._url = url
        self._key = key
        self._http = httpx.AsyncClient(timeout=API_SECONDS)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def make_room(
        self, name: str, privacy: Literal["private", "public"], expiry: int, **properties: Any
    ) -> str:
        """Make a room, which ends when it expires.

        Args:
            name: What it is to be called.
            privacy: Whether a token is needed to enter.
            expiry: When it ends, in seconds since 1970.
            properties: What else the room is to be.

        Returns:
            Its address.

        Raises:
            DailyError: There may be no room.
        """
        wanted = DailyRoomParams(
            name=name,
            privacy=privacy,
            properties=DailyRoomProperties(
                exp=expiry, eject_at_room_exp=True, start_video_off=True, **properties
            ),
        )
        return _read(DailyRoomObject, await self._ask("POST", "/rooms", _wire(wanted))).url

    async def make_token(self, room: str, expiry: int, owner: str | None = None) -> str:
        """Make what lets somebody into a room.

        Args:
            room: The room's name.
            expiry: Until when it does, in seconds since 1970.
            owner: The name of who enters, where it is the room's owner, who may call and transfer.

        Raises:
            DailyError: There is none.
        """
        properties = DailyMeetingTokenProperties(
            room_name=room, exp=expiry, is_owner=owner is not None, user_name=owner
        )
        wanted = DailyMeetingTokenParams(properties=properties)
        return _read(_Token, await self._ask("POST", "/meeting-tokens", _wire(wanted))).token

    async def eject(self, room: str, people: Iterable[str]) -> None:
        """Put people out of a room.

        Args:
            room: The room's name.
            people: Their ids at Daily; Daily takes a hundred at once.

        Raises:
            DailyError: They may still be there.
        """
        ids = sorted(people)[:100]
        await self._ask("POST", f"/rooms/{room}/eject", {"ids": ids})

    async def delete_room(self, room: str) -> None:
        """Delete a room; one that cannot be deleted expires.

        Args:
            room: Its name.
        """
        try:
            await self._ask("DELETE", f"/rooms/{room}")
        except DailyError as error:
            # Who refuses our key has made no room.
            if error.status not in (401, 404):
                logger.warning("Daily: a room was not deleted; it expires: {}", error)

    async def _ask(self, method: str, path: str, body: object = None) -> object:
        """What Daily's REST API answers.

        Raises:
            DailyError: It refuses, or does not answer in time.
        """
        headers = {"Authorization": f"Bearer {self._key}"}
        for attempt in range(API_TRIES):
            if attempt:
                await asyncio.sleep(API_PAUSE * 2 ** (attempt - 1))
            try:
                async with asyncio.timeout(API_SECONDS):
                    answer = await self._http.request(
                        method, self._url + path, json=body, headers=headers
                    )
                said = answer.json()
            except TimeoutError:
                raise DailyError(f"no answer within {API_SECONDS:g} seconds") from None
            except httpx.HTTPError as error:
                raise DailyError(f"{self._url} is not reached: {one_line(error)}") from None
            except ValueError:
                said = None
            if answer.status_code != 429:
                break
        if answer.status_code == 401:
            raise DailyError("DAILY_API_KEY is not valid", 401)
        if not answer.is_success:
            why = said.get("info") or said.get("error") if isinstance(said, dict) else None
            raise DailyError(
                f"{answer.status_code} {daily_line(why or answer.reason_phrase)}",
                answer.status_code,
            )
        return said


class _Token(BaseModel):
    """Daily's answer to `POST /meeting-tokens`."""

    token: str


def daily_line(said: object) -> str:
    """What Daily says, in one line, without whole telephone numbers."""
    return re.sub(r"\+?\d{6,}", lambda number: mask_number(number[0]), one_line(said))


def _wire(model: BaseModel) -> Any:
    """A model of Pipecat's as Daily's REST API takes it."""
    return model.model_dump(exclude_none=True)


def _read(model: type[M], said: object) -> M:
    """What Daily answered.

    Raises:
        DailyError: It is something else than its documents say.
    """
    try:
        return model.model_validate(said)
    except ValidationError:
        raise DailyError("its answer cannot be read") from None
