"""The widget in a Daily room: its own panel, Pipecat's own transport, and a room like Daily's."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.callers.audio import save_wav, silence
from tests.callers.recordings import Recording
from tests.callers.server import ROOT, AgentServer
from tests.callers.site import Site
from tests.callers.webrtc import SAMPLE_RATE
from tests.callers.widget import PHONE, WidgetCaller
from tests.e2e.conftest import FLAGS
from tests.fakes.daily_api import KEY, FakeDaily, daily_api

pytestmark = pytest.mark.browser

PICTURES = ROOT / "test-results"

QUESTION = "go forward"
"""How what is said in the recording `goforward` begins."""

ROOM = "https://no host/{name}"
"""The address of a room. Daily's SDK refuses it at once, so that the server's own agent is away."""

INTERRUPTED = {"type": "sfu", "event": "interrupted"}
CONNECTED = {"type": "sfu", "event": "connected"}

BLOCKED = "new DOMException('no', 'NotAllowedError')"
"""What a browser says that keeps the microphone to itself."""

NO_CANCELLER = """
const devices = navigator.mediaDevices;
const open = devices.getUserMedia.bind(devices);
devices.getUserMedia = ({ audio }) => open({ audio: { ...audio, echoCancellation: false } });
"""
"""A recording holds no echo; the browser's canceller would take its first words for one."""

IN_CALL = ("listening", "thinking", "speaking")


