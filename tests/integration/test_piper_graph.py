"""A voice in pieces is the voice as a whole: against onnxruntime on the uncut graph."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper
from piper import PiperVoice

from services.tts import piper_model
from services.tts.piper_graph import NotStandardError, cut
from services.tts.piper_model import (
    MOST_FRAMES,
    Floats,
    Model,
    Scales,
    StreamedModel,
    WholeModel,
    load_model,
)
from services.tts.voices import embedded_voice

ONE_WORD = "Yes."
FIFTEEN_WORDS = "The quick brown fox jumps over the lazy dog, and then it walks home again."
SIXTY_WORDS = (
    "When the ship came in at last the whole town went down to the harbour to see it, "
    "for it had been away so long that most of them had given it up, and the few who had not "
    "stood at the front with lamps in their hands and said nothing at all while the men came "
    "slowly over the side one by one"
)
TEXTS = {"1 word": ONE_WORD, "15 words": FIFTEEN_WORDS, "60 words": SIXTY_WORDS}


@pytest.fixture(params=["one speaker", "three speakers"])
def voice(
    request: pytest.FixtureRequest, small_piper_voice: Path, small_piper_speakers: Path
) -> Path:
    return small_piper_voice if request.param == "one speaker" else small_piper_speakers


@cache
def ids_of(path: Path, text: str) -> list[int]:
    voice = PiperVoice.load(path)
    (phonemes,) = voice.phonemize(text)
    return voice.phonemes_to_ids(phonemes)


@cache
def loaded(path: Path) -> Model:
    return load_model(path, 256, 1)


def run_whole(model: ModelProto, ids: list[int], scales: Scales, speaker: int | None) -> list[Any]:
    """What onnxruntime gives for the graph as it is, run the way Piper runs it."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feed: dict[str, Any] = {
        "input": np.array([ids]),
        "input_lengths": np.array([len(ids)]),
        "scales": np.array([scales.noise, scales.length, scales.noise_w], np.float32),
    }
    if speaker is not None:
        feed["sid"] = np.array([speaker])
    return session.run(None, feed)


def render_all(path: Path, ids: list[int], scales: Scales, speaker: int | None) -> Floats:
    rendering = loaded(path).render(ids, scales, speaker)
    return np.concatenate(list(rendering.pieces))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("length", [0.5, 1.0, 1.7])
def test_pieces_make_up_the_whole(voice: Path, text: str, length: float) -> None:
    """The pieces in a row are the whole graph's output, to the last sample, at any pace."""
    scales = Scales(0.0, length, 0.0)
    speaker = 1 if "speakers" in voice.name else None
    ids = ids_of(voice, text)
    whole = run_whole(onnx.load(voice), ids, scales, speaker)[0].reshape(-1)
    assert np.abs(whole).max() > 0.01
    pieces = render_all(voice, ids, scales, speaker)
    assert pieces.shape == whole.shape
    assert np.abs(pieces - whole).max() < 1e-6


def test_noise_is_the_graphs_own(voice: Path, tmp_path: Path) -> None:
    """Both kinds of noise are drawn in the acoustic stage as in the whole graph, and only there."""
    model = onnx.load(voice)
    draws = [node for node in model.graph.node if node.op_type == "RandomNormalLike"]
    assert len(draws) == 2
    for seed, node in enumerate(draws):  # what a session draws first is then always the same
        node.attribute.append(helper.make_attribute("seed", float(seed + 1)))
    path = tmp_path / voice.name
    onnx.save(model, path)
    speaker = 2 if "speakers" in voice.name else None
    ids = ids_of(voice, FIFTEEN_WORDS)
    scales = Scales(0.667, 1.0, 0.8)
    whole = run_whole(model, ids, scales, speaker)[0].reshape(-1)
    quiet = run_whole(model, ids, Scales(0.0, 1.0, 0.0), speaker)[0].reshape(-1)
    assert whole.shape != quiet.shape
    pieces = render_all(path, ids, scales, speaker)
    assert pieces.shape == whole.shape
    assert np.abs(pieces - whole).max() < 1e-6


