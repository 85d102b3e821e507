"""What the engines that run a PyTorch model in this process have in common.

Importing this module does not import torch.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from threading import Event, Lock
from typing import Any, ClassVar, Generic, TypeVar
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from services.errors import EngineError, UnknownVoiceError, one_line
from services.models import models
from services.settings import SettingsError, blame
from services.tts import voices
from services.tts.engine import Chunk, VoiceInfo, check_speed
from services.tts.estimate import with_words
from services.tts.references import ANY_LANGUAGE, Reference
from services.tts.tempo import at_speed

Samples = NDArray[np.float32]
Model = TypeVar("Model")

WARM_UP = "Hello."
"""Spoken to nobody when an engine is loaded, up to its first sound."""

_KEPT_STATES = 16
# A voice's state is up to some 20 MB.

_WAIT_S = 0.02
# How often an utterance that waits for the model looks whether it is still wanted.


class TorchEngine(ABC, Generic[Model]):
    """Speaks with one model, one utterance at a time; see `SpeechEngine`.

    The model and what it made of its voices' clips are in the process's model store. An utterance
    that has to wait for another leaves as soon as it is told to stop. The times of words are
    estimated.

    Attributes:
        name: What the settings call the engine.
        at_once: 1: the models keep an utterance's state in themselves.
    """

    name: ClassVar[str]
    at_once: ClassVar[int] = 1

    def __init__(
        self,
        model: str,
        device: str,
        references: Mapping[str, Reference],
        built_in: tuple[VoiceInfo, ...],
        language: str,
        default_voice: str | None,
    ) -> None:
        """Take what is common to all; nothing is loaded yet.

        Args:
            model: Where the model comes from.
            device: `cpu` or `cuda`.
            references: The clips that voices are cloned from.
            built_in: The voices that the model has by itself, its own default first.
            language: BCP 47 tag of what is spoken with a clip whose name tells no language.
            default_voice: The voice where none is asked for; None for the first clip, or the
                first voice of the model where there is no clip.

        Raises:
            EngineError: There is no voice.
            UnknownVoiceError: There is no voice of that name.
        """
        self.model = model
        self.device = device
        self._references = references
        cloned = (_describe(reference, language) for reference in references.values())
        self._voices = {info.name: info for info in (*cloned, *built_in)}
        if not self._voices:
            raise EngineError(
                f"{self.name} has no voice: its model brings none, so it needs reference clips"
            )
        if default_voice:
            first = self._find(default_voice)
            self._voices = {first.name: first, **self._voices}
        self._resident: ref[_Resident[Model]] | None = None

    def load(self, voice: str = "") -> None:
        """Load the model, and have it speak with a voice up to the first sound.

        Args:
            voice: The voice's name; empty for the default one.

        Raises:
            UnknownVoiceError: There is no such voice.
            UnavailableError: The model is not here and cannot be fetched.
            EngineError: Its files, or the voice's clip, cannot be used.
        """
        with closing(self.speak(WARM_UP, voice, 1.0, Event())) as chunks:
            next(chunks, None)

    def loaded(self) -> tuple[str, ...]:
        """The voices that the model in memory has spoken with of late."""
        resident = self._resident and self._resident()
        return tuple(resident.states) if resident else ()

    def voices(self) -> tuple[VoiceInfo, ...]:
        """The voices that can be spoken with now, the default one first."""
        return tuple(self._voices.values())

    def speak(
        self, text: str, voice: str, speed: float, stop: Event
    ) -> Generator[Chunk, None, None]:
        """Speak `text`; see `SpeechEngine.speak`.

        Args:
            text: What to say.
            voice: A name out of `voices`; the default voice where empty.
            speed: 1.0 is the voice's own pace, 2.0 twice as fast; within `SPEED_LIMITS`.
            stop: Ends synthesis, and the wait for another utterance's end.

        Yields:
            At most 80 ms of audio at a time, with the words that are thought to end in it.

        Raises:
            UnknownVoiceError: There is no such voice.
            UnavailableError: The model is not here and cannot be fetched.
            EngineError: Synthesis failed.
        """
        check_speed(speed)
        info = self._find(voice) if voice else next(iter(self._voices.values()))
        if stop.is_set() or not any(char.isalnum() for char in text):
            return
        with (
            models.use(f"{self.name}:{self.model}:{self.device}", self._make_resident) as resident,
            resident.turn(stop) as mine,
        ):
            self._resident = ref(resident)
            if not mine:
                return
            with closing(self._pcm(resident, text, info, speed, stop)) as pcm:
                yield from with_words(pcm, text, resident.sample_rate, speed, stop)

    def close(self) -> None:
        """Nothing to free: the model is the model store's."""

    @abstractmethod
    def _load_model(self) -> tuple[Model, int]:
        """Load the model.

        Returns:
            The model, and how many samples a second it gives.
        """

    @abstractmethod
    def _prepare(self, model: Model, voice: VoiceInfo, reference: Reference | None) -> Any:
        """What the model needs to know of a voice, made once.

        Args:
            model: The model, which nobody else uses meanwhile.
            voice: The voice.
            reference: The clip that it is cloned from; None for a voice of the model.
        """

    @abstractmethod
    def _synthesize(
        self, model: Model, state: Any, voice: VoiceInfo, text: str, speed: float, stop: Event
    ) -> Generator[Samples, None, None]:
        """Speak `text` with a model that nobody else uses meanwhile.

        Closing the generator ends synthesis, and waits until the model is free.

        Args:
            model: The model.
            state: What `_prepare` made of the voice.
            voice: The voice.
            text: What to say; there is a letter or digit in it.
            speed: For models with a pace of their own to set: see `_pace`.
            stop: Set to end synthesis early.

        Yields:
            Samples of any number, 1.0 being full scale.
        """

    def _pace(self, speed: float) -> float:
        """How much of the speed the model does by itself; the rest is done to its audio."""
        del speed
        return 1.0

    def _find(self, voice: str) -> VoiceInfo:
        info = self._voices.get(voice)
        if info is None:
            raise voices.unknown(voice, list(self._voices))
        return info

    def _make_resident(self) -> "_Resident[Model]":
        model, sample_rate = self._load_model()
        return _Resident(model, sample_rate)

    def _pcm(
        self, resident: "_Resident[Model]", text: str, voice: VoiceInfo, speed: float, stop: Event
    ) -> Generator[bytes, None, None]:
        """The utterance's audio at the speed that is asked for."""
        try:
            state = resident.states.pop(voice.name, None)
            if state is None:
                state = self._prepare(resident.model, voice, self._references.get(voice.name))
            resident.states[voice.name] = state
            if len(resident.states) > _KEPT_STATES:
                del resident.states[next(iter(resident.states))]
            pace = self._pace(speed)
            with closing(
                self._synthesize(resident.model, state, voice, text, pace, stop)
            ) as samples:
                yield from at_speed(map(to_pcm, samples), resident.sample_rate, speed / pace)
        except EngineError:
            raise
        except Exception as error:
            if not stop.is_set():
                raise EngineError(f"{self.name} cannot speak: {one_line(error)}") from error


