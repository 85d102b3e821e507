"""A model hub on the loopback: as much of the Hugging Face Hub's HTTP API as a download takes."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from types import TracebackType
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeModelHub:
    """Serves one repository's files; `with` starts and stops it.

    Attributes:
        files: Contents by name.
        digests: SHA-256 to announce for a file instead of its own, to make a download damaged.
        requests: Method and path of every request, in order.
        silent: While set, requests are taken and not answered.
    """

    def __init__(self, repository: str, files: dict[str, bytes]) -> None:
        """Make a hub with one repository."""
        self.files = files
        self.digests: dict[str, str] = {}
        self.requests: list[str] = []
        self.silent = Event()
        self._closed = Event()
        self._repository = repository
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            def do_HEAD(self) -> None:
                hub._answer(self)

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeModelHub":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _digest(self, name: str) -> str:
        return self.digests.get(name) or hashlib.sha256(self.files[name]).hexdigest()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        self.requests.append(f"{request.command} {path}")
        if self.silent.is_set():
            self._closed.wait()
            request.close_connection = True
            return
        api = f"/api/models/{self._repository}"
        resolve = f"/{self._repository}/resolve/"
        if path.startswith(f"{api}/tree/"):
            listing = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": hashlib.sha1(data).hexdigest(),
                    "lfs": {
                        "oid": self._digest(name),
                        "size": len(data),
                        "pointerSize": 130,
                    },
                }
                for name, data in self.files.items()
            ]
            self._send(request, json.dumps(listing).encode())
        elif path == api or path.startswith(f"{api}/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            about = {"id": self._repository, "sha": COMMIT, "siblings": siblings}
            self._send(request, json.dumps(about).encode())
        elif path.startswith(resolve) and path.split("/")[-1] in self.files:
            name = path.split("/")[-1]
            etag = {"ETag": f'"{self._digest(name)}"', "X-Repo-Commit": COMMIT}
            self._send(request, self.files[name], etag)
        else:
            request.send_response(404)
            request.send_header("Content-Length", "0")
            request.end_headers()

    def _send(
        self, request: BaseHTTPRequestHandler, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)
