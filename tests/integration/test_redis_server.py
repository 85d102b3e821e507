"""The Redis that fault tests use behaves as one that is killed, frozen, emptied and back."""

from collections.abc import Iterator

import pytest
from redis import Redis, exceptions

from tests.callers.processes import ServerError
from tests.callers.redis import RedisServer

pytestmark = pytest.mark.redis


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def connect(server: RedisServer) -> Redis:
    """A client that gives up after seconds, and does not try again."""
    return Redis.from_url(server.url, socket_timeout=4, retry=None, decode_responses=True)


def test_serves_and_ends(server: RedisServer) -> None:
    """What is written can be read; a stop is clean, and nobody listens after it."""
    with connect(server) as client:
        client.set("parley", "here")
        assert client.get("parley") == "here"
        assert server.stop() == 0
        with pytest.raises(exceptions.ConnectionError):
            client.get("parley")


def test_killed_and_back(server: RedisServer) -> None:
    """After kill -9 it comes back at the same address, and has forgotten everything."""
    with connect(server) as client:
        client.set("parley", "here")
        first = server.pid
        server.kill()
        assert not server.answers()
        with pytest.raises(exceptions.ConnectionError):
            client.get("parley")
        server.start()
        assert server.pid != first
        assert client.get("parley") is None


def test_frozen_and_thawed(server: RedisServer) -> None:
    """Frozen, it takes connections and answers nobody; thawed, it has lost nothing."""
    with connect(server) as client:
        client.set("parley", "here")
        server.freeze()
        server.freeze()
        assert not server.answers()
        with pytest.raises(exceptions.TimeoutError):
            client.get("parley")
        server.thaw()
        client.connection_pool.disconnect()
        assert client.get("parley") == "here"


def test_stops_although_frozen(server: RedisServer) -> None:
    """A test that fails while its server is frozen leaves no process behind."""
    server.freeze()
    assert server.stop() == 0


def test_cannot_freeze_what_has_ended(server: RedisServer) -> None:
    """Freezing a server that was killed is an error, not a wait for ever."""
    server.kill()
    with pytest.raises(ServerError, match="ended"):
        server.freeze()


def test_starts_once(server: RedisServer) -> None:
    """A second start while it runs leaves the first process its test's."""
    first = server.pid
    with pytest.raises(ServerError, match="runs already"):
        server.start()
    assert server.pid == first


def test_a_flag_it_does_not_know() -> None:
    """A server that cannot start is an error that shows what it said."""
    with pytest.raises(ServerError, match="no-such-flag"), RedisServer("--no-such-flag"):
        pass


def test_with_a_password() -> None:
    """Redis behind a password counts as started, and lets nobody else in."""
    with RedisServer("--requirepass", "secret") as server:
        with connect(server) as client, pytest.raises(exceptions.AuthenticationError):
            client.ping()
        url = server.url.replace("://", "://:secret@")
        with Redis.from_url(url, socket_timeout=20) as client:
            assert client.ping()


def test_two_at_once() -> None:
    """Two servers share neither a port nor a key."""
    with RedisServer() as one, RedisServer() as two, connect(one) as first, connect(two) as second:
        first.set("parley", "here")
        assert second.get("parley") is None
