"""CosyVoice 2 and 3: large neural voices that imitate a clip, run on a GPU in this process.

CosyVoice is no package: its code is a checkout of https://github.com/FunAudioLLM/CosyVoice with its
submodule, used as it is. `services.tts.cosyvoice_guard` says what of it needs a guard.
docs/engines/cosyvoice.md says how to install it.
"""

import gc
import importlib
import logging
import re
import sys
import textwrap
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
from loguru import logger

from services.catalog import Loaded
from services.errors import (
    EngineError,
    MissingExtraError,
    UnavailableError,
    UnknownVoiceError,
    one_line,
)
from services.models import models
from services.reach import REACH_S, within
from services.settings import EngineSettings, SettingsError, blame
from services.tts.cosyvoice_guard import Guard
from services.tts.engine import Chunk, SpeechEngine, VoiceInfo, check_speed
from services.tts.estimate import with_words
from services.tts.references import ANY_LANGUAGE, Reference, find_references
from services.tts.tempo import at_speed
from services.tts.voices import Progress, unknown

CODE = "https://github.com/FunAudioLLM/CosyVoice"
"""Where the code comes from."""

MOST_CHARACTERS = 400
"""What the model is given at a time. CosyVoice splits text into some 80 tokens, but only at marks:
its work for a part grows with the square of the length."""

PAGE_CHARACTERS = 5000
"""What CosyVoice's front end is given at a time: it does not look at `stop`."""

SYSTEM = "You are a helpful assistant."
"""What version 3 was trained to see before what it is to do (`cosyvoice.utils.common`)."""

END_OF_PROMPT = "<|endofprompt|>"
"""Ends what the model is told and does not say. Version 3 refuses a prompt without."""

_FILES = ("llm.pt", "flow.pt", "hift.pt", "campplus.onnx")
# What a model of either version has; the last of them to be downloaded is anybody's guess.

_UNUSED = [
    "llm.rl.pt",
    "flow.decoder.estimator.fp32.onnx",
    "flow.encoder.fp16.zip",
    "flow.encoder.fp32.zip",
    "speech_tokenizer_v3.batch.onnx",
]
# Gigabytes that lie beside a model for other ways to train and to run it.

_LANGUAGES = {"中文": "zh", "英文": "en", "日语": "ja", "粤语": "yue", "韩语": "ko"}
# What the names of the speakers that CosyVoice ships start with.

_CONTROLS = re.compile(r"<\||\|>")


