"""Starts a server as a user would, in a process of its own, and ends it as an operator would."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

ROOT = Path(__file__).resolve().parents[2]
"""The repository: servers are started in it."""

START_LIMIT = 60.0
STOP_LIMIT = 45.0
"""Seconds that starting and stopping may take."""

POLL_SECONDS = 0.05
LOG_TAIL = 4000
"""Characters of the log that an error message shows."""

FOREIGN = ("PARLEY_", "OPENAI_", "PIPECAT_")
"""Prefixes of environment variables that the server is not to inherit from whoever runs tests."""


class ServerError(Exception):
    """The server did not start, or did not end, as it should; the message ends with its log."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class AgentServer:
    """A server process on a free loopback port, from entering the context to leaving it.

        with AgentServer("--tts", "piper") as server:
            async with WebRTCCaller(server.url) as caller:
                ...

    Starting blocks until the server says that it takes calls; the methods are blocking too and
    meant for a thread (`asyncio.to_thread`) where a call is going on meanwhile.
    """

    def __init__(
        self,
        *flags: str,
        script: Path | str = "bot/main.py",
        health: str = "/health",
        env: Mapping[str, str] | None = None,
        python: Sequence[str] = (sys.executable,),
    ):
        """Prepare a server.

        Args:
            flags: Passed on to the script, after `--host` and `--port`.
            script: What to run, relative to the repository; a Pipecat bot with a `main()` will do.
            health: The path that answers 200 once calls are taken.
            env: Environment variables to add.
            python: The interpreter and its options.
        """
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [
            *python,
            str(script),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *flags,
        ]
        self._health = health
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        self._env = {**inherited, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed on leaving the context
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except ServerError:
            self._log.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._log:
            self.stop()

    def start(self) -> None:
        """Start the process and return once it takes calls.

        Raises:
            ServerError: It ended, or did not answer within `START_LIMIT`.
        """
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._env, stdout=self._log, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + START_LIMIT
        while not self._answers():
            if (code := self._process.poll()) is not None:
                raise ServerError(f"the server ended with {code} at start\n{self._tail()}")
            if time.monotonic() > deadline:
                self._kill()
                raise ServerError(f"no answer from {self._health} in time\n{self._tail()}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> int:
        """Send SIGTERM and wait for the process to end.

        Returns:
            Its exit status.

        Raises:
            ServerError: It was still there after `STOP_LIMIT` and had to be killed.
        """
        process = self._running()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._kill()
            raise ServerError(f"SIGTERM did not end the server\n{self._tail()}") from None

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._running().pid

    @property
    def log(self) -> str:
        """All that the server has printed."""
        # A read at an offset leaves the position alone that the child writes at.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object that the server answers a GET with, whatever the status."""
        found: dict[str, Any] = httpx.get(self.url + path, timeout=10).json()
        return found

    def health(self) -> dict[str, Any]:
        """What the health page says."""
        return self.get(self._health)

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

    def resident_mib(self) -> float:
        """Resident memory of the process and its descendants, in MiB (Linux only).

        What two of them share counts twice. That adds the same to every reading, whereas a share
        of it would rise and fall with who else on the machine has the libraries loaded.
        """
        return sum(_resident_kib(pid) for pid in _family(self.pid)) / 1024

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError("the server has not been started")
        return self._process

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url + self._health, timeout=2).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _kill(self) -> None:
        process = self._running()
        process.kill()
        process.wait()

    def _tail(self) -> str:
        return self.log[-LOG_TAIL:]


def _family(pid: int) -> list[int]:
    """A process and its descendants, as Linux lists them."""
    family = [pid]
    for parent in family:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            family += [int(child) for child in task.read_text().split()]
    return family


def _resident_kib(pid: int) -> int:
    # Counted page by page; `VmRSS` in `status` lags behind by up to 64 pages a thread.
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise ValueError(f"the kernel gives no resident set size for process {pid}")