def test_no_context_is_wasted(small_piper_voice: Path) -> None:
    """The context found in the graph is what its layers look at; clearly less is not enough.

    Four couplings of four convolutions, each five wide, reach 4 * 4 * 2 = 32 frames. The decoder
    reaches 3 frames, then by its widest branch 45 samples at 8 a frame, at 64 and at 256.
    """
    graph = cut(onnx.load(small_piper_voice))
    assert (graph.flow_context, graph.decoder_context, graph.hop) == (32, 12, 256)
    model = StreamedModel(graph, 1)
    assert model.agrees()
    for stage in ("_flow_context", "_decoder_context"):
        context = getattr(model, stage)
        setattr(model, stage, context * 2 // 3)
        assert not model.agrees()
        setattr(model, stage, context)


def test_pieces_grow_to_a_bound(small_piper_voice: Path) -> None:
    """The first piece is short, for it is waited for; none is long, for none can be interrupted."""
    ids = ids_of(small_piper_voice, SIXTY_WORDS)
    rendering = loaded(small_piper_voice).render(ids, Scales(0, 1, 0), None)
    frames = [len(piece) / 256 for piece in rendering.pieces]
    assert frames[0] == piper_model.FIRST_FRAMES
    assert max(frames) <= 1.5 * MOST_FRAMES
    assert len(frames) > 5


def test_durations_are_those_of_the_audio(voice: Path) -> None:
    """Every id has a duration, and together they are as long as the audio."""
    ids = ids_of(voice, FIFTEEN_WORDS)
    speaker = 0 if "speakers" in voice.name else None
    rendering = loaded(voice).render(ids, Scales(0, 1, 0), speaker)
    assert len(rendering.id_samples) == len(ids)
    assert sum(rendering.id_samples) == sum(len(piece) for piece in rendering.pieces)


def rename_weight(model: ModelProto) -> None:
    """As if another tool had exported the voice."""
    for weight in model.graph.initializer:
        if weight.name == "dec.conv_pre.weight":
            weight.name = "w1"
    for node in model.graph.node:
        node.input[:] = ["w1" if name == "dec.conv_pre.weight" else name for name in node.input]


def look_everywhere(model: ModelProto) -> None:
    """Normalise the decoder's input over all of the sentence."""
    nodes = model.graph.node
    (place,) = [n for n, node in enumerate(nodes) if "dec.conv_pre.weight" in node.input]
    tensor = nodes[place].input[0]
    nodes[place].input[0] = "normalised"
    nodes.insert(place, helper.make_node("LpNormalization", [tensor], ["normalised"], axis=2, p=1))
    nodes.insert(place + 1, helper.make_node("Identity", ["normalised"], ["unused"]))


def reverse_time(model: ModelProto) -> None:
    """Turn the decoder's input around with an operator that is as well used on channels."""
    nodes = model.graph.node
    (place,) = [n for n, node in enumerate(nodes) if "dec.conv_pre.bias" in node.input]
    tensor = nodes[place].output[0]
    for node in nodes:
        node.input[:] = ["turned" if name == tensor else name for name in node.input]
    for name, value in (("last", -1), ("beyond", -(2**31)), ("time", 2), ("back", -1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    nodes.insert(
        place + 1,
        helper.make_node("Slice", [tensor, "last", "beyond", "time", "back"], ["turned"]),
    )


@pytest.mark.parametrize("change", [rename_weight, look_everywhere, reverse_time])
def test_another_graph_is_run_whole(small_piper_voice: Path, tmp_path: Path, change: Any) -> None:
    """A voice that cannot be cut is spoken whole, with its durations, and sounds as it should."""
    model = onnx.load(small_piper_voice)
    change(model)
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    ids = ids_of(small_piper_voice, FIFTEEN_WORDS)
    other = load_model(path, 256, 1)
    assert isinstance(other, WholeModel)
    rendering = other.render(ids, Scales(0, 1, 0), None)
    (audio,) = rendering.pieces
    whole = run_whole(onnx.load(path), ids, Scales(0, 1, 0), None)[0].reshape(-1)
    np.testing.assert_allclose(audio, whole, atol=1e-6)
    assert sum(rendering.id_samples) == len(audio)
    assert np.ptp(rendering.id_samples) > 1


@pytest.mark.parametrize("change", [rename_weight, look_everywhere])
def test_why_a_graph_is_not_cut(small_piper_voice: Path, change: Any) -> None:
    """A graph without the tensors, or whose stages look further than can be told, is refused."""
    model = onnx.load(small_piper_voice)
    change(model)
    with pytest.raises(NotStandardError):
        cut(model)


def test_durations_of_a_voice_that_gives_none(tmp_path: Path) -> None:
    """A voice without durations gets equal shares, which add up to its audio."""
    model = onnx.load(embedded_voice(16000))
    del model.graph.output[1]
    path = tmp_path / "mute.onnx"
    onnx.save(model, path)
    voice = load_model(path, 160, 1)
    ids = ids_of(embedded_voice(16000), FIFTEEN_WORDS)
    rendering = voice.render(ids, Scales(0, 1, 0), None)
    (audio,) = rendering.pieces
    assert sum(rendering.id_samples) == len(audio)
    assert np.ptp(rendering.id_samples) <= 1
