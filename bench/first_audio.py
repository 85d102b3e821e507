"""How soon Piper speaks, our service beside Pipecat's own on the same voice, and what it says.

Both services run in pipelines of this process, alone between a source and a sink. The clock starts
when a `TTSSpeakFrame` with a sentence of fifteen words is queued and stops when its first audio
reaches the sink. The sentence is given whole, so that nothing is gained by speaking a clause early.
Both are warm, and take turns sentence by sentence.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pipecat.frames.frames import Frame, TTSAudioRawFrame, TTSSpeakFrame, TTSStoppedFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.piper.tts import PiperTTSService
from pipecat.services.tts_service import TTSService
from pipecat.workers.runner import WorkerRunner
from piper import PiperVoice

from bench.figures import Figure, Sample
from bench.sides import FULL_SIZE_VOICE
from services.tts.local import LocalSpeech
from services.tts.piper import PiperEngine
from services.tts.piper_model import Scales, load_model
from services.tts.service import SpeechTTSService

BOUND = 0.40
"""Of the stock service's time."""

IDENTICAL = 1e-4
"""Of full scale."""

STEPS = 32767
"""16-bit steps to full scale."""

SENTENCES = (
    "The old lighthouse keeper told us that the storm had passed well before the morning came.",
    "We will need two more chairs and a table if your parents are coming for dinner.",
    "Every morning the baker opens his shop at six and sells bread until it is gone.",
    "She wrote a long letter to her brother, who had moved to another town last spring.",
    "Please turn left after the bridge and follow the river until you see a small church.",
)


class _Sink(FrameProcessor):
    """Notes when audio arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.first: float | None = None
        self.over = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame) and self.first is None:
            self.first = time.perf_counter()
        elif isinstance(frame, TTSStoppedFrame):
            self.over.set()
        await self.push_frame(frame, direction)


class _Speaker:
    """A service in a running pipeline."""

    def __init__(self, worker: PipelineWorker, sink: _Sink) -> None:
        self._worker = worker
        self._sink = sink

    async def time_to_audio(self, text: str) -> float:
        """Speak a text to its end, and return the seconds to its first audio."""
        self._sink.first = None
        self._sink.over.clear()
        began = time.perf_counter()
        await self._worker.queue_frame(TTSSpeakFrame(text))
        async with asyncio.timeout(30):
            await self._sink.over.wait()
        if self._sink.first is None:
            raise RuntimeError(f"no audio for {text!r}")
        return self._sink.first - began


@asynccontextmanager
async def _running(service: TTSService) -> AsyncIterator[_Speaker]:
    sink = _Sink()
    worker = PipelineWorker(Pipeline([service, sink]), idle_timeout_secs=None, enable_rtvi=False)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    try:
        yield _Speaker(worker, sink)
    finally:
        await runner.cancel()
        await running


async def first_audio(mind: Mapping[str, str], quick: bool) -> list[Figure]:
    """The time to first audio, and whether the audio is what the voice's whole graph gives.

    Args:
        mind: Not used.
        quick: Whether each sentence is spoken once only.
    """
    voice = FULL_SIZE_VOICE
    engine = PiperEngine(voice.parent, default_voice=str(voice))
    await asyncio.to_thread(engine.load)
    speech = LocalSpeech(engine)
    stock = await asyncio.to_thread(
        lambda: PiperTTSService(
            download_dir=voice.parent, settings=PiperTTSService.Settings(voice=voice.stem)
        )
    )
    measured: tuple[list[float], list[float]] = ([], [])
    async with AsyncExitStack() as stack:
        speakers = [
            await stack.enter_async_context(_running(service))
            for service in (SpeechTTSService(speech=speech, first_clause_words=4), stock)
        ]
        for speaker in speakers:
            await speaker.time_to_audio(SENTENCES[0])
        for _ in range(1 if quick else 6):
            for sentence in SENTENCES:
                for speaker, seconds in zip(speakers, measured, strict=True):
                    seconds.append(1000 * await speaker.time_to_audio(sentence))
    await speech.close()
    ours, peer = (Sample.median(seconds) for seconds in measured)
    name = "Piper: first audio of a 15-word sentence"
    return [
        Figure(name, "ms", ours, peer, BOUND, relative=True),
        await asyncio.to_thread(_identity, voice),
    ]


def _identity(path: Path) -> Figure:
    """The largest difference of any sample from what the voice's graph gives in one run.

    The figure compares the float audio of our pieces, joined, with the graph's own. The note does
    the same for 16-bit samples: those that our engine gives, and those that
    `PiperVoice.synthesize` gives, with the peak to which it raises each sentence undone. The
    voice's noise is zero, so that each run draws the same.
    """
    voice = PiperVoice.load(path)
    config = voice.config
    scales = Scales(config.noise_scale, config.length_scale, config.noise_w_scale)
    if scales.noise or scales.noise_w:
        raise ValueError(f"{path.name} is to have noise scales of 0")
    whole = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = load_model(path, config.hop_length, threads=1)
    engine = PiperEngine(path.parent, default_voice=str(path))
    pieces, spoken, stock = [], [], []
    for sentence in SENTENCES:
        (phonemes,) = voice.phonemize(sentence)
        ids = voice.phonemes_to_ids(phonemes)
        feed = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array([scales.noise, scales.length, scales.noise_w], np.float32),
        }
        expected = whole.run(None, feed)[0].reshape(-1)
        pieces.append(_apart(np.concatenate([*model.render(ids, scales, None).pieces]), expected))
        pcm = b"".join(chunk.pcm for chunk in engine.speak(sentence, "", 1.0, Event()))
        spoken.append(_apart(np.frombuffer(pcm, np.int16) / STEPS, expected))
        (chunk,) = voice.synthesize(sentence)
        stock.append(_apart(chunk.audio_int16_array / STEPS * np.abs(expected).max(), expected))
    return Figure(
        "Piper: difference from the whole graph, of full scale",
        "",
        Sample.of(max(pieces), pieces),
        None,
        IDENTICAL,
        note=f"as 16-bit samples: ours {max(spoken):.1e}, stock {max(stock):.1e}",
    )


def _apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference between two recordings, which are to be equally long."""
    if one.shape != other.shape:
        raise ValueError(f"{one.size} samples are not the {other.size} of the whole graph")
    return float(np.abs(one - other).max())
