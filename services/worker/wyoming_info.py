"""What a worker does, as Wyoming says it, and the voice that a Wyoming client asks for."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from wyoming.info import (
    AsrModel,
    AsrProgram,
    Attribution,
    Info,
    TtsProgram,
    TtsVoice,
    WakeModel,
    WakeProgram,
)
from wyoming.tts import Synthesize, SynthesizeStart, SynthesizeTextFormat, SynthesizeVoice

from services.errors import UnknownVoiceError
from services.tts.speech import Speech
from services.worker.host import Host
from services.worker.wyoming_input import RequestError, text_of

if TYPE_CHECKING:
    from services.wake import WakeWords

_OPEN_WAKE_WORD = Attribution(name="dscripka", url="https://github.com/dscripka/openWakeWord")
_PARLEY = Attribution(name="Parley", url="")


def describe(served: Host, wake: "WakeWords | None") -> Info:
    """What a worker does, and nothing that it does not.

    Args:
        served: What speaks and hears.
        wake: The wake words, if it listens for them.
    """
    part: dict[str, Any] = {"attribution": _PARLEY, "installed": True, "version": None}
    program = part | {"version": version("parley")}
    info = Info()
    if speech := served.speech:
        voices = [
            TtsVoice(name=voice.name, description=voice.label, languages=[voice.language], **part)
            for voice in speech.voices()
        ]
        info.tts.append(
            TtsProgram(
                name=speech.name,
                description=f"{speech.name}, served by Parley",
                voices=voices,
                supports_synthesize_streaming=True,
                **program,
            )
        )
    if hearing := served.hearing:
        languages = [served.language] if served.language else []
        model = AsrModel(name=hearing.name, description=hearing.name, languages=languages, **part)
        info.asr.append(
            AsrProgram(
                name=hearing.name,
                description=f"{hearing.name}, served by Parley",
                models=[model],
                supports_transcript_streaming=True,
                requires_external_vad=True,
                **program,
            )
        )
    if wake:
        part["attribution"] = _OPEN_WAKE_WORD
        words = [
            WakeModel(
                name=word.name,
                description=word.phrase,
                phrase=word.phrase,
                languages=["en"],
                **part,
            )
            for word in wake.words
        ]
        info.wake.append(
            WakeProgram(
                name="openwakeword",
                description="openWakeWord, served by Parley",
                models=words,
                **part | {"version": version("pyopen-wakeword")},
            )
        )
    return info


def choose_voice(speech: Speech, asked: Synthesize | SynthesizeStart) -> str:
    """The voice that is asked for.

    Args:
        speech: What speaks.
        asked: The request. A voice's name counts more than its language.

    Returns:
        The voice's name; empty for the default one.

    Raises:
        UnknownVoiceError: There is none for the language, or no such speaker.
        RequestError: It is not asked for as it should be.
    """
    if asked.text_format not in (None, SynthesizeTextFormat.TEXT):
        raise RequestError(f"text of the format {asked.text_format!r} cannot be spoken")
    voice = asked.voice or SynthesizeVoice()
    if voice.speaker:
        raise UnknownVoiceError(f"the voice {voice.name!r} has no speakers to choose from")
    if voice.name or not voice.language:
        return text_of(voice.name or "")
    wanted = text_of(voice.language).replace("_", "-").lower()
    languages = {info.name: info.language.lower() for info in speech.voices()}
    exact = (name for name, language in languages.items() if language == wanted)
    near = (n for n, lang in languages.items() if lang.split("-")[0] == wanted.split("-")[0])
    chosen = next(exact, None) or next(near, None)
    if chosen is None:
        raise UnknownVoiceError(f"there is no voice for the language {voice.language!r}")
    return chosen
