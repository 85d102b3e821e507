# mypy: allow-subclassing-any
"""A trained acoustic model to a voice that Piper loads: `NAME.onnx` and `NAME.onnx.json`."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP
from torch import Tensor, nn
from torch.nn import functional

from tools.voice.dataset import CEPSTRA
from tools.voice.model import CUTOFF, LOG_F0, VOICING, AcousticModel
from tools.voice.phones import NEAREST
from tools.voice.vocoder import Vocoder

SHORTEST_TOKEN = 0.35
"""Tokens predicted shorter than this many frames of 10 ms make no sound: stress marks, spaces."""

SHORTEST_UTTERANCE = 8.0
"""Frames of 10 ms that even a lone mark gets."""

RARE = 25
"""A phoneme seen less often than this in training borrows another's embedding."""

_PAD, _MARKS = 0, 2
_FLOAT16_FROM = 1024


class Voice(nn.Module):
    """The graph that Piper runs: ids in, samples and durations out."""

    def __init__(self, model: AcousticModel, vocoder: Vocoder):
        super().__init__()
        self.model = model
        self.vocoder = vocoder

    def forward(self, ids: Tensor, lengths: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Speak one sentence.

        Args:
            ids: Piper's phoneme ids with their padding, int64 [1, N].
            lengths: N, int64 [1].
            scales: `noise_scale` (pitch wander), `length_scale` (slowness) and `noise_w` (duration
                jitter), float32 [3].

        Returns:
            Samples in -1 to 1, float32 [1, 1, S]; and the frames of 10 ms of each id, float32
            [1, 1, N], of which a padding id has none.
        """
        everything = ids[0]
        place = torch.arange(everything.shape[0], device=ids.device)
        kept = torch.nonzero((everything != _PAD) & (place < lengths[0]))[:, 0]
        tokens = everything[kept][None]
        mask = torch.ones_like(tokens, dtype=torch.float32)[..., None]
        encoded = self.model.encode(tokens, mask)

        frames = torch.exp(torch.relu(self.model.log_durations(encoded, mask)[0])) - 1
        frames = torch.where(frames < SHORTEST_TOKEN, torch.zeros_like(frames), frames)
        frames = frames * scales[1] * torch.exp(0.1 * scales[2] * torch.randn_like(frames))
        # Round the ends, not the durations, or the errors of rounding would add up.
        end = torch.floor(torch.cumsum(frames, 0) + 0.5)
        end = torch.cat([end[:-1], torch.clamp(end[-1:], min=SHORTEST_UTTERANCE)])
        start = torch.cat([torch.zeros_like(end[:1]), end[:-1]])
        duration = end - start

        frame = torch.arange(end[-1].to(torch.int64), device=ids.device).float()
        token_of = (frame[:, None] >= end[None, :]).to(torch.int64).sum(1)
        positions = self.model.position_features(frame, start[token_of], duration[token_of])
        outputs = self.model.decode(
            encoded[:, token_of], positions[None], torch.ones_like(frame)[None, :, None]
        )[0]
        outputs = outputs * self.model.std + self.model.mean

        wander = _wander(torch.randn_like(end) * 0.08 * scales[0], token_of)
        samples = self.vocoder(
            outputs[:, :CEPSTRA],
            # 67 to 493 Hz, which keeps a bad guess from squeaking.
            torch.clamp(outputs[:, LOG_F0] + wander, 4.2, 6.2),
            torch.sigmoid(4 * outputs[:, VOICING]),
            outputs[:, CUTOFF],
        )
        durations = torch.zeros_like(everything, dtype=torch.float32).scatter(0, kept, duration)
        return samples[None, None], durations[None, None]


def _wander(offsets: Tensor, token_of: Tensor) -> Tensor:
    """One pitch offset a token, smoothed over 250 ms, at the vocoder's 5 ms."""
    per_step = offsets[token_of]
    per_frame = torch.stack([per_step, per_step], 1).reshape(1, 1, -1)
    return functional.avg_pool1d(functional.pad(per_frame, (25, 25)), 51, 1)[0, 0]


def borrow_embeddings(model: AcousticModel, counts: dict[int, int]) -> list[str]:
    """Give phonemes that training hardly saw the embedding of the nearest English sound.

    A phoneme that is near none acts as a space.

    Args:
        model: Changed in place.
        counts: How often training saw each id.

    Returns:
        What borrowed from what, as `borrower>lender`.
    """
    borrowed = []
    weights = model.embedding.weight.data
    for phoneme, (index, *_) in DEFAULT_PHONEME_ID_MAP.items():
        if index > _MARKS and counts.get(index, 0) < RARE:
            lender = NEAREST.get(phoneme, " ")
            weights[index] = weights[DEFAULT_PHONEME_ID_MAP[lender][0]]
            borrowed.append(f"{phoneme}>{lender}")
    return borrowed


def load_model(checkpoint: Path) -> AcousticModel:
    """The acoustic model of a checkpoint that `train` wrote, ready to speak.

    Args:
        checkpoint: Path of the checkpoint.
    """
    state = torch.load(checkpoint, map_location="cpu")
    model = AcousticModel()
    model.load_state_dict(state["model"])
    borrow_embeddings(model, state["id_counts"])
    model.eval()
    return model


def halve(graph: onnx.ModelProto) -> None:
    """Store the large float32 weights of `graph` as float16, cast back when it is loaded.

    The arithmetic stays in float32; the file is half as large.
    """
    kept, casts = [], []
    for tensor in graph.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size >= _FLOAT16_FROM:
            small = f"{tensor.name}_float16"
            kept.append(numpy_helper.from_array(array.astype(np.float16), small))
            cast = helper.make_node("Cast", [small], [tensor.name], to=onnx.TensorProto.FLOAT)
            casts.append(cast)
        else:
            kept.append(tensor)
    nodes = list(graph.graph.node)
    del graph.graph.initializer[:]
    del graph.graph.node[:]
    graph.graph.initializer.extend(kept)
    graph.graph.node.extend(casts + nodes)


def config(sample_rate: int) -> dict[str, Any]:
    """What Piper reads beside the graph.

    Args:
        sample_rate: Samples a second.
    """
    return {
        "audio": {"sample_rate": sample_rate, "quality": "tiny"},
        "espeak": {"voice": "en-us"},
        # Without noise only the breath differs from one run to the next.
        "inference": {"noise_scale": 0.0, "length_scale": 1.0, "noise_w": 0.0},
        "phoneme_type": "espeak",
        "phoneme_map": {},
        "phoneme_id_map": DEFAULT_PHONEME_ID_MAP,
        "num_symbols": 256,
        "num_speakers": 1,
        "speaker_id_map": {},
        "piper_version": version("piper-tts"),
        "language": {
            "code": "en_US",
            "family": "en",
            "region": "US",
            "name_native": "English",
            "name_english": "English",
            "country_english": "United States",
        },
        "dataset": "slt-distilled",
        # Piper counts the second output in these samples: 10 ms.
        "hop_length": sample_rate // 100,
    }


def export(model: AcousticModel, path: Path, sample_rate: int, *, float16: bool = False) -> None:
    """Write a voice.

    Args:
        model: From `load_model`.
        path: The graph's path, ending in `.onnx`; the configuration goes beside it, with `.json`
            added to the name.
        sample_rate: Samples a second, a multiple of 200 and at most 32000.
        float16: Whether to store the weights as float16.
    """
    voice = Voice(model, Vocoder(sample_rate)).eval()
    sample = torch.tensor([[1, 0, *[part for i in range(20, 60) for part in (i, 0)], 2]])
    with torch.no_grad():
        # The tracing exporter keeps the tables of the vocoder as operations, unfolded.
        torch.onnx.export(
            voice,
            (sample, torch.tensor([sample.shape[1]]), torch.tensor([0.0, 1.0, 0.0])),
            str(path),
            input_names=["input", "input_lengths", "scales"],
            output_names=["output", "durations"],
            dynamic_axes={
                "input": {1: "phonemes"},
                "output": {2: "samples"},
                "durations": {2: "phonemes"},
            },
            opset_version=17,
            do_constant_folding=False,
            dynamo=False,
        )
    graph = onnx.load(str(path))
    if float16:
        halve(graph)
    helper.set_model_props(
        graph,
        {
            "model_type": "piper-tiny",
            "language": "English",
            "voice": "en-us",
            "sample_rate": str(sample_rate),
            "n_speakers": "1",
            "has_espeak": "1",
            "comment": "distilled from festvox cmu_us_slt_arctic_hts",
        },
    )
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))
    text = json.dumps(config(sample_rate), ensure_ascii=False, indent=1)
    Path(f"{path}.json").write_text(text, encoding="utf-8")
