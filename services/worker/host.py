"""What a worker hosts: its engines, and the admission of as much as they can serve well."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from services.errors import BusyError
from services.stt.engine import SAMPLE_RATE, Transcript
from services.stt.hearing import Hearing
from services.tts.engine import Chunk, VoiceInfo
from services.tts.speech import Speech
from services.worker.metrics import Metrics


class Admission:
    """Admits as many utterances as can be served at once, and none when the worker drains."""

    def __init__(
        self, capacity: int, metrics: Metrics, at_once: Mapping[str, int] | None = None
    ) -> None:
        """Open.

        Args:
            capacity: The most at once.
            metrics: Told who is inside.
            at_once: The most of a task, where its engine sets a limit of its own.
        """
        self._at_once = at_once or {}
        self._tasks: Counter[str] = Counter()
        self.capacity = min(capacity, sum(self._at_once.values()) or capacity)
        self.active = 0
        self.draining = False
        self.on_change: Callable[[], None] = lambda: None
        """Called when someone has come or gone; must not block."""
        self._metrics = metrics
        self._empty = asyncio.Event()
        self._empty.set()
        metrics.capacity.set(self.capacity)

    async def wait_until_empty(self) -> None:
        """Return once nobody is inside."""
        await self._empty.wait()

    @contextmanager
    def admit(self, task: str) -> Iterator[None]:
        """Have a place for the length of an utterance.

        Args:
            task: `speak` or `transcribe`, for the metrics.

        Raises:
            BusyError: The worker is full or about to stop.
        """
        limit = min(self.capacity, self._at_once.get(task, self.capacity))
        if self.draining or self.active >= self.capacity or self._tasks[task] >= limit:
            self._metrics.utterances.labels(task, "busy").inc()
            if self.draining:
                raise BusyError("the worker is about to stop")
            raise BusyError(f"all {limit} places of the worker are taken")
        self._change(task, 1)
        outcome = "failed"
        try:
            yield
            outcome = "done"
        except Exception:
            raise
        except BaseException:
            outcome = "cancelled"
            raise
        finally:
            self._change(task, -1)
            self._metrics.utterances.labels(task, outcome).inc()

    def _change(self, task: str, by: int) -> None:
        self.active += by
        self._tasks[task] += by
        self._metrics.active.set(self.active)
        if self.active:
            self._empty.clear()
        else:
            self._empty.set()
        self.on_change()


class AdmittedSpeech:
    """A `Speech` for utterances that are admitted."""

    def __init__(self, speech: Speech, admission: Admission, metrics: Metrics) -> None:
        """Have `admission` decide what reaches `speech`."""
        self.name = speech.name
        self._speech = speech
        self._admission = admission
        self._metrics = metrics

    def voices(self) -> tuple[VoiceInfo, ...]:
        """See `Speech.voices`."""
        return self._speech.voices()

    async def speak(self, text: str, voice: str, speed: float) -> AsyncGenerator[Chunk, None]:
        """See `Speech.speak`; raises BusyError before anything else."""
        with self._admission.admit("speak"):
            asked = time.perf_counter()
            first = True
            async with aclosing(self._speech.speak(text, voice, speed)) as chunks:
                async for chunk in chunks:
                    if first:
                        self._metrics.first_audio.observe(time.perf_counter() - asked)
                        first = False
                    self._metrics.audio.labels("speak").inc(len(chunk.pcm) / 2 / chunk.sample_rate)
                    yield chunk

    async def close(self) -> None:
        """See `Speech.close`."""
        await self._speech.close()


class AdmittedHearing:
    """A `Hearing` for utterances that are admitted."""

    def __init__(self, hearing: Hearing, admission: Admission, metrics: Metrics) -> None:
        """Have `admission` decide what reaches `hearing`."""
        self.name = hearing.name
        self._hearing = hearing
        self._admission = admission
        self._metrics = metrics

    async def transcribe(self, pcm: bytes, language: str | None) -> Transcript:
        """See `Hearing.transcribe`; raises BusyError before anything else."""
        with self._admission.admit("transcribe"):
            self._metrics.audio.labels("transcribe").inc(len(pcm) / 2 / SAMPLE_RATE)
            return await self._hearing.transcribe(pcm, language)

    async def close(self) -> None:
        """See `Hearing.close`."""
        await self._hearing.close()


@dataclass(frozen=True)
class Host:
    """What a worker's ways in share.

    Attributes:
        speech: Speaks; None where the worker does not.
        hearing: Hears; None where the worker does not.
        language: What is spoken and heard unless someone says otherwise, as an ISO 639-1 code.
        admission: Admits utterances, from whatever way in.
        metrics: What is counted.
    """

    speech: Speech | None
    hearing: Hearing | None
    language: str
    admission: Admission
    metrics: Metrics

    async def close(self) -> None:
        """Let go of the engines."""
        if self.speech:
            await self.speech.close()
        if self.hearing:
            await self.hearing.close()


def open_host(
    speech: Speech | None,
    hearing: Hearing | None,
    *,
    language: str,
    capacity: int,
    at_once: Mapping[str, int] | None = None,
) -> Host:
    """A host whose engines share one admission.

    Args:
        speech: What speaks, if anything.
        hearing: What hears, if anything.
        language: ISO 639-1 code.
        capacity: Utterances served at once, spoken and heard together.
        at_once: Of these, the most that an engine can `speak` or `transcribe`.
    """
    metrics = Metrics()
    admission = Admission(capacity, metrics, at_once)
    return Host(
        AdmittedSpeech(speech, admission, metrics) if speech else None,
        AdmittedHearing(hearing, admission, metrics) if hearing else None,
        language,
        admission,
        metrics,
    )
