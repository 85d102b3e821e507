"""Any OpenAI-compatible endpoint that speaks: OpenAI's own, vLLM-Omni, speaches, another worker.

The API: https://platform.openai.com/docs/api-reference/audio/createSpeech.
"""

import json
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

import openai
from openai import AsyncOpenAI

from services.catalog import Loaded
from services.errors import EngineError, UnknownVoiceError
from services.openai_endpoint import SILENCE_S, Answer, Endpoint
from services.settings import EngineSettings, blame, revealed
from services.tts.engine import Chunk, SpeechEngine, VoiceInfo, Word, check_speed
from services.tts.estimate import with_words
from services.tts.pieces import pieces
from services.tts.voices import Progress

SAMPLE_RATE = 24000
"""Samples a second of the format `pcm`, which has no header to say so."""

MOST_CHARACTERS = 4096
"""Of a request's text."""

AT_ONCE = 64
"""Requests that are under way together: the endpoint has limits of its own, and says so."""

BUILT_IN = (
    *("alloy", "ash", "ballad", "coral", "echo", "fable", "onyx"),
    *("nova", "sage", "shimmer", "verse", "marin", "cedar"),
)
"""OpenAI's voices, which it lists in its documentation only."""

_PCM = frozenset(["", "audio/pcm", "audio/l16", "audio/raw", "application/octet-stream"])
# What endpoints call headerless samples. Anything else, played as samples, is noise at full volume.


