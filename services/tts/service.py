"""The Pipecat service that speaks: through an engine of this process, or through a worker."""

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from pipecat.frames.frames import (
    AggregatedTextFrame,
    AggregatedTextProgressFrame,
    ErrorFrame,
    Frame,
    LLMAssistantPushAggregationFrame,
    LLMFullResponseEndFrame,
    TTSAudioRawFrame,
)
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.text.base_text_aggregator import TextType
from pipecat.utils.text.transforms import strip_markdown
from pipecat.utils.tracing.service_decorators import traced_tts
from pipecat.utils.types import NOT_GIVEN, NotGiven, is_given, require_given

from services.audio import Resampler
from services.tts.clauses import ClauseTextAggregator
from services.tts.engine import SPEED_LIMITS, Chunk, VoiceInfo, Word
from services.tts.speech import Speech

_WRITE_S = 0.04
# The output transport cuts audio into writes of this length (TransportParams.audio_out_10ms_chunks)
# and keeps what does not fill one: what is queued behind audio can be up to this far ahead of it.

_REPLY_LIMIT_S = 60.0
# Closing a reply that is still being spoken would count its words as heard. So this is longer than
# any `Speech` is silent before it fails.

_EMOJI = re.compile(
    "[ \t]*[\u200d\u20e3\ufe0e\ufe0f\u2190-\u21ff\u2300-\u23ff\u25a0-\u27bf\u2900-\u297f"
    "\u2b00-\u2bff\U0001f000-\U0001faff\U000e0020-\U000e007f]"
)
# The joiner, keycap and variation selectors; the blocks of arrows, technical signs, shapes,
# dingbats, pictographs and tags; and the blanks before, so that a comma stays with its word.
# Letters and digits are in none of them: the context's words still match those spoken.

_IN_LINE = (
    AggregatedTextFrame,
    AggregatedTextProgressFrame,
    LLMAssistantPushAggregationFrame,
    LLMFullResponseEndFrame,
)


@dataclass
class SpeechTTSSettings(TTSSettings):
    """What can be changed while a call runs.

    Attributes:
        speed: 1.0 is the voice's own pace, 2.0 twice as fast; within `SPEED_LIMITS`.
    """

    speed: float | NotGiven = field(default_factory=lambda: NOT_GIVEN)


@dataclass
class SpeechErrorFrame(ErrorFrame):
    """Speech failed; what was not yet spoken of its text stays unspoken."""


async def speakable(text: str, text_type: str | TextType) -> str:
    """Leave out emoji, and text in which nothing is left to say.

    A text transform of Pipecat's: it changes what is spoken, not what the context keeps.

    Args:
        text: What is to be spoken.
        text_type: Not used.
    """
    spoken = _EMOJI.sub("", text)
    return spoken if any(char.isalnum() for char in spoken) else ""


