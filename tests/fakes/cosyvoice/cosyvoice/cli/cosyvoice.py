"""Stands for `cosyvoice.cli.cosyvoice`."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..utils.file_utils import logging
from .frontend import CosyVoiceFrontEnd
from .model import (
    CosyVoice2Model,
    CosyVoice3Model,
    Flow,
    LanguageModel,
    Layer,
)


def tqdm(items: list[str]) -> Iterator[str]:
    """Draws a bar where no one wants one."""
    for number, item in enumerate(items):
        sys.stderr.write(f"\r{number}/{len(items)}")
        yield item


@dataclass
class Settings:
    """What a fake model's yaml says.

    Attributes:
        speakers: Names of the model's speakers.
        saved: Names of speakers that were made of clips, and saved.
        token_s: Seconds for a speech token.
        output_s: Seconds for an output of the flow.
        missing: A package to miss when the model is made.
    """

    speakers: list[str] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    token_s: float = 0.0005
    output_s: float = 0.002
    missing: str = ""


class CosyVoice:
    """Version 1."""

    version = 1
    sample_rate = 24000

    def __init__(self, model_dir: str, fp16: bool = False) -> None:
        """Load a model."""
        self.model_dir = model_dir
        name = f"cosyvoice{self.version if self.version > 1 else ''}.yaml"
        settings = Settings(**json.loads(Path(model_dir, name).read_text("utf-8")))
        if settings.missing:
            raise ModuleNotFoundError(
                f"No module named {settings.missing!r}", name=settings.missing
            )
        speakers: dict[str, dict[str, Any]] = {n: {"embedding": n} for n in settings.speakers}
        for saved in settings.saved:
            speakers[saved] = {
                "prompt_text": [151646],
                "llm_prompt_speech_token": 50,
                "flow_prompt_speech_token": 50,
                "llm_embedding": saved,
            }
        self.frontend = CosyVoiceFrontEnd(speakers)
        kind = CosyVoice3Model if self.version == 3 else CosyVoice2Model
        llm = LanguageModel(self.version, settings.token_s)
        self.model = kind(llm, Flow(settings.output_s), Layer(0))

    def list_available_spks(self) -> list[str]:
        """The speakers."""
        return list(self.frontend.spk2info)

    def add_zero_shot_spk(self, prompt_text: str, prompt_wav: Any, zero_shot_spk_id: str) -> bool:
        """Make a speaker of a clip."""
        made = self.frontend.frontend_zero_shot("", prompt_text, prompt_wav, self.sample_rate, "")
        del made["text"]
        self.frontend.spk2info[zero_shot_spk_id] = made
        return True

    def _speak(
        self,
        tts_text: str,
        frontend: Callable[[str], dict[str, Any]],
        stream: bool,
        speed: float,
        text_frontend: bool,
    ) -> Iterator[dict[str, Any]]:
        parts = self.frontend.text_normalize(tts_text, True, text_frontend)
        assert isinstance(parts, list)
        for part in tqdm(parts):
            logging.info("synthesis text %s", part)
            yield from self.model.tts(**frontend(part), stream=stream, speed=speed)

    def inference_sft(
        self,
        tts_text: str,
        spk_id: str,
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Iterator[dict[str, Any]]:
        """Speak as a speaker of the model."""
        frontend = partial(self.frontend.frontend_sft, spk_id=spk_id)
        return self._speak(tts_text, frontend, stream, speed, text_frontend)

    def inference_zero_shot(
        self,
        tts_text: str,
        prompt_text: str,
        prompt_wav: Any,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Iterator[dict[str, Any]]:
        """Speak as in a clip."""

        def frontend(part: str) -> dict[str, Any]:
            return self.frontend.frontend_zero_shot(
                part, prompt_text, prompt_wav, self.sample_rate, zero_shot_spk_id
            )

        return self._speak(tts_text, frontend, stream, speed, text_frontend)


class CosyVoice2(CosyVoice):
    """Version 2."""

    version = 2

    def inference_instruct2(
        self,
        tts_text: str,
        instruct_text: str,
        prompt_wav: Any,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Iterator[dict[str, Any]]:
        """Speak as in a clip, and as told."""

        def frontend(part: str) -> dict[str, Any]:
            return self.frontend.frontend_instruct2(
                part, instruct_text, prompt_wav, self.sample_rate, zero_shot_spk_id
            )

        return self._speak(tts_text, frontend, stream, speed, text_frontend)


class CosyVoice3(CosyVoice2):
    """Version 3."""

    version = 3


def AutoModel(**kwargs: Any) -> CosyVoice:  # noqa: N802
    """The model in a folder, by the name of its yaml."""
    for name, kind in (
        ("cosyvoice.yaml", CosyVoice),
        ("cosyvoice2.yaml", CosyVoice2),
        ("cosyvoice3.yaml", CosyVoice3),
    ):
        if Path(kwargs["model_dir"], name).exists():
            return kind(**kwargs)
    raise TypeError("No valid model type found!")
