"""XTTS v2: Coqui's model, in the fork of its package that is maintained (`coqui-tts`, by Idiap).

Importing this module needs the `xtts` extra, and takes seconds. The package is MPL-2.0. The model's
weights are under the Coqui Public Model License: for non-commercial use only.
"""

import json
from collections.abc import Generator, Mapping
from pathlib import Path
from threading import Event
from typing import Any

from services.catalog import Loaded
from services.errors import EngineError, MissingExtraError, UnavailableError, one_line
from services.settings import EngineSettings, blame
from services.tts.engine import SpeechEngine, VoiceInfo
from services.tts.pieces import pieces
from services.tts.references import Reference, find_references
from services.tts.torch_engine import (
    Samples,
    TorchEngine,
    blame_model,
    choose_device,
    go_offline,
)
from services.tts.voices import Progress

try:
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts
    from TTS.utils.manage import ModelManager
except ImportError as missing:
    # The package itself says on several lines which of torch, torchaudio and torchcodec it lacks.
    raise MissingExtraError(
        f"XTTS cannot be imported ({one_line(missing)}): pip install 'parley[xtts]'"
    ) from missing

FILES = ("config.json", "model.pth", "vocab.json")
"""What a model's folder holds at least."""

SPEAKERS = "speakers_xtts.pth"

CLIP_RATE = 22050
"""Samples a second at which the model takes clips."""

_TERMS = "https://tts-hub.github.io/cpml"