class CosyVoiceEngine:
    """Speaks with a CosyVoice model; see `SpeechEngine`.

    Voices are the reference clips, which the model imitates, and the speakers in the model's
    `spk2info.pt` where it has one. Any of them speaks any of the model's languages.

    The first chunk comes when the model has computed about a second of speech. The speed is
    changed in the audio (`services.tts.tempo`): CosyVoice cannot do it while streaming. The times
    of words are estimated: the model gives none.

    One utterance is computed at a time, sentence by sentence: another may come in between.

    Attributes:
        name: `cosyvoice`.
        at_once: 1.
    """

    name = "cosyvoice"
    at_once = 1

    def __init__(
        self,
        repo: Path,
        model: str,
        *,
        references: dict[str, Reference],
        default_voice: str = "",
        instruct: str = "",
        fp16: bool = False,
        device: str = "auto",
        cache: Path | None = None,
        offline: bool = False,
    ) -> None:
        """Take the settings; nothing is imported or loaded before `load` or the first `speak`.

        Args:
            repo: The checkout of CosyVoice, its submodule included.
            model: A model's folder, or its name on ModelScope, such as
                `FunAudioLLM/Fun-CosyVoice3-0.5B-2512` or `iic/CosyVoice2-0.5B`.
            references: The clips whose speakers are imitated.
            default_voice: A clip's or a speaker's name; empty for the first there is.
            instruct: How to speak, in words, as in "in a very soft voice". Speakers that were saved
                with a prompt keep theirs.
            fp16: Half precision; without a GPU CosyVoice computes in full.
            device: `auto`, `cpu` or `cuda`. CosyVoice takes the GPU that it sees.
            cache: The folder that downloads go to; None for ModelScope's own.
            offline: Fetch nothing.

        Raises:
            EngineError: `repo` is no checkout of CosyVoice, or its submodule is missing.
        """
        if not (repo / "cosyvoice" / "cli" / "cosyvoice.py").is_file():
            raise EngineError(
                f"{repo} is no checkout of CosyVoice: git clone --recursive {CODE} {repo}"
            )
        if not (repo / "third_party" / "Matcha-TTS" / "matcha").is_dir():
            raise EngineError(
                f"{repo} lacks Matcha-TTS: git -C {repo} submodule update --init --recursive"
            )
        self._repo = repo.resolve()
        self._model_name = model
        self._references = references
        self._default = default_voice
        self._instruct = _plain(instruct)
        self._fp16 = fp16
        self._device = device
        self._cache = cache
        self._offline = offline
        self._speakers: tuple[str, ...] = ()
        self._key = f"cosyvoice:{model}:{fp16}"

    def voices(self) -> tuple[VoiceInfo, ...]:
        """The clips, and once the model has been loaded its speakers, the default one first."""
        clips = [VoiceInfo(r.name, r.name, r.language) for r in self._references.values()]
        speakers = [
            VoiceInfo(name, name, _LANGUAGES.get(name[:2], ANY_LANGUAGE))
            for name in self._speakers
            if name not in self._references
        ]
        listed = {info.name: info for info in (*clips, *speakers)}
        first = listed.pop(self._default, None)
        return (*([first] if first else []), *listed.values())

    def fetch(self) -> Path:
        """Find the model, fetching it if need be; see `find_model`.

        Returns:
            Its folder.
        """
        return find_model(self._model_name, cache=self._cache, offline=self._offline)

    def load(self, voice: str = "") -> None:
        """Load the model, fetching it if need be, and have it listen to the voice's clip.

        Raises:
            UnknownVoiceError: There is no such voice, or no voice at all.
            UnavailableError: The model is not here and cannot be fetched.
            MissingExtraError: A package that CosyVoice needs is not installed.
            EngineError: The model or the clip cannot be used.
        """
        with self._using() as model, model.guard.turn(Event()):
            model.prepare(self._source(model, voice), self._instruct)

    def loaded(self) -> tuple[str, ...]:
        """All voices while the model is in memory, none while it is not."""
        return tuple(info.name for info in self.voices()) if self._key in models.resident() else ()

    def speak(self, text: str, voice: str, speed: float, stop: Event) -> Iterator[Chunk]:
        """Speak `text`; see `SpeechEngine.speak`.

        Args:
            text: What to say. Marks that CosyVoice knows, such as `[laughter]`, have their effect;
                its control tokens, `<|…|>`, are taken apart.
            voice: A name out of `voices`; the default one where empty.
            speed: 1.0 is the voice's own pace; within `SPEED_LIMITS`.
            stop: Ends synthesis within some 20 ms, or one block of layers where that takes longer.

        Yields:
            At most 80 ms of audio at a time.

        Raises:
            UnknownVoiceError: There is no such voice.
            EngineError: Synthesis failed.
        """
        check_speed(speed)
        with self._using() as model:
            source = self._source(model, voice)
            rate = model.sample_rate
            with closing(self._pieces(model, source, text, stop)) as pieces:
                yield from with_words(at_speed(pieces, rate, speed), text, rate, speed, stop)

    def close(self) -> None:
        """Nothing to free: the model belongs to the process's store."""

    def _pieces(
        self, model: "_Model", source: "Reference | str", text: str, stop: Event
    ) -> Generator[bytes, None, None]:
        """The audio, as the model gives it. Each part of the text is a turn of its own."""
        for page in textwrap.wrap(_plain(text), PAGE_CHARACTERS):
            with model.guard.turn(stop) as mine:
                if not mine:
                    return
                model.prepare(source, self._instruct)
                parts = model.parts(page)
            for part in parts:
                with model.guard.turn(stop) as mine:
                    if not mine:
                        return
                    outputs = model.outputs(part, source, self._instruct)
                    for samples in model.guard.run(outputs, stop):
                        yield np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()

    def _source(self, model: "_Model", voice: str) -> "Reference | str":
        """The clip or the speaker of that name."""
        self._speakers = model.speakers
        voice = voice or self._default or next((info.name for info in self.voices()), "")
        if not voice:
            raise UnknownVoiceError(
                f"CosyVoice model {self._model_name!r} has no voice of its own: it needs clips to "
                "imitate, NAME.wav and NAME.txt"
            )
        if voice in self._references:
            return self._references[voice]
        if voice in model.speakers:
            return voice
        raise unknown(voice, [info.name for info in self.voices()])

    def _using(self) -> AbstractContextManager["_Model"]:
        return models.use(self._key, self._load, close=_Model.close)

    def _load(self) -> "_Model":
        cli = import_cosyvoice(self._repo)
        frontend: Any = importlib.import_module("cosyvoice.cli.frontend")
        self._check_device(frontend.torch.cuda.is_available())
        # Clips come as `Reference`: they are read here, not with torchaudio, whose `load` needs
        # more packages from one version to the next.
        frontend.load_wav = partial(_load_wav, frontend.torch)
        folder = self.fetch()
        self._keep_normalizer_here()
        try:
            cosyvoice = cli.AutoModel(model_dir=str(folder), fp16=self._fp16)
        except Exception as error:  # hyperpyyaml, torch and onnxruntime raise what they like
            if package := _missing_package(error):
                raise _lacks(package, self._repo) from error
            raise EngineError(
                f"the CosyVoice model {folder} cannot be loaded: "
                f"{type(error).__name__} ({one_line(error)})"
            ) from error
        if not isinstance(cosyvoice, cli.CosyVoice2):
            raise EngineError(f"the model {folder} is of CosyVoice 1: versions 2 and 3 can be used")
        if not cosyvoice.frontend.text_frontend:
            logger.warning("CosyVoice has no text normalizer: it spells out English numbers only")
        return _Model(cosyvoice, cli)

    def _check_device(self, gpu: bool) -> None:
        if self._device == "cuda" and not gpu:
            raise EngineError("device 'cuda': no CUDA device is visible here; use auto or cpu")
        if self._device == "cpu" and gpu:
            raise EngineError(
                "device 'cpu': CosyVoice takes the GPU that it sees; set CUDA_VISIBLE_DEVICES= to "
                "hide it"
            )

    def _keep_normalizer_here(self) -> None:
        """Let wetext, CosyVoice's text normalizer, use what it downloaded before.

        It asks ModelScope each time, and tries for half a minute where that does not answer.
        """
        with suppress(ImportError):
            wetext: Any = importlib.import_module("wetext.wetext")
            wetext.snapshot_download = partial(_fetch, cache=self._cache, offline=self._offline)