@pytest.fixture(scope="module")
def rooms() -> Iterator[FakeDaily]:
    """Daily's REST API."""
    made: list[FakeDaily] = []
    ready, over = Event(), Event()

    async def serve() -> None:
        async with daily_api() as fake:
            fake.room_url = ROOM
            made.append(fake)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait()
    yield made[0]
    over.set()
    thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that has the widget, with a stand-in for Daily's library in it."""
    file = tmp_path_factory.mktemp("site") / "widget-daily.js"
    bundle = "esbuild src/widget/daily.ts --bundle --format=esm --log-level=warning"
    library = "--alias:@daily-co/daily-js=./tests/daily-js.ts"
    subprocess.run(
        ["tools/npm.sh", ".venv/bin", "exec", "--", *bundle.split(), library, f"--outfile={file}"],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    widget = (ROOT / "web" / "dist" / "widget.js").read_text("utf-8")
    with Site({"/widget.js": widget, "/widget-daily.js": file.read_text("utf-8")}) as site:
        yield site


@pytest.fixture(scope="module")
def server(site: Site, rooms: FakeDaily) -> Iterator[AgentServer]:
    """An agent that this site may call, with rooms at Daily."""
    flags = (*FLAGS, "--allowed-origins", site.url, "--daily-api-url", rooms.url)
    with AgentServer(*flags, env={"DAILY_API_KEY": KEY}) as server:
        room = f"window.room = {{ server: '{server.url}' }}; {NO_CANCELLER}"
        site.pages["/"] = page(f"<script>{room}</script>", script(site.url, server))
        yield server


def page(*parts: str) -> str:
    """A page with a widget."""
    return (
        '<!doctype html><html lang="en"><title>Elsewhere</title><link rel="icon" href="data:,">'
        '<meta name="viewport" content="width=device-width"><body><h1>Elsewhere</h1>'
        + "".join(parts)
    )


def script(origin: str, server: AgentServer) -> str:
    """A script from somewhere that puts a widget on a page."""
    return (
        f'<script src="{origin}/widget.js" data-agent="Rye" data-transport="daily" '
        f'data-server="{server.url}"></script>'
    )


def plain(text: str) -> str:
    """Words without the punctuation and capitals in which speech does not differ."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def test_a_caller_talks_and_interrupts_in_a_daily_room(
    server: AgentServer, site: Site, rooms: FakeDaily, recording: Recording, tmp_path: Path
) -> None:
    """The room and its token are the server's; all else is as in any call of the widget.

    Nothing but the site and the agent's server is asked for anything; what Daily's own library
    loads is not in it.
    """
    microphone = tmp_path / "mouth.wav"
    sound = [silence(4.0, SAMPLE_RATE), recording("goforward", SAMPLE_RATE)]
    save_wav(microphone, sound, SAMPLE_RATE)
    with WidgetCaller(site.url, microphone, repeat=True) as caller:

        def heard(words: str) -> bool:
            return any(words in plain(turn.text) for turn in caller.turns("turn-user"))

        caller.dial()
        caller.wait_for_state(*IN_CALL)
        room, token = caller.host(
            "const { url, token } = room.made[0].options; return [url, token]"
        )
        assert room == ROOM.format(name=rooms.made[-1])
        assert rooms.tokens[token]["room_name"] == rooms.made[-1]
        caller.wait_for(lambda: any(p.audible for p in caller.playback()), "the greeting")
        caller.wait_for(
            lambda: any("Parley" in t.text for t in caller.turns("turn-agent")), "words"
        )
        caller.type("text-input", "Tell me a story.")
        caller.click("text-send")
        caller.wait_for(lambda: heard("tell me a story"), "what was typed")
        begun = len(caller.messages("bot-interrupted"))
        caller.wait_for(lambda: len(caller.messages("bot-interrupted")) > begun, "an interruption")
        caller.wait_for(lambda: caller.level > 20, "the caller's level")
        caller.wait_for(lambda: any(t.interrupted for t in caller.turns("turn-agent")), "a cut")
        caller.wait_for(lambda: heard(QUESTION), "the caller's words")
        caller.screenshot(PICTURES / "widget-daily.png")
        caller.click("mute")
        caller.wait_for(lambda: caller.level == 0, "silence")
        assert caller.host("return room.made[0].localAudio()") is False
        caller.look(theme="dark", size=PHONE)
        caller.screenshot(PICTURES / "widget-daily-phone.png")
        caller.click("mute")
        assert caller.host("return room.made[0].localAudio()") is True

        caller.click("hangup")
        caller.wait_for_state("ended")
        server.wait_for_calls(0)
        caller.wait_for(lambda: caller.host("return room.made[0].destroyed"), "no call object")
        told = [event["detail"] for event in caller.events("transcript")]
        assert any(QUESTION in plain(t["text"]) for t in told if t["side"] == "caller")
        assert any(t["typed"] for t in told)
        assert any(t["interrupted"] for t in told)
        names = [event["name"] for event in caller.events() if event["name"] != "transcript"]
        assert names == ["open", "call-started", "call-ended"]
        ended = caller.events("call-ended")[0]["detail"]
        assert ended == {"reason": "hangup", "failed": False}
        known = (server.url, site.url, "data:", "blob:")
        assert [u for u in caller.requests() if not u.startswith(known)] == []
        assert caller.console() == []


@pytest.fixture(scope="module")
def visitor(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WidgetCaller]:
    """Somebody who says nothing."""
    microphone = tmp_path_factory.mktemp("visitor") / "mouth.wav"
    save_wav(microphone, [silence(1.0, SAMPLE_RATE)], SAMPLE_RATE)
    with WidgetCaller(site.url, microphone) as caller:
        yield caller


def test_what_daily_says_no_to_is_said(
    server: AgentServer, rooms: FakeDaily, visitor: WidgetCaller
) -> None:
    """Each of its errors ends in the widget's own words, and the next call is another one.

    So does a call whose room is lost, or closed, while the caller is in it.
    """

    def ends_with(code: str, failed: bool) -> None:
        visitor.wait_for_state("error" if failed else "ended")
        ended = visitor.events("call-ended")[-1]["detail"]
        assert ended == {"reason": code, "failed": failed}
        server.wait_for_calls(0)

    visitor.click("launcher")
    for fault, code in {
        "meeting-full": "busy",
        "exp-room": "refused",
        "not-allowed": "refused",
        "connection-error": "unreachable",
    }.items():
        visitor.host("room.fails = arguments[0]", fault)
        visitor.click("connect")
        ends_with(code, failed=True)
        assert fault in visitor.events("error")[-1]["detail"]["advice"]
    visitor.host("delete room.fails")
    rooms.failures["POST /meeting-tokens"] = ['{"token": "of the agent"}', '{"token": ""}']
    visitor.click("connect")
    ends_with("refused", failed=True)
    rooms.failures["POST /rooms"] = [500]
    visitor.click("connect")
    ends_with("refused", failed=True)
    made = visitor.host("return room.made.length")
    visitor.host(f"devices.getUserMedia = async () => {{ throw {BLOCKED} }}")
    visitor.click("connect")
    ends_with("microphone-blocked", failed=True)
    assert visitor.host("return room.made.length") == made
    visitor.host("delete devices.getUserMedia")
    assert visitor.events("call-started") == []
    for fault, code, failed in (
        ("connection-error", "lost", True),
        ("ejected", "ended", False),
        ("exp-room", "max-length", False),
    ):
        visitor.click("connect")
        visitor.wait_for_state(*IN_CALL)
        visitor.host("room.made.at(-1).emit('network-connection', arguments[0])", INTERRUPTED)
        visitor.wait_for_state("connecting")
        live = visitor.run("return shadow.querySelector('[aria-live]').lastChild.textContent")
        assert live == "Connection lost, reconnecting"
        visitor.host("room.made.at(-1).emit('network-connection', arguments[0])", CONNECTED)
        visitor.wait_for_state(*IN_CALL)
        visitor.host("room.made.at(-1).fail(arguments[0])", fault)
        ends_with(code, failed)
    visitor.click("connect")
    visitor.wait_for_state(*IN_CALL)
    # Twenty seconds pass in half a one.
    visitor.host("const later = setTimeout; window.setTimeout = (f, ms) => later(f, ms / 40)")
    visitor.host("room.made.at(-1).emit('network-connection', arguments[0])", INTERRUPTED)
    ends_with("lost", failed=True)
    destroyed = "return room.made.every((call) => call.destroyed)"
    visitor.wait_for(lambda: visitor.host(destroyed), "no call object")


def test_a_page_that_keeps_daily_out_is_told(
    server: AgentServer, site: Site, rooms: FakeDaily, visitor: WidgetCaller
) -> None:
    """With Daily's own library: no room is made, and who wrote the page reads what it lacks.

    Who hangs up while it loads can call again.
    """
    site.pages["/strict"] = page(script(server.url, server))
    site.policies["/strict"] = (
        f"default-src 'none'; script-src {server.url}; connect-src {server.url}; img-src data:"
    )
    made = list(rooms.made)
    visitor.go(f"{site.url}/strict")
    visitor.dial()
    visitor.wait_for(lambda: "c.daily.co" in " ".join(visitor.requests()), "Daily's library")
    visitor.click("hangup")
    visitor.wait_for_state("ended")
    visitor.click("connect")
    visitor.wait_for_state("error")
    assert "cannot be reached" in visitor.text("error")
    problem = visitor.events("error")[0]["detail"]
    assert problem["code"] == "unreachable"
    assert "Content-Security-Policy" in problem["advice"]
    wanted = re.search(r"https://c\.daily\.co/call-machine/versioned/\S+\.js", problem["advice"])
    assert wanted
    assert wanted[0] in visitor.requests()
    assert not [line for line in visitor.console() if "Uncaught" in line]
    assert rooms.made == made
