"""Whisper, run by faster-whisper on CTranslate2.

One model is shared by every call of the process. CTranslate2 releases the GIL while it computes, so
the engine runs in worker threads beside the event loop.
"""

import hashlib
import importlib.util
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import BoundedSemaphore, Event
from typing import Any

import httpx
import numpy as np

from services.catalog import Loaded
from services.errors import EngineError, MissingExtraError, UnavailableError
from services.models import models
from services.reach import REACH_S, within
from services.settings import EngineSettings, blame
from services.stt.engine import SAMPLE_RATE, HearingEngine, Segment, Transcript
from services.tts.voices import Progress

BEAM_SIZE = 1
"""Hypotheses kept while decoding: 5, Whisper's own default, is somewhat more exact and clearly
slower, and a caller waits for the transcript."""

TEMPERATURES = (0.0, 0.4)
"""One second chance for a decoding that loops or despairs. Whisper's own six would keep a caller
waiting on a cough for as long as a sentence takes, and the gate rejects what comes of them."""

TOKENS_PER_SECOND = 20
"""More than any language needs at a fast pace, so that a loop ends soon after the speech did."""

MAX_TOKENS = 220
"""Of a 30-second window: Whisper's decoder holds 448, half of them for the prompt."""

FILES = ["config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*"]
"""What faster-whisper needs of a repository (`faster_whisper.utils.download_model`)."""


def find_model(model: str, cache: Path, *, offline: bool) -> tuple[Path, bool]:
    """The folder of a Whisper model, fetched from the hub when this machine does not have it.

    Looks for a folder of that name, then in `cache` (laid out as the Hugging Face cache is), then
    on the hub. A download shows a bar where there is a terminal, goes to the cache atomically, and
    its weights are checked against the SHA-256 that the hub publishes.

    Args:
        model: A folder that CTranslate2's converter wrote, a size such as `base` or `small.en`, or
            the id of a converted model such as `Systran/faster-whisper-base`.
        cache: Where downloads go.
        offline: Do not ask the hub, which is the public one or `HF_ENDPOINT`.

    Returns:
        The folder, and whether it was downloaded by this call.

    Raises:
        UnavailableError: The model is not here, and the hub may not be asked, did not answer
            or failed.
        EngineError: There is no such model.
        MissingExtraError: faster-whisper is not installed.
    """
    if (Path(model) / "model.bin").is_file():
        return Path(model), False
    _require_faster_whisper()
    from faster_whisper.utils import _MODELS
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository = model if "/" in model else _MODELS.get(model)
    if repository is None or model.startswith((".", "/")):
        sizes = ", ".join(_MODELS)
        raise EngineError(f"Whisper model {model!r}: no such folder or size; the sizes are {sizes}")
    wanted: dict[str, Any] = {"cache_dir": cache, "allow_patterns": FILES}
    try:
        folder = Path(snapshot_download(repository, local_files_only=True, **wanted))
        # The cache lists a snapshot as soon as its first file is there.
        if all((folder / name).exists() for name in ("model.bin", "config.json", "tokenizer.json")):
            return folder, False
    except LocalEntryNotFoundError:
        pass
    endpoint = constants.ENDPOINT.rstrip("/")
    unavailable = f"Whisper model {model!r} is not in {cache} and "
    if offline or constants.HF_HUB_OFFLINE:
        raise UnavailableError(unavailable + "may not be fetched: this run is offline")
    status = _probe(f"{endpoint}/api/models/{repository}")
    # The hub answers 401 where there may be something private. For one of Whisper's own sizes no
    # refusal means that: somebody between here and the hub refuses.
    if status in {401, 404} and "/" in model:
        raise EngineError(f"Whisper model {model!r}: {endpoint} has no such public model")
    if status is None or status >= 400:
        refusal = f"answers {status}" if status else f"does not answer within {REACH_S:g} s"
        raise UnavailableError(unavailable + f"{endpoint} {refusal}")
    try:
        folder = Path(snapshot_download(repository, endpoint=endpoint, **wanted))
    except Exception as error:  # The hub client's transport errors differ from version to version.
        raise UnavailableError(
            unavailable + f"its download from {endpoint} failed: {error}"
        ) from error
    _verify(folder / "model.bin")
    return folder, True


