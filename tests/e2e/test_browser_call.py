"""A conversation in a real browser, on the page that a person uses."""

import asyncio
import re
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.tts.voices import embedded_name
from tests.callers.audio import Samples, save_wav, silence
from tests.callers.browser import BrowserCaller
from tests.callers.recordings import Recording
from tests.callers.server import ROOT, AgentServer, WorkerServer
from tests.callers.webrtc import SAMPLE_RATE, WebRTCCaller
from tests.e2e.conftest import FLAGS, MAX_CALLS

pytestmark = pytest.mark.browser

PICTURES = ROOT / "test-results"

QUESTION = "go forward"
"""What is said in the recording `goforward`, but for the last words: Chromium's echo and noise
filters colour them now and then, so that the small recogniser takes "ten meters" for others."""

IN_CALL = ("listening", "thinking", "speaking")
"""The states of the page while a call stands."""

MUTE_SECONDS = 0.1
"""How soon after the news of an interruption the page must have silenced the agent."""

OTHER_VOICE = Path(".cache/models/piper-small.onnx")
"""A voice that only one of two workers has."""

Mouth = Callable[..., Path]


def plain(text: str) -> str:
    """Words without the punctuation and capitals in which speech does not differ."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


@pytest.fixture
def mouth(tmp_path: Path) -> Mouth:
    """Writes what the microphone will say, in parts of sound and seconds of silence."""

    def write(*parts: Samples | float) -> Path:
        sound = [silence(p, SAMPLE_RATE) if isinstance(p, float) else p for p in parts]
        save_wav(tmp_path / "mouth.wav", sound, SAMPLE_RATE)
        return tmp_path / "mouth.wav"

    return write


def asked(page: BrowserCaller) -> bool:
    """Whether the page shows that the question was understood."""
    return any(QUESTION in plain(turn.text) for turn in page.turns("turn-user"))


def after(page: BrowserCaller, kind: str, at: float) -> list[dict[str, Any]]:
    """The messages of a type that have come since a time."""
    return [m for m in page.messages(kind) if m["at"] > at]


def spelt(messages: Iterable[dict[str, Any]]) -> str:
    """The text of messages that each carry a piece of it."""
    return "".join(m["data"]["text"] for m in messages)


def test_a_question_is_asked_and_answered(
    server: AgentServer, recording: Recording, mouth: Mouth
) -> None:
    """The page shows the caller's words and the agent's, plays the answer, and asks nobody else."""
    with BrowserCaller(server.url, mouth(7.0, recording("goforward", SAMPLE_RATE))) as page:
        page.wait_for_state("idle")
        page.screenshot(PICTURES / "page-idle.png")
        page.click("connect")
        page.wait_for_state(*IN_CALL)

        page.wait_for(lambda: asked(page), "the caller's words")
        heard = page.messages("user-input")[-1]["at"]
        page.wait_for(lambda: after(page, "bot-llm-stopped", heard), "the end of the thought")
        answer = plain(spelt(after(page, "bot-llm-text", heard)))
        page.wait_for(
            lambda: any(plain(turn.text).endswith(answer) for turn in page.turns("turn-agent")),
            "the answer's words",
        )
        assert any(p.audible for p in page.playback() if p.at > heard)
        page.wait_for(lambda: re.search(r"\d", page.text("latency")), "the latency")
        page.screenshot(PICTURES / "page-call.png")
        page.click("hangup")
        page.wait_for_state("ended", "idle")

        elsewhere = [u for u in page.requests() if not u.startswith((server.url, "data:", "blob:"))]
        assert elsewhere == []
        assert page.console() == []
    server.wait_for_calls(0)
    assert not re.search("transceiver|stream error", server.log), "Pipecat warns of nothing"


def test_talked_over_the_agent_gives_way(
    server: AgentServer, recording: Recording, mouth: Mouth
) -> None:
    """The agent stops within its story, the listener hears no more of it, and the page marks it.

    The words that count as told are a true beginning of the story, and the page shows them.
    """
    # Said every ten seconds: the first time to be answered, the second time into the story, which
    # is asked for as soon as the first has been understood.
    microphone = mouth(7.0, recording("goforward", SAMPLE_RATE))
    with BrowserCaller(server.url, microphone, repeat=True) as page:
        page.click("connect")
        page.wait_for(lambda: asked(page), "the caller's words")
        page.type("text-input", "Tell me a story.")
        page.click("text-send")
        typed = page.wait_for(
            lambda: [m for m in page.messages("user-input") if m["data"]["input_type"] == "chat"],
            "the typed turn",
        )[0]["at"]

        def story() -> list[dict[str, Any]]:
            said = after(page, "bot-output", typed)
            return [m for m in said if plain(m["data"]["text"]).startswith("all right")]

        # The answer to the question may still be spoken when it is cut by what is typed.
        begun = page.wait_for(story, "the story")[0]["at"]
        page.wait_for(lambda: after(page, "bot-interrupted", begun), "the interruption")
        stopped = after(page, "bot-interrupted", begun)[0]["at"]
        page.wait_for(lambda: after(page, "bot-started-speaking", stopped), "the next answer")
        resumed = after(page, "bot-started-speaking", stopped)[0]["at"]
        page.screenshot(PICTURES / "page-interrupted.png")

        assert any(p.audible for p in page.playback() if begun < p.at < stopped)
        late = [p for p in page.playback() if stopped + MUTE_SECONDS < p.at < resumed]
        assert late
        assert not any(p.audible for p in late)

        thought = plain(spelt(m for m in after(page, "bot-llm-text", typed) if m["at"] < stopped))
        spoken = {
            m["data"]["segment_id"]: m["data"]["spoken_progress"]["accumulated_text"]
            for m in after(page, "bot-output", typed)
            if begun <= m["at"] < stopped
        }
        told = plain(" ".join(spoken.values()))
        assert len(told.split()) >= 3
        assert thought.startswith(told)
        assert len(told) < len(thought)
        assert any(told in plain(t.text) for t in page.turns("turn-agent") if t.interrupted)
        page.click("hangup")


async def test_a_busy_server_is_said_on_the_page(server: AgentServer, mouth: Mouth) -> None:
    """Who calls when all lines are taken reads that, and can try again."""

    def call() -> None:
        with BrowserCaller(server.url, mouth(1.0)) as page:
            page.click("connect")
            page.wait_for_state("error")
            assert "busy" in page.text("error").lower()
            page.screenshot(PICTURES / "page-busy.png")

    async with AsyncExitStack() as calls:
        for _ in range(MAX_CALLS):
            await calls.enter_async_context(WebRTCCaller(server.url))
        await asyncio.to_thread(call)


def test_the_page_of_records_says_that_none_are_kept(server: AgentServer) -> None:
    """An empty list would have one look for calls that nobody recorded."""
    with BrowserCaller(f"{server.url}/record.html", None) as page:
        page.wait_for(lambda: "--record" in page.text("calls"), "how to record")


def test_a_refused_microphone_is_said_on_the_page(server: AgentServer) -> None:
    """Who refuses the microphone reads so, and takes no line."""
    with BrowserCaller(server.url, None) as page:
        page.click("connect")
        page.wait_for(lambda: "microphone" in page.text("error").lower(), "the reason")
        page.screenshot(PICTURES / "page-no-microphone.png")
        page.click("error-close")
        assert page.text("error") == ""
        assert page.focus == "status"
        assert server.calls() == 0


def spoken(worker: WorkerServer) -> float:
    """How many utterances a worker has spoken to their end."""
    lines = httpx.get(worker.url + "/metrics").text.splitlines()
    done = (line for line in lines if "utterances_total{" in line and 'outcome="done"' in line)
    return sum(float(line.split()[-1]) for line in done)


def answer(page: BrowserCaller) -> None:
    """Ask something in writing, and wait until the agent has answered."""
    before = len(page.messages("bot-stopped-speaking"))
    page.type("text-input", "What is 7 times 6?")
    page.click("text-send")
    page.wait_for(
        lambda: len(page.messages("bot-stopped-speaking")) > before, "the end of the answer"
    )


def test_voices_come_and_go_under_a_call(mouth: Mouth) -> None:
    """The list is that of the workers, what is chosen speaks next, and what is away comes back."""
    mine, other = f"piper/{embedded_name(24000)}", f"piper/{OTHER_VOICE.stem}"
    with ExitStack() as stack:
        start = stack.enter_context
        first = start(WorkerServer("--offline", "--engine", "piper"))
        flags = ("--engine", "piper", "--tts-voice", str(OTHER_VOICE))
        second = start(WorkerServer("--offline", *flags))
        places = f"{first.address},{second.address}"
        server = start(AgentServer("--tts", places, "--tts-voice", mine, *FLAGS[2:]))
        page = start(BrowserCaller(server.url, mouth(1.0)))
        page.wait_for(lambda: other in page.options("voice"), "the voices")
        page.click("connect")
        page.wait_for_state(*IN_CALL)
        page.wait_for(lambda: page.messages("bot-stopped-speaking"), "the end of the greeting")
        assert page.chosen("voice") == mine
        assert page.options("voice")[mine] == "Piper · slt tiny, 24k (en-US)"
        assert (spoken(first), spoken(second)) == (1, 0)
        calls = server.get("/calls")["calls"]
        page.screenshot(PICTURES / "page-voices.png")

        page.choose("voice", other)
        answer(page)
        assert page.chosen("voice") == other
        assert (spoken(first), spoken(second)) == (1, 1)
        assert server.get("/calls")["calls"] == [{**calls[0], "voice": other}]

        second.stop()
        page.wait_for(lambda: other not in page.options("voice"), "the shorter list")
        assert page.chosen("voice") == mine
        assert "is away" in page.text("voice-note")
        page.screenshot(PICTURES / "page-voice-away.png")
        answer(page)
        assert spoken(first) == 2

        second.start()
        page.wait_for(lambda: page.chosen("voice") == other, "the voice that was away")
        assert page.text("voice-note") == ""
        page.click("hangup")
        page.wait_for_state("ended")
        assert page.console() == []
        server.wait_for_calls(0)
        assert server.get("/calls")["calls"] == []
