"""coqui-tts without a model: as much of the package as `services.tts.xtts` uses.

`install` puts its modules where an import finds them. It needs torch, as the package does. Letters
are tokens, a token is 1024 samples at 22.05 kHz, and twenty tokens are a piece of audio, as there.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

LIMIT = 402
"""Tokens of text that the model refuses."""

STRIDE = 1024 * 24000 / 22050
"""Samples that a token becomes."""


class FakeXttsConfig:
    """`TTS.tts.configs.xtts_config.XttsConfig`."""

    def __init__(self) -> None:
        self.model_args = SimpleNamespace(output_sample_rate=24000)
        self.gpt_cond_len = 12
        self.gpt_cond_chunk_len = 4
        self.max_ref_len = 10
        self.languages: list[str] = []

    def load_json(self, path: str) -> None:
        """Read a model's `config.json`."""
        self.languages = json.loads(Path(path).read_text("utf-8"))["languages"]


class FakeXtts:
    """`TTS.tts.models.xtts.Xtts`: it hums, higher with each token."""

    def __init__(self, config: FakeXttsConfig) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.speaker_manager: Any = None
        self.tokenizer = SimpleNamespace(char_limits={"en": 250, "de": 253})

    def load_checkpoint(
        self,
        config: FakeXttsConfig,
        checkpoint_dir: str,
        eval: bool = True,  # noqa: A002
    ) -> None:
        """Read the weights, which say nothing, and the voices."""
        assert config is self.config
        assert eval
        folder = Path(checkpoint_dir)
        torch.load(folder / "model.pth", weights_only=True)
        voices = torch.load(folder / "speakers_xtts.pth", weights_only=True)
        self.speaker_manager = SimpleNamespace(speakers=voices)

    def to(self, device: str) -> "FakeXtts":
        """Move it, to where it is already."""
        assert device == "cpu"
        return self

    def get_gpt_cond_latents(
        self, audio: torch.Tensor, sr: int, length: int, chunk_length: int
    ) -> torch.Tensor:
        """What the model makes of a clip of shape (1, samples)."""
        assert sr == 22050
        assert audio.ndim == 2
        assert length >= chunk_length
        return audio.mean().expand(1, 32, 8)

    def get_speaker_embedding(self, audio: torch.Tensor, sr: int) -> torch.Tensor:
        """What the decoder makes of a clip of shape (1, samples)."""
        assert sr == 22050
        assert audio.ndim == 2
        return audio.mean().expand(1, 512, 1)

    def inference_stream(
        self,
        text: str,
        language: str,
        gpt_cond_latent: torch.Tensor,
        speaker_embedding: torch.Tensor,
        stream_chunk_size: int = 20,
        speed: float = 1.0,
        *,
        stopping_criteria: Any,
    ) -> Iterator[torch.Tensor]:
        """Speak, piece by piece."""
        assert language in self.tokenizer.char_limits
        assert gpt_cond_latent.ndim == speaker_embedding.ndim == 3
        tokens = [letter for letter in text if not letter.isspace()]
        assert len(tokens) < LIMIT, "XTTS can only generate text with a maximum of 400 tokens."
        pending = 0
        for count in range(1, len(tokens) + 1):
            pending += 1
            if stopping_criteria(torch.zeros(1, count, dtype=torch.long), None).all():
                break
            if pending == stream_chunk_size:
                yield self._hum(count, pending, speed)
                pending = 0
        yield self._hum(len(tokens), pending, speed)

    def _hum(self, token: int, tokens: int, speed: float) -> torch.Tensor:
        samples = round(tokens * STRIDE / speed)
        return 0.3 * torch.sin(torch.arange(samples) * 0.01 * token)


class FakeModelManager:
    """`TTS.utils.manage.ModelManager`: knows XTTS' name, and cannot reach the network."""

    def __init__(self, progress_bar: bool = False) -> None:
        self.output_prefix = Path("nowhere")

    def list_tts_models(self) -> list[str]:
        """The models' names."""
        return ["tts_models/multilingual/multi-dataset/xtts_v2"]

    def tos_agreed(self, model_item: dict[str, Any], model_full_path: Path) -> bool:
        """Whether somebody agreed to the terms."""
        return os.environ.get("COQUI_TOS_AGREED") == "1"

    def download_model(self, model_name: str) -> tuple[Path, Path | None, dict[str, Any]]:
        """Fail, as without a network."""
        raise ConnectionError("the hub cannot be reached")


def write_model(folder: Path) -> None:
    """Write a model with two voices, as `load_checkpoint` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"languages": ["en", "de"]}', "utf-8")
    (folder / "vocab.json").write_text("{}", "utf-8")
    torch.save({"model": {}}, folder / "model.pth")
    state = {"gpt_cond_latent": torch.zeros(1, 32, 8), "speaker_embedding": torch.zeros(1, 512, 1)}
    torch.save({"Ada Lovelace": state, "Alan Turing": state}, folder / "speakers_xtts.pth")


def install() -> None:
    """Make `import TTS` find what is here."""
    contents: dict[str, dict[str, Any]] = {
        "TTS": {},
        "TTS.tts": {},
        "TTS.tts.configs": {},
        "TTS.tts.configs.xtts_config": {"XttsConfig": FakeXttsConfig},
        "TTS.tts.models": {},
        "TTS.tts.models.xtts": {"Xtts": FakeXtts},
        "TTS.utils": {},
        "TTS.utils.manage": {"ModelManager": FakeModelManager},
    }
    for name, members in contents.items():
        module = ModuleType(name)
        vars(module).update({**members, "__path__": []})
        sys.modules[name] = module