def _probe(url: str) -> int | None:
    """The HTTP status of `url`, or None when none came within `REACH_S`."""

    def ask() -> int:
        return httpx.get(url, timeout=REACH_S, follow_redirects=True).status_code

    try:
        return within(REACH_S, ask)
    except (TimeoutError, httpx.HTTPError, httpx.InvalidURL):
        return None


def _verify(weights: Path) -> None:
    """Check a downloaded file against its name in the cache, which is its SHA-256 for large files.

    Raises:
        UnavailableError: They differ; the file is removed, so that the next start fetches it.
    """
    blob = weights.resolve()
    if len(blob.name) != 64:
        return
    with blob.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != blob.name:
        blob.unlink()
        weights.unlink(missing_ok=True)
        raise UnavailableError(f"the download of {weights.name} is damaged; start again")


def _require_faster_whisper() -> None:
    if importlib.util.find_spec("faster_whisper") is None:
        raise MissingExtraError("Whisper needs faster-whisper: pip install 'parley[whisper]'")


def choose_device(device: str, compute_type: str) -> tuple[str, str]:
    """What to compute on and in which type, checked against this machine.

    Args:
        device: `auto`, `cpu` or `cuda`. `auto` is CUDA where CTranslate2 finds a GPU, else the CPU.
        compute_type: `auto` or one that CTranslate2 knows. `auto` is float16 on a GPU and int8 on
            a CPU, where these are supported.

    Returns:
        Device and compute type as CTranslate2 spells them.

    Raises:
        EngineError: The machine cannot do that.
        MissingExtraError: faster-whisper is not installed.
    """
    _require_faster_whisper()
    import ctranslate2

    if device not in {"auto", "cpu", "cuda"}:
        raise EngineError(f"Whisper device {device!r}: use auto, cpu or cuda")
    gpus = ctranslate2.get_cuda_device_count()
    if device == "cuda" and not gpus:
        raise EngineError("Whisper device 'cuda': no CUDA device is visible here; use auto or cpu")
    chosen = "cuda" if gpus and device != "cpu" else "cpu"
    supported = ctranslate2.get_supported_compute_types(chosen)
    if compute_type == "auto":
        best = "float16" if chosen == "cuda" else "int8"
        return chosen, best if best in supported else "float32"
    if compute_type not in supported:
        names = ", ".join(sorted(supported))
        raise EngineError(f"Whisper compute type {compute_type!r}: this {chosen} has auto, {names}")
    return chosen, compute_type


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WhisperEngine:
    """Whisper as an engine that hears.

    Attributes:
        path: The folder that the model is loaded from.
        fetched: Whether the constructor downloaded it.
        device: `cpu` or `cuda`.
        compute_type: As CTranslate2 spells it.
        at_once: How many utterances are recognised at once; the next waits. One to every four
            cores, so that two utterances do not fight over the cores that one needs.
    """

    name = "whisper"

    def __init__(
        self, model: str, *, cache: Path, device: str, compute_type: str, offline: bool
    ) -> None:
        """Find the model, fetching it where that is needed and possible. Does not load it yet.

        Args:
            model: See `find_model`.
            cache: See `find_model`.
            device: See `choose_device`.
            compute_type: See `choose_device`.
            offline: See `find_model`.

        Raises:
            UnavailableError: See `find_model`.
            EngineError: A setting is wrong, or this machine cannot do what it asks for.
            MissingExtraError: faster-whisper is not installed.
        """
        self.device, self.compute_type = choose_device(device, compute_type)
        self.path, self.fetched = find_model(model, cache, offline=offline)
        self._asked = model
        cores = _cores()
        self.at_once = max(1, cores // 4)
        self._threads = max(1, min(8, cores // self.at_once))
        self._free = BoundedSemaphore(self.at_once)

    def load(self, language: str | None = None) -> None:
        """Load the model and run it once, so that the first utterance takes no longer than others.

        Blocks for as long as that takes.

        Args:
            language: ISO 639-1 code of what will be spoken; None where the model is to tell.

        Raises:
            EngineError: The model cannot be loaded, or it does not know the language.
        """
        self.transcribe(bytes(SAMPLE_RATE), language, Event())

    def transcribe(self, pcm: bytes, language: str | None, stop: Event) -> Transcript:
        """Recognise the speech in `pcm`; see `HearingEngine.transcribe`.

        `stop` is looked at before each 30-second window and each segment in it. With `language`
        None the model encodes the audio twice, once to tell the language.

        Raises:
            EngineError: The model failed, or it does not know the language.
        """
        with self._turn(stop) as mine:
            if not mine:
                return Transcript(())
            with self._model() as model:
                if language is not None:
                    self._require(language, model.supported_languages)
                return self._transcribe(model, pcm, language, stop)

    def _transcribe(self, model: Any, pcm: bytes, language: str | None, stop: Event) -> Transcript:
        samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], np.int16).astype(np.float32) / 32768
        if not samples.size:
            return Transcript(())
        window = min(30, math.ceil(len(samples) / SAMPLE_RATE))
        segments: list[Segment] = []
        try:
            found, info = model.transcribe(
                samples,
                language=language,
                beam_size=BEAM_SIZE,
                temperature=TEMPERATURES,
                max_new_tokens=min(MAX_TOKENS, 16 + TOKENS_PER_SECOND * window),
                # Carried context spreads a hallucination from one window to the next.
                condition_on_previous_text=False,
            )
            for item in found:
                segments.append(
                    Segment(
                        text=item.text.strip(),
                        start=item.start,
                        end=item.end,
                        confidence=min(1.0, math.exp(item.avg_logprob)),
                        no_speech=item.no_speech_prob,
                    )
                )
                if stop.is_set():
                    break
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"Whisper failed on {self.device}: {error}") from error
        return Transcript(tuple(segments), info.language)

    def close(self) -> None:
        """Nothing to free: the model belongs to the process's store."""

    def _require(self, language: str, known: Sequence[str]) -> None:
        if language in known:
            return
        if list(known) == ["en"]:
            raise EngineError(
                f"Whisper model {self._asked!r} hears English only, not {language!r}: "
                "choose a model without .en"
            )
        raise EngineError(
            f"Whisper model {self._asked!r} does not know the language {language!r}; "
            f"it knows {', '.join(sorted(known))}"
        )

    @contextmanager
    def _turn(self, stop: Event) -> Iterator[bool]:
        """Wait for one of the model's workers; False when `stop` was set before one was free."""
        while not (mine := self._free.acquire(timeout=0.05)):
            if stop.is_set():
                break
        try:
            yield mine and not stop.is_set()
        finally:
            if mine:
                self._free.release()

    def _model(self) -> AbstractContextManager[Any]:
        """The model, loaded by whoever asks first and shared by every engine with its settings."""
        from faster_whisper import WhisperModel

        def load() -> Any:
            try:
                return WhisperModel(
                    str(self.path),
                    device=self.device,
                    compute_type=self.compute_type,
                    cpu_threads=self._threads,
                    num_workers=self.at_once,
                )
            except (RuntimeError, ValueError, OSError) as error:
                raise EngineError(f"Whisper model {self.path} cannot be loaded: {error}") from error

        key = f"whisper:{self.path}:{self.device}:{self.compute_type}:{self.at_once}"
        return models.use(key, load)