class SpeechTTSService(TTSService):
    """Speaks a call's words through any `Speech`.

    An interruption ends synthesis at once and waits for nothing. Chunks are passed on as they
    come: the output transport paces the call and holds what is not played yet.

    **Words travel with the audio.** Pipecat stamps each word with a clock time counted from the
    first audio of its reply, and the transport releases it then. That presumes that the audio
    plays without a pause from there: a sentence that the model finishes late, a voice that
    stalls, or a transport that falls behind makes words count as heard before they are. Here a
    word carries no time and follows the audio that holds its end. The transport queues it there
    and passes it on once that audio is written, or drops both together. After a barge-in the
    context so holds the words whose end was played, whatever the clock did in between. A
    transport that takes audio well before it plays it makes words early by as much: LiveKit
    takes `LiveKitParams.audio_out_queue_size_ms`, which is better kept small.
    """

    Settings = SpeechTTSSettings
    _settings: SpeechTTSSettings

    def __init__(
        self,
        *,
        speech: Speech,
        first_clause_words: int,
        settings: SpeechTTSSettings | None = None,
        **kwargs: Any,
    ) -> None:
        """Put `speech` into a pipeline.

        Args:
            speech: What speaks; shared by calls, and not closed by the service.
            first_clause_words: See `ClauseTextAggregator`.
            settings: Voice, speed and language; what is not given is the default voice, 1.0 and
                the voice's language.
            **kwargs: For `TTSService`, for example `sample_rate`.
        """
        voices = speech.voices()
        # Workers may not have said yet which voices they have.
        voice = voices[0].name if voices else ""
        store = SpeechTTSSettings(model=speech.name, voice=voice, language=None, speed=1.0)
        if settings is not None:
            store.apply_update(settings)
        info = _find(voices, store.voice)
        if store.language is None and info is not None:
            store.language = info.language
        # A silent reply is worth no verdict: each text asks afresh.
        kwargs.setdefault("max_consecutive_zero_audio_contexts", 0)
        super().__init__(
            push_text_frames=False,
            push_start_frame=True,
            push_stop_frames=True,
            stop_frame_timeout_s=_REPLY_LIMIT_S,
            text_transforms=[("*", strip_markdown), ("*", speakable)],
            settings=store,
            **kwargs,
        )
        # Where Pipecat's own services put theirs: the base takes no aggregator.
        self._text_aggregator = ClauseTextAggregator(
            first_clause_words=first_clause_words, language=self.text_aggregation_language
        )
        self._speech = speech
        self._utterances: set[_Utterance] = set()
        self.add_event_handler("on_before_push_frame", _put_in_line)

    @property
    def voice(self) -> str:
        """The voice that the next sentence is spoken with."""
        return require_given(self._settings.voice, "voice")

    def can_generate_metrics(self) -> bool:
        """Whether the service measures itself: it does."""
        return True

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Speak `text`.

        Args:
            text: A clause, a sentence or more, transformed for speaking.
            context_id: The audio context that it belongs to.

        Yields:
            Audio at the pipeline's rate, its words queued right behind it; a `SpeechErrorFrame`
            where that fails.
        """
        await self.start_tts_usage_metrics(text)
        rate = self.sample_rate
        resampler = Resampler(rate, rate)
        words: deque[Word] = deque()
        sent = 0
        failure: Exception | None = None
        utterance = self._begin(text, context_id)
        try:
            try:
                async for chunk in utterance.chunks():
                    words.extend(chunk.words)
                    audio = b""
                    if chunk.sample_rate != rate:
                        # It may change where another worker goes on with the text.
                        audio, rate = resampler.flush(), chunk.sample_rate
                        resampler = Resampler(rate, self.sample_rate)
                    audio += resampler.push(chunk.pcm)
                    async for frame in self._cut(audio, sent, words, context_id):
                        yield frame
                    sent += len(audio)
            except Exception as e:
                # Whatever is raised ends one utterance, not the call.
                failure = e
            async for frame in self._cut(resampler.flush(), sent, words, context_id):
                yield frame
            for word in words:
                await self.add_word_timestamps([(word.text, word.end)], context_id)
            if failure is not None:
                error = f"{self._speech.name} cannot speak: {failure}"
                yield SpeechErrorFrame(error, exception=failure)
        finally:
            utterance.end()

    async def on_turn_context_completed(self) -> None:
        """Close the reply's audio context, also where its last text came to no audio."""
        self._is_yielding_frames_synchronously = True
        await super().on_turn_context_completed()

    async def on_audio_context_interrupted(self, context_id: str) -> None:
        """Stop what is being spoken into an interrupted context.

        An interruption cancels `run_tts` as a rule, but not while the pipeline processes a frame
        that must not be interrupted.
        """
        for utterance in self._utterances:
            if utterance.context_id == context_id:
                utterance.end()

    async def push_error_frame(
        self, error: ErrorFrame, force_treat_as_permanent: bool = False
    ) -> None:
        """Push an error, and keep text that failed out of the context.

        Without this the base would write the rest of the text to the context, as for a provider
        that forgot to report a word.
        """
        if isinstance(error, SpeechErrorFrame):
            for frame in self._aggregated_frame_sequencer.complete_spoken_slot():
                await self.push_frame(frame)
        await super().push_error_frame(error, force_treat_as_permanent=force_treat_as_permanent)

    async def cleanup(self) -> None:
        """End the call's synthesis."""
        await super().cleanup()
        for utterance in list(self._utterances):
            await self.cancel_task(utterance.task)

    @property
    def _speed(self) -> float:
        speed = self._settings.speed
        return speed if is_given(speed) else 1.0

    def _begin(self, text: str, context_id: str) -> "_Utterance":
        utterance = _Utterance(context_id)
        chunks = self._speech.speak(text, self.voice, self._speed)
        utterance.task = self.create_task(utterance.read(chunks), "utterance")
        self._utterances.add(utterance)

        def over(_task: asyncio.Task[None]) -> None:
            self._utterances.discard(utterance)
            # Also where the task was cancelled before it began.
            utterance.items.put_nowait(None)

        utterance.task.add_done_callback(over)
        return utterance

    async def _cut(
        self, audio: bytes, sent: int, words: deque[Word], context_id: str
    ) -> AsyncIterator[TTSAudioRawFrame]:
        """Put words between stretches of audio, each where the write that holds its end is over.

        Args:
            audio: What follows in the utterance, at the pipeline's rate.
            sent: Bytes of the utterance that went before.
            words: Words to come, from which those placed are taken.
            context_id: The audio context that they are queued in.

        Yields:
            The stretches, each before the words that it completes are queued.
        """
        start = 0
        while words:
            # One sample more would fill another write.
            cut = 2 * (round((words[0].end + _WRITE_S) * self.sample_rate) - 1) - sent
            if cut > len(audio):
                break
            if cut > start:
                yield TTSAudioRawFrame(audio[start:cut], self.sample_rate, 1, context_id=context_id)
                start = cut
            word = words.popleft()
            await self.add_word_timestamps([(word.text, word.end)], context_id)
        if start < len(audio):
            yield TTSAudioRawFrame(audio[start:], self.sample_rate, 1, context_id=context_id)

    async def _update_settings(  # type: ignore[override]  # Narrowed as in TTSService.
        self, delta: TTSSettings
    ) -> dict[str, Any]:
        """Apply what can be applied of `delta`; the rest is an error, and changes nothing.

        Returns:
            The fields changed and their previous values.
        """
        delta = replace(delta)
        speed = getattr(delta, "speed", NOT_GIVEN)
        if isinstance(delta, SpeechTTSSettings) and is_given(speed) and not _is_speed(speed):
            delta.speed = NOT_GIVEN
            await self.push_error(
                f"speed {speed!r} is not within {SPEED_LIMITS[0]} and {SPEED_LIMITS[1]}",
                category=ErrorCategory.APPLICATION,
            )
        if is_given(delta.voice):
            info = _find(self._speech.voices(), delta.voice)
            if info is None:
                await self.push_error(
                    f"there is no voice {delta.voice!r}, {self.voice!r} goes on",
                    category=ErrorCategory.APPLICATION,
                )
                delta.voice = NOT_GIVEN
            elif not is_given(delta.language):
                delta.language = info.language
        return await super()._update_settings(delta)


