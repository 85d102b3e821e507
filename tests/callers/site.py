"""Somebody else's site: a web server with pages of the test's own, on an origin of its own."""

from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Self


class Site:
    """A site on a free loopback port, until the context is left.

    Attributes:
        url: Its address, which is its origin, too.
        pages: The HTML of each path, or the script of one that ends in `.js`; may be changed at
            any time.
        policies: The Content-Security-Policy of each path that has one.
    """

    def __init__(self, pages: Mapping[str, str] | None = None) -> None:
        """Listen.

        Args:
            pages: The HTML of each path.
        """
        self.pages = dict(pages or {})
        self.policies: dict[str, str] = {}
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = site.pages.get(self.path)
                self.send_response(HTTPStatus.NOT_FOUND if page is None else HTTPStatus.OK)
                kind = "javascript" if self.path.endswith(".js") else "html"
                self.send_header("Content-Type", f"text/{kind}; charset=utf-8")
                if policy := site.policies.get(self.path):
                    self.send_header("Content-Security-Policy", policy)
                self.end_headers()
                self.wfile.write((page or "").encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
