"""Pipecat's own client SDK, unchanged, on a page of another origin."""

import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.callers.audio import save_wav, silence
from tests.callers.browser import BrowserCaller
from tests.callers.recordings import Recording
from tests.callers.server import ROOT, AgentServer
from tests.callers.webrtc import SAMPLE_RATE
from tests.e2e.conftest import FLAGS

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><meta charset="utf-8"><title>A client</title>
<body><p data-testid="agent"></p><button data-testid="leave">Leave</button>
<script type="module" src="client.js"></script></body>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a site that has the page and serves nothing else."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text(PAGE, "utf-8")
    bundle = f"esbuild tests/pipecat-client.ts --bundle --outfile={folder}/client.js"
    subprocess.run(
        ["tools/npm.sh", ".venv/bin", "exec", "--", *bundle.split(), "--log-level=warning"],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))
    ) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_it_connects_and_talks(site: str, recording: Recording, tmp_path: Path) -> None:
    """`startBotAndConnect` with nothing but the endpoint: greeted, understood, answered, gone."""
    mouth = tmp_path / "mouth.wav"
    save_wav(mouth, [silence(7.0, SAMPLE_RATE), recording("goforward", SAMPLE_RATE)], SAMPLE_RATE)
    with (
        AgentServer(*FLAGS, "--allowed-origins", site) as server,
        BrowserCaller(f"{site}/?endpoint={server.url}/start", mouth) as page,
    ):
        page.wait_for_state("ready")
        page.wait_for(lambda: "I'm Parley" in page.text("agent"), "the greeting")
        page.wait_for(lambda: any(p.audible for p in page.playback()), "its sound")
        page.wait_for(lambda: "go forward" in page.text("agent").lower(), "an answer")
        page.click("leave")
        page.wait_for_state("disconnected")
        server.wait_for_calls(0)
