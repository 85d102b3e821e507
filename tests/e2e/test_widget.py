"""The widget in a real browser, on pages of another origin than the agent's."""

import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.callers.audio import Samples, save_wav, silence
from tests.callers.browser import Turn
from tests.callers.recordings import Recording
from tests.callers.server import ROOT, AgentServer
from tests.callers.site import Site
from tests.callers.webrtc import SAMPLE_RATE
from tests.callers.widget import PHONE, WidgetCaller
from tests.e2e.conftest import FLAGS

pytestmark = pytest.mark.browser

PICTURES = ROOT / "test-results"

DEMO = ROOT / "web" / "demo" / "index.html"

DEMO_SERVER = "http://localhost:7860"
"""Where the demo page finds the agent."""

IN_CALL = ("listening", "thinking", "speaking")

QUESTION = "go forward"
"""What is said in the recording `goforward`, but for the last words."""

MAX_PACKED_BYTES = 60_000
"""What the widget may cost a page."""

MAX_DAILY_BYTES = 105_000
"""What a call in a Daily room may cost it besides, before Daily's own code comes."""

HOSTILE = """
html { font-size: 60px !important; }
body * { display: none !important; }
body *, body *::before, body *::after {
  all: revert; content: "!" !important; font: 60px/3 cursive !important; color: red !important;
  letter-spacing: 1em !important; text-transform: uppercase !important; opacity: 0.1 !important;
  transform: scale(3) rotate(9deg) !important; visibility: hidden !important; zoom: 2 !important;
  position: static !important; pointer-events: none !important; filter: blur(9px) !important;
  direction: rtl !important; background: yellow !important; width: 9px !important;
}
parley-agent { clip-path: inset(50%) !important; contain: strict !important; }
"""
"""A page's style sheet that would ruin anything it reached."""

LOOKS = """
return [...shadow.querySelectorAll("*")].map((element) => {
  const style = getComputedStyle(element);
  const { x, y, width, height } = element.getBoundingClientRect();
  return [element.className.toString(), x, y, width, height, style.font, style.color, style.opacity,
    style.display, style.visibility, style.direction, style.letterSpacing, style.filter].join();
});
"""
"""How every part of the widget looks."""

HOST_LOOKS = """
return [...document.querySelectorAll("html, body, h1, p, button")].map((element) =>
  [...getComputedStyle(element)].map((name) => getComputedStyle(element).getPropertyValue(name)));
"""
"""How the page around it looks."""

MICROPHONE = """
<script>
  const devices = navigator.mediaDevices;
  const open = devices.getUserMedia.bind(devices);
  window.opened = [];
  window.answer = async (wish) => open(wish);
  devices.getUserMedia = async (wish) => {
    const stream = await answer(wish);
    opened.push(...stream.getTracks());
    return stream;
  };
</script>
"""
"""Lets a test answer in the browser's place, and see every track that it gave."""

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


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The site that the agent's server knows."""
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[AgentServer]:
    """An agent that this site may call."""
    with AgentServer(*FLAGS, "--allowed-origins", site.url) as server:
        site.pages["/demo"] = DEMO.read_text().replace(DEMO_SERVER, server.url)
        yield server


def page(*widgets: str, style: str = "") -> str:
    """A page with widgets."""
    return (
        '<!doctype html><html lang="en"><title>Elsewhere</title><link rel="icon" href="data:,">'
        '<meta name="viewport" content="width=device-width">'
        f"{style and f'<style>{style}</style>'}<body><h1>Elsewhere</h1>"
        "<p>Words <button>Press</button></p>" + "".join(widgets)
    )


def script(server: AgentServer, attributes: str = 'data-agent="Rye"') -> str:
    """A script that puts a widget on a page."""
    return f'<script src="{server.url}/widget.js" {attributes}></script>'


