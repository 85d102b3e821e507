"""A voice and an ear for the user whom `pipecat eval` plays, from what is here without a network.

Scenarios name them: `factory: tests.fakes.evals.voice` and `factory: tests.fakes.evals.ear`.
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from threading import Event
from typing import Any

from pipecat.frames.frames import Frame, TTSAudioRawFrame
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService

from services.audio import Resampler
from services.stt.local import LocalHearing
from services.stt.pocketsphinx import PocketsphinxEngine
from services.stt.service import HearingSTTService
from services.tts import voices
from services.tts.piper import PiperEngine


class _Voice(TTSService):
    """Says a turn whole: the harness asks for the frames itself and paces them."""

    def __init__(self) -> None:
        super().__init__(settings=TTSSettings(model=None, voice=None, language=None))
        self._engine = PiperEngine(
            Path(tempfile.gettempdir()),
            default_voice=voices.embedded_name(16000),
            noise_scale=0.0,
            noise_w_scale=0.0,
            offline=True,
        )

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """The words, at the rate that the harness runs at."""
        pcm = await asyncio.to_thread(self._say, text)
        yield TTSAudioRawFrame(pcm, self.sample_rate, 1, context_id=context_id)

    def _say(self, text: str) -> bytes:
        chunks = list(self._engine.speak(text, "", 1.0, Event()))
        resampler = Resampler(chunks[0].sample_rate, self.sample_rate)
        return b"".join(resampler.push(chunk.pcm) for chunk in chunks) + resampler.flush()


class _Ear(HearingSTTService):
    """Lets go of its process with the harness's pipeline."""

    async def cleanup(self) -> None:
        await super().cleanup()
        await self._hearing.close()


def voice(_: dict[str, Any]) -> TTSService:
    """The embedded voice; for `user.speech`."""
    return _Voice()


def ear(_: dict[str, Any]) -> HearingSTTService:
    """PocketSphinx; for `judge.transcription`."""
    hearing = LocalHearing(PocketsphinxEngine(timeout=30.0))
    return _Ear(hearing=hearing, language="en", limit=30.0)
