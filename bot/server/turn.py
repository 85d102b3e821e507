"""What helps a caller's media through to the agent: STUN servers, and relays that speak TURN.

A relay costs its owner bandwidth, so that nobody gets a credential for good. These follow the
scheme that coturn calls its REST API (`use-auth-secret`), after draft-uberti-behave-turn-rest-00:
the name is the time of expiry and a word, the password the name's HMAC-SHA1 under a secret
that the relay shares. A relay looks at the time when a connection is made; one that stands, stays.
"""

import base64
import hmac
import re
import time
from functools import partialmethod
from secrets import token_hex

import aioice.ice
from aiortc import RTCIceServer
from loguru import logger
from pydantic import BaseModel

from bot.settings import Settings

STUN_SECONDS = 1.0
"""How long a caller's answer waits for a STUN server, which is asked again after half of it."""

# An answer goes out when all candidates are there. For a STUN server that is away aioice waits five
# seconds, and aiortc, which asks the first server alone, has no parameter for it.
aioice.ice.Connection.get_component_candidates = partialmethod(  # type: ignore[method-assign, assignment]
    aioice.ice.Connection.get_component_candidates, timeout=STUN_SECONDS
)


class IceServer(BaseModel):
    """A server as browsers take it (`RTCIceServer`).

    Attributes:
        urls: Its addresses.
        username: What a relay is told.
        credential: Its password.
    """

    urls: list[str]
    username: str | None = None
    credential: str | None = None


class IceConfig(BaseModel):
    """The servers that a caller is to use."""

    iceServers: list[IceServer]  # noqa: N815 - the name in the browser's interface.


class IceServers:
    """The STUN and TURN servers of the settings."""

    def __init__(self, settings: Settings) -> None:
        """Know them.

        Args:
            settings: The settings in force.
        """
        self._stun = settings.stun_servers
        self._turn = settings.turn_urls
        self._seconds = settings.turn_seconds
        self._secret = settings.turn_secret
        self._silent = False

    def for_caller(self) -> IceConfig | None:
        """What a caller is told, with a credential of its own; None where there is nothing."""
        servers = [IceServer(urls=[url]) for url in self._stun]
        if self._turn and self._secret:
            username = f"{int(time.time()) + self._seconds}:{token_hex(8)}"
            password = credential(self._secret.get_secret_value(), username)
            servers.append(IceServer(urls=self._turn, username=username, credential=password))
        return IceConfig(iceServers=servers) if servers else None

    def for_agent(self) -> list[RTCIceServer]:
        """What the agent's own side asks for its public address.

        A relay answers that as well, and whoever calls through one reaches the agent with it: the
        agent needs none for itself, and would have every caller wait while it asks for one.
        """
        relays = [re.fullmatch(r"turn:([^?]+?)(\?transport=udp)?", url) for url in self._turn]
        stun = self._stun or [f"stun:{relay[1]}" for relay in relays if relay]
        return [RTCIceServer(urls=url) for url in stun]

    def check(self, sdp: str) -> None:
        """Log when the server that the agent asks begins to be silent.

        Args:
            sdp: The agent's side of a call, all candidates included.
        """
        asked = self.for_agent()
        silent = bool(asked) and " typ srflx" not in sdp
        if silent and not self._silent:
            logger.warning(
                "{} does not tell the agent its public address within {:g} s: callers behind other "
                "networks may not reach it, and the first of --stun-servers should be another",
                asked[0].urls,
                STUN_SECONDS,
            )
        self._silent = silent


def credential(secret: str, username: str) -> str:
    """The password that belongs to a name.

    Args:
        secret: What the relay knows as `static-auth-secret`.
        username: `expiry:anything`, the expiry in seconds since 1970.
    """
    return base64.b64encode(hmac.digest(secret.encode(), username.encode(), "sha1")).decode()