def check(settings: EngineSettings) -> None:
    """Make sure that the engine can be made, as far as that can be told without the hub.

    Args:
        settings: The settings in force.

    Raises:
        SettingsError: A setting is wrong.
        UnavailableError: The model is not here and may not be fetched.
    """
    with blame("--whisper-device"):
        choose_device(settings.whisper_device, "auto")
    with blame("--whisper-compute-type"):
        choose_device(settings.whisper_device, settings.whisper_compute_type)
    if settings.offline:
        with blame("--whisper-model"):
            find_model(settings.whisper_model, _cache(settings), offline=True)


def build(settings: EngineSettings, language: str, progress: Progress) -> Loaded[HearingEngine]:
    """Make the engine and load its model. Blocks.

    Args:
        settings: The settings in force.
        language: ISO 639-1 code of what will be spoken.
        progress: Not told: the hub's client shows a bar of its own.

    Raises:
        SettingsError: A setting is wrong.
        UnavailableError: The model is not here and cannot be fetched.
        EngineError: It cannot be used.
    """
    check(settings)
    with blame("--whisper-model"):
        engine = WhisperEngine(
            settings.whisper_model,
            cache=_cache(settings),
            device=settings.whisper_device,
            compute_type=settings.whisper_compute_type,
            offline=settings.offline,
        )
        engine.load(language)
    model = f"{Path(settings.whisper_model).name} ({engine.device}, {engine.compute_type})"
    source = "fetched just now" if engine.fetched else str(engine.path)
    return Loaded(engine, model, source)


def _cache(settings: EngineSettings) -> Path:
    return settings.cache / "whisper"
