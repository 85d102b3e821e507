"""A call that is recorded: what is said and heard in it is found in its files, and on the page."""

import asyncio
import json
import re
import time
import wave
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

from bot.agent import Agent
from bot.engines import Engines
from bot.records.folder import Records
from bot.settings import Settings
from tests.callers.audio import Samples, speech_extent, transcribe
from tests.callers.browser import BrowserCaller
from tests.callers.local_server import serve
from tests.callers.recordings import recording
from tests.callers.server import ROOT, AgentServer
from tests.callers.webrtc import SAMPLE_RATE, WebRTCCaller
from tests.e2e.conftest import FLAGS

QUESTION = "go forward ten meters"
"""What is said in the recording `goforward`."""

NOTICE = "This call is recorded."

OFF = 0.15
"""Seconds by which a time may be off what is heard."""

PICTURES = ROOT / "test-results"


@dataclass(frozen=True)
class Recorded:
    """A call that was recorded and is over.

    Attributes:
        folder: Its files.
        told: What the agent told the caller that it said before it was interrupted.
        asked: When the caller's interruption began, in seconds from the first sound of the agent
            that the caller heard.
    """

    folder: Path
    told: list[str]
    asked: float

    @property
    def first_sound(self) -> float:
        """When the agent began to speak, in the record's seconds."""
        return float(self.read("transcript.json")["turns"][0]["start"])

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_bytes())

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / "frames.jsonl").read_text().splitlines()
        return [entry for line in lines if (entry := json.loads(line))["event"] == name]

    def channel(self, number: int, start: float = 0.0, end: float | None = None) -> Samples:
        """One side between two times, and its rate is 16 kHz."""
        with wave.open(str(self.folder / "audio.wav")) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 16000)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
        return samples[int(16000 * start) : int(16000 * end) if end else None, number]


