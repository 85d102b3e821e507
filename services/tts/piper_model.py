"""Runs a Piper voice: phoneme ids in, pieces of audio out."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from services.tts.piper_graph import CutGraph, NotStandardError, add_durations, cut

Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int64]

FIRST_FRAMES = 12
"""Frames of a sentence's first piece: 0.14 s in most voices, heard while the next is computed."""

MOST_FRAMES = 64
"""Frames of the longest piece: pieces double up to it, for each pays for its context anew, and no
further, for the listener waits for all of a piece."""


@dataclass(frozen=True, slots=True)
class Scales:
    """What a voice's `scales` input holds.

    Attributes:
        noise: Deviation of the noise on the prior: variety of the voice's sound.
        length: Factor on durations: 2.0 is half as fast.
        noise_w: Deviation of the noise on durations: variety of rhythm.
    """

    noise: float
    length: float
    noise_w: float


@dataclass(frozen=True, slots=True)
class Rendering:
    """A sentence whose timing is known and whose audio is computed as it is asked for.

    Attributes:
        id_samples: Samples of each phoneme id; equal shares where the voice gives no durations.
        pieces: The audio in order, in -1 to 1, as the voice gives it.
    """

    id_samples: Ints
    pieces: Iterator[Floats]


class Model(Protocol):
    """A voice's network. Safe to use in several threads at once."""

    def render(
        self,
        ids: list[int],
        scales: Scales,
        speaker: int | None,
        run: onnxruntime.RunOptions | None = None,
    ) -> Rendering:
        """Begin a sentence.

        Args:
            ids: Phoneme ids, with those that mark the beginning and the end.
            scales: Pace and variety.
            speaker: A voice with several speakers needs one; None for others.
            run: How the network is run; its `terminate` ends what is being computed.

        Raises:
            Exception: What onnxruntime raises, for one when it was told to terminate.
        """
        ...


class StreamedModel:
    """A voice that is computed piece by piece, to what the whole graph gives for the same noise."""

    def __init__(self, graph: CutGraph, threads: int) -> None:
        """Load the three stages.

        Args:
            graph: The stages.
            threads: Threads that one stage may use while it runs.
        """
        self._acoustic = _session(graph.acoustic, threads)
        self._flow = _session(graph.flow, threads)
        self._decoder = _session(graph.decoder, threads)
        self._flow_context = graph.flow_context
        self._decoder_context = graph.decoder_context
        self._hop = graph.hop

    def agrees(self) -> bool:
        """Whether a stretch computed in pieces is what the same stretch gives in one run."""
        noise = np.random.default_rng(0)
        shapes = [
            [1 if isinstance(d, str) else d for d in i.shape] for i in self._flow.get_inputs()
        ]
        # Long enough for two seams with the whole of their context on either side.
        frames = 3 * FIRST_FRAMES + 2 * (self._flow_context + self._decoder_context)
        prior = noise.standard_normal((*shapes[0][:2], frames), np.float32)
        embedding = [noise.standard_normal(shape, np.float32) for shape in shapes[2:]]
        latent = _run(self._flow, prior, np.ones((1, 1, frames), np.float32), *embedding)
        whole = _run(self._decoder, latent, *embedding).reshape(-1)
        pieces = np.concatenate(list(self.pieces(prior, embedding)))
        return pieces.shape == whole.shape and bool(np.allclose(pieces, whole, rtol=0, atol=1e-4))

    def render(
        self,
        ids: list[int],
        scales: Scales,
        speaker: int | None,
        run: onnxruntime.RunOptions | None = None,
    ) -> Rendering:
        """Begin a sentence; see `Model.render`."""
        prior, durations, *embedding = self._acoustic.run(None, _feed(ids, scales, speaker), run)
        frames = durations.reshape(-1).round().astype(np.int64)
        return Rendering(frames * self._hop, self.pieces(prior, embedding, run))

    def pieces(
        self,
        prior: Floats,
        embedding: list[Floats],
        run: onnxruntime.RunOptions | None = None,
    ) -> Iterator[Floats]:
        """The audio of a prior, piece by piece.

        A piece is computed from the frames that it depends on: no fewer, or it would differ from
        the whole graph's; none beyond the sentence's ends, where the graph's own padding acts.

        Args:
            prior: Shape [1, channels, frames].
            embedding: The speaker's, shape [1, channels, 1]; empty for a voice with one speaker.
            run: See `Model.render`.

        Yields:
            `FIRST_FRAMES` frames of audio, then pieces that double up to `MOST_FRAMES`.
        """
        frames = prior.shape[2]
        latent = np.empty_like(prior)
        known = start = 0
        size = FIRST_FRAMES
        while start < frames:
            # What would be left over for a last piece of its own is not worth its context.
            end = start + size if start + size + size // 2 < frames else frames
            wanted = min(end + self._decoder_context, frames)
            if wanted > known:
                low = max(known - self._flow_context, 0)
                stretch = prior[:, :, low : wanted + self._flow_context]
                mask = np.ones((1, 1, stretch.shape[2]), np.float32)
                flowed = _run(self._flow, stretch, mask, *embedding, options=run)
                latent[:, :, known:wanted] = flowed[:, :, known - low : wanted - low]
                known = wanted
            low = max(start - self._decoder_context, 0)
            audio = _run(self._decoder, latent[:, :, low:wanted], *embedding, options=run).reshape(
                -1
            )
            yield audio[(start - low) * self._hop : (end - low) * self._hop]
            start = end
            size = min(2 * size, MOST_FRAMES)