def find_model(name: str, *, offline: bool) -> tuple[Path, bool]:
    """The folder of an XTTS model, fetched by coqui-tts where this machine does not have it.

    Args:
        name: A folder, or what coqui-tts calls a model: `tts_models/…/xtts_v2`.
        offline: Fetch nothing.

    Returns:
        The folder, and whether it is one that coqui-tts keeps.

    Raises:
        UnavailableError: The model is not here and cannot be fetched, or not before the terms of
            its licence are agreed to.
        EngineError: There is no such model, or its folder is not complete.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        lacking = [file for file in FILES if not (folder / file).is_file()]
        if lacking:
            raise EngineError(f"XTTS model {name!r}: {', '.join(lacking)} is not in it")
        return folder, False
    manager = ModelManager(progress_bar=True)
    if name not in manager.list_tts_models():
        raise EngineError(f"XTTS model {name!r}: no such folder, and coqui-tts has none like it")
    if offline:
        go_offline()
    terms = {"tos_required": True}
    if not manager.tos_agreed(terms, Path(manager.output_prefix) / name.replace("/", "--")):
        raise UnavailableError(
            f"XTTS' weights may be used for non-commercial ends only ({_TERMS}): "
            "set COQUI_TOS_AGREED=1 where you agree"
        )
    try:
        model, _, _ = manager.download_model(name)
    except Exception as error:
        why = "this run is offline" if offline else one_line(error)
        raise UnavailableError(
            f"the XTTS model {name} is not in the Hugging Face cache and cannot be fetched: {why}"
        ) from error
    return model.parent if model.is_file() else model, True


class XttsEngine(TorchEngine[Any]):
    """Speaks with an XTTS model; see `SpeechEngine`.

    The model speaks as it generates: 20 tokens, some 0.9 s of audio, are decoded at a time, each
    time with all that went before, so that long sentences get slower towards their end. It looks
    whether it is still wanted at every token. Its pace can be set: it stretches what it decodes.
    """

    name = "xtts"

    def __init__(
        self,
        folder: Path,
        *,
        language: str = "en",
        device: str = "auto",
        references: Mapping[str, Reference] | None = None,
        default_voice: str | None = None,
    ) -> None:
        """Take the settings; the weights are not loaded before `load` or the first `speak`.

        Args:
            folder: The model: see `FILES`, and `SPEAKERS` where it brings voices.
            language: ISO 639-1 code of what the model's own voices speak, and clips whose name
                tells no language.
            device: `auto`, `cpu` or `cuda`.
            references: The clips that voices are cloned from.
            default_voice: The voice where none is asked for; None for the first clip, or without
                clips the model's first voice.

        Raises:
            EngineError: The folder's files cannot be used, there is no such device, or the model
                does not speak a language that is asked for.
            UnknownVoiceError: There is no voice of that name.
        """
        try:
            languages = json.loads((folder / "config.json").read_text("utf-8"))["languages"]
            speakers = folder / SPEAKERS
            names = list(torch.load(speakers, weights_only=True)) if speakers.is_file() else []
        except Exception as error:
            raise EngineError(
                f"the XTTS model {folder} cannot be read: {one_line(error)}"
            ) from error
        built_in = tuple(VoiceInfo(name, name, language) for name in names)
        super().__init__(
            str(folder), choose_device(device), references or {}, built_in, language, default_voice
        )
        known = {_code(name) for name in languages}
        for info in self.voices():
            if _code(info.language) not in known:
                raise EngineError(
                    f"XTTS does not speak {info.language!r}, the language of the voice "
                    f"{info.name}: it speaks {', '.join(sorted(known))}"
                )

    def _load_model(self) -> tuple[Any, int]:
        try:
            config = XttsConfig()
            config.load_json(str(Path(self.model) / "config.json"))
            model = Xtts(config)
            model.load_checkpoint(config, checkpoint_dir=self.model, eval=True)
        except Exception as error:
            raise EngineError(
                f"the XTTS model {self.model} cannot be loaded: {one_line(error)}"
            ) from error
        return model.to(self.device), config.model_args.output_sample_rate

    def _prepare(self, model: Any, voice: VoiceInfo, reference: Reference | None) -> Any:
        if reference is None:
            state = model.speaker_manager.speakers[voice.name]
            return state["gpt_cond_latent"], state["speaker_embedding"]
        # What the model's own `get_conditioning_latents` does, which reads files with torchcodec.
        config = model.config
        samples = reference.samples(CLIP_RATE)[: CLIP_RATE * config.max_ref_len]
        audio = torch.from_numpy(samples)[None].to(model.device)
        latent = model.get_gpt_cond_latents(
            audio,
            CLIP_RATE,
            length=config.gpt_cond_len,
            chunk_length=config.gpt_cond_chunk_len,
        )
        return latent, model.get_speaker_embedding(audio, CLIP_RATE)

    def _synthesize(
        self, model: Any, state: Any, voice: VoiceInfo, text: str, speed: float, stop: Event
    ) -> Generator[Samples, None, None]:
        latent, embedding = state
        language = _code(voice.language)
        for piece in pieces(text, model.tokenizer.char_limits[language]):
            stream = model.inference_stream(
                piece,
                language,
                latent,
                embedding,
                speed=speed,
                stopping_criteria=StoppingCriteriaList([_Wanted(stop)]),
            )
            for samples in stream:
                yield samples.float().cpu().numpy()

    def _pace(self, speed: float) -> float:
        return speed


class _StoppedError(Exception):
    """Nobody wants the utterance any more."""


class _Wanted(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed here.
    """Ends an utterance that nobody wants, at its next token.

    It raises, for a criterion that is met has what there is decoded first.
    """

    def __init__(self, stop: Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: "torch.Tensor", scores: Any, **_: Any) -> "torch.Tensor":
        """Whether each utterance of the batch is at its end: never."""
        if self._stop.is_set():
            raise _StoppedError
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _code(language: str) -> str:
    """The model takes a language without its country: `zh-cn` is `zh`."""
    return language.partition("-")[0].lower()


def build(settings: EngineSettings, voice: str | None, progress: Progress) -> Loaded[SpeechEngine]:
    """Make the engine that the settings ask for, and load its model; see `services.catalog`."""
    del progress  # The Hugging Face client shows its own.
    with blame("--tts-references"):
        references = find_references(settings.tts_references)
    with blame("--tts-device"):
        device = choose_device(settings.tts_device)
    with blame_model("--xtts-model"):
        folder, kept = find_model(settings.xtts_model, offline=settings.offline)
        engine = XttsEngine(
            folder,
            language=settings.language,
            device=device,
            references=references,
            default_voice=voice,
        )
    engine.load()
    source = "coqui-tts" if kept else str(folder)
    return Loaded(engine, engine.voices()[0].name, f"{source}, {device}")