def test_a_caller_talks_and_interrupts_on_another_site(
    server: AgentServer, site: Site, recording: Recording, mouth: Mouth
) -> None:
    """The demo page's visitor asks, is answered, talks over the agent, hangs up; the page knows.

    Nothing but the agent's server and the site itself is asked for anything.
    """
    microphone = mouth(7.0, recording("goforward", SAMPLE_RATE))
    with WidgetCaller(f"{site.url}/demo", microphone, repeat=True) as caller:
        caller.wait_for_state("idle")
        caller.click("launcher")
        assert "loaves" in caller.text("greeting")
        caller.screenshot(PICTURES / "widget-idle.png")
        caller.click("connect")
        caller.wait_for_state(*IN_CALL)
        assert server.calls() == 1

        def heard() -> bool:
            return any(QUESTION in plain(turn.text) for turn in caller.turns("turn-user"))

        caller.wait_for(heard, "the caller's words")
        caller.type("text-input", "Tell me a story.")
        caller.click("text-send")
        caller.wait_for(
            lambda: any("story" in turn.text for turn in caller.turns("turn-user")),
            "what was typed",
        )
        begun = len(caller.messages("bot-interrupted"))

        def cut() -> list[Turn]:
            return [turn for turn in caller.turns("turn-agent") if turn.interrupted]

        caller.wait_for(lambda: len(caller.messages("bot-interrupted")) > begun, "an interruption")
        caller.wait_for(cut, "the turn that was cut short")
        caller.screenshot(PICTURES / "widget-call.png")
        stopped = caller.messages("bot-interrupted")[-1]["at"]
        assert any(p.audible for p in caller.playback() if p.at < stopped)

        live = "return shadow.querySelector('[aria-live=polite]').textContent"
        assert QUESTION in plain(caller.run(live))
        names = caller.accessible_names()
        assert {"Mute your microphone", "Or say it in writing", "Send", "Hang up"} < set(names)
        assert all(names)

        caller.click("close")
        assert caller.text("launcher") == "Call in progress"
        assert server.calls() == 1
        caller.click("launcher")
        caller.click("hangup")
        caller.wait_for_state("ended")
        assert caller.run(live).endswith("Call ended. You hung up.")
        server.wait_for_calls(0)

        names = [event["name"] for event in caller.events()]
        first = names.index("transcript")
        assert names[:first] == ["open", "call-started"]
        assert [name for name in names[first:] if name != "transcript"] == [
            *("close", "open"),
            "call-ended",
        ]
        told = [event["detail"] for event in caller.events("transcript")]
        assert any(QUESTION in plain(t["text"]) for t in told if t["side"] == "caller")
        assert any(t["typed"] and "story" in t["text"] for t in told)
        assert any(t["interrupted"] for t in told if t["side"] == "agent")
        ended = caller.events("call-ended")[0]["detail"]
        assert ended == {"reason": "hangup", "failed": False}
        known = (server.url, site.url, "data:", "blob:")
        assert [u for u in caller.requests() if not u.startswith(known)] == []
        assert caller.console() == []


def test_a_site_that_is_not_allowed_gets_nothing(
    server: AgentServer, site: Site, mouth: Mouth
) -> None:
    """Its visitor reads why, its page is told, and the server answers 403 without a session."""
    with (
        Site({"/": page(script(server))}) as stranger,
        WidgetCaller(stranger.url, mouth(1.0)) as caller,
    ):
        caller.dial()
        caller.wait_for_state("error")
        assert "This site may not call the agent" in caller.text("error")
        caller.screenshot(PICTURES / "widget-forbidden.png")
        told = [event["detail"] for event in caller.events("error")]
        assert [problem["code"] for problem in told] == ["forbidden"]
        assert stranger.url in told[0]["advice"]
        assert caller.events("call-ended")[0]["detail"] == {"reason": "forbidden", "failed": True}
        assert caller.events("call-started") == []

        origin = {"Origin": stranger.url}
        refusal = httpx.post(f"{server.url}/start", headers=origin)
        assert refusal.status_code == 403
        assert "access-control-allow-origin" not in refusal.headers
        assert server.calls() == 0


def test_a_server_that_is_away_is_said(mouth: Mouth, site: Site, server: AgentServer) -> None:
    """An agent that cannot be reached is told from one that takes no calls from the site."""
    away = 'data-agent="Rye" data-language="de" data-server="http://127.0.0.1:9"'
    site.pages["/away"] = page(script(server, away))
    with WidgetCaller(f"{site.url}/away", mouth(1.0)) as caller:
        caller.dial()
        caller.wait_for_state("error")
        assert "nicht zu erreichen" in caller.text("error")
        assert caller.events("error")[0]["detail"]["code"] == "unreachable"


