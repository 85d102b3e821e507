"""A voice hub on the loopback interface, laid out like `rhasspy/piper-voices`."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, Event, Thread


class VoiceHub:
    """Serves voices and a catalogue of them.

    Attributes:
        url: Base address.
        files: What is served, by path.
        requests: The paths that were asked for, in order.
        catalogue: What `voices.json` says.
        answer: While it is not set, requests are taken and not answered.
        together: When given, a request for a model waits until that many have come.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.catalogue: dict[str, object] = {}
        self.answer = Event()
        self.answer.set()
        self.together: Barrier | None = None

    def add(self, name: str, model: bytes, config: bytes) -> str:
        """Offer a voice; returns the path of its model."""
        language, speaker, quality = name.split("-")
        path = f"/{language.split('_')[0]}/{language}/{speaker}/{quality}/{name}.onnx"
        self.files |= {path: model, f"{path}.json": config}
        self.catalogue[name] = {
            "key": name,
            "files": {
                file[1:]: {
                    "size_bytes": len(self.files[file]),
                    "md5_digest": hashlib.md5(self.files[file]).hexdigest(),
                }
                for file in (path, f"{path}.json")
            },
        }
        return path

    def get(self, path: str) -> bytes | None:
        """The answer to a request, or None where there is nothing of that name."""
        self.requests.append(path)
        self.answer.wait()
        if self.together and path.endswith(".onnx"):
            self.together.wait()
        if path == "/voices.json" and path not in self.files:
            return json.dumps(self.catalogue).encode()
        return self.files.get(path)


@contextmanager
def voice_hub() -> Iterator[VoiceHub]:
    """A hub that runs while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = hub.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = VoiceHub(server.server_address[1])
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.answer.set()
        server.shutdown()
        server.server_close()
        thread.join()
