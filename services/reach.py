"""What this machine calls itself, who others are, and how long one may take to answer."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from threading import Thread
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""What this machine calls itself."""

REACH_S = 3.0
"""Seconds within which a hub has to begin to answer."""


def network_of(address: str) -> str:
    """What counts as one peer: an IPv4 address, or a /64, of which any IPv6 host has a whole one.

    Args:
        address: An IP address; of anything else, such as a test's client, a name.
    """
    ip = _ip(address)
    if ip is None:
        return address[:64]
    return str(ip) if ip.version == 4 else str(ip_network((ip, 64), strict=False))


def within_networks(address: str, networks: Iterable[str]) -> bool:
    """Whether an address is in one of these networks."""
    ip = _ip(address)
    return ip is not None and any(ip in ip_network(network) for network in networks)


def as_seen(networks: Iterable[str]) -> list[str]:
    """Networks, and those of IPv4 also as a socket of both families sees them: ::ffff:10.0.0.0/104.

    For who compares addresses as they come.
    """
    known = [ip_network(network) for network in networks]
    mapped = [f"::ffff:{n.network_address}/{96 + n.prefixlen}" for n in known if n.version == 4]
    return [*map(str, known), *mapped]


def origin_of(url: str) -> str:
    """The origin of an address, as browsers write it: https://host, with a port that is unusual.

    Raises:
        ValueError: The address is malformed.
    """
    parts = urlsplit(url)
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, usual) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def _ip(address: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    # What a socket of both families says of an IPv4 peer.
    return getattr(ip, "ipv4_mapped", None) or ip


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns, if it does so in time.

    `call` runs in a thread, because looking up a host's name blocks for longer than any timeout of
    an HTTP client. One that is too late runs on, and nobody learns what comes of it.

    Raises:
        TimeoutError: It did not return within `seconds`.
        BaseException: Whatever `call` raised.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=run, name="reach", daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if outcome.done():
            raise
        raise TimeoutError(f"no answer within {seconds:g} s") from None
