"""A server process that a test starts, ends, kills and freezes, as operators and faults would."""

import os
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
"""The repository: servers are started in it."""

START_LIMIT = 60.0
STOP_LIMIT = 45.0
"""Seconds that starting and stopping may take."""

POLL_SECONDS = 0.05
LOG_TAIL = 4000
"""Characters of the log that an error message shows."""


class ServerError(Exception):
    """The server did not start, or did not end, as it should; the message ends with its log."""


class ServerProcess(ABC):
    """A server process, from entering the context to leaving it.

    Starting blocks until the server answers; the methods are blocking too and meant for a thread
    (`asyncio.to_thread`) where something else goes on meanwhile. One that was killed or stopped can
    be started again, at the same address and with the same log.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str]):
        """Prepare a server.

        Args:
            command: The program and its arguments.
            env: Its whole environment.
        """
        self._command = list(command)
        self._env = dict(env)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed on leaving the context
        self._printed = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._log.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            self._printed = self.log
            self._log.close()

    def start(self) -> None:
        """Start the process and return once it answers.

        Raises:
            ServerError: It runs already, it ended, or it did not answer within `START_LIMIT`.
        """
        if self._process is not None and self._process.poll() is None:
            raise ServerError("the server runs already")
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._env, stdout=self._log, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + START_LIMIT
        while not self.answers():
            if (code := self._process.poll()) is not None:
                raise ServerError(f"the server ended with {code} at start\n{self._tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ServerError(f"no answer in time\n{self._tail()}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> int:
        """Send SIGTERM and wait for the process to end; one that is frozen thaws to do so.

        Returns:
            Its exit status.

        Raises:
            ServerError: It was still there after `STOP_LIMIT` and had to be killed.
        """
        process = self._running()
        process.terminate()
        process.send_signal(signal.SIGCONT)
        try:
            return process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(f"SIGTERM did not end the server\n{self._tail()}") from None

    def kill(self) -> None:
        """Send SIGKILL, as the kernel does where memory runs out, and wait for the end."""
        process = self._running()
        process.kill()
        process.wait()

    def freeze(self) -> None:
        """Send SIGSTOP and return once the process stands still: its sockets stay open, silent.

        Raises:
            ServerError: It has ended.
        """
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        if process.poll() is not None:
            raise ServerError(f"the server has ended\n{self._tail()}")
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self._running().send_signal(signal.SIGCONT)

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server does its work at this moment."""

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._running().pid

    @property
    def log(self) -> str:
        """All that the server has printed, also when it is left already."""
        if self._log.closed:
            return self._printed
        # A read at an offset leaves the position alone that the child writes at.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

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

    def _tail(self) -> str:
        return self.log[-LOG_TAIL:]


def _family(pid: int) -> list[int]:
    """A process and its descendants, as Linux lists them."""
    family = [pid]
    for parent in family:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(FileNotFoundError):  # A thread that has ended since it was listed.
                family += [int(child) for child in task.read_text().split()]
    return family


def _resident_kib(pid: int) -> int:
    # Counted page by page; `VmRSS` in `status` lags behind by up to 64 pages a thread.
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise ValueError(f"the kernel gives no resident set size for process {pid}")