class _Resident(Generic[Model]):
    """A model in memory, for one utterance at a time.

    Attributes:
        model: The model.
        sample_rate: Samples a second that it gives.
        states: What it needs to know of each voice, the one used last at the end.
    """

    def __init__(self, model: Model, sample_rate: int) -> None:
        self.model = model
        self.sample_rate = sample_rate
        self.states: dict[str, Any] = {}
        self._lock = Lock()

    @contextmanager
    def turn(self, stop: Event) -> Iterator[bool]:
        """Wait for the model; false where `stop` is set before it is free."""
        while not stop.is_set():
            if self._lock.acquire(timeout=_WAIT_S):
                try:
                    yield True
                finally:
                    self._lock.release()
                return
        yield False


def choose_device(device: str) -> str:
    """What torch computes on.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Returns:
        `cpu` or `cuda`.

    Raises:
        EngineError: There is no such device here.
    """
    import torch

    if device not in {"auto", "cpu", "cuda"}:
        raise EngineError(f"device {device!r}: use auto, cpu or cuda")
    if device == "cpu":
        return device
    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        why = "this torch is built without CUDA" if torch.version.cuda is None else "no GPU is seen"
        raise EngineError(f"device 'cuda': {why}; use auto or cpu")
    return "cpu"


@contextmanager
def blame_model(flag: str) -> Iterator[None]:
    """Put the setting before what an engine says when it is made; see `services.settings.blame`.

    Args:
        flag: The setting that names the model. A voice that is not there is `--tts-voice`'s fault.
    """
    with blame(flag):
        try:
            yield
        except UnknownVoiceError as error:
            raise SettingsError(f"--tts-voice: {error}") from None


def go_offline() -> None:
    """Keep the Hugging Face client, which the models' packages fetch with, from the network.

    It holds for the process: whatever has to be fetched fails at once.
    """
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True


def to_pcm(samples: Samples) -> bytes:
    """Samples, 1.0 being full scale, as signed 16-bit ones; what is louder is clipped."""
    return (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()


def _describe(reference: Reference, language: str) -> VoiceInfo:
    tag = reference.language
    return VoiceInfo(
        reference.name, f"{reference.name} (cloned)", language if tag == ANY_LANGUAGE else tag
    )
