"""The real pocketsphinx in its real process, on recordings of real speech."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)

from services.errors import EngineError
from services.settings import EngineSettings, SettingsError
from services.stt import pocketsphinx
from services.stt.engine import SAMPLE_RATE
from services.stt.local import LocalHearing
from services.stt.pocketsphinx import MAX_SECONDS, PocketsphinxEngine
from services.stt.service import HearingSTTService
from tests.fakes.pipeline import run_test
from tests.integration.speech import ROOT, spoken


@pytest.fixture(scope="module")
def engine() -> Iterator[PocketsphinxEngine]:
    """An engine for tests that leave its child alone."""
    engine = PocketsphinxEngine(timeout=60.0)
    yield engine
    engine.close()


@pytest.fixture
def own_engine() -> Iterator[PocketsphinxEngine]:
    """An engine for a test that does not."""
    engine = PocketsphinxEngine(timeout=30.0)
    engine.load()
    yield engine
    engine.close()


def pid_of(engine: PocketsphinxEngine) -> int:
    """The process id of the engine's child."""
    return engine._child._process.pid


@pytest.fixture
def sending(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Set when a request is on its way to a child."""
    event = Event()
    send = pocketsphinx._Child._send

    def noted(*arguments: Any) -> None:
        event.set()
        send(*arguments)

    monkeypatch.setattr(pocketsphinx._Child, "_send", noted)
    return event


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("goforward", "go forward ten meters"),
        ("something", "go somewhere and do something"),
        ("clubs", "ten of clubs"),
    ],
)
def test_real_speech_is_recognised(engine: PocketsphinxEngine, name: str, words: str) -> None:
    """Recordings come out as what was said, within their own length and with some confidence."""
    pcm = spoken(name)
    transcript = engine.transcribe(pcm, "en", Event())
    assert transcript.text == words
    assert transcript.language == "en"
    (segment,) = transcript.segments
    assert 0 < segment.start < segment.end <= len(pcm) / 2 / SAMPLE_RATE
    assert 0.4 < segment.confidence <= 1.0


def test_nothing_is_recognised_in_nothing(engine: PocketsphinxEngine) -> None:
    """No audio, half a sample and a few samples are no error and no words."""
    for pcm in (b"", b"\x00", bytes(100)):
        assert engine.transcribe(pcm, None, Event()).segments == ()


def test_what_it_cannot_do_is_one_line(engine: PocketsphinxEngine) -> None:
    """Another language and audio past the limit are refused without asking the child."""
    with pytest.raises(EngineError, match=r"'de'.*English only"):
        engine.transcribe(bytes(3200), "de", Event())
    with pytest.raises(EngineError, match="60 s"):
        engine.transcribe(bytes(int(MAX_SECONDS + 1) * SAMPLE_RATE * 2), "en", Event())


def test_calls_take_turns(engine: PocketsphinxEngine) -> None:
    """Several utterances at once: each gets its own words."""
    names = ["goforward", "clubs", "something", "clubs"]
    with ThreadPoolExecutor(len(names)) as threads:
        heard = threads.map(lambda name: engine.transcribe(spoken(name), "en", Event()), names)
        texts = [transcript.text for transcript in heard]
    said = {
        "goforward": "go forward ten meters",
        "something": "go somewhere and do something",
        "clubs": "ten of clubs",
    }
    assert texts == [said[name] for name in names]


async def test_the_event_loop_runs_while_it_decodes(engine: PocketsphinxEngine) -> None:
    """The loop keeps turning during the second that decoding holds its process's GIL.

    In this process the loop would turn a handful of times: once or twice between two C calls.
    """
    pcm = spoken("dashwood")
    engine.load()
    decoding = asyncio.create_task(asyncio.to_thread(engine.transcribe, pcm, "en", Event()))
    turns = 0
    while not decoding.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert decoding.result().text
    assert turns > 15


def test_a_child_that_dies_at_its_work_is_replaced(
    own_engine: PocketsphinxEngine, sending: Event
) -> None:
    """The utterance that it had fails with an error; the next is recognised by another child."""
    pid = pid_of(own_engine)
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        lost = thread.submit(own_engine.transcribe, spoken("goforward"), "en", Event())
        assert sending.wait(5)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="died"):
            lost.result(20)
    assert pid_of(own_engine) != pid
    assert own_engine.transcribe(spoken("clubs"), "en", Event()).text == "ten of clubs"


def test_a_child_that_died_idle_costs_nothing(own_engine: PocketsphinxEngine) -> None:
    """A child found dead is replaced before it is asked: no error, no word lost."""
    pid = pid_of(own_engine)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert own_engine.transcribe(spoken("clubs"), "en", Event()).text == "ten of clubs"


def test_a_child_that_hangs_is_given_up() -> None:
    """Past the limit the caller gets an error that names it, and the child is another."""
    engine = PocketsphinxEngine(timeout=30.0)
    engine.load()
    engine._timeout = 1.0  # Only now: a start may take longer.
    pid = pid_of(engine)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineError, match="more than 1 s"):
        engine.transcribe(spoken("goforward"), "en", Event())
    assert pid_of(engine) != pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    engine.close()


def test_stop_frees_the_child(own_engine: PocketsphinxEngine, sending: Event) -> None:
    """A request that nobody waits for any more ends at once, empty, and the next one works."""
    os.kill(pid_of(own_engine), signal.SIGSTOP)
    stop = Event()
    with ThreadPoolExecutor(1) as thread:
        stopped = thread.submit(own_engine.transcribe, spoken("dashwood"), "en", stop)
        assert sending.wait(5)
        stop.set()
        assert stopped.result(10).segments == ()
    assert own_engine.transcribe(spoken("clubs"), "en", Event()).text == "ten of clubs"


def test_ctrl_c_is_for_the_parent(own_engine: PocketsphinxEngine) -> None:
    """A terminal's interrupt does not reach the child; one sent to it does it no harm."""
    pid = pid_of(own_engine)
    assert os.getpgid(pid) != os.getpgrp()
    os.kill(pid, signal.SIGINT)
    assert own_engine.transcribe(spoken("clubs"), "en", Event()).text == "ten of clubs"
    assert pid_of(own_engine) == pid


def test_close_ends_the_child() -> None:
    """After close no child is left, and a request says why it is refused."""
    engine = PocketsphinxEngine(timeout=30.0)
    engine.load()
    pid = pid_of(engine)
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(EngineError, match="closed"):
        engine.transcribe(spoken("clubs"), "en", Event())


def test_close_ends_a_child_at_its_work(own_engine: PocketsphinxEngine, sending: Event) -> None:
    """A request that is under way ends with an error, and its child is gone."""
    pid = pid_of(own_engine)
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        lost = thread.submit(own_engine.transcribe, spoken("goforward"), "en", Event())
        assert sending.wait(5)
        own_engine.close()
        with pytest.raises(EngineError, match="closed"):
            lost.result(20)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_child_does_not_outlive_a_parent_that_is_killed() -> None:
    """However the parent goes, its child ends and complains to nobody."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, signal\n"
            "from services.stt.pocketsphinx import PocketsphinxEngine\n"
            "engine = PocketsphinxEngine(timeout=30.0)\n"
            "engine.load()\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n",
        ],
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    # The child holds the other end of this pipe as its stderr: it closes when the child is gone.
    _, complaints = parent.communicate(timeout=60)
    assert parent.returncode == -signal.SIGKILL
    assert complaints == b""


def test_the_child_imports_little() -> None:
    """What only its parent needs would cost each child's start, and memory."""
    heavy = ("pydantic", "httpx", "numpy", "services.catalog")
    code = (
        "import sys, services.stt.pocketsphinx\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


def test_it_is_built_for_english_alone() -> None:
    """Another language is blamed on the setting, and no process is left."""
    with pytest.raises(SettingsError, match=r"^--language de: .*--stt whisper"):
        pocketsphinx.build(EngineSettings(), "de", lambda *_: None)
    loaded = pocketsphinx.build(EngineSettings(stt_timeout=20.0), "en", lambda *_: None)
    assert loaded.engine.at_once == 1
    assert loaded.engine.transcribe(spoken("clubs"), "en", Event()).text == "ten of clubs"
    loaded.engine.close()


async def test_speech_in_a_pipeline(engine: PocketsphinxEngine) -> None:
    """From the VAD's frames to a transcript, with every part real."""
    pcm = spoken("goforward")
    step = SAMPLE_RATE // 50 * 2
    frames: list[Frame] = [VADUserStartedSpeakingFrame()]
    frames += [
        InputAudioRawFrame(audio=pcm[at : at + step], sample_rate=SAMPLE_RATE, num_channels=1)
        for at in range(0, len(pcm), step)
    ]
    frames.append(VADUserStoppedSpeakingFrame())
    down, up = await run_test(
        HearingSTTService(hearing=LocalHearing(engine), language="en", limit=30.0),
        frames_to_send=frames,
    )
    (transcript,) = [frame for frame in down if isinstance(frame, TranscriptionFrame)]
    assert transcript.text == "go forward ten meters"
    assert not [frame for frame in up if "Error" in type(frame).__name__]