def inside(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def length(path: Path) -> int:
    """How many samples a WAV file has of each side."""
    with wave.open(str(path)) as file:
        return file.getnframes()


def plain(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


async def hold_a_call(url: str) -> tuple[list[str], float]:
    """Have a story told, interrupt it with a question, and be answered."""
    async with WebRTCCaller(url) as caller:
        began = await caller.wait_for_speech()
        over = await caller.wait_for_silence(began, hold=1.0)
        caller.send_text("Tell me a story.")
        await caller.wait_for_words(8, after=over)
        asked = await caller.say(recording("goforward", SAMPLE_RATE))
        interrupted = await caller.wait_for_message("bot-interrupted", after=asked.start)
        told = caller.spoken_words(over, before=interrupted.at)
        silent = await caller.wait_for_silence(asked.start)
        answered = await caller.wait_for_speech(max(silent + 0.1, asked.end))
        await caller.wait_for_words(3, after=answered)
        return told, asked.start - began


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record") / "calls"


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return Settings(
        tts="piper",
        stt="pocketsphinx",
        llm="builtin",
        offline=True,
        record=folder,
        record_notice=NOTICE,
    )


@pytest.fixture(scope="module")
def recorded(settings: Settings, engines: Engines, folder: Path) -> Recorded:
    """One call, for all that is asked of its record."""

    async def call() -> Recorded:
        async with serve(settings, engines, Agent()) as server:
            told, asked = await hold_a_call(server.url)
            # Who hung up is the caller, and not a server that ends.
            async with asyncio.timeout(30):
                await asyncio.gather(*(call.ended.wait() for call in server.calls))
        (only,) = inside(folder)
        return Recorded(only, told, asked)

    return asyncio.run(call())


@pytest.fixture
async def http(
    settings: Settings, engines: Engines, recorded: Recorded
) -> AsyncIterator[httpx.AsyncClient]:
    """A server that has the record."""
    async with (
        serve(settings, engines, Agent()) as server,
        httpx.AsyncClient(base_url=server.url, timeout=20) as client,
    ):
        yield client


def test_the_callers_words_are_where_the_audio_has_them(recorded: Recorded) -> None:
    """The left channel has the question, whole, where the caller put it and the transcript says."""
    turn = next(t for t in recorded.read("transcript.json")["turns"] if t.get("typed") is False)
    assert plain(turn["text"]) == plain(QUESTION)
    around = recorded.channel(0, turn["start"] - 1, turn["end"] + 1)
    heard = speech_extent(around, 16000)
    assert turn["start"] == pytest.approx(turn["start"] - 1 + heard.start / 16000, abs=OFF)
    assert turn["end"] == pytest.approx(turn["start"] - 1 + heard.end / 16000, abs=OFF)
    assert turn["start"] - recorded.first_sound == pytest.approx(recorded.asked, abs=2 * OFF)
    assert transcribe(around, 16000) == plain(QUESTION)


def test_the_agents_words_are_where_the_audio_has_them(recorded: Recorded) -> None:
    """In the right channel sound begins where a turn's first word does, and ends with its last."""
    turns = [t for t in recorded.read("transcript.json")["turns"] if t["side"] == "agent"]
    loud = np.flatnonzero(np.abs(recorded.channel(1).astype(int)) > 200) / 16000
    pauses = np.flatnonzero(np.diff(loud) > 0.1)
    begins, ends = np.r_[loud[0], loud[pauses + 1]], np.r_[loud[pauses], loud[-1]]
    for turn in turns[:3]:
        assert np.abs(begins - turn["words"][0]["start"]).min() < OFF
        assert turn["cut"] or np.abs(ends - turn["words"][-1]["end"]).min() < OFF
        for word, after in pairwise(turn["words"]):
            assert word["start"] <= word["end"] <= after["start"]
            said = recorded.channel(1, max(0, word["start"] - OFF), word["end"] + OFF)
            assert np.abs(said.astype(int)).max() > 200


def test_the_notice_comes_first(recorded: Recorded) -> None:
    """Before all else the caller is told that the call is recorded."""
    first = recorded.read("transcript.json")["turns"][0]
    assert first["text"] == NOTICE


def test_what_was_cut_is_not_there(recorded: Recorded) -> None:
    """Of the story there is what the caller heard: neither its words nor its sound go on."""
    turns = recorded.read("transcript.json")["turns"]
    story = next(turn for turn in turns if turn.get("cut"))
    written = next(turn for turn in turns if turn.get("typed"))
    assert written["text"] == "Tell me a story."
    assert written["start"] < story["start"]
    # News of the last word may cross the caller's interruption.
    told, kept = plain(" ".join(recorded.told)), plain(story["text"])
    assert abs(len(told) - len(kept)) <= 1
    assert told[: len(kept)] == kept[: len(told)]
    assert story["end"] - recorded.first_sound < recorded.asked + 1.0
    cut = next(e["t"] for e in recorded.events("interruption") if e["t"] >= story["end"] - 0.05)
    speaks_again = [e["t"] for e in recorded.events("agent-start") if e["t"] > cut]
    # A busy machine notes the end of the sound later than the cut; the story had seconds to go.
    gap = recorded.channel(1, cut + 0.5, min([cut + 1.0, *speaks_again]))
    assert len(gap)
    assert np.abs(gap.astype(int)).max() < 100


def test_every_event_is_there_once(recorded: Recorded) -> None:
    """Frames that travel both ways are one event, and each turn has its stages in order."""
    order = ["vad-start", "caller-start", "vad-stop", "heard", "llm-start", "llm-first-token"]
    first = {name: recorded.events(name)[0]["t"] for name in order[:4]}
    assert list(first.values()) == sorted(first.values())
    assert len(recorded.events("vad-start")) == len(recorded.events("vad-stop"))
    assert len(recorded.events("connected")) == len(recorded.events("end")) == 1
    order += ["tts-start", "tts-first-audio", "agent-start", "agent-stop", "turn-latency"]
    for name in order:
        assert recorded.events(name), name
    about = recorded.read("call.json")
    assert (about["reason"], about["complete"]) == ("hangup", True)
    assert about["origin"]["transport"] == "webrtc"
    spoken = about["latencies"][0]
    assert spoken["total_ms"] == pytest.approx(sum(s["ms"] for s in spoken["stages"]), abs=1)
    heard = recorded.events("vad-stop")[0]
    silent = heard["t"] - heard["after"]
    assert spoken["at"] == pytest.approx(silent + spoken["total_ms"] / 1000, abs=OFF)


async def test_records_are_listed_and_served_in_parts(
    http: httpx.AsyncClient, recorded: Recorded
) -> None:
    """`GET /calls` names it; its audio can be had in ranges, its loudness at any width."""
    name = recorded.folder.name
    listed = (await http.get("/calls")).json()
    assert listed["calls"] == []
    assert [record["id"] for record in listed["records"]] == [name]
    told = (await http.get(f"/calls/{name}")).json()
    assert told["turns"][0]["text"] == NOTICE
    assert not told["in_progress"]
    audio = (recorded.folder / "audio.wav").read_bytes()
    assert told["audio_seconds"] == pytest.approx(len(audio) / 64000, abs=0.05)
    part = await http.get(f"/calls/{name}/audio.wav", headers={"Range": "bytes=1000-1999"})
    assert part.status_code == 206
    assert part.content == audio[1000:2000]
    assert part.headers["cache-control"] == "no-store"
    beyond = await http.get(f"/calls/{name}/audio.wav", headers={"Range": "bytes=999999999-"})
    assert beyond.status_code == 416
    peaks = (await http.get(f"/calls/{name}/peaks?start=1&end=3&columns=50")).json()
    assert len(peaks["caller"]) == len(peaks["agent"]) == 50
    everything = (await http.get(f"/calls/{name}/peaks")).json()
    assert everything["end"] == pytest.approx(told["audio_seconds"], abs=0.05)
    assert 1 < len(everything["caller"]) <= 1000
    nothing = (await http.get(f"/calls/{name}/peaks?start=5000&end=6000")).json()
    assert nothing["caller"] == []


@pytest.mark.parametrize("name", ["..", "%2e%2e", "..%2f..%2fetc", "nobody", "a" * 32, "%00" * 32])
async def test_what_is_no_record_is_not_found(http: httpx.AsyncClient, name: str) -> None:
    """No id leads elsewhere, and no other file than a record's is served."""
    for path in ("", "/audio.wav", "/peaks"):
        answer = await http.get(f"/calls/{name}{path}")
        assert answer.is_client_error or "html" in answer.headers["content-type"]
    assert (await http.delete(f"/calls/{name}")).is_client_error


async def test_only_its_files_are_served(http: httpx.AsyncClient, recorded: Recorded) -> None:
    """The name of a file is one of five."""
    (recorded.folder / "other.txt").write_text("x")
    for name in ("other.txt", "..%2fother.txt", "peaks.bin", "audio.wav%00"):
        assert (await http.get(f"/calls/{recorded.folder.name}/{name}")).is_client_error
    (recorded.folder / "other.txt").unlink()


async def test_a_call_that_goes_on_cannot_be_deleted_and_then_is_whole(
    settings: Settings, engines: Engines, tmp_path: Path
) -> None:
    """409 while it goes on, when it can be read already; afterwards nothing is left of it."""
    settings = settings.model_copy(update={"record": tmp_path})
    async with (
        serve(settings, engines, Agent()) as server,
        httpx.AsyncClient(base_url=server.url, timeout=20) as http,
    ):
        async with WebRTCCaller(server.url) as caller:
            await caller.wait_for_words(4)
            (call,) = server.calls
            await asyncio.to_thread(wait_until, (tmp_path / call.id / "frames.jsonl").exists)
            assert (await http.delete(f"/calls/{call.id}")).status_code == 409
            told = (await http.get(f"/calls/{call.id}")).json()
            assert told["in_progress"]
            assert told["ended"] is None
        await call.ended.wait()
        await asyncio.to_thread(wait_until, (tmp_path / call.id / "transcript.json").exists)
        # The transcript is not the last that is written.
        async with asyncio.timeout(10):
            while (  # noqa: ASYNC110 - nobody tells.
                answer := await http.delete(f"/calls/{call.id}")
            ).status_code == 409:
                await asyncio.sleep(0.05)
        assert answer.status_code == 204
        assert inside(tmp_path) == []
        assert (await http.get(f"/calls/{call.id}")).status_code == 404


async def test_nothing_is_recorded_unless_asked_for(
    engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `--record` a call writes nothing, and there are no records to ask for."""
    monkeypatch.chdir(tmp_path)
    settings = Settings(tts="piper", stt="pocketsphinx", llm="builtin", offline=True)
    async with (
        serve(settings, engines, Agent()) as server,
        httpx.AsyncClient(base_url=server.url, timeout=20) as http,
        WebRTCCaller(server.url) as caller,
    ):
        await caller.wait_for_speech()
        assert [call.record for call in server.calls] == [None]
        assert (await http.get("/calls")).json().keys() == {"calls"}
        assert (await http.get(f"/calls/{'a' * 32}")).status_code == 404
    assert inside(tmp_path) == []


async def test_a_killed_process_leaves_a_record_that_can_be_read(tmp_path: Path) -> None:
    """After `kill -9` in mid-call the sound is whole, and a sweep brings the record to its end."""
    with AgentServer(*FLAGS, "--record", str(tmp_path)) as server:
        async with WebRTCCaller(server.url) as caller:
            began = await caller.wait_for_speech()
            over = await caller.wait_for_silence(began, hold=1.0)
            heard = plain(" ".join(caller.spoken_words()))
            # What is held back comes out as time goes on.
            await caller.wait_for_silence(over + 1.5, hold=0.5)
            (folder,) = inside(tmp_path)
            seconds = over - began
            written = folder / "audio.wav"
            await asyncio.to_thread(wait_until, lambda: length(written) > 16000 * seconds)
            await asyncio.to_thread(server.kill)
    with wave.open(str(written)) as file:
        audio = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    assert len(audio) > 16000 * seconds
    assert np.abs(audio[:, 1].astype(int)).max() > 1000
    records = Records(Settings(record=tmp_path), tmp_path)
    records.sweep()
    told = records.read(folder.name)
    records.close()
    assert (told["reason"], told["complete"]) == ("lost", False)
    assert plain(" ".join(turn["text"] for turn in told["turns"])) == heard


class RecordPage(BrowserCaller):
    """The page of a record, in a browser."""

    @property
    def position(self) -> float:
        """Where its player is, in seconds."""
        return float(self._driver.find_element("id", "lanes").get_attribute("aria-valuenow") or 0)

    def texts(self, selector: str) -> list[str]:
        found = "[...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        texts: list[str] = self._run(f"return {found}", selector)
        return texts

    def click_on(self, selector: str) -> None:
        self._driver.find_element("css selector", selector).click()

    def press(self, key: str) -> None:
        """Press a key, and wait for the page to be drawn."""
        self._driver.find_element("id", "lanes").send_keys(key)
        self._driver.execute_async_script("requestAnimationFrame(() => arguments[0]())")

    def show_as(self, theme: str, width: int, height: int) -> None:
        """Show the page in a theme and size, and make sure that it fits."""
        command = self._driver.execute_cdp_cmd
        feature = {"name": "prefers-color-scheme", "value": theme}
        command("Emulation.setEmulatedMedia", {"features": [feature]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        command("Emulation.setDeviceMetricsOverride", size)
        page = "document.documentElement"
        assert self._run(f"return {page}.scrollWidth <= {page}.clientWidth")
        self.screenshot(PICTURES / f"record-{theme}-{width}.png")

    def keep(self, key: str) -> None:
        """Have the tab keep a key, as an earlier page may have."""
        self._driver.execute_script("sessionStorage.setItem('parley-key', arguments[0])", key)
        self._driver.refresh()

    def enter(self, key: str) -> None:
        """Answer the page, which asks for its key."""
        field = self.wait_for(
            lambda: next(
                (f for f in self._driver.find_elements("id", "key-text") if f.is_displayed()), None
            ),
            "the question for the key",
        )
        field.clear()
        field.send_keys(key, Keys.ENTER)

    def delete(self) -> None:
        self.click("delete")
        self._driver.switch_to.alert.accept()


@pytest.mark.browser
def test_the_page_asks_for_the_key_until_it_is_right(tmp_path: Path) -> None:
    """What no header can carry is no key, which is said; so is that a key is wrong."""
    flags, key = (*FLAGS, "--record", str(tmp_path)), 32 * "k"
    server = AgentServer(*flags, env={"PARLEY_API_KEY": key})
    with server, RecordPage(f"{server.url}/record.html", None) as page:
        page.keep("schlüssel€")
        for wrong, said in (("schlüssel€", "no letters with accents"), ("wrong", "is not the key")):
            page.enter(wrong)
            page.wait_for(lambda said=said: said in page.text("notice"), said)
        page.enter(key)
        page.wait_for(lambda: "No call has been recorded." in page.texts("#calls li"), "the list")
        assert page.text("notice") == ""


@pytest.mark.browser
def test_the_page_shows_and_plays_a_record(recorded: Recorded, folder: Path) -> None:
    """Its words can be clicked, it plays on from there, keys move it, and it asks nobody else."""
    flags = (*FLAGS, "--record", str(folder))
    address = f"/record.html?id={recorded.folder.name}"
    with AgentServer(*flags) as server, RecordPage(server.url + address, None) as page:
        page.wait_for(lambda: len(page.texts("#turns .said")) >= 4, "the turns")
        shown = " ".join(page.texts(".said-text"))
        assert NOTICE in shown
        assert "interrupted" in shown
        assert any("answered in" in text for text in page.texts(".said-latency"))
        turn = next(t for t in recorded.read("transcript.json")["turns"] if t.get("typed") is False)
        page.click_on(".said-caller:has(.word):not(:has(.said-note)) .word")
        page.wait_for(lambda: abs(page.position - turn["start"]) < 1, "the clicked word")
        page.show_as("light", 1200, 900)
        page.show_as("dark", 1200, 900)
        page.show_as("light", 390, 844)
        page.show_as("dark", 390, 844)
        page.press(Keys.SPACE)
        page.wait_for(lambda: page.position > turn["start"] + 2, "two seconds of playing")
        # Between what the caller says and what the agent answers there is none.
        page.wait_for(lambda: page.texts(".word.spoken"), "a word that is being spoken")
        page.press(Keys.END)
        assert page.position == pytest.approx(recorded.events("end")[0]["t"], abs=1.5)
        assert page.text("play") == "Play"
        page.press(Keys.HOME)
        page.press(Keys.ARROW_RIGHT)
        assert page.position == 5
        page.press(Keys.ARROW_UP)
        assert 0 < page.position < 5
        assert all(url.startswith((server.url, "data:", "blob:")) for url in page.requests())
        assert page.console() == []
        page.delete()
        page.wait_for(lambda: "No call has been recorded." in page.texts("#calls li"), "the list")
    assert inside(folder) == []
