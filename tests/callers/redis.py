"""A real Redis that a test starts, kills, freezes and empties."""

import os
import shutil
import socket
import tempfile
from types import TracebackType

from tests.callers.processes import ServerProcess
from tests.callers.server import hold_port, port_of

ANSWER_SECONDS = 1.0
"""How long Redis may take to answer a ping."""


def installed() -> bool:
    """Whether there is a `redis-server` on the path."""
    return shutil.which("redis-server") is not None


class RedisServer(ServerProcess):
    """A Redis process on a free loopback port, which keeps nothing when it ends.

    with RedisServer() as redis:
        WorkerServer("--engine", "piper", "--redis", redis.url)
    """

    def __init__(self, *flags: str):
        """Prepare a Redis.

        Args:
            flags: Passed on to `redis-server`: `--requirepass`, say.

        Raises:
            FileNotFoundError: `redis-server` is not installed.
        """
        if not installed():
            raise FileNotFoundError("redis-server is not installed: make system-packages")
        self._held = hold_port()
        self.port = port_of(self._held)
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")
        command = [
            *("redis-server", "--bind", "127.0.0.1", "--port", str(self.port)),
            *("--save", "", "--appendonly", "no", "--dir", self._folder.name),
            *flags,
        ]
        super().__init__(command, os.environ)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._held, self._folder:
            super().__exit__(kind, error, trace)

    def answers(self) -> bool:
        """Whether it answers a ping within `ANSWER_SECONDS`, if only to ask for a password."""
        return self._ask("PING").startswith(("+PONG", "-NOAUTH"))

    def _ask(self, command: str) -> str:
        try:
            with socket.create_connection(("127.0.0.1", self.port), ANSWER_SECONDS) as connection:
                connection.sendall(f"{command}\r\n".encode())
                return connection.recv(1024).decode()
        except OSError:
            return ""
