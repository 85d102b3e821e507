"""A caller in a real browser on somebody else's page, which has embedded the agent's widget."""

from pathlib import Path
from typing import Any

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.callers.browser import BrowserCaller

_EVENTS = ("open", "close", "call-started", "transcript", "error", "call-ended")

_LISTEN = f"""
window.parleyEvents = [];
for (const name of {list(_EVENTS)}) {{
  window.addEventListener(`parley:${{name}}`, (e) =>
    window.parleyEvents.push({{ name, detail: e.detail, widget: e.target.getAttribute("agent") }}));
}}
"""

PHONE = (390, 844)
"""The size of a phone's screen, in CSS pixels."""


class WidgetCaller(BrowserCaller):
    """One browser on a page with widgets; `data-testid`s are those of one of them, the first."""

    def __init__(self, url: str, microphone: Path | None, *, repeat: bool = False):
        """Start Chromium and open the page; see `BrowserCaller`."""
        super().__init__("about:blank", microphone, repeat=repeat)
        self._driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _LISTEN})
        self.use(0)
        self.go(url)

    def go(self, url: str) -> None:
        """Open another page."""
        self._driver.get(url)

    def use(self, index: int) -> None:
        """Turn to another of the page's widgets, counted from 0."""
        self._index = index
        self.scope = f"document.querySelectorAll('parley-agent')[{index}].shadowRoot"

    def look(
        self, *, theme: str = "light", size: tuple[int, int] | None = None, still: bool = False
    ) -> None:
        """Have the browser be another one.

        Args:
            theme: What the caller prefers: `light` or `dark`.
            size: Width and height of a phone's screen in CSS pixels; None for the desk.
            still: Whether the caller prefers less motion.
        """
        features = [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        if size:
            width, height = size
            metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
            self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        else:
            self._driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script of the page returns; in it, `shadow` is the widget's shadow root."""
        return self._run(f"const shadow = {self.scope}; {script}", *arguments)

    def host(self, script: str, *arguments: Any) -> Any:
        """What a script of the page returns, which needs no widget to be there."""
        return self._run(script, *arguments)

    @property
    def level(self) -> int:
        """How loud the caller is, as the panel shows it: 0 to 100."""
        return int(self.run("return shadow.querySelector('.meter-caller').ariaValueNow"))

    def dial(self) -> None:
        """Open the panel and press what begins a call."""
        self.click("launcher")
        self.click("connect")

    def double_click(self, name: str) -> None:
        """Click the element whose `data-testid` is `name` as people open files."""
        ActionChains(self._driver).double_click(self._find(name)[0]).perform()

    def press(self, key: str) -> None:
        """Press a key wherever the focus is, by its name in Selenium's `Keys`."""
        ActionChains(self._driver).send_keys(getattr(Keys, key)).perform()

    def accessible_names(self) -> list[str]:
        """What assistive technology calls the buttons and fields that can be seen."""
        root = self._driver.find_elements(By.CSS_SELECTOR, "parley-agent")[self._index].shadow_root
        controls = root.find_elements(By.CSS_SELECTOR, "button, input")
        return [control.accessible_name for control in controls if control.is_displayed()]

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """What the page was told: `name`, `detail` and `widget`, the name of the widget's agent."""
        told: list[dict[str, Any]] = self._run("return window.parleyEvents")
        return [event for event in told if not name or event["name"] == name]

    def _find(self, name: str) -> list[WebElement]:
        hosts = self._driver.find_elements(By.CSS_SELECTOR, "parley-agent")
        if len(hosts) <= self._index:
            return []
        root = hosts[self._index].shadow_root
        return root.find_elements(By.CSS_SELECTOR, f"[data-testid='{name}']")
