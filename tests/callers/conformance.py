"""Calls an engine as calls, workers and pages do, and tells which promises it does not keep.

`python -m tests.callers.conformance --engine piper` checks the engine of that row in the catalog,
made with the settings of a worker's command line. Tests of an engine do the same:

    assert broken_promises(engine) == []
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Event

from services import catalog
from services.errors import EngineError, UnknownVoiceError
from services.settings import SettingsError
from services.tts.engine import Chunk, SpeechEngine, VoiceInfo
from services.worker import settings as worker_settings

TEXT = "The quick brown fox, who was in no hurry, jumps over the lazy dog."

ODD_TEXTS = ("naïve 中文 words", "a\0b", "100 % 😀", "-" * 40)
"""Which may be spoken, passed over or refused, in the ways that there are."""

CHUNK_S = 0.08
"""Seconds of audio in a chunk after the first, at most."""

NOBODY = "no such voice"


def broken_promises(engine: SpeechEngine) -> list[str]:
    """What an engine does otherwise than `SpeechEngine` says; closes it.

    What takes a stopwatch is left out: how soon the first chunk comes, and how soon the core is
    free after `stop`.

    Args:
        engine: What is checked; it speaks some thirty sentences.

    Returns:
        A line for each promise; none where all are kept.
    """
    broken = []
    for promise in _PROMISES:
        try:
            promise(engine)
        except AssertionError as error:
            broken.append(f"{promise.__doc__} {error}".strip())
        except Exception as error:
            broken.append(f"{promise.__doc__} It raised {error!r}")
    return broken


def _has_voices(engine: SpeechEngine) -> None:
    """It has voices, each with a name of its own, a label and a language."""
    voices = engine.voices()
    assert engine.name, "The engine has no name."
    assert engine.at_once >= 1, "at_once is below 1."
    assert voices, "There is none."
    assert all(isinstance(v, VoiceInfo) and v.name and v.label and v.language for v in voices)
    assert len({voice.name for voice in voices}) == len(voices), "Two have the same name."


def _loads(engine: SpeechEngine) -> None:
    """What is loaded is told: the default voice after `load()`, by the name in `voices()`."""
    engine.load()
    default = engine.voices()[0].name
    assert default in engine.loaded(), f"{default!r} is not in {engine.loaded()}."
    engine.load(default)


def _refuses_unknown_voices(engine: SpeechEngine) -> None:
    """A voice that is not there is an UnknownVoiceError, for `load` and for `speak`."""
    for ask in (lambda: engine.load(NOBODY), lambda: _speak(engine, voice=NOBODY)):
        try:
            ask()
        except UnknownVoiceError as error:
            _check_line(error)
        else:
            raise AssertionError(f"{NOBODY!r} was taken.")


def _gives_short_chunks(engine: SpeechEngine) -> None:
    """Chunks hold whole 16-bit samples at one rate, after the first 80 ms of them at most."""
    for voice in ("", engine.voices()[0].name):
        chunks = _speak(engine, voice=voice)
        assert chunks, "There is none."
        rates = {chunk.sample_rate for chunk in chunks}
        assert len(rates) == 1, f"Rates: {rates}."
        sizes = [len(chunk.pcm) for chunk in chunks]
        assert all(size and size % 2 == 0 for size in sizes), f"Bytes: {sizes}."
        longest = max(map(_seconds, chunks[1:]), default=0.0)
        assert longest <= CHUNK_S + 1e-6, f"One holds {longest * 1000:.1f} ms."
        assert any(any(chunk.pcm) for chunk in chunks), "All is silence."


def _gives_every_word(engine: SpeechEngine) -> None:
    """Each word of the text comes once, in order, with the chunk that holds its last sample."""
    chunks = _speak(engine)
    words = [word for chunk in chunks for word in chunk.words]
    assert [word.text for word in words] == TEXT.split(), f"They are {[w.text for w in words]}."
    over = began = 0.0
    for chunk in chunks:
        over += _seconds(chunk)
        for word in chunk.words:
            assert began <= word.start <= word.end, f"{word} does not follow {began:.3f} s."
            # A word ends between two samples, so to speak.
            latest = over + 1 / chunk.sample_rate
            assert word.end <= latest, f"{word} comes with a chunk that ends at {over:.3f} s."
            began = word.start


def _keeps_silent_about_nothing(engine: SpeechEngine) -> None:
    """A text without anything to say yields nothing."""
    for text in ("", "  \n"):
        assert not _speak(engine, text), f"{text!r} was spoken."


def _keeps_the_pace(engine: SpeechEngine) -> None:
    """At twice the speed a text takes clearly less time."""
    whole, half = (sum(map(_seconds, _speak(engine, speed=speed))) for speed in (1.0, 2.0))
    assert half < 0.75 * whole, f"{whole:.2f} s became {half:.2f} s."


def _stops(engine: SpeechEngine) -> None:
    """Once `stop` is set at most one chunk follows."""
    for before in (0, 1, 3):
        stop = Event()
        chunks = engine.speak(TEXT, "", 1.0, stop)
        for _ in islice(chunks, before):
            pass
        stop.set()
        after = len(list(chunks))
        assert after <= 1, f"After {before} chunks and `stop` came {after} more."


def _can_be_left(engine: SpeechEngine) -> None:
    """An utterance can be closed in its middle, and the next one is whole."""
    chunks = engine.speak(TEXT, "", 1.0, Event())
    next(chunks)
    assert hasattr(chunks, "close"), "`speak` is no generator."
    chunks.close()
    _gives_every_word(engine)


def _speaks_in_threads(engine: SpeechEngine) -> None:
    """Several threads may speak at once, and each has its own words."""
    texts = ("one two three four", "five six", "seven eight nine", "ten")
    with ThreadPoolExecutor(len(texts)) as pool:
        for text, chunks in zip(
            texts, pool.map(lambda text: _speak(engine, text), texts), strict=True
        ):
            words = " ".join(word.text for chunk in chunks for word in chunk.words)
            assert words == text, f"{text!r} became {words!r}."


def _bears_odd_texts(engine: SpeechEngine) -> None:
    """Whatever the text, it is spoken or an EngineError of one line."""
    for text in ODD_TEXTS:
        try:
            _speak(engine, text)
        except EngineError as error:
            _check_line(error)
    _gives_every_word(engine)


def _closes(engine: SpeechEngine) -> None:
    """It can be closed twice."""
    engine.close()
    engine.close()


_PROMISES: tuple[Callable[[SpeechEngine], None], ...] = (
    *(_has_voices, _loads, _refuses_unknown_voices, _gives_short_chunks, _gives_every_word),
    *(_keeps_silent_about_nothing, _keeps_the_pace, _stops, _can_be_left, _speaks_in_threads),
    *(_bears_odd_texts, _closes),
)


def _speak(
    engine: SpeechEngine, text: str = TEXT, *, voice: str = "", speed: float = 1.0
) -> list[Chunk]:
    chunks: Iterator[Chunk] = engine.speak(text, voice, speed, Event())
    return list(chunks)


def _seconds(chunk: Chunk) -> float:
    return len(chunk.pcm) / 2 / chunk.sample_rate


def _check_line(error: EngineError) -> None:
    message = str(error)
    assert message, "Its message is empty."
    assert "\n" not in message, f"Its message has several lines: {message!r}."


def main(argv: Sequence[str]) -> int:
    """Check the engine that the settings name, and print what it does otherwise.

    Args:
        argv: As for a worker.

    Returns:
        The exit code: 0 where it keeps all promises, 1 where it does not, 2 for a wrong setting.
    """
    named = catalog.choices()
    try:
        settings = worker_settings.load(argv, {"engine": named["tts"], "stt": named["stt"]})
        if not (name := settings.engine):
            raise SettingsError("--engine: name the engine to check")
        loaded = catalog.choice(catalog.TTS, name).build(
            settings, f"--engine {name}", settings.tts_voice, lambda *_: None
        )
    except (SettingsError, EngineError) as error:
        print(error, file=sys.stderr)
        return 2
    broken = broken_promises(loaded.engine)
    for line in broken:
        print(f"{name}: {line}")
    if not broken:
        print(f"{name} keeps every promise")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
