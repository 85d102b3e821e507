"""A worker's page in a real browser."""

import asyncio
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from services.stt.engine import Segment, Transcript
from tests.callers.audio import save_wav
from tests.callers.browser import BrowserCaller
from tests.callers.recordings import Recording
from tests.callers.server import ROOT
from tests.fakes.speech import FakeHearing
from tests.fakes.speech_engine import FakeSpeechEngine
from tests.fakes.worker import LocalWorker

pytestmark = pytest.mark.browser

PICTURES = ROOT / "test-results"

TOKEN = "open sesame"

ALL = Keys.CONTROL + "a" + Keys.NULL
SEND = Keys.CONTROL + Keys.ENTER + Keys.NULL

HEARD = Transcript((Segment("go forward ten meters", 0.0, 1.0, 0.9, 0.01),), "en")


@pytest.fixture
def mouth(tmp_path: Path, recording: Recording) -> Path:
    """What the browser's microphone hears."""
    save_wav(tmp_path / "mouth.wav", [recording("goforward", 48_000)], 48_000)
    return tmp_path / "mouth.wav"


async def test_a_sentence_is_typed_and_heard(mouth: Path) -> None:
    """The page asks for the token, speaks what is typed as it is asked to, and shows the figures.

    It stops the worker when told to, and needs nothing from anywhere else.
    """
    engine = FakeSpeechEngine(gated=True)
    worker = LocalWorker(engine, token=TOKEN)
    url = f"http://127.0.0.1:{worker.port}/"

    def use() -> None:
        with BrowserCaller(url, mouth) as page:
            page.type("token", "wrong")
            page.click("token-send")
            page.wait_for(lambda: "not this worker's token" in page.text("error"), "the refusal")
            page.type("token", TOKEN)
            page.click("token-send")

            page.type("text", f"{ALL}one two three four five")
            page.type("voice", "Basso")
            page.type("speed", Keys.ARROW_RIGHT * 10)
            assert page.text("speed-shown").startswith("2.00")
            page.type("text", SEND)
            assert engine.wait_for_utterance(1)
            engine.permit(2)
            page.wait_for(lambda: page.text("status") == "Speaking", "the first audio")
            assert not engine.utterances[0].ended.is_set()
            engine.permit(2)
            page.wait_for(lambda: page.text("status") == "Spoken", "the end")
            assert page.text("first-audio").endswith(" ms")
            assert float(page.text("factor")) > 0
            # Five words of 0.1 s, twice as fast, in four chunks; shown to a tenth.
            assert page.text("seconds") in {"0.2 s", "0.3 s"}
            page.screenshot(PICTURES / "worker-page.png")

            page.click("speak")
            assert engine.wait_for_utterance(2)
            page.click("speak")
            page.wait_for(lambda: page.text("status") == "Stopped", "the stop")
            page.wait_for(lambda: worker.host.admission.active == 0, "the worker's notice")
            engine.permit(100)
            assert engine.utterances[1].ended.wait(5)
            assert engine.utterances[1].stopped

            elsewhere = [u for u in page.requests() if not u.startswith((url, "data:", "blob:"))]
            assert elsewhere == []
            # The browser itself reports the refused token.
            assert [line for line in page.console() if " 401 " not in line] == []

    async with worker:
        await asyncio.to_thread(use)
    assert engine.utterances[0].text == "one two three four five"
    assert (engine.utterances[0].voice, engine.utterances[0].speed) == ("basso", 2.0)


async def test_a_recording_is_read(mouth: Path) -> None:
    """What is said into the microphone, or lies in a file, is shown in writing."""
    hearing = FakeHearing(HEARD, HEARD)
    worker = LocalWorker(hearing=hearing)
    url = f"http://127.0.0.1:{worker.port}/"

    def use() -> None:
        with BrowserCaller(url, mouth, repeat=True) as page:
            page.click("record")
            page.wait_for(lambda: page.text("hearing-status") == "Recording", "the recording")
            page.wait_for(lambda: page.text("record-time") >= "2 s", "two seconds")
            page.click("record")
            page.wait_for(lambda: page.text("transcript") == "go forward ten meters", "its words")
            page.type("file", str(mouth))
            page.wait_for(lambda: len(hearing.requests) == 2, "the file")
            page.wait_for(lambda: page.text("transcript") == "go forward ten meters", "its words")
            assert page.text("speak") == ""
            assert page.console() == []

    async with worker:
        await asyncio.to_thread(use)
    assert len(hearing.requests[0].pcm) > 2 * 16_000
