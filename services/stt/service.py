"""The Pipecat service that hears: through an engine of this process, or through a worker."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from loguru import logger
from pipecat.frames.frames import ErrorFrame, Frame, InputAudioRawFrame, TranscriptionFrame
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.settings import STTSettings
from pipecat.services.stt_service import SegmentedSTTService, STTService
from pipecat.transcriptions.language import Language
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.time import time_now_iso8601
from pipecat.utils.tracing.service_decorators import traced_stt
from pipecat.utils.types import assert_given

from services.audio import Resampler
from services.errors import EngineError
from services.stt.engine import SAMPLE_RATE, Transcript
from services.stt.gate import Verdict, listen
from services.stt.hearing import Hearing

BLANK = " "
"""The text of a transcript that holds nothing; see `HearingSTTService`."""

_TTFS_P99_S = 1.2
# Seconds from the end of speech to the transcript that 99 in 100 stay below. A finalized transcript
# ends the turn whenever it comes, so the figure only decides when a turn whose transcript is late
# counts as late.


class HearingSTTService(SegmentedSTTService):
    """Turns the caller's speech into text with any `Hearing`.

    Each stretch of speech that the VAD finds becomes one `TranscriptionFrame`, whose `result` is
    the gate's `Verdict`.

    **Nothing heard.** When the gate rejects all of it, or recognition fails, a frame with the text
    `BLANK` follows all the same. Pipecat's stop strategies end a turn only when a transcript came,
    so that without one a cough would hold the turn open until `user_turn_stop_timeout`, 5 s. A
    single space counts as a transcript with them (`_maybe_trigger_user_turn_stopped` asks whether
    there is text), and the user aggregator drops it (`_handle_transcription` asks whether there is
    text but for spaces): the turn ends at once and empty, and `EmptyUserTurnConfig` says what
    follows from that.

    **Final or not.** A transcript is `finalized` only when nothing more is under way. The base
    class marks all of them, and a strategy that got one while the caller speaks on, after a short
    pause, would end the turn as soon as the caller stops again: without the words spoken last.

    **Errors.** Recognition that fails or is too slow costs one utterance: an `ErrorFrame` goes
    upstream, and the call goes on.
    """

    def __init__(
        self,
        *,
        hearing: Hearing,
        language: str | None,
        limit: float,
        max_segment: float = 60.0,
        **kwargs: Any,
    ) -> None:
        """Set up a call's ear.

        Args:
            hearing: What hears; shared by calls, and not closed by the service.
            language: ISO 639-1 code of the speech, or None to let the engine tell.
            limit: Seconds that an utterance may take, waiting for other calls included.
            max_segment: Seconds of one stretch of speech that are kept, the latest ones. Somebody
                who speaks for that long without a breath is a radio.
            **kwargs: For `SegmentedSTTService`.
        """
        super().__init__(
            settings=STTSettings(model=hearing.name, language=language),
            ttfs_p99_latency=_TTFS_P99_S,
            **kwargs,
        )
        self._hearing = hearing
        self._limit = limit
        self._max_segment = max_segment

    @property
    def wants_wav_segments(self) -> bool:
        """False: engines take bare samples."""
        return False

    def can_generate_metrics(self) -> bool:
        """True: TTFB is from the end of speech to the transcript, processing the engine's part."""
        return True

    def language_to_service_language(self, language: Language) -> str:
        """The ISO 639-1 code of a language: engines know no regions."""
        return str(language.value).split("-")[0]

    async def cleanup(self) -> None:
        """End the task that Pipecat forgets where a call is cancelled while it starts."""
        await self._cancel_segment_task()
        await super().cleanup()

    async def process_audio_frame(
        self, frame: InputAudioRawFrame, direction: FrameDirection
    ) -> None:
        """Keep the latest `max_segment` seconds of the caller's speech."""
        await super().process_audio_frame(frame, direction)
        excess = len(self._audio_buffer) - int(self._max_segment * self.sample_rate) * 2
        if excess > 0:
            del self._audio_buffer[:excess]

    async def push_frame(
        self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
    ) -> None:
        """Push a frame; a transcript is marked as final when nothing more is under way."""
        if isinstance(frame, TranscriptionFrame):
            frame.finalized = not self._user_speaking and self._segment_queue.empty()
            await STTService.push_frame(self, frame, direction)
        else:
            await super().push_frame(frame, direction)

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Recognise one stretch of speech.

        Args:
            audio: Signed 16-bit mono samples at the pipeline's rate.

        Yields:
            An `ErrorFrame` if that failed, and always a `TranscriptionFrame`.
        """
        await self.start_processing_metrics()
        verdict = Verdict(Transcript(()), "not recognised")
        try:
            async with asyncio.timeout(self._limit):
                verdict = await self._hear(audio)
        except TimeoutError:
            yield self._error(f"{self._hearing.name} took more than {self._limit:g} s")
        except EngineError as error:
            yield self._error(str(error), error)
        except Exception as error:  # No fault must hold the caller's turn open.
            yield self._error(f"{self._hearing.name} failed: {error!r}", error)
        await self.stop_processing_metrics()
        text = verdict.transcript.text
        for segment, reason in verdict.rejected:
            logger.debug(f"{self}: not believed: [{segment.text}]: {reason}")
        if verdict.accepted:
            logger.debug(f"{self}: heard [{text}]")
            await self._handle_transcription(text, True, self._language(verdict))
        else:
            logger.debug(f"{self}: nothing heard: {verdict.reason}")
        yield TranscriptionFrame(
            text or BLANK,
            self._user_id,
            time_now_iso8601(),
            self._language(verdict),
            result=verdict,
        )

    async def _hear(self, audio: bytes) -> Verdict:
        """Recognise and judge."""
        resampler = Resampler(self.sample_rate, SAMPLE_RATE)
        pcm = resampler.push(audio) + resampler.flush()
        return await listen(self._hearing, pcm, assert_given(self._settings.language))

    def _language(self, verdict: Verdict) -> Language | None:
        code = verdict.transcript.language or assert_given(self._settings.language)
        try:
            return Language(code) if code else None
        except ValueError:
            return None

    def _error(self, message: str, error: Exception | None = None) -> ErrorFrame:
        # The next utterance may well succeed, whatever the exception looks like.
        return ErrorFrame(f"STT: {message}", exception=error, category=ErrorCategory.UNKNOWN)

    @traced_stt
    async def _handle_transcription(
        self, transcript: str, is_final: bool, language: Language | None = None
    ) -> None:
        """Where Pipecat's tracing hooks in."""
