"""Peers that take their time, or take connections, do not keep others from being served."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import uvicorn
import websockets

from services import serve

SECONDS = 0.4
"""How long the server under test waits; ten seconds are the project's own."""

LONGER = 4.0
"""The same where much has to happen meanwhile, on a machine that may be busy."""

REQUEST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

LARGE = 8 << 20
"""Bytes of an answer that the buffers between two sockets do not hold."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers requests at once, whether their bodies have come or not, and echoes messages."""
    if scope["type"] == "http":
        parts = {"/large": [bytes(LARGE)], "/parts": 2 * [bytes(LARGE // 2)]}
        body = parts.get(scope["path"], [b"."])
        length = str(sum(map(len, body))).encode()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
        )
        for number, part in enumerate(body, 1):
            more = number < len(body)
            await send({"type": "http.response.body", "body": part, "more_body": more})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})


class Server(uvicorn.Server):
    """Leaves the process's signals to the test runner."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(proxies: Sequence[str] = ()) -> AsyncIterator[tuple[int, Server]]:
    """A server on a free loopback port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    config = uvicorn.Config(
        application,
        lifespan="off",
        log_config=None,
        http=serve.connection(proxies),
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )
    server = Server(config)
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield listener.getsockname()[1], server
    finally:
        server.should_exit = True
        await task


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "REQUEST_SECONDS", SECONDS)


async def connect(port: int, address: str = "127.0.0.1") -> Stream:
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))


async def drip(stream: Stream, text: bytes = b"x" * 10_000) -> None:
    """Send a byte now and then, until the server has had enough; a minute would be a failure."""
    reader, writer = stream
    async with asyncio.timeout(10):
        while not reader.at_eof() and text:
            try:
                writer.write(text[:1])
                await writer.drain()
                await asyncio.wait_for(reader.read(4096), SECONDS / 8)
            except TimeoutError:
                pass
            except ConnectionError:
                return
            text = text[1:]
    assert reader.at_eof()


async def is_served(stream: Stream) -> bool:
    """Whether a request on a connection is answered; one that is not is cut off."""
    reader, writer = stream
    try:
        writer.write(GET)
        await writer.drain()
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n."), 10)
    except (ConnectionError, asyncio.IncompleteReadError):
        return False
    return answer.startswith(b"HTTP/1.1 200")


async def close(streams: Sequence[Stream]) -> None:
    for _, writer in streams:
        writer.close()
    await asyncio.gather(*(w.wait_closed() for _, w in streams), return_exceptions=True)


@pytest.mark.parametrize(
    "began",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"GET / HT"], id="half a line"),
        pytest.param([b"GET / HTTP/1.1\r\nHost: a\r\nX-A: "], id="half a header"),
        pytest.param([REQUEST], id="a body after its answer"),
        pytest.param([GET, b"GET / HTTP/1.1\r\nHost: a\r\nX-A: "], id="half a second request"),
    ],
)
async def test_a_slow_connection_is_closed(began: list[bytes]) -> None:
    """Whatever it is in the middle of, a byte now and then does not keep a connection."""
    async with serving() as (port, server):
        slow = await connect(port)
        for part in began:
            slow[1].write(part)
            if part in (GET, REQUEST):
                await asyncio.wait_for(slow[0].readuntil(b"\r\n\r\n."), 5)
        await drip(slow)
        await close([slow])
        async with asyncio.timeout(5):
            while server.server_state.connections:  # noqa: ASYNC110 - nobody tells.
                await asyncio.sleep(0.01)


async def test_a_silent_connection_is_closed() -> None:
    """Who connects and says nothing has the same time."""
    async with serving() as (port, _):
        silent = await connect(port)
        assert await asyncio.wait_for(silent[0].read(), 5) == b""
        await close([silent])


async def ask(port: int, path: str, *headers: str) -> socket.socket:
    """Send a request whose answer is read by nobody yet, into a buffer that is small."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(peer, ("127.0.0.1", port))
    lines = (f"GET {path} HTTP/1.1", "Host: a", *headers, "", "")
    await loop.sock_sendall(peer, "\r\n".join(lines).encode())
    return peer


@pytest.mark.parametrize("path", ["/large", "/parts"])
@pytest.mark.parametrize("header", ["Connection: close", "Connection: keep-alive"])
async def test_an_answer_that_nobody_reads_ends_the_connection(
    path: str, header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while it is being answered nor when all is written may a peer just stay."""
    monkeypatch.setattr(serve, "READ_SECONDS", SECONDS)
    async with serving() as (port, server):
        deaf = await ask(port, path, header)
        async with asyncio.timeout(5):
            while not server.server_state.connections:  # noqa: ASYNC110 - nobody tells.
                await asyncio.sleep(0.01)
            while server.server_state.connections:  # noqa: ASYNC110 - nobody tells.
                await asyncio.sleep(0.01)
        deaf.close()


