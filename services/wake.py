"""Listens for wake words: the few words that tell an agent it is spoken to.

openWakeWord's models (https://github.com/dscripka/openWakeWord), which the wheel of pyopen-wakeword
holds together with TensorFlow Lite. They know English phrases only, and are CC BY-NC-SA 4.0: not
for commercial use, whatever the wheel's own licence says.

Importing this module needs the `wake` extra.
"""

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.errors import EngineError, MissingExtraError
from services.stt.engine import SAMPLE_RATE

try:
    from pyopen_wakeword import Model, OpenWakeWord, OpenWakeWordFeatures
except ImportError as missing:
    raise MissingExtraError(
        f"wake words need the package {missing.name}: pip install 'parley[wake]'"
    ) from missing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

THRESHOLD = 0.5
"""Probability above which a word counts as heard: openWakeWord's own default."""

REFRACTORY_S = 2.0
"""Seconds after a word was heard in which it is not heard again: a word said once is found in
several windows. wyoming-openwakeword's default."""

_STEP_BYTES = 2 * 1280
# What the models move on by, 80 ms. The library takes 10 s at a time at most, and not nothing.

# What of a detector changes as it hears.
_FEATURES_STATE = ("audio", "new_audio_samples", "mels", "new_mels")
_WORD_STATE = ("embeddings", "new_embeddings")


class UnknownWakeWordError(EngineError):
    """There is no model for that word."""


@dataclass(frozen=True, slots=True)
class WakeWord:
    """A word that can be listened for.

    Attributes:
        name: What `WakeWords.listen` takes, for example `okay_nabu`.
        phrase: What a person says, for example `Okay Nabu`.
    """

    name: str
    phrase: str


@dataclass(frozen=True, slots=True)
class WakeDetection:
    """A wake word that was heard.

    Attributes:
        name: Which.
        at: Seconds from the stream's first sample to where it was known, some tenths of a second
            after the word's end.
        probability: How sure the model is, 0 to 1.
    """

    name: str
    at: float
    probability: float


class WakeWords:
    """The wake words, ready to be listened for in any number of streams.

    The models look at the last two seconds of sound. At a stream's beginning that is silence, which
    takes the library half a second of processor time to go through: it is done once, here, and
    every stream starts with a copy of what came of it. A stream takes about 7 MB.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        """Load the models. Blocks for about half a second.

        Raises:
            EngineError: The models cannot be loaded.
        """
        self.words = tuple(WakeWord(m.value, m.value.replace("_", " ").title()) for m in Model)
        try:
            self._features: Any = OpenWakeWordFeatures.from_builtin()
            self._words: dict[str, Any] = {m.value: OpenWakeWord.from_builtin(m) for m in Model}
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"the wake words' models cannot be loaded: {error}") from error
        for embedding in self._features.process_streaming(bytes(_STEP_BYTES)):
            for word in self._words.values():
                _probabilities(word, embedding)

    def check(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names, each once.

        Raises:
            UnknownWakeWordError: There is no such word.
        """
        unique = tuple(dict.fromkeys(names))
        for name in unique:
            if name not in self._words:
                raise UnknownWakeWordError(
                    f"there is no wake word {name!r}: there are {', '.join(self._words)}"
                )
        return unique

    def listen(
        self, names: Iterable[str] = (), *, threshold: float = THRESHOLD
    ) -> "WakeWordListener":
        """Begin to listen to a stream of audio.

        Args:
            names: The words to listen for; all of them where there is none.
            threshold: Probability above which a word counts as heard.

        Raises:
            UnknownWakeWordError: There is no such word.
        """
        wanted = self.check(names) or tuple(self._words)
        features = OpenWakeWordFeatures.from_builtin()
        _copy_state(_FEATURES_STATE, self._features, features)
        words = {}
        for name in wanted:
            words[name] = OpenWakeWord.from_builtin(Model(name))
            _copy_state(_WORD_STATE, self._words[name], words[name])
        return WakeWordListener(features, words, threshold)


class WakeWordListener:
    """Listens to one stream. Not for several threads at once.

    A second of audio costs some 80 ms of processor time on one core, for one word as for five. The
    interpreter is free for other threads meanwhile.
    """

    def __init__(self, features: Any, words: dict[str, Any], threshold: float) -> None:
        """Take the detectors; `WakeWords.listen` makes them."""
        self._features = features
        self._words = words
        self._threshold = threshold
        self._samples = 0
        self._heard_at: dict[str, float] = {}

    def hear(self, pcm: bytes) -> list[WakeDetection]:
        """Take the next audio.

        Args:
            pcm: Signed 16-bit little-endian mono samples at `SAMPLE_RATE`, any number of them.

        Returns:
            What was heard in it, in order.

        Raises:
            ValueError: Half a sample is among them.
        """
        if len(pcm) % 2:
            raise ValueError(f"{len(pcm)} bytes are no 16-bit samples")
        detections = []
        for start in range(0, len(pcm), _STEP_BYTES):
            step = pcm[start : start + _STEP_BYTES]
            self._samples += len(step) // 2
            at = self._samples / SAMPLE_RATE
            for embedding in self._features.process_streaming(step):
                for name, word in self._words.items():
                    probability = max(_probabilities(word, embedding), default=0.0)
                    if probability > self._threshold and self._rested(name, at):
                        self._heard_at[name] = at
                        detections.append(WakeDetection(name, at, probability))
        return detections

    def _rested(self, name: str, at: float) -> bool:
        return name not in self._heard_at or at - self._heard_at[name] >= REFRACTORY_S


def _probabilities(word: Any, embedding: "NDArray[np.float32]") -> list[float]:
    """How likely the word ends in each of the windows that an embedding completes."""
    return list(word.process_streaming(embedding))


def _copy_state(names: Iterable[str], source: Any, target: Any) -> None:
    for name in names:
        setattr(target, name, copy(getattr(source, name)))
