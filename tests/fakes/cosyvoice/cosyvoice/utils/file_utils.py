"""Stands for `cosyvoice.utils.file_utils`."""

import logging
from typing import Any

__all__ = ["load_wav", "logging"]

# As upstream does: whoever imports it has everything logged.
logging.basicConfig(level=logging.DEBUG)


def load_wav(wav: Any, target_sr: int, min_sr: int = 16000) -> Any:
    """Read a clip: upstream does so with torchaudio, whose newer versions need torchcodec."""
    raise ImportError("TorchCodec is required for load_with_torchcodec")