class WholeModel:
    """A voice whose graph is not known: it is run whole, so a sentence comes as one piece."""

    def __init__(self, model: onnx.ModelProto, hop: int, threads: int) -> None:
        """Load the graph.

        Args:
            model: The voice, with durations as its second output where it gives them.
            hop: Samples a unit of duration.
            threads: Threads that a run may use.
        """
        self._hop = hop
        self._session = _session(model.SerializeToString(), threads)

    def render(
        self,
        ids: list[int],
        scales: Scales,
        speaker: int | None,
        run: onnxruntime.RunOptions | None = None,
    ) -> Rendering:
        """Compute a sentence; see `Model.render`."""
        audio, *durations = self._session.run(None, _feed(ids, scales, speaker), run)
        audio = audio.reshape(-1)
        if durations:
            samples = (durations[0].reshape(-1) * self._hop).round().astype(np.int64)
        else:
            samples = np.diff(np.arange(len(ids) + 1) * audio.size // len(ids))
        return Rendering(samples, iter([audio]))


def load_model(path: Path, hop: int, threads: int) -> Model:
    """Load a voice's network, in pieces if its graph is a standard one.

    Args:
        path: The voice's `.onnx`.
        hop: Samples a unit of duration, for a graph that is not standard.
        threads: Threads that one run may use.

    Raises:
        Exception: What onnx or onnxruntime raise for a file that is not a model.
    """
    model = onnx.load(str(path))
    with suppress(NotStandardError):
        streamed = StreamedModel(cut(model), threads)
        # The names of its weights say that the graph is known; that it computes what such a graph
        # computes is seen only by running it.
        if streamed.agrees():
            return streamed
    add_durations(model)
    return WholeModel(model, hop, threads)


def _session(model: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Sentences differ in length, so a plan for the last one's memory is of no use to the next.
    options.enable_mem_pattern = False
    # Threads that spin while they wait for work take the core from other calls.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: Any, *inputs: Floats, options: onnxruntime.RunOptions | None = None) -> Floats:
    """The one output of a stage, given its inputs in order."""
    names = [value.name for value in session.get_inputs()]
    output: Floats
    feed = dict(zip(names, map(np.ascontiguousarray, inputs), strict=True))
    (output,) = session.run(None, feed, options)
    return output


def _feed(ids: list[int], scales: Scales, speaker: int | None) -> dict[str, NDArray[Any]]:
    """The inputs of a voice, named as `piper.train.export_onnx` names them."""
    feed: dict[str, NDArray[Any]] = {
        "input": np.array([ids], np.int64),
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array([scales.noise, scales.length, scales.noise_w], np.float32),
    }
    if speaker is not None:
        feed["sid"] = np.array([speaker], np.int64)
    return feed