class OpenAISpeech:
    """Speaks through an endpoint; see `SpeechEngine`.

    The voices are those that the endpoint lists at `/voices` or `/audio/voices`, as workers,
    vLLM-Omni, speaches and others do; OpenAI lists none, and its built-in ones are known. The
    default voice may be one that is in no list: a custom one, or a mixture.

    The times of words are estimates. A longer text is asked for in several requests, one after
    another, each of whole sentences.

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
        voice: str | None = None,
        language: str = "en",
        silence_s: float = SILENCE_S,
    ) -> None:
        """Take the settings; nothing is asked before `load` or the first `speak`.

        Args:
            model: The model's name at the endpoint.
            base_url: The endpoint's address; None for OpenAI's own.
            api_key: What it wants to see; None where it wants nothing.
            voice: The default voice; None for the first that the endpoint lists.
            language: What voices speak that are listed without a language, as a BCP 47 tag.
            silence_s: How long the endpoint may take to its first audio, and from one piece of it
                to the next.
        """
        self._endpoint = Endpoint(base_url, api_key, silence_s=silence_s)
        self._model = model
        self._language = language
        known = BUILT_IN if self._endpoint.is_openai else ()
        self._own = [
            VoiceInfo(name, name, language) for name in (*([voice] if voice else ()), *known)
        ]
        self._voices = _unique(self._own)
        self._closed = Event()

    @property
    def host(self) -> str:
        """Where the endpoint is."""
        return self._endpoint.host

    def load(self, voice: str = "") -> None:
        """Ask the endpoint which voices it has, which opens a connection to it as well.

        Args:
            voice: A voice that is needed; empty for the default one.

        Raises:
            UnknownVoiceError: There is no such voice.
            EngineError: The endpoint cannot be used, or has no voice that is known.
        """
        self._ask_for_voices(self._closed)
        self._find(voice)

    def loaded(self) -> tuple[str, ...]:
        """All voices: none waits for a model of this process."""
        return tuple(info.name for info in self._voices)

    def voices(self) -> tuple[VoiceInfo, ...]:
        """The voices that are known, the default one first; before `load`, those known without."""
        return self._voices

    def speak(self, text: str, voice: str, speed: float, stop: Event) -> Iterator[Chunk]:
        """Speak `text`; see `SpeechEngine.speak`.

        Args:
            text: What to say.
            voice: A voice's name; empty for the default one.
            speed: Within `SPEED_LIMITS`, which are OpenAI's. vLLM-Omni streams most models at 1.0
                only.
            stop: Closes the connection at once.

        Yields:
            Audio as it comes, with the words that are thought to end in it.

        Raises:
            UnknownVoiceError: There is no such voice.
            BusyError: The endpoint takes no more requests for now.
            EngineError: It refused, failed, or gave something other than audio.
        """
        check_speed(speed)
        parts = [part for part in pieces(text, MOST_CHARACTERS) if any(map(str.isalnum, part))]
        if not parts:
            return
        if voice not in ("", *self.loaded()) or not self._voices:
            self._ask_for_voices(stop)
            if stop.is_set():
                return
        name = self._find(voice)
        start = 0.0
        for part in parts:
            length = 0.0
            for chunk in self._part(part, name, speed, stop):
                length += len(chunk.pcm) / 2 / chunk.sample_rate
                yield replace(chunk, words=tuple(_later(word, start) for word in chunk.words))
            if stop.is_set():
                return
            start += length

    def close(self) -> None:
        """End what is being spoken, and close the connections. Safe to call twice."""
        self._closed.set()
        self._endpoint.close()

    def _part(self, text: str, voice: str, speed: float, stop: Event) -> Iterator[Chunk]:
        """Speak what fits into a request."""
        body: dict[str, Any] = {"input": text, "model": self._model, "voice": voice}
        if speed != 1.0:
            body["speed"] = speed
        if not self._endpoint.is_openai:
            # Without it speaches and vLLM-Omni give the model's own rate, and do not say which.
            body["extra_body"] = {"sample_rate": SAMPLE_RATE}
        elif voice.startswith("voice_"):
            body["voice"] = {"id": voice}

        def ask(client: AsyncOpenAI) -> Any:
            return client.audio.speech.with_streaming_response.create(
                response_format="pcm",
                # Without it vLLM-Omni sends nothing before all is spoken.
                stream_format="audio",
                **body,
            )

        with self._endpoint.stream(ask, stop, about=f"model {self._model!r}") as answer:
            if answer is None:
                return
            rate = self._rate(answer)
            with closing(self._samples(answer, stop)) as samples:
                yield from with_words(samples, text, rate, speed, stop)

    def _rate(self, answer: Answer) -> int:
        """The sample rate of an answer that is audio.

        Raises:
            EngineError: It is something else.
        """
        if answer.media_type not in _PCM:
            raise EngineError(
                f"{self.host} sends {answer.media_type} instead of samples (audio/pcm)"
            )
        rate = answer.parameters.get("rate", "")
        return int(rate) if rate.isdecimal() and int(rate) else SAMPLE_RATE

    def _samples(self, answer: Answer, stop: Event) -> Generator[bytes]:
        """The bytes of an answer in whole samples."""
        half = b""
        empty = True
        for piece in answer.pieces:
            empty = False
            pcm = half + piece
            end = len(pcm) // 2 * 2
            half = pcm[end:]
            if end:
                yield pcm[:end]
        if stop.is_set() or self._closed.is_set():
            return
        if empty:
            raise EngineError(f"{self.host} sends no audio")
        if half:
            raise EngineError(f"{self.host} sends an odd number of bytes: no 16-bit samples")

    def _find(self, voice: str) -> str:
        """The name of a voice that can be asked for.

        Raises:
            UnknownVoiceError: It is not known.
            EngineError: There is no default voice.
        """
        names = [info.name for info in self._voices]
        if voice in names:
            return voice
        if voice:
            raise UnknownVoiceError(
                f"{self.host} has no voice {voice!r} that is known; "
                f"known are {', '.join(names[:8]) or 'none'}"
            )
        if not names:
            raise EngineError(f"{self.host} lists no voices: name one that it has (--tts-voice)")
        return names[0]

    def _ask_for_voices(self, stop: Event) -> None:
        """Learn which voices the endpoint lists, wherever it does."""
        if self._endpoint.is_openai:
            return
        for path in ("/voices", "/audio/voices"):
            request = partial(_get, path=path)
            answer = self._endpoint.ask(request, stop, about="list of voices")
            if listed := _read_voices(answer or "", self._language):
                self._voices = _unique([*self._own, *listed])
                return


async def _get(client: AsyncOpenAI, path: str) -> str:
    """What is at a path, or nothing where there is no such path."""
    try:
        return await client.get(path, cast_to=str)
    except openai.APIStatusError as error:
        if error.status_code in {404, 405, 501}:
            return ""
        raise


def _read_voices(answer: str, language: str) -> list[VoiceInfo]:
    """A list of voices, in any of the shapes that are about; none where it is no such list."""
    try:
        listed = json.loads(answer)
    except ValueError:
        return []
    if isinstance(listed, dict):
        listed = listed.get("voices") or listed.get("data")
    voices = []
    for voice in listed if isinstance(listed, list) else ():
        fields = voice if isinstance(voice, dict) else {"name": voice}
        ids = (fields.get(key) for key in ("voice_id", "id", "name"))
        if name := next((value for value in ids if isinstance(value, str) and value), ""):
            label = fields.get("label") or fields.get("name") or name
            voices.append(VoiceInfo(name, str(label), str(fields.get("language") or language)))
    return voices


def _unique(voices: Iterable[VoiceInfo]) -> tuple[VoiceInfo, ...]:
    """Voices by their name, each where it comes first, told of as where it comes last."""
    return tuple({info.name: info for info in voices}.values())


def _later(word: Word, seconds: float) -> Word:
    return replace(word, start=word.start + seconds, end=word.end + seconds)


def build(settings: EngineSettings, voice: str | None, progress: Progress) -> Loaded[SpeechEngine]:
    """The engine that the settings ask for, with its voices known.

    Args:
        settings: `tts_base_url`, `tts_model`, `tts_api_key` and, for OpenAI's own endpoint,
            `openai_api_key`; `language`.
        voice: The default voice; None for the endpoint's first.
        progress: Not used: nothing is downloaded.

    Raises:
        SettingsError: The endpoint cannot be used as they say.
    """
    assert settings.tts_model  # The catalog has looked.
    base_url = settings.tts_base_url
    key = settings.tts_api_key or (None if base_url else settings.openai_api_key)
    engine = OpenAISpeech(
        model=settings.tts_model,
        base_url=base_url,
        api_key=revealed(key) or None,
        voice=voice,
        language=settings.language,
    )
    try:
        with blame("--tts-base-url" if base_url else "--tts openai"):
            engine.load()
    except BaseException:
        engine.close()
        raise
    return Loaded(engine, settings.tts_model, engine.host)
