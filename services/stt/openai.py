"""Any OpenAI-compatible endpoint that hears: OpenAI's own, speaches, vLLM, another worker.

The API: https://platform.openai.com/docs/api-reference/audio/createTranscription.
"""

import io
import math
import wave
from collections.abc import Mapping
from functools import partial
from threading import Event
from typing import Any

import openai
from openai import AsyncOpenAI
from pydantic import BaseModel, ValidationError

from services.catalog import Loaded
from services.errors import EngineError
from services.openai_endpoint import SILENCE_S, Endpoint
from services.settings import EngineSettings, blame, revealed
from services.stt.engine import SAMPLE_RATE, HearingEngine, Segment, Transcript
from services.tts.voices import Progress

MOST_BYTES = 25 * 1000 * 1000
"""Of a file: thirteen minutes."""

AT_ONCE = 64
"""Requests that are under way together: the endpoint has limits of its own, and says so."""

FORMATS = ("verbose_json", "json", "text")
"""What is asked for, the best first. Only `verbose_json` has confidences, and not every model of
OpenAI's gives it."""


class OpenAIHearing:
    """Hears through an endpoint; see `HearingEngine`.

    Where the endpoint gives no probabilities, what it heard counts as certain.

    Attributes:
        name: `openai`.
        at_once: `AT_ONCE`.
    """

    name = "openai"
    at_once = AT_ONCE

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        silence_s: float = SILENCE_S,
    ) -> None:
        """Take the settings; nothing is asked before `load` or the first `transcribe`.

        Args:
            model: The model's name at the endpoint.
            base_url: The endpoint's address; None for OpenAI's own.
            api_key: What it wants to see; None where it wants nothing.
            silence_s: How long the endpoint may take.
        """
        self._endpoint = Endpoint(base_url, api_key, silence_s=silence_s)
        self._model = model
        self._formats: tuple[str, ...] = FORMATS
        self._closed = Event()

    @property
    def host(self) -> str:
        """Where the endpoint is."""
        return self._endpoint.host

    def load(self, language: str | None = None) -> None:
        """Have the endpoint hear half a second of silence: with it the model is there and warm.

        Args:
            language: What will be spoken.

        Raises:
            EngineError: The endpoint cannot be used.
        """
        self.transcribe(bytes(SAMPLE_RATE), language, self._closed)

    def transcribe(self, pcm: bytes, language: str | None, stop: Event) -> Transcript:
        """Recognise the speech in `pcm`; see `HearingEngine.transcribe`.

        Args:
            pcm: Samples; an odd byte at the end is left out.
            language: ISO 639-1 code of the speech, or None to let the endpoint tell.
            stop: Closes the connection at once; what comes back then is empty.

        Raises:
            BusyError: The endpoint takes no more requests for now.
            EngineError: It refused, failed, or gave something other than a transcript.
        """
        if len(pcm) > MOST_BYTES:
            minutes = MOST_BYTES / 2 / SAMPLE_RATE / 60
            raise EngineError(f"{self.host} takes no more than {minutes:.0f} minutes at a time")
        samples = pcm[: len(pcm) // 2 * 2]
        if not samples:
            return Transcript(())
        fields: dict[str, Any] = {"model": self._model, "file": ("speech.wav", _wav(samples))}
        if language is not None:
            fields["language"] = language
        answer = self._endpoint.ask(
            partial(self._ask, fields), stop, about=f"model {self._model!r}"
        )
        if answer is None:
            return Transcript(())
        return self._read(*answer, len(samples) / 2 / SAMPLE_RATE, language)

    def close(self) -> None:
        """End what is under way, and close the connections. Safe to call twice."""
        self._closed.set()
        self._endpoint.close()

    async def _ask(self, fields: Mapping[str, Any], client: AsyncOpenAI) -> tuple[str, str]:
        """The media type and the text of the answer, in the best format that the model gives."""
        while True:
            wanted = self._formats[0]
            create: Any = client.audio.transcriptions.with_raw_response.create
            try:
                response = await create(response_format=wanted, **fields)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refused = error.param == "response_format" or wanted in str(error.body)
                if not refused or wanted == FORMATS[-1]:
                    raise
                # Others may have come to the same conclusion meanwhile.
                self._formats = FORMATS[FORMATS.index(wanted) + 1 :]
                continue
            return response.headers.get("content-type", ""), response.text

    def _read(self, kind: str, text: str, seconds: float, language: str | None) -> Transcript:
        """What was heard."""
        if "html" in kind.lower():
            raise EngineError(f"{self.host} sends a web page instead of a transcript")
        if "json" not in kind.lower():
            heard = _Heard(text=text)
        else:
            try:
                heard = _Heard.model_validate_json(text)
            except ValidationError:
                raise EngineError(f"{self.host} sends JSON that is no transcript") from None
        segments = heard.segments or [_Part(text=heard.text, start=0.0, end=seconds)]
        # OpenAI gives a language its English name.
        code = heard.language if heard.language and len(heard.language) == 2 else language
        return Transcript(tuple(part.segment() for part in segments if part.text.strip()), code)


class _Part(BaseModel):
    """A segment as endpoints send it."""

    text: str
    start: float
    end: float
    avg_logprob: float | None = None
    no_speech_prob: float | None = None

    def segment(self) -> Segment:
        return Segment(
            text=self.text.strip(),
            start=self.start,
            end=self.end,
            confidence=min(1.0, math.exp(self.avg_logprob or 0.0)),
            no_speech=min(1.0, max(0.0, self.no_speech_prob or 0.0)),
        )


class _Heard(BaseModel):
    """An answer as endpoints send it; `json` has the text only."""

    text: str
    language: str | None = None
    segments: list[_Part] | None = None


def _wav(pcm: bytes) -> bytes:
    """A WAV file of samples."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(SAMPLE_RATE)
        wav.writeframes(pcm)
    return file.getvalue()


def build(settings: EngineSettings, language: str, progress: Progress) -> Loaded[HearingEngine]:
    """The engine that the settings ask for, seen to hear.

    Args:
        settings: `stt_base_url`, `stt_model`, `stt_api_key` and, for OpenAI's own endpoint,
            `openai_api_key`.
        language: What will be spoken.
        progress: Not used: nothing is downloaded.

    Raises:
        SettingsError: The endpoint cannot be used as they say.
    """
    assert settings.stt_model  # The catalog has looked.
    base_url = settings.stt_base_url
    key = settings.stt_api_key or (None if base_url else settings.openai_api_key)
    engine = OpenAIHearing(
        model=settings.stt_model,
        base_url=base_url,
        api_key=revealed(key) or None,
        silence_s=settings.stt_timeout,
    )
    try:
        with blame("--stt-base-url" if base_url else "--stt openai"):
            engine.load(language)
    except BaseException:
        engine.close()
        raise
    return Loaded(engine, settings.stt_model, engine.host)