class _Model:
    """A loaded model: what all engines and calls that speak with it share."""

    def __init__(self, cosyvoice: Any, cli: Any) -> None:
        self.guard = Guard(cosyvoice.model, importlib.import_module("cosyvoice.cli.model"))
        self.sample_rate: int = cosyvoice.sample_rate
        self.speakers: tuple[str, ...] = tuple(cosyvoice.list_available_spks())
        self._cosyvoice = cosyvoice
        self._known = cosyvoice.frontend.spk2info
        self._third = isinstance(cosyvoice, cli.CosyVoice3)
        # The scores of 150,000 text tokens, a quarter of the work for a speech token, are read by
        # nobody: CosyVoice takes the layer before (`cosyvoice.llm.llm.Qwen2Encoder`).
        cosyvoice.model.llm.llm.model.lm_head.forward = _same

    def prepare(self, source: Reference | str, instruct: str) -> None:
        """Have the model listen to a clip, or tell it how a speaker speaks, once. In a turn.

        Raises:
            EngineError: The clip cannot be used.
        """
        name, prompt = self._prompted(source, instruct)
        if name in self._known:
            return
        if isinstance(source, str):
            tokens, length = self._cosyvoice.frontend._extract_text_token(prompt)
            embedding = self._known[source]["embedding"]
            self._known[name] = {
                "prompt_text": tokens,
                "prompt_text_len": length,
                "llm_embedding": embedding,
                "flow_embedding": embedding,
            }
            return
        try:
            self._cosyvoice.add_zero_shot_spk(prompt, source, name)
        except EngineError:
            raise
        except Exception as error:  # those of onnxruntime and torch have no class in common
            raise EngineError(
                f"the reference clip {source.audio} cannot be used: {one_line(error)}"
            ) from error

    def close(self) -> None:
        """Give back the memory, the GPU's included. Nothing else can be asked of it then."""
        del self.guard, self._cosyvoice, self._known
        # Model and guard know each other.
        gc.collect()
        importlib.import_module("cosyvoice.cli.frontend").torch.cuda.empty_cache()

    def parts(self, text: str) -> list[str]:
        """What there is to say in `text`, as the model is to be given it. In a turn."""
        parts = self._cosyvoice.frontend.text_normalize(text, split=True)
        # The normalizer makes half-width characters of full-width ones.
        pieces = (piece for part in parts for piece in textwrap.wrap(_plain(part), MOST_CHARACTERS))
        return [piece for piece in pieces if any(map(str.isalnum, piece))]

    def outputs(
        self, part: str, source: Reference | str, instruct: str
    ) -> Iterator[dict[str, Any]]:
        """What the model makes of a part of a text. In a turn."""
        name, _ = self._prompted(source, instruct)
        if "embedding" in self._known[name]:
            speak = partial(self._cosyvoice.inference_sft, part, name)
        elif instruct and isinstance(source, Reference):
            speak = partial(self._cosyvoice.inference_instruct2, part, "", None, name)
        else:
            speak = partial(self._cosyvoice.inference_zero_shot, part, "", None, name)
        outputs: Iterator[dict[str, Any]] = speak(stream=True, text_frontend=False)
        return outputs

    def _prompted(self, source: Reference | str, instruct: str) -> tuple[str, str]:
        """The name of the speaker who is given a prompt, and the prompt.

        `inference_instruct2` uses the prompt of the speaker whom it is given, not the instruction
        that it is given: an instruction takes a speaker of its own.
        """
        if isinstance(source, str) and "embedding" not in self._known[source]:
            # Made of a clip, with its prompt, by `save_spkinfo`.
            return source, ""
        said = "" if isinstance(source, str) or instruct else _plain(source.text)
        if self._third:
            prompt = f"{SYSTEM} {instruct}".rstrip() + END_OF_PROMPT + said
        else:
            prompt = instruct + END_OF_PROMPT if instruct else said
        if isinstance(source, str):
            return (f"{source}: {prompt}" if prompt else source), prompt
        return f"{source.audio}: {prompt}", prompt


