"""Starts our servers as a user would, each in a process of its own on a free loopback port."""

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tests.callers.processes import POLL_SECONDS, ROOT, ServerError, ServerProcess

__all__ = ["ROOT", "AgentServer", "HTTPServer", "ServerError", "WorkerServer", "free_port"]

FOREIGN = (
    *("PARLEY_", "OPENAI_", "PIPECAT_"),
    *("SERVICE_MODE", "TTS_ENGINE", "STT_ENGINE", "MAX_CONCURRENT_SESSIONS"),
    *("RESIDENT_CAP", "TTL_MS"),
)
"""Prefixes of environment variables that the server is not to inherit from whoever runs tests."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with hold_port() as held:
        return port_of(held)


def hold_port() -> socket.socket:
    """Take a free TCP port of the loopback interface, for a server that is to start on it.

    While the socket is open, Linux gives the port to nobody who asks for any; who names it can
    listen there, time and again, with `SO_REUSEADDR`, which servers set.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def port_of(held: socket.socket) -> int:
    """The port that a socket has."""
    return int(held.getsockname()[1])


class HTTPServer(ServerProcess):
    """A process that takes `--host` and `--port` and has a page that answers 200 once it serves."""

    def __init__(
        self,
        program: Sequence[str],
        flags: Sequence[str],
        health: str,
        env: Mapping[str, str] | None,
    ):
        """Prepare a server.

        Args:
            program: What to run.
            flags: Passed on to it, after `--host` and `--port`.
            health: The path that answers 200 once it serves.
            env: Environment variables to add.
        """
        self._held = hold_port()
        self.port = port_of(self._held)
        self.url = f"http://127.0.0.1:{self.port}"
        self._health = health
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        super().__init__(
            [*program, "--host", "127.0.0.1", "--port", str(self.port), *flags],
            {**inherited, "PYTHONUNBUFFERED": "1", **(env or {})},
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._held:
            super().__exit__(kind, error, trace)

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object that the server answers a GET with, whatever the status."""
        found: dict[str, Any] = httpx.get(self.url + path, timeout=10).json()
        return found

    def health(self) -> dict[str, Any]:
        """What the health page says."""
        return self.get(self._health)

    def answers(self) -> bool:
        """Whether the health page answers 200 within two seconds."""
        try:
            return httpx.get(self.url + self._health, timeout=2).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def wait_for_draining(self, limit: float = 10.0) -> None:
        """Wait until the server says that it takes no more calls.

        Raises:
            TimeoutError: It did not within `limit` seconds.
        """
        deadline = time.monotonic() + limit
        while self.health()["status"] != "draining":
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server was not draining after {limit:g} s")
            time.sleep(POLL_SECONDS)


class AgentServer(HTTPServer):
    """The agent.

    with AgentServer("--tts", "piper") as server:
        async with WebRTCCaller(server.url) as caller:
            ...
    """

    def __init__(
        self,
        *flags: str,
        script: Path | str = "bot/main.py",
        health: str = "/health",
        env: Mapping[str, str] | None = None,
        python: Sequence[str] = (sys.executable,),
    ):
        """Prepare an agent.

        Args:
            flags: Passed on to the script, after `--host` and `--port`.
            script: What to run, relative to the repository; a Pipecat bot with a `main()` will do.
            health: The path that answers 200 once calls are taken.
            env: Environment variables to add.
            python: The interpreter and its options.
        """
        super().__init__([*python, str(script)], flags, health, env)

    def calls(self) -> int:
        """How many calls are going on."""
        return int(self.health()["calls"])

    def wait_for_calls(self, count: int, limit: float = 10.0) -> float:
        """Wait until `count` calls are going on.

        Returns:
            The seconds it took.

        Raises:
            TimeoutError: The count did not become that within `limit` seconds.
        """
        began = time.monotonic()
        while (now := self.calls()) != count:
            if time.monotonic() - began > limit:
                raise TimeoutError(f"{now} calls are going on after {limit:g} s, not {count}")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - began


class WorkerServer(HTTPServer):
    """A worker.

    with WorkerServer("--engine", "piper", "--offline") as worker:
        AgentServer("--tts", worker.address)
    """

    def __init__(
        self,
        *flags: str,
        env: Mapping[str, str] | None = None,
        python: Sequence[str] = (sys.executable,),
    ):
        """Prepare a worker.

        Args:
            flags: Passed on to it, after `--host` and `--port`.
            env: Environment variables to add: `PARLEY_WORKER_TOKEN`, say.
            python: The interpreter and its options.
        """
        super().__init__([*python, "-m", "services.worker"], flags, "/ready", env)
        self.address = f"ws://127.0.0.1:{self.port}"
        """What `--tts` and `--stt` of the agent take."""