async def test_an_answer_may_be_read_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take much longer than a peer may do nothing, if only it goes on."""
    monkeypatch.setattr(serve, "READ_SECONDS", SECONDS)
    async with serving() as (port, _):
        loop = asyncio.get_running_loop()
        began = loop.time()
        slow = await ask(port, "/large", "Connection: close")
        taken = 0
        while part := await loop.sock_recv(slow, 65536):
            taken += len(part)
            await asyncio.sleep(SECONDS / 40)
        assert taken > LARGE
        assert loop.time() - began > 2 * SECONDS
        slow.close()


async def test_slow_connections_do_not_hold_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred from one address, and no more; meanwhile everybody else is served at once."""
    monkeypatch.setattr(serve, "REQUEST_SECONDS", LONGER)
    async with serving() as (port, _):
        slow = [await connect(port) for _ in range(serve.MAX_CONNECTIONS_OF_ONE)]
        dripping = [asyncio.create_task(drip(stream)) for stream in slow]
        further = await connect(port)
        assert not await is_served(further)
        others = [await connect(port, f"127.0.0.{n}") for n in range(2, 12)]
        assert all(await asyncio.gather(*(is_served(other) for other in others)))
        assert not any(task.done() for task in dripping)
        await asyncio.gather(*dripping)
        late = await connect(port)
        assert await is_served(late)
        await close([*slow, further, *others, late])


async def test_all_connections_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses they are from, there is an end to what they may take."""
    monkeypatch.setattr(serve, "REQUEST_SECONDS", LONGER)
    monkeypatch.setattr(serve, "MAX_CONNECTIONS", 20)
    async with serving() as (port, _):
        many = [await connect(port, f"127.0.0.{n}") for n in range(1, 31)]
        assert sum(await asyncio.gather(*(is_served(stream) for stream in many))) == 20
        await close(many)


async def test_a_proxy_may_have_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is known to be a proxy carries everybody's requests, so that it is no crowd."""
    monkeypatch.setattr(serve, "REQUEST_SECONDS", LONGER)
    monkeypatch.setattr(serve, "MAX_CONNECTIONS_OF_ONE", 5)
    async with serving(["127.0.0.9/32"]) as (port, _):
        many = [await connect(port, "127.0.0.9") for _ in range(10)]
        assert all(await asyncio.gather(*(is_served(stream) for stream in many)))
        few = [await connect(port) for _ in range(10)]
        assert sum(await asyncio.gather(*(is_served(stream) for stream in few))) == 5
        await close(many + few)


async def test_a_websocket_lives_longer_and_is_no_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it stands it may be silent, and takes nobody's place."""
    monkeypatch.setattr(serve, "MAX_CONNECTIONS_OF_ONE", 2)
    async with serving() as (port, _):
        url = f"ws://127.0.0.1:{port}/"
        sockets = [await websockets.connect(url) for _ in range(5)]
        silent = await connect(port)
        assert await asyncio.wait_for(silent[0].read(), 5) == b""
        for socket_ in sockets:
            await socket_.send("still here")
            assert await socket_.recv() == "still here"
            await socket_.close()
        await close([silent])


async def test_a_connection_in_use_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request after another, each in time, is what connections are for."""
    monkeypatch.setattr(serve, "REQUEST_SECONDS", LONGER)
    async with serving() as (port, _):
        stream = await connect(port)
        for _ in range(5):
            assert await is_served(stream)
            await asyncio.sleep(LONGER / 3)
        await close([stream])


async def test_endless_headers_are_refused() -> None:
    """Headers end the connection long before they fill the memory."""
    async with serving() as (port, _):
        reader, writer = await connect(port)
        writer.write(b"GET / HTTP/1.1\r\nX-A: " + b"a" * 100_000)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 400")
        await close([(reader, writer)])