def import_cosyvoice(repo: Path) -> Any:
    """The module `cosyvoice.cli.cosyvoice` of a checkout.

    Args:
        repo: The checkout, as an absolute path.

    Raises:
        EngineError: Another package of that name is in its way.
        MissingExtraError: A package that it needs is not installed.
    """
    # Last, so that nothing of the checkout, which has folders such as `tools`, hides ours.
    for path in (str(repo), str(repo / "third_party" / "Matcha-TTS")):
        if path not in sys.path:
            sys.path.append(path)
    importlib.invalidate_caches()
    spec = find_spec("cosyvoice")
    places = [Path(place).resolve() for place in (spec and spec.submodule_search_locations) or ()]
    if places != [repo / "cosyvoice"]:
        raise EngineError(
            f"the package cosyvoice in {places[0] if places else 'this environment'} hides the one "
            f"in {repo}: PyPI's is somebody else's and incomplete; pip uninstall cosyvoice"
        )
    root = logging.getLogger()
    kept = root.level, root.handlers[:]
    try:
        # It has the root logger write everything, and gives it every text that is spoken.
        files: Any = importlib.import_module("cosyvoice.utils.file_utils")
        files.logging = logging.getLogger("cosyvoice")
        files.logging.setLevel(logging.WARNING)
        cli: Any = importlib.import_module("cosyvoice.cli.cosyvoice")
    except ImportError as error:
        raise _lacks(error.name or one_line(error), repo) from error
    finally:
        root.setLevel(kept[0])
        root.handlers[:] = kept[1]
    cli.tqdm = iter  # It draws a bar for every sentence.
    return cli


def find_model(model: str, *, cache: Path | None, offline: bool) -> Path:
    """The folder of a model, fetched from ModelScope when this machine does not have it.

    Args:
        model: A folder, or a name on ModelScope.
        cache: See `CosyVoiceEngine`.
        offline: See `CosyVoiceEngine`.

    Raises:
        EngineError: There is no such folder, or it holds no model.
        UnavailableError: It is not here, and may not or cannot be fetched.
        MissingExtraError: The package modelscope is not installed.
    """
    folder = Path(model)
    if not folder.is_dir():
        if model.startswith((".", "/", "~")) or model.count("/") != 1:
            raise EngineError(
                f"CosyVoice model {model!r}: there is no such folder, and names on ModelScope are "
                "like FunAudioLLM/Fun-CosyVoice3-0.5B-2512"
            )
        folder = Path(_fetch(model, cache=cache, offline=offline, files=_FILES))
    if lacking := [name for name in _FILES if not (folder / name).is_file()]:
        raise EngineError(f"the folder {folder} holds no CosyVoice model: {lacking[0]} is missing")
    return folder


