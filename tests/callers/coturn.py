"""A real TURN server that a test starts: coturn, with the credentials of its REST API."""

import os
import shutil
import socket
import tempfile
from pathlib import Path
from types import TracebackType

from tests.callers.processes import ServerProcess
from tests.callers.server import free_port

REALM = "parley.test"

BINDING = bytes.fromhex("000100002112a442") + b"parley-tests"
"""A STUN binding request (RFC 8489), which a TURN server answers too."""


class CoturnServer(ServerProcess):
    """A coturn process on a free loopback port, which relays to the loopback as well.

    with CoturnServer("a-secret") as relay:
        AgentServer("--turn-urls", relay.url, env={"PARLEY_TURN_SECRET": "a-secret"})
    """

    def __init__(self, secret: str, config: str = ""):
        """Prepare a server.

        Args:
            secret: What credentials are made from.
            config: What its configuration file says besides.

        Raises:
            FileNotFoundError: `turnserver` is not installed.
        """
        if shutil.which("turnserver") is None:
            raise FileNotFoundError("turnserver is not installed: make system-packages")
        self.port = free_port()
        self.url = f"turn:127.0.0.1:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="coturn-")
        file = Path(self._folder.name, "conf")
        file.write_text(config)
        command = [
            *("turnserver", "-c", str(file), "--listening-port", str(self.port), "--realm", REALM),
            *("--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1", "--allow-loopback-peers"),
            *("--use-auth-secret", "--static-auth-secret", secret),
            *("--no-cli", "--no-tls", "--no-dtls", "--log-file", "stdout"),
            *("--db", f"{self._folder.name}/db", "--pidfile", f"{self._folder.name}/pid"),
        ]
        super().__init__(command, os.environ)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._folder:
            super().__exit__(kind, error, trace)

    def answers(self) -> bool:
        """Whether it tells us our address within a tenth of a second."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.1)
            try:
                probe.connect(("127.0.0.1", self.port))
                probe.send(BINDING)
                return probe.recv(1024)[:2] == b"\x01\x01"
            except OSError:
                return False
