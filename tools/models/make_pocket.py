"""Makes a tiny Pocket TTS model with random weights, as `pocket_tts` loads it.

    python tools/models/make_pocket.py OUT/pocket.yaml [--size NAME]

Needs the dependency group `models` (torch, pocket-tts). The model says nothing sensible: it lets
tests run the package's own classes, its threads and its stop event without a model hub. With
`--size` it has the size of one of Kyutai's, for measurements. The weights are from a fixed seed.
The YAML file holds the paths of what lies beside it, so it cannot be moved.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml
from pocket_tts import TTSModel
from pocket_tts.utils.config import CONFIGS_DIR
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SEED = 20

TINY: dict[str, Any] = {
    "flow_lm": {
        "insert_bos_before_voice": True,
        "dtype": "float32",
        "flow": {"depth": 1, "dim": 16},
        "transformer": {
            "d_model": 32,
            "hidden_scale": 1,
            "max_period": 10000,
            "num_heads": 2,
            "num_layers": 1,
        },
        "lookup_table": {"dim": 32},
    },
    "mimi": {
        "dtype": "float32",
        "sample_rate": 24000,
        "inner_dim": 8,
        "outer_dim": 16,
        "channels": 1,
        "frame_rate": 12.5,
        "seanet": {
            "dimension": 16,
            "channels": 1,
            "n_filters": 2,
            "n_residual_layers": 1,
            "ratios": [6, 5, 4],
            "kernel_size": 7,
            "residual_kernel_size": 3,
            "last_kernel_size": 3,
            "dilation_base": 2,
            "pad_mode": "constant",
            "compress": 2,
        },
        "transformer": {
            "d_model": 16,
            "num_heads": 2,
            "num_layers": 1,
            "layer_scale": 0.01,
            "context": 250,
            "dim_feedforward": 16,
            "input_dimension": 16,
            "output_dimensions": [16],
        },
        "quantizer": {"dimension": 8, "output_dimension": 16},
    },
}


def make_tokenizer(path: Path) -> int:
    """Write a tokenizer of bytes, in which a token stands for a blank before a word.

    Returns:
        How many tokens it has.
    """
    symbols = ["▁", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(
        models.BPE(vocab={symbol: n for n, symbol in enumerate(symbols)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.save(str(path))
    return len(symbols)


def make(out: Path, size: str | None) -> None:
    """Write the model.

    Args:
        out: The YAML file; its weights and tokenizer are put beside it.
        size: One of Kyutai's models, to have its size; None for a tiny one.
    """
    torch.manual_seed(SEED)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    config = TINY
    if size is not None:
        config = yaml.safe_load((CONFIGS_DIR / f"{size}.yaml").read_text("utf-8"))
        config.pop("weights_path_without_voice_cloning")
        config.pop("weights_path")
    tokenizer = out.with_suffix(".tokenizer.json")
    config["flow_lm"]["lookup_table"] |= {
        "n_bins": make_tokenizer(tokenizer),
        "tokenizer": "tokenizers",
        "tokenizer_path": str(tokenizer),
    }
    out.write_text(yaml.safe_dump(config), "utf-8")
    weights = out.with_suffix(".safetensors")
    model = TTSModel.load_model(config=out)
    for parameter in model.parameters():
        # What the package leaves as the memory was.
        torch.nn.init.normal_(parameter, std=0.02 if size else 0.2)
    # Never the end: the length of an utterance is that which the package allows its text.
    torch.nn.init.constant_(model.flow_lm.out_eos.bias, -100.0)
    save_file(model.state_dict(), weights)
    out.write_text(yaml.safe_dump({**config, "weights_path": str(weights)}), "utf-8")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--size")
    given = arguments.parse_args()
    make(given.out, given.size)
