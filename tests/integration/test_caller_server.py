"""The starting and ending of servers by which the end-to-end tests and benchmarks stand."""

import os
import socket
import time
from pathlib import Path

import pytest

from tests.callers.server import AgentServer, ServerError

SCRIPT = """
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"calls": 2, "key": os.environ.get("OPENAI_API_KEY")}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("flags", sys.argv[1:])
ballast = bytearray(b"x" * 64 * 2**20)
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Page).serve_forever()
"""


def test_a_server_lives_from_its_first_answer_to_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers once started, inherits no settings, prints to the log, and is gone afterwards."""
    monkeypatch.setenv("OPENAI_API_KEY", "of whoever runs the tests")
    script = tmp_path / "server.py"
    script.write_text(SCRIPT)
    with AgentServer("--colour", "blue", script=script, health="/") as server:
        assert server.get("/") == {"calls": 2, "key": None}
        began = time.monotonic()
        assert 0 < server.wait_for_calls(2) <= time.monotonic() - began
        with pytest.raises(TimeoutError, match="2 calls"):
            server.wait_for_calls(0, limit=0.0)
        assert "'--colour', 'blue'" in server.log
        assert 64 < server.resident_mib() < 256
        pid = server.pid
        assert server.stop() == 7
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_servers_port_is_kept_for_it(tmp_path: Path) -> None:
    """Nobody else can take the port by chance before it starts, and it can start there again."""
    script = tmp_path / "server.py"
    script.write_text(SCRIPT)
    server = AgentServer(script=script, health="/")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", server.port))
    with server:
        server.stop()
        server.start()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    """The error carries the exit status and what the process printed."""
    script = tmp_path / "server.py"
    script.write_text("raise SystemExit('the port is taken')")
    with (
        pytest.raises(ServerError, match=r"ended with 1(.|\n)*the port is taken"),
        AgentServer(script=script),
    ):
        pass