def test_two_widgets_share_the_page_and_one_call(
    server: AgentServer, site: Site, recording: Recording, mouth: Mouth
) -> None:
    """Each has its own name and place; a call in one ends the other's; mute silences its own."""
    site.pages["/two"] = page(
        script(server, ""),
        '<parley-agent agent="Ada"></parley-agent>',
        '<parley-agent agent="Bo" position="bottom-left" color="gold"></parley-agent>',
    )
    speech = recording("goforward", SAMPLE_RATE)
    with WidgetCaller(f"{site.url}/two", mouth(speech), repeat=True) as caller:
        assert caller.text("launcher") == "Talk to Ada"
        caller.dial()
        caller.wait_for_state(*IN_CALL)
        caller.wait_for(lambda: caller.level > 20, "the caller's level")
        caller.click("mute")
        caller.wait_for(lambda: caller.level == 0, "silence")
        assert caller.run("return shadow.querySelector('.mute').ariaPressed") == "true"
        assert "Mute your microphone" in caller.accessible_names()
        caller.run("document.querySelector('parley-agent').setAttribute('agent', 'Eve')")
        caller.type("text-input", "What is 7 times 6?")
        caller.click("text-send")
        caller.wait_for(
            lambda: any(turn.text.startswith("Eve") for turn in caller.turns("turn-agent")),
            "the new name",
        )
        caller.click("mute")
        caller.wait_for(lambda: caller.level > 20, "the caller's level again")

        caller.use(1)
        assert caller.text("launcher") == "Talk to Bo"
        caller.click("launcher")
        ink = "return getComputedStyle(shadow.querySelector('.connect')).color"
        assert caller.run(ink) == "rgb(23, 19, 16)"
        caller.use(0)
        assert caller.run(ink) == "rgb(255, 255, 255)"
        caller.use(1)
        caller.screenshot(PICTURES / "widget-two.png")
        caller.click("connect")
        caller.wait_for_state(*IN_CALL)
        caller.use(0)
        assert caller.state == "ended"
        server.wait_for_calls(1)
        ended = caller.events("call-ended")
        assert [event["widget"] for event in ended] == ["Eve"]

        caller.run("document.querySelectorAll('parley-agent')[1].remove()")
        server.wait_for_calls(0)
        assert caller.console() == []


def test_no_style_leaks_either_way(server: AgentServer, site: Site, mouth: Mouth) -> None:
    """A hostile style sheet changes no part of the widget, and the widget nothing of the page."""
    script_tag = script(server)
    site.pages["/plain"] = page(script_tag)
    site.pages["/hostile"] = page(script_tag, style=HOSTILE)
    site.pages["/without"] = page()

    with WidgetCaller(f"{site.url}/plain", mouth(1.0)) as caller:
        caller.look(still=True)

        def looks(path: str) -> list[str]:
            caller.go(site.url + path)
            caller.click("launcher")
            caller.screenshot(PICTURES / f"widget{path.replace('/', '-')}.png")
            found: list[str] = caller.run(LOOKS)
            return found

        assert looks("/hostile") == looks("/plain")
        around = caller.run(HOST_LOOKS)
        caller.run("document.querySelector('parley-agent').remove()")
        assert caller.host(HOST_LOOKS) == around
        caller.go(f"{site.url}/without")
        assert caller.host(HOST_LOOKS) == around


def test_any_colour_can_be_read_on(server: AgentServer, site: Site, mouth: Mouth) -> None:
    """Whatever the notation of the colour, text on it has contrast; nonsense is not taken."""
    site.pages["/colour"] = page(script(server))
    ink = (
        "document.querySelector('parley-agent').setAttribute('color', arguments[0]);"
        "const { color, backgroundColor } = getComputedStyle(shadow.querySelector('.connect'));"
        "return [color, backgroundColor]"
    )
    dark, light = "rgb(23, 19, 16)", "rgb(255, 255, 255)"
    with WidgetCaller(f"{site.url}/colour", mouth(1.0)) as caller:
        caller.look(still=True)
        caller.click("launcher")
        assert caller.run(ink, "oklch(0.85 0.2 140)")[0] == dark
        assert caller.run(ink, "lab(30 20 -60)")[0] == light
        assert caller.run(ink, "gold") == [dark, "rgb(255, 215, 0)"]
        assert caller.run(ink, "nonsense") == [light, "rgb(18, 120, 107)"]


