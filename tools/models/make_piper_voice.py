"""Make a Piper voice with random weights, for tests and benchmarks where no voice can be had.

    python tools/models/make_piper_voice.py OUT.onnx [--quality small|medium|high] [--speakers N]

The voice has the layers, tensor names and (but for `small`) sizes of the voices that people use:
the model is Piper's own and is exported as Piper's own exporter does. It utters noise, at the pace
of speech. Needs torch and onnx; see the `models` dependency group.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP
from piper.train.vits.models import SynthesizerTrn
from torch import Tensor

SEED = 20
SAMPLE_RATE = 22050
HOP_LENGTH = 256
SYMBOLS = 256
FRAMES_PER_ID = 2.4
"""Mean frames an input id: 180 ids, of fifteen words, then last five seconds."""

ONE_RESBLOCK: dict[str, Any] = {
    "resblock": "2",
    "resblock_kernel_sizes": (3, 5, 7),
    "resblock_dilation_sizes": ((1, 2), (2, 6), (3, 12)),
    "upsample_rates": (8, 8, 4),
    "upsample_kernel_sizes": (16, 16, 8),
}
"""The decoder of Piper's x_low, low and medium voices (`ModelAudioConfig.low_quality`)."""

TWO_RESBLOCKS: dict[str, Any] = {
    "resblock": "1",
    "resblock_kernel_sizes": (3, 7, 11),
    "resblock_dilation_sizes": ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
    "upsample_rates": (8, 8, 2, 2),
    "upsample_kernel_sizes": (16, 16, 4, 4),
}
"""The decoder of Piper's high voices (`ModelAudioConfig.high_quality`)."""


@dataclass(frozen=True)
class Quality:
    """The sizes of a voice: channels of the latent, of the encoder, of the decoder and so on."""

    latent: int
    hidden: int
    filters: int
    layers: int
    decoder: int
    speaker: int
    shape: dict[str, Any]


QUALITIES = {
    "small": Quality(16, 16, 32, 2, 32, 8, ONE_RESBLOCK),
    "medium": Quality(192, 192, 768, 6, 256, 512, ONE_RESBLOCK),
    "high": Quality(192, 192, 768, 6, 512, 512, TWO_RESBLOCKS),
}


def make_model(quality: Quality, speakers: int) -> Any:
    """The model with random weights that let every layer be heard.

    Training starts with the last layers of the flow and of the duration predictor at zero, so that
    they do nothing. Left so, a test could not tell whether the flow had been computed.
    """
    model: Any = SynthesizerTrn(
        n_vocab=SYMBOLS,
        spec_channels=513,
        segment_size=32,
        inter_channels=quality.latent,
        hidden_channels=quality.hidden,
        filter_channels=quality.filters,
        n_heads=2,
        n_layers=quality.layers,
        kernel_size=3,
        p_dropout=0.1,
        upsample_initial_channel=quality.decoder,
        n_speakers=speakers,
        gin_channels=quality.speaker if speakers > 1 else 0,
        **quality.shape,
    )
    model.eval()
    with torch.no_grad():
        model.dec.remove_weight_norm()
        for coupling in list(model.flow.flows)[::2]:
            coupling.post.weight.normal_(0, 0.5 / math.sqrt(quality.hidden))
            # Let what is far away matter, as it does not with PyTorch's small initial weights.
            for layer in (*coupling.enc.in_layers, *coupling.enc.res_skip_layers):
                layer.weight_g.mul_(4)
        for flow in list(model.dp.flows)[1::2]:
            flow.proj.weight.normal_(0, 0.5 / math.sqrt(quality.hidden))
        model.dp.flows[0].m.fill_(-math.log(FRAMES_PER_ID - 0.5))  # rounded up to whole frames
        # Training starts with a decoder that is all but silent. Keep the variance of each layer.
        for layer in model.dec.modules():
            if isinstance(layer, torch.nn.ConvTranspose1d):
                taps = layer.kernel_size[0] / layer.stride[0]
                layer.weight.normal_(0, 1 / math.sqrt(layer.in_channels * taps))
            elif isinstance(layer, torch.nn.Conv1d):
                layer.weight.normal_(0, 0.5 / math.sqrt(layer.in_channels * layer.kernel_size[0]))
    return model


def export(model: Any, out: Path) -> None:
    """Write `model` as ONNX the way `piper.train.export_onnx` does."""

    def forward(ids: Tensor, lengths: Tensor, scales: Tensor, sid: Tensor | None = None) -> Tensor:
        audio = model.infer(
            ids,
            lengths,
            noise_scale=scales[0],
            length_scale=scales[1],
            noise_scale_w=scales[2],
            sid=sid,
        )[0]
        return audio.unsqueeze(1)

    model.forward = forward
    ids = torch.randint(low=0, high=SYMBOLS, size=(1, 50), dtype=torch.long)
    speaker = torch.LongTensor([0]) if model.n_speakers > 1 else None
    names = ["input", "input_lengths", "scales", "sid"]
    torch.onnx.export(
        model,
        (ids, torch.LongTensor([ids.size(1)]), torch.FloatTensor([0.667, 1.0, 0.8]), speaker),
        str(out),
        opset_version=15,
        input_names=names if speaker is not None else names[:3],
        output_names=["output"],
        dynamic_axes={
            "input": {0: "batch_size", 1: "phonemes"},
            "input_lengths": {0: "batch_size"},
            "output": {0: "batch_size", 2: "time"},
        },
        dynamo=False,
    )


def write_config(out: Path, quality: str, speakers: int, noise: bool) -> None:
    """Write the voice's `.onnx.json`."""
    config = {
        "audio": {"sample_rate": SAMPLE_RATE, "quality": quality},
        "espeak": {"voice": "en-us"},
        "inference": {
            "noise_scale": 0.667 if noise else 0.0,
            "length_scale": 1.0,
            "noise_w": 0.8 if noise else 0.0,
        },
        "phoneme_type": "espeak",
        "phoneme_map": {},
        "phoneme_id_map": DEFAULT_PHONEME_ID_MAP,
        "num_symbols": SYMBOLS,
        "num_speakers": speakers,
        "speaker_id_map": {f"speaker{n}": n for n in range(speakers)} if speakers > 1 else {},
        "hop_length": HOP_LENGTH,
        "language": {"code": "en_US", "family": "en", "region": "US"},
        "dataset": "random",
    }
    Path(f"{out}.json").write_text(json.dumps(config, indent=1, ensure_ascii=False), "utf-8")


def main() -> None:
    """Read the command line and make the voice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the .onnx to write; its .onnx.json goes beside it")
    parser.add_argument("--quality", choices=QUALITIES, default="small")
    parser.add_argument("--speakers", type=int, default=1)
    parser.add_argument(
        "--noise", action="store_true", help="draw noise as real voices do, not the same each time"
    )
    options = parser.parse_args()
    torch.manual_seed(SEED)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        export(make_model(QUALITIES[options.quality], options.speakers), options.out)
    write_config(options.out, options.quality, options.speakers, options.noise)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
