"""Pocket TTS: Kyutai's small model, made to run on a CPU.

Importing this module needs the `pocket` extra. The package's code is MIT.
"""

from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

from services.catalog import Loaded
from services.errors import EngineError, MissingExtraError, UnavailableError, one_line
from services.settings import EngineSettings, SettingsError, blame
from services.tts.engine import SpeechEngine, VoiceInfo
from services.tts.pieces import pieces
from services.tts.references import ANY_LANGUAGE, Reference, find_references
from services.tts.torch_engine import Samples, TorchEngine, blame_model, go_offline
from services.tts.voices import Progress

try:
    from pocket_tts import TTSModel
    from pocket_tts.default_parameters import get_default_voice_for_language
    from pocket_tts.utils.config import CONFIGS_DIR
    from pocket_tts.utils.utils import (
        _ORIGINS_OF_PREDEFINED_VOICES as PREDEFINED,
    )
    from pocket_tts.utils.utils import (
        download_if_necessary,
        get_predefined_voice,
    )
except ImportError as missing:
    raise MissingExtraError(
        f"Pocket needs the package {missing.name}: pip install 'parley[pocket]'"
    ) from missing

MODELS = {
    "en": "english",
    "fr": "french",
    "de": "german",
    "pt": "portuguese",
    "it": "italian",
    "es": "spanish",
    "nl": "dutch",
}
"""Kyutai's model of each language, by its ISO 639-1 code."""

PIECE = 400
"""Characters that the package is given at a time. It cuts them further, to 50 tokens, in a time
that grows with the square of their number."""

TERMS = "https://huggingface.co/kyutai/pocket-tts"


class PocketEngine(TorchEngine[Any]):
    """Speaks with a Pocket TTS model, a frame of 80 ms at a time; see `SpeechEngine`.

    A model speaks one language. Kyutai's have voices of their own; any can clone a clip, given
    the weights for it. The model has no pace to set: speed is made of its audio.

    Importing the package sets the threads of torch's operations to one, in the whole process: a
    model of this size is no faster on more. Generation and decoding are a thread each.
    """

    name = "pocket"

    def __init__(
        self,
        model: str = "english",
        *,
        references: Mapping[str, Reference] | None = None,
        default_voice: str | None = None,
        offline: bool = False,
    ) -> None:
        """Take the settings; nothing is loaded before `load` or the first `speak`.

        Args:
            model: One of Kyutai's, such as `english` or `french_24l`, or the path of the YAML file
                of another, whose weights it names.
            references: The clips that voices are cloned from.
            default_voice: The voice where none is asked for; None for the first clip, or without
                clips the one that Kyutai chose for the language.
            offline: Fetch nothing: only voices that are in the cache can be had.

        Raises:
            EngineError: There is no such model, or it is not Kyutai's and there is no clip.
            UnknownVoiceError: There is no voice of that name.
        """
        self._config = Path(model) if model.endswith((".yaml", ".yml")) else None
        if offline:
            go_offline()
        if self._config is not None:
            if not self._config.is_file():
                raise EngineError(f"Pocket model {model!r}: no such file")
            # Kyutai's voices are states of Kyutai's weights.
            language = ANY_LANGUAGE
            built_in: tuple[VoiceInfo, ...] = ()
        else:
            known = sorted(path.stem for path in CONFIGS_DIR.glob("*.yaml"))
            if model not in known:
                raise EngineError(
                    f"Pocket model {model!r}: the models are {', '.join(known)}, or a .yaml file"
                )
            language = next(
                (code for code, name in MODELS.items() if model.startswith(name)), ANY_LANGUAGE
            )
            names = [get_default_voice_for_language(model), *PREDEFINED]
            built_in = tuple(
                VoiceInfo(name, name.replace("_", " ").title(), language)
                for name in dict.fromkeys(names)
                if not offline or _is_cached(model, name)
            )
        super().__init__(model, "cpu", references or {}, built_in, language, default_voice)

    def _load_model(self) -> tuple[Any, int]:
        try:
            if self._config is not None:
                model = TTSModel.load_model(config=self._config)
            else:
                model = TTSModel.load_model(language=self.model)
        except Exception as error:
            if self._config is not None:
                raise EngineError(
                    f"the Pocket model {self.model} cannot be loaded: {one_line(error)}"
                ) from error
            raise UnavailableError(
                f"the Pocket model {self.model!r} is not in the Hugging Face cache and cannot be "
                f"fetched: {one_line(error)}"
            ) from error
        return model, model.sample_rate

    def _prepare(self, model: Any, voice: VoiceInfo, reference: Reference | None) -> Any:
        if reference is not None:
            if not model.has_voice_cloning:
                raise EngineError(
                    f"Pocket cannot clone {voice.name}: accept the terms at {TERMS}, log in with "
                    "'hf auth login', and start again"
                )
            return model.get_state_for_audio_prompt(reference.audio)
        try:
            return model.get_state_for_audio_prompt(voice.name)
        except Exception as error:
            raise UnavailableError(
                f"the Pocket voice {voice.name} is not in the Hugging Face cache and cannot be "
                f"fetched: {one_line(error)}"
            ) from error

    def _synthesize(
        self, model: Any, state: Any, voice: VoiceInfo, text: str, speed: float, stop: Event
    ) -> Generator[Samples, None, None]:
        for piece in pieces(text, PIECE):
            ended = Event()
            stream = model.generate_audio_stream(state, piece, stop=ended)
            try:
                for samples in stream:
                    yield samples.numpy()
            finally:
                # The package's threads are at work until its generator is at its end.
                ended.set()
                for _ in stream:
                    pass


def _is_cached(model: str, voice: str) -> bool:
    with suppress(Exception):
        return bool(download_if_necessary(get_predefined_voice(model, voice)).is_file())
    return False


def build(settings: EngineSettings, voice: str | None, progress: Progress) -> Loaded[SpeechEngine]:
    """Make the engine that the settings ask for, and load its model; see `services.catalog`."""
    del progress  # The Hugging Face client shows its own.
    with blame("--tts-references"):
        references = find_references(settings.tts_references)
    if settings.tts_device == "cuda":
        raise SettingsError("--tts-device: Pocket runs on the CPU; use auto or cpu")
    with blame_model("--pocket-model"):
        model = settings.pocket_model or MODELS.get(settings.language)
        if model is None:
            raise EngineError(f"Kyutai has no model for {settings.language!r}: name another's")
        engine = PocketEngine(
            model, references=references, default_voice=voice, offline=settings.offline
        )
    engine.load()
    return Loaded(engine, engine.voices()[0].name, f"pocket-tts, {model}")
