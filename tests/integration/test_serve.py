"""The listening socket of our servers."""

import asyncio
import socket

from services.serve import listen


async def test_a_frame_does_not_wait_for_the_one_before() -> None:
    """Nagle's algorithm is off for who connects: two small frames leave at once."""
    connected: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set_result(writer.get_extra_info("socket"))
        writer.close()

    listener = listen("127.0.0.1", 0)
    async with await asyncio.start_server(accept, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        accepted = await connected
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
