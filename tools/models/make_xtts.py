"""Makes a small XTTS model with random weights, as coqui-tts loads it.

    python tools/models/make_xtts.py OUT

Needs coqui-tts, which no dependency group of this project holds: `docs/engines/xtts.md` says how to
install it. The model says nothing sensible: it lets tests run the package's own classes without a
model hub. Of its decoder, whose sizes are fixed, it has all 130 MB. The weights are from a fixed
seed.
"""

import argparse
import json
from pathlib import Path

import torch
from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig
from TTS.tts.models.xtts import Xtts

SEED = 20
WIDTH = 64
VOICES = ("Ada Lovelace", "Alan Turing")


def write_vocabulary(path: Path) -> None:
    """Write a tokenizer of letters, with the special tokens of XTTS."""
    special = ["[STOP]", "[UNK]", "[SPACE]", "[START]", "[en]", "[de]"]
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = {token: n for n, token in enumerate([*special, *letters])}
    added = [
        {
            "id": n,
            "special": True,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for n, token in enumerate(special)
    ]
    model = {"type": "BPE", "unk_token": "[UNK]", "vocab": vocabulary, "merges": []}
    path.write_text(json.dumps({"version": "1.0", "added_tokens": added, "model": model}), "utf-8")


def make(out: Path) -> None:
    """Write the model and two voices to the folder `out`."""
    torch.manual_seed(SEED)
    out.mkdir(parents=True, exist_ok=True)
    write_vocabulary(out / "vocab.json")
    config = XttsConfig(
        model_args=XttsArgs(
            tokenizer_file=str(out / "vocab.json"),
            gpt_layers=2,
            gpt_n_model_channels=WIDTH,
            gpt_n_heads=2,
            gpt_max_audio_tokens=120,
            gpt_num_audio_tokens=66,
            gpt_start_audio_token=64,
            gpt_stop_audio_token=65,
            gpt_use_perceiver_resampler=True,
            decoder_input_dim=WIDTH,
        ),
        languages=["en", "de"],
    )
    config.save_json(str(out / "config.json"))
    model = Xtts(config)
    model.tokenizer = type(model.tokenizer)(vocab_file=out / "vocab.json")
    model.init_models()
    torch.save({"model": model.state_dict()}, out / "model.pth")
    voices = {
        name: {
            "gpt_cond_latent": torch.randn(1, 32, WIDTH),
            "speaker_embedding": torch.nn.functional.normalize(torch.randn(1, 512, 1), dim=1),
        }
        for name in VOICES
    }
    torch.save(voices, out / "speakers_xtts.pth")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("out", type=Path)
    make(arguments.parse_args().out)