def _fetch(model: str, *, cache: Path | None, offline: bool, files: tuple[str, ...] = ()) -> str:
    """A model's folder in ModelScope's cache, downloaded where it, or one of `files`, is not there.

    Raises:
        UnavailableError: It cannot be had.
        MissingExtraError: The package modelscope is not installed.
    """
    try:
        snapshot_download = importlib.import_module("modelscope").snapshot_download
        endpoint = importlib.import_module("modelscope.hub.utils.utils").get_endpoint()
    except ImportError as error:
        raise MissingExtraError(
            f"CosyVoice model {model!r}: fetching it needs modelscope: pip install modelscope"
        ) from error
    options = {"cache_dir": str(cache)} if cache else {}
    try:
        folder = str(snapshot_download(model, local_files_only=True, **options))
        if all((Path(folder) / name).is_file() for name in files):
            return folder
    except Exception as error:  # Its class differs from version to version.
        logger.debug(f"{model} is not in ModelScope's cache: {one_line(error)}")
    unavailable = f"{model} is not on this machine and "
    if offline:
        raise UnavailableError(unavailable + "may not be fetched: this run is offline")
    try:
        within(REACH_S, lambda: httpx.head(endpoint, timeout=REACH_S))
        logger.info(f"fetching {model} from {endpoint}")
        return str(snapshot_download(model, ignore_file_pattern=_UNUSED, **options))
    except Exception as error:
        raise UnavailableError(
            unavailable + f"cannot be fetched from {endpoint}: {one_line(error)}"
        ) from error


def _load_wav(torch: Any, clip: Reference, sample_rate: int) -> Any:
    """`cosyvoice.utils.file_utils.load_wav` for a clip: a tensor of shape [1, n]."""
    return torch.from_numpy(clip.samples(sample_rate))[None]


def _same(hidden: Any) -> Any:
    return hidden


def _plain(text: str) -> str:
    """Text without anything that the model would take for one of its control tokens."""
    return _CONTROLS.sub(" ", text).strip()


def _missing_package(error: BaseException) -> str:
    """The package whose absence is behind an error; empty where it is something else."""
    cause: BaseException | None = error
    while cause is not None:
        # `pydoc.locate`, with which a model's yaml names its classes, wraps what went wrong.
        cause = getattr(cause, "value", cause)
        if isinstance(cause, ModuleNotFoundError):
            return cause.name or ""
        cause = cause.__cause__ or cause.__context__
    return ""


def _lacks(package: str, repo: Path) -> MissingExtraError:
    return MissingExtraError(
        f"CosyVoice needs the package {package.partition('.')[0]}: "
        f"pip install 'parley[cosyvoice]', or see {repo / 'requirements.txt'}"
    )


def build(settings: EngineSettings, voice: str | None, progress: Progress) -> Loaded[SpeechEngine]:
    """Make the engine and load its model. Blocks.

    Args:
        settings: The settings in force.
        voice: The voice to start with; None for the first clip.
        progress: Not told: ModelScope shows how far its downloads are by itself.

    Raises:
        SettingsError: A setting is wrong.
        EngineError: See `CosyVoiceEngine.load`.
    """
    if settings.cosyvoice_repo is None:
        raise SettingsError(f"--cosyvoice-repo: set it to a checkout of {CODE}")
    with blame("--tts-references"):
        references = find_references(settings.tts_references)
    with blame("--cosyvoice-repo"):
        engine = CosyVoiceEngine(
            settings.cosyvoice_repo,
            settings.cosyvoice_model,
            references=references,
            default_voice=voice or "",
            instruct=settings.cosyvoice_instruct or "",
            fp16=settings.cosyvoice_fp16,
            device=settings.tts_device,
            cache=settings.cache,
            offline=settings.offline,
        )
    with blame("--cosyvoice-model"):
        folder = engine.fetch()
    try:
        engine.load()
    except UnknownVoiceError as error:
        raise SettingsError(f"{'--tts-voice' if voice else '--tts-references'}: {error}") from None
    started = engine.voices()[0].name
    return Loaded(engine, f"{started} by {settings.cosyvoice_model}", str(folder))