class _Utterance:
    """One text on its way through `Speech`.

    A task of its own reads it, so that others than `run_tts` can end it, and nobody need wait for
    its end.
    """

    def __init__(self, context_id: str) -> None:
        self.context_id = context_id
        self.task: asyncio.Task[None]
        self.items: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue()

    async def read(self, chunks: AsyncGenerator[Chunk, None]) -> None:
        """Read what is spoken to its end."""
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    self.items.put_nowait(chunk)
        except Exception as error:
            self.items.put_nowait(error)

    async def chunks(self) -> AsyncIterator[Chunk]:
        """The chunks, as they come.

        Raises:
            Exception: Whatever `Speech` raised.
        """
        while (item := await self.items.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def end(self) -> None:
        """Let nothing more be computed."""
        self.task.cancel()


def _put_in_line(_service: TTSService, frame: Frame) -> None:
    """Have the transport queue a reply's text behind its audio: see `SpeechTTSService`."""
    if isinstance(frame, _IN_LINE):
        frame.pts = None


def _find(voices: tuple[VoiceInfo, ...], name: object) -> VoiceInfo | None:
    return next((voice for voice in voices if voice.name == name), None)


def _is_speed(speed: object) -> bool:
    return isinstance(speed, int | float) and SPEED_LIMITS[0] <= speed <= SPEED_LIMITS[1]