def test_words_have_the_direction_of_their_language(
    server: AgentServer, site: Site, mouth: Mouth
) -> None:
    """A Hebrew sentence ends on the left, its question mark included, in an English panel too."""
    site.pages["/rtl"] = page(script(server, 'data-agent="Rye" data-greeting="שלום, מה השעה?"'))
    edges = (
        "const text = shadow.querySelector('.greeting').firstChild;"
        "return [0, text.length - 1].map((at) => {"
        "  const range = document.createRange();"
        "  range.setStart(text, at); range.setEnd(text, at + 1);"
        "  return range.getBoundingClientRect().x; })"
    )
    with WidgetCaller(f"{site.url}/rtl", mouth(1.0)) as caller:
        caller.click("launcher")
        first, last = caller.run(edges)
        assert last < first


def test_a_token_that_is_none_is_refused_as_one(
    server: AgentServer, site: Site, mouth: Mouth
) -> None:
    """What no header can carry is not taken for an origin that may not call."""
    site.pages["/token"] = page(script(server, 'data-agent="Rye" data-token="tök€n"'))
    with WidgetCaller(f"{site.url}/token", mouth(1.0)) as caller:
        caller.dial()
        caller.wait_for_state("error")
        assert [event["detail"]["code"] for event in caller.events("error")] == ["refused"]


