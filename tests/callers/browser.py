"""A caller in a real browser: headless Chromium on the agent's page, with a recording for a mouth.

Chromium plays a WAV file in place of a microphone, starting when the page opens the microphone, so
what the caller says is a timeline fixed beforehand (`save_wav`). A probe that runs before the
page's own code notes what comes over the data channel and what the listener hears: the level of
the agent's audio, and whether an element plays it unmuted.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from selenium import webdriver
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.alert import Alert
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

POLL_SECONDS = 0.05
WAIT_LIMIT = 30.0
AUDIBLE_LEVEL = 0.003
"""RMS level (1 is full scale) above which the agent counts as heard: -50 dBFS."""

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--window-size=1280,900",
    # The network is cut: whatever the page needs has to come from its own server.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

_PROBE = """
(() => {
  const probe = (window.parleyProbe = { messages: [], levels: [] });
  const Native = window.RTCPeerConnection;
  const now = () => performance.timeOrigin + performance.now();
  const playing = () => [...document.querySelectorAll("audio,video"), ...probe.detached].some(
    (e) => e.srcObject && !e.paused && !e.muted && e.volume > 0);
  // Elements that the page plays outside the document, or in a shadow root.
  probe.detached = [];
  const play = HTMLMediaElement.prototype.play;
  HTMLMediaElement.prototype.play = function () {
    if (!document.contains(this) && !probe.detached.includes(this)) probe.detached.push(this);
    return play.call(this);
  };
  // The track's own samples: a connection's statistics let a sound's level fade for half a second.
  const listen = ({ track, receiver }) => {
    const context = new AudioContext();
    const analyser = new AnalyserNode(context, { fftSize: 2048 });
    context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    const timer = setInterval(() => {
      if (track.readyState === "ended") {
        clearInterval(timer);
        return void context.close();
      }
      analyser.getFloatTimeDomainData(samples);
      const level = Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
      const [source] = receiver.getSynchronizationSources();
      const position = source?.rtpTimestamp ?? 0;
      probe.levels.push({ at: now() / 1000, level, playing: playing(), position });
    }, 40);
  };
  window.RTCPeerConnection = class extends Native {
    constructor(...args) {
      super(...args);
      this.addEventListener("track", (e) => e.track.kind === "audio" && listen(e));
    }
    createDataChannel(...args) {
      const channel = super.createDataChannel(...args);
      channel.addEventListener("message", (e) => {
        probe.messages.push({ at: now() / 1000, ...JSON.parse(e.data) });
      });
      return channel;
    }
  };
})();
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the conversation as the page shows it.

    Attributes:
        text: Its words.
        interrupted: Whether it is marked as cut short.
    """

    text: str
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Playback:
    """What the listener got from the agent, looked at every 40 ms or so.

    Attributes:
        at: When, in seconds of `time.time()`.
        level: The RMS level of the last 43 ms of the received audio, 1 being full scale.
        playing: Whether an element played it, not paused and not muted.
        position: Where in the agent's sound the browser was: the RTP timestamp of what it last
            played, in samples at 48 kHz, modulo 2**32
            (https://www.w3.org/TR/webrtc/#dom-rtcrtpcontributingsource-rtptimestamp). A busy
            browser stretches sound and drops what comes late, so time does not tell it.
    """

    at: float
    level: float
    playing: bool
    position: int

    @property
    def audible(self) -> bool:
        """Whether a listener heard something."""
        return self.playing and self.level > AUDIBLE_LEVEL


class BrowserCaller:
    """One browser on the agent's page; leaving the context closes it."""

    scope = "document"
    """The script's expression for what elements are looked for in."""

    def __init__(self, url: str, microphone: Path | None, *, repeat: bool = False):
        """Start Chromium and open the page.

        Args:
            url: The page's address.
            microphone: A 48 kHz mono WAV file to speak, or None to refuse the page a microphone.
            repeat: Whether the file is spoken over and over, instead of once and then silence.

        Raises:
            FileNotFoundError: Chromium or ChromeDriver is not installed.
        """
        options = Options()
        options.binary_location = _program("chromium", "chromium-browser", "google-chrome")
        for flag in _FLAGS:
            options.add_argument(flag)
        if microphone is None:
            options.add_argument("--deny-permission-prompts")
        else:
            once = "" if repeat else "%noloop"
            options.add_argument("--use-fake-ui-for-media-stream")
            options.add_argument("--use-fake-device-for-media-stream")
            options.add_argument(f"--use-file-for-fake-audio-capture={microphone}{once}")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self._driver = webdriver.Chrome(options, Service(_program("chromedriver")))
        self._driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _PROBE})
        self._driver.get(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._driver.quit()

    # What the caller does

    def click(self, name: str) -> None:
        """Click the element whose `data-testid` is `name`, once it can be clicked."""

        def try_it() -> bool | None:
            found = self._find(name)
            if not (found and found[0].is_displayed() and found[0].is_enabled()):
                return None
            found[0].click()
            return True

        self.wait_for(try_it, f"a click on {name}")

    def type(self, name: str, text: str) -> None:
        """Type into the field whose `data-testid` is `name`."""

        def try_it() -> bool | None:
            found = self._find(name)
            if not (found and found[0].is_displayed() and found[0].is_enabled()):
                return None
            found[0].send_keys(text)
            return True

        self.wait_for(try_it, f"the field {name}")

    def choose(self, name: str, value: str) -> None:
        """Take the option of a value in the list whose `data-testid` is `name`."""
        Select(self._find(name)[0]).select_by_value(value)

    def answer(self, text: str) -> str:
        """Answer what the page asks for in a dialog of the browser's own, and tell what it asked.

        Raises:
            TimeoutError: It asked nothing within `WAIT_LIMIT`.
        """

        def dialog() -> Alert | None:
            try:
                return self._driver.switch_to.alert
            except NoAlertPresentException:
                return None

        asked = self.wait_for(dialog, "a dialog")
        question = str(asked.text)
        asked.send_keys(text)
        asked.accept()
        return question

    def screenshot(self, path: Path) -> None:
        """Save what the page looks like as a PNG file, making its folder where needed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._driver.save_screenshot(str(path))

    # What the page shows

    @property
    def state(self) -> str:
        """The call's state as the page's root element says it."""
        found = f"{self.scope}.querySelector('[data-state]')"
        return str(self._run(f"return {found}?.dataset.state ?? ''"))

    @property
    def focus(self) -> str:
        """The `data-testid` of the element that has the focus; empty where it has none."""
        return str(self._run(f"return {self.scope}.activeElement?.dataset.testid ?? ''"))

    def text(self, name: str) -> str:
        """The visible text of the element whose `data-testid` is `name`; empty without one."""
        found = self._find(name)
        return found[0].text if found else ""

    def options(self, name: str) -> dict[str, str]:
        """What the list whose `data-testid` is `name` offers: each option's value, and its text."""
        offered: dict[str, str] = self._run(
            f"return Object.fromEntries([...{self.scope}.querySelector("
            "`[data-testid='${arguments[0]}']`).options].map((o) => [o.value, o.text]))",
            name,
        )
        return offered

    def chosen(self, name: str) -> str:
        """The value at which the list whose `data-testid` is `name` stands."""
        return str(self._find(name)[0].get_property("value"))

    def turns(self, name: str) -> list[Turn]:
        """The transcript's turns of one side: `turn-user` or `turn-agent`."""
        rows = self._run(
            f"return [...{self.scope}.querySelectorAll(`[data-testid='${{arguments[0]}}']`)]"
            ".map((e) => [e.innerText, e.dataset.interrupted === 'true'])",
            name,
        )
        return [Turn(text, interrupted) for text, interrupted in rows]

    # What the probe noted

    def messages(self, kind: str = "") -> list[dict[str, Any]]:
        """What came over the data channel, each with `at` in seconds of `time.time()`.

        Args:
            kind: Only messages of this RTVI type, if given.
        """
        noted: list[dict[str, Any]] = self._run("return window.parleyProbe.messages")
        return [m for m in noted if not kind or m.get("type") == kind]

    def playback(self) -> list[Playback]:
        """What the listener got, from the connection on."""
        noted = self._run("return window.parleyProbe.levels")
        return [Playback(**n) for n in noted]

    def requests(self) -> list[str]:
        """Every address that the page has asked for since the last time, WebSockets included."""
        urls = []
        for entry in self._log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                urls.append(event["params"]["request"]["url"])
            elif event["method"] == "Network.webSocketCreated":
                urls.append(event["params"]["url"])
        return urls

    def console(self, level: str = "SEVERE") -> list[str]:
        """What the page's console has been told at a level since the last time."""
        return [e["message"] for e in self._log("browser") if e["level"] == level]

    # Waiting

    def wait_for(self, probe: Callable[[], T | None], what: str, limit: float = WAIT_LIMIT) -> T:
        """The probe's first result that is neither None nor empty nor False.

        Raises:
            TimeoutError: There was none within `limit` seconds.
        """
        deadline = time.monotonic() + limit
        while True:
            if found := probe():
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come in {limit:g} s; {self._summary()}")
            time.sleep(POLL_SECONDS)

    def wait_for_state(self, *states: str, limit: float = WAIT_LIMIT) -> str:
        """Wait until the call is in one of these states, and return it."""
        return self.wait_for(
            lambda: self.state if self.state in states else None, " or ".join(states), limit
        )

    # Inside

    def _find(self, name: str) -> list[WebElement]:
        return self._driver.find_elements("css selector", f"[data-testid='{name}']")

    def _run(self, script: str, *arguments: Any) -> Any:
        return self._driver.execute_script(script, *arguments)

    def _log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self._driver.get_log(kind)
        return entries

    def _summary(self) -> str:
        shown = {"state": self.state, "error": self.text("error")}
        shown |= {"turns": str(self.turns("turn-user") + self.turns("turn-agent"))}
        return f"the page shows {shown}, its console {self.console()}"


def _program(*names: str) -> str:
    """The path of the first of these programs that is installed."""
    for name in names:
        if path := shutil.which(name):
            return path
    raise FileNotFoundError(f"none of these programs is installed: {', '.join(names)}")
