"""Every choice of voice, ear and mind: its name, and the package that it needs.

`bot/engines.py` builds what is chosen here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from services.errors import MissingExtraError


@dataclass(frozen=True, slots=True)
class Choice:
    """One engine or service that a setting can name.

    Attributes:
        name: What the setting calls it.
        package: The module that it needs, or None.
        extra: The extra of ours that installs the package.
    """

    name: str
    package: str | None = None
    extra: str | None = None

    @property
    def installed(self) -> bool:
        """Whether its package is there. Looks it up without importing it."""
        return self.package is None or find_spec(self.package) is not None

    def require(self, setting: str) -> None:
        """Make sure that it can be used.

        Args:
            setting: How the choice was spelled, for the message: `--tts piper`.

        Raises:
            MissingExtraError: Its package is not installed.
        """
        if not self.installed:
            raise MissingExtraError(
                f"{setting}: {self.package} is not installed; pip install 'parley[{self.extra}]'"
            )


AUTO = "auto"
"""The choice that takes the best of what can be had."""

TTS = (Choice("piper", "piper", "piper"),)

STT = (
    Choice("whisper", "faster_whisper", "whisper"),
    Choice("pocketsphinx", "pocketsphinx", "pocketsphinx"),
)

LLM = (Choice("openai"), Choice("ollama"), Choice("builtin"))


def choices() -> dict[str, Sequence[str]]:
    """The values that the settings `tts`, `stt` and `llm` may take."""
    return {
        "tts": [c.name for c in TTS],
        "stt": [AUTO, *(c.name for c in STT)],
        "llm": [AUTO, *(c.name for c in LLM)],
    }


def choice(kind: Sequence[Choice], name: str) -> Choice:
    """The row of that name.

    Raises:
        KeyError: There is none.
    """
    for row in kind:
        if row.name == name:
            return row
    raise KeyError(name)