def test_a_strict_policy_of_the_page_is_kept(server: AgentServer, site: Site, mouth: Mouth) -> None:
    """Scripts from the agent's server and connections to it are all that a page has to allow."""
    site.pages["/strict"] = page(script(server))
    site.policies["/strict"] = (
        f"default-src 'none'; script-src {server.url}; connect-src {server.url}; img-src data:; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    with WidgetCaller(f"{site.url}/strict", mouth(1.0)) as caller:
        caller.dial()
        caller.wait_for_state(*IN_CALL)
        assert (
            caller.run("return getComputedStyle(shadow.querySelector('.panel')).width") == "380px"
        )
        caller.wait_for(lambda: any(p.audible for p in caller.playback()), "the greeting")
        caller.click("hangup")
        assert caller.console() == []


def test_keys_stay_in_the_panel(server: AgentServer, site: Site, mouth: Mouth) -> None:
    """Escape closes the panel and gives the focus back; the page hears of no key."""
    site.pages["/keys"] = page(script(server))
    with WidgetCaller(f"{site.url}/keys", mouth(1.0)) as caller:
        expanded = "return shadow.querySelector('.launcher').ariaExpanded"
        assert caller.run(expanded) == "false"
        caller.run("window.keys = []; addEventListener('keydown', (e) => keys.push(e.key))")
        caller.click("launcher")
        assert caller.run(expanded) == "true"
        assert caller.focus == "connect"
        caller.press("ESCAPE")
        assert caller.focus == "launcher"
        assert caller.run("return window.keys") == []
        assert [event["name"] for event in caller.events()] == ["open", "close"]


def test_each_button_is_pressed_once(server: AgentServer, site: Site, mouth: Mouth) -> None:
    """Neither a double click nor a key held down goes on to what has come under it."""
    site.pages["/once"] = page(script(server))
    held = (
        "const press = (repeat) => shadow.activeElement.dispatchEvent(new KeyboardEvent("
        "  'keydown', { key: 'Enter', repeat, bubbles: true, cancelable: true, composed: true }));"
        "return [press(false), press(true)]"
    )
    with WidgetCaller(f"{site.url}/once", mouth(1.0)) as caller:
        caller.double_click("launcher")
        assert caller.text("panel")
        caller.double_click("connect")
        caller.wait_for_state(*IN_CALL)
        caller.double_click("hangup")
        caller.wait_for_state("ended")
        caller.double_click("connect")
        caller.wait_for_state(*IN_CALL)
        caller.click("hangup")
        assert caller.focus == "connect"
        assert caller.run(held) == [True, False]
        assert [e["name"] for e in caller.events() if e["name"] != "transcript"] == [
            "open",
            *("call-started", "call-ended") * 2,
        ]


def test_who_hangs_up_while_the_browser_asks_is_not_heard(
    server: AgentServer, site: Site, mouth: Mouth
) -> None:
    """A microphone that comes after the call is over is closed at once, and takes no line."""
    site.pages["/asks"] = page(MICROPHONE, script(server))
    with WidgetCaller(f"{site.url}/asks", mouth(1.0)) as caller:
        caller.run(
            "window.answer = (wish) => new Promise((say) => {"
            "  window.allow = () => say(open(wish)); })"
        )
        caller.dial()
        caller.wait_for_state("connecting")
        caller.click("hangup")
        caller.wait_for_state("ended")
        caller.run("allow()")
        caller.wait_for(lambda: caller.run("return opened[0]?.readyState") == "ended", "its end")
        assert caller.state == "ended"
        assert server.calls() == 0


def test_a_microphone_that_goes_is_missed_until_there_is_another(
    server: AgentServer, site: Site, recording: Recording, mouth: Mouth
) -> None:
    """Who is no longer heard is told so in the call, and is heard again over the next device."""
    site.pages["/unplugged"] = page(MICROPHONE, script(server))
    speech = recording("goforward", SAMPLE_RATE)
    with WidgetCaller(f"{site.url}/unplugged", mouth(speech), repeat=True) as caller:
        caller.dial()
        caller.wait_for_state(*IN_CALL)
        caller.wait_for(lambda: caller.level > 20, "the caller's level")
        caller.run(
            "window.answer = async () => { throw new DOMException('', 'NotFoundError'); };"
            "opened[0].stop(); opened[0].dispatchEvent(new Event('ended'))"
        )
        caller.wait_for(lambda: "No microphone" in caller.text("error"), "the news of it")
        assert caller.events("error")[-1]["detail"]["code"] == "microphone-missing"
        caller.wait_for(lambda: caller.level == 0, "silence")
        caller.run("window.answer = open; devices.dispatchEvent(new Event('devicechange'))")
        caller.wait_for(lambda: caller.level > 20, "the caller's level again")
        assert caller.text("error") == ""
        assert caller.state in IN_CALL
        caller.click("hangup")
        assert caller.run("return opened.every((track) => track.readyState === 'ended')")


@pytest.mark.parametrize("gesture", ["tap", "key"])
def test_sound_that_the_browser_holds_back_waits_for_a_gesture(
    server: AgentServer, site: Site, mouth: Mouth, gesture: str
) -> None:
    """A tap or a key starts it, nothing less does, and a call that is over waits for none."""
    # As Safari decides on a phone, where a finger that comes down is no gesture yet.
    locked = """
      let touched = false;
      for (const kind of ["pointerup", "keydown"]) {
        addEventListener(kind, (event) => { touched = event.pointerType !== "mouse"; }, true);
      }
      const play = HTMLMediaElement.prototype.play;
      HTMLMediaElement.prototype.play = async function () {
        if (!touched) throw new DOMException("no gesture", "NotAllowedError");
        return play.call(this);
      };
    """
    press = {
        "tap": "for (const kind of ['pointerdown', 'pointerup'])"
        " document.body.dispatchEvent("
        " new PointerEvent(kind, { pointerType: 'touch', bubbles: true }))",
        "key": "shadow.querySelector('.text').dispatchEvent("
        " new KeyboardEvent('keydown', { key: 'a', bubbles: true, composed: true }))",
    }[gesture]
    site.pages["/locked"] = page(f"<script>{locked}</script>", script(server))
    with WidgetCaller(f"{site.url}/locked", mouth(1.0)) as caller:
        caller.dial()
        caller.wait_for_state(*IN_CALL)
        caller.wait_for(lambda: "sound" in caller.text("error"), "the news of it")
        caller.run("document.body.dispatchEvent(new PointerEvent('pointerdown'))")
        assert "sound" in caller.text("error")
        caller.run(press)
        caller.wait_for(lambda: not caller.text("error"), "the sound")
        caller.wait_for(lambda: any(p.audible for p in caller.playback()), "the greeting")
        caller.click("hangup")
        caller.wait_for_state("ended")

        caller.run("touched = false")
        caller.click("connect")
        caller.wait_for_state(*IN_CALL)
        caller.wait_for(lambda: "sound" in caller.text("error"), "the news of it")
        caller.click("hangup")
        caller.wait_for_state("ended")
        caller.run(press)
        assert caller.run("return shadow.querySelector('audio').srcObject") is None
        assert caller.console() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone_in_both_themes(
    server: AgentServer, site: Site, mouth: Mouth, theme: str
) -> None:
    """The open panel is the phone's screen; what is to be pressed is large enough for a thumb."""
    site.pages["/phone"] = page(script(server, 'data-agent="Rye" data-language="fr"'))
    with WidgetCaller(f"{site.url}/phone", mouth(1.0)) as caller:
        caller.look(theme=theme, size=PHONE, still=True)
        caller.go(f"{site.url}/phone")
        caller.click("launcher")
        caller.screenshot(PICTURES / f"widget-phone-{theme}.png")
        box = caller.run(
            "const { width, height } = shadow.querySelector('.panel').getBoundingClientRect();"
            "return [width, height]"
        )
        assert tuple(box) == PHONE
        assert caller.run("return shadow.querySelector('.root').dataset.theme") == theme
        sizes = caller.run(
            "return [...shadow.querySelectorAll('button')].filter((b) => b.offsetWidth)"
            ".map((b) => Math.min(b.offsetWidth, b.offsetHeight))"
        )
        assert min(sizes) >= 40


def test_on_a_phone_the_page_behind_is_out_of_reach(
    server: AgentServer, site: Site, mouth: Mouth
) -> None:
    """Only while the panel is the screen: then it has the focus, what is read out, and Escape."""
    site.pages["/modal"] = page(script(server))
    behind = (
        "const button = document.querySelector('p button');"
        "const { activeElement } = document;"
        "button.focus();"
        "const reached = document.activeElement === button;"
        "activeElement.shadowRoot?.activeElement?.focus();"
        "return reached"
    )
    live = "return shadow.querySelector('.panel').contains(shadow.querySelector('[aria-live]'))"
    with WidgetCaller(f"{site.url}/modal", mouth(1.0)) as caller:
        caller.click("launcher")
        assert caller.run(behind)
        caller.click("connect")
        caller.wait_for_state(*IN_CALL)

        caller.look(size=PHONE, still=True)
        caller.wait_for(lambda: not caller.run(behind), "the dialog")
        assert caller.run(live)
        met = set()
        for _ in range(12):
            caller.press("TAB")
            met.add(caller.focus)
        assert {"mute", "text-input", "text-send", "hangup", "transcript", "close"} <= met
        assert caller.host("return document.activeElement.tagName") != "BUTTON"
        caller.run("shadow.activeElement?.blur()")
        caller.press("ESCAPE")
        caller.wait_for(lambda: caller.run(behind), "the page")
        assert not caller.run(live)
        assert len(caller.events("close")) == 1

        caller.click("launcher")
        assert caller.focus == "status"
        caller.run("document.body.prepend(document.querySelector('parley-agent'))")
        assert not caller.run(behind)
        caller.click("close")
        assert caller.focus == "launcher"
        caller.click("launcher")
        caller.run("document.querySelector('parley-agent').hidden = true")
        assert caller.host("return document.activeElement === document.body")
        assert caller.run(behind)
        assert caller.state in IN_CALL
        caller.run("document.querySelector('parley-agent').hangUp()")
        assert caller.console() == []


@pytest.mark.parametrize(
    ("name", "limit"), [("widget.js", MAX_PACKED_BYTES), ("widget-daily.js", MAX_DAILY_BYTES)]
)
def test_the_script_is_small_and_cached(server: AgentServer, name: str, limit: int) -> None:
    """It comes packed, any page may load it, and who has it already is told so."""
    address = f"{server.url}/{name}"
    with httpx.stream("GET", address) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "max-age" in answer.headers["cache-control"]
    assert len(packed) < limit
    whole = httpx.get(address, headers={"Accept-Encoding": "identity"})
    assert whole.content == gzip.decompress(packed)
    assert whole.headers["etag"] != answer.headers["etag"]
    again = httpx.get(address, headers={"If-None-Match": f"W/{answer.headers['etag']}, x"})
    assert (again.status_code, again.content) == (304, b"")
