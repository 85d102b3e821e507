"""A carrier, as a server meets it: the webhooks that announce calls, and the calls."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import httpx

from tests.callers.phone import PhoneCaller
from tests.fakes.carrier_api import Asked


class Network(ABC):
    """A carrier, for a server that is reached on loopback and believes to be elsewhere."""

    name: ClassVar[str]
    """The carrier, as the settings have it."""

    numbers: ClassVar[tuple[str, str]]
    """Who calls, and whom, in E.164."""

    def __init__(self, http: httpx.AsyncClient, public_url: str) -> None:
        """Know both addresses.

        Args:
            http: A client whose base is the address on loopback.
            public_url: The public one, which some carriers sign.
        """
        self.http = http
        self.public_url = public_url

    @classmethod
    @abstractmethod
    def settings(cls, folder: Path) -> dict[str, Any]:
        """What calls in and out take, but for the REST API's address.

        Args:
            folder: Where files can be that settings name.
        """

    @staticmethod
    @abstractmethod
    def new_id() -> str:
        """The ID of a call, as the carrier makes them."""

    @abstractmethod
    async def announce(self, call_id: str, **fields: str) -> httpx.Response:
        """Have someone call, and return what the server answers.

        Args:
            call_id: The call's ID.
            fields: What the webhook says besides, or in place of what it would.
        """

    @staticmethod
    @abstractmethod
    def socket_in(answer: httpx.Response) -> str:
        """The public address of the media socket in what the server answers."""

    @abstractmethod
    def caller(self, url: str, call_id: str) -> PhoneCaller:
        """What opens the socket at a public address."""

    @abstractmethod
    async def check_hung_up(self, caller: PhoneCaller, asked: Sequence[Asked]) -> None:
        """Make sure that the server has ended a call.

        Args:
            caller: The call.
            asked: All that the REST API was asked.
        """

    async def ring(self, call_id: str) -> str:
        """Have someone call, and return the socket's public address."""
        return self.socket_in(await self.announce(call_id))

    async def call(self, call_id: str = "", **fields: str) -> PhoneCaller:
        """A call that was answered and is about to be carried."""
        call_id = call_id or self.new_id()
        return self.caller(self.socket_in(await self.announce(call_id, **fields)), call_id)
