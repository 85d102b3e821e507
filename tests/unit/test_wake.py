"""Wake words, said by the embedded voice and heard by the real models."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from threading import Barrier, Event

import pytest

from services.audio import Resampler
from services.errors import EngineError, MissingExtraError
from services.stt.engine import SAMPLE_RATE
from services.tts import voices
from services.tts.piper import PiperEngine
from services.wake import UnknownWakeWordError, WakeWords
from tests.callers.recordings import recording

SECOND = bytes(2 * SAMPLE_RATE)
"""Of silence, as 16-bit samples."""

PHRASES = {
    "okay_nabu": "okay nabu",
    "hey_jarvis": "hey jarvis",
    "hey_mycroft": "hey my croft",
    "alexa": "alexa",
    "hey_rhasspy": "hey rhasspy",
}
"""How each is spelled for the voice to say it right."""


@pytest.fixture(scope="module")
def wake() -> WakeWords:
    """The models: they hold nothing of a stream, and tests share them."""
    return WakeWords()


@pytest.fixture(scope="module")
def say(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Says something, always alike, as samples at `SAMPLE_RATE`."""
    engine = PiperEngine(
        tmp_path_factory.mktemp("voices"),
        default_voice=voices.embedded_name(16000),
        noise_scale=0.0,
        noise_w_scale=0.0,
        offline=True,
    )

    def speak(text: str) -> bytes:
        chunks = list(engine.speak(text, "", 1.0, Event()))
        resampler = Resampler(chunks[0].sample_rate, SAMPLE_RATE)
        return b"".join(resampler.push(chunk.pcm) for chunk in chunks) + resampler.flush()

    return speak


def test_every_word_is_known_by_its_phrase(wake: WakeWords) -> None:
    """The list holds what a person is to say for each name."""
    assert {word.name: word.phrase.lower() for word in wake.words} == {
        name: name.replace("_", " ") for name in PHRASES
    }


@pytest.mark.parametrize("name", PHRASES)
def test_a_word_is_heard_where_it_was_said(
    wake: WakeWords, say: Callable[[str], bytes], name: str
) -> None:
    """Among all words the one that was said, once, within a second of its end."""
    word = say(PHRASES[name])
    (found,) = wake.listen().hear(3 * SECOND + word + 2 * SECOND)
    assert found.name == name
    assert found.probability > 0.5
    end = 3 + len(word) / 2 / SAMPLE_RATE
    assert end - 0.5 < found.at < end + 1.0


@pytest.mark.parametrize("name", ["goforward", "something", "dashwood", "respectable", "clubs"])
def test_other_speech_is_no_word(wake: WakeWords, name: str) -> None:
    """People who say something else wake nobody."""
    assert wake.listen().hear(recording(name, SAMPLE_RATE).tobytes() + SECOND) == []


def test_a_stream_may_begin_with_the_word(wake: WakeWords, say: Callable[[str], bytes]) -> None:
    """Without any sound before it the word is heard all the same."""
    assert [d.name for d in wake.listen().hear(say("hey jarvis") + SECOND)] == ["hey_jarvis"]


@pytest.mark.parametrize("samples", [1, 160, 1024, 1281, 50_000])
def test_the_size_of_chunks_does_not_matter(
    wake: WakeWords, say: Callable[[str], bytes], samples: int
) -> None:
    """Samples may come in parts of any size: the same is heard, at about the same time."""
    pcm = say("hey jarvis") + SECOND
    whole = wake.listen(["hey_jarvis"]).hear(pcm)
    # Sample by sample takes a while: the last stretch will do.
    skip = 0 if samples > 1 else len(pcm) - 4000
    listener = wake.listen(["hey_jarvis"])
    found = listener.hear(pcm[:skip]) + listener.hear(b"")
    for start in range(skip, len(pcm), 2 * samples):
        found += listener.hear(pcm[start : start + 2 * samples])
    assert [d.name for d in found] == ["hey_jarvis"]
    assert found[0].at == pytest.approx(whole[0].at, abs=0.08)
    assert found[0].probability == pytest.approx(whole[0].probability, abs=0.05)


def test_a_word_counts_again_after_a_while(wake: WakeWords, say: Callable[[str], bytes]) -> None:
    """Said twice with a pause it is heard twice; the refractory time is the stream's, not ours."""
    pcm = SECOND + say("alexa") + 3 * SECOND + say("alexa") + SECOND
    assert [d.name for d in wake.listen().hear(pcm)] == ["alexa", "alexa"]


def test_only_what_is_asked_for_is_heard(wake: WakeWords, say: Callable[[str], bytes]) -> None:
    """A word that nobody listens for is not told; of several, the one that was said is."""
    pcm = SECOND + say("hey jarvis") + SECOND
    assert wake.listen(["alexa", "okay_nabu"]).hear(pcm) == []
    found = wake.listen(["alexa", "hey_jarvis", "alexa"]).hear(pcm)
    assert [d.name for d in found] == ["hey_jarvis"]


def test_the_threshold_decides(wake: WakeWords, say: Callable[[str], bytes]) -> None:
    """What is less likely than the threshold is not heard."""
    assert wake.listen(threshold=1.0).hear(SECOND + say("hey jarvis") + SECOND) == []


def test_streams_do_not_mix(wake: WakeWords, say: Callable[[str], bytes]) -> None:
    """Four streams at once, in threads: each hears its own word and no other's."""
    names = ["okay_nabu", "hey_jarvis", "alexa", ""]
    together = Barrier(len(names))

    def hear(name: str) -> list[str]:
        pcm = SECOND + (say(PHRASES[name]) if name else SECOND) + SECOND
        listener = wake.listen()
        together.wait(10)
        return [d.name for at in range(0, len(pcm), 2048) for d in listener.hear(pcm[at:][:2048])]

    with ThreadPoolExecutor(len(names)) as threads:
        assert list(threads.map(hear, names)) == [[name] if name else [] for name in names]


def test_a_new_stream_knows_nothing_of_the_last(
    wake: WakeWords, say: Callable[[str], bytes]
) -> None:
    """Half a word at the end of one stream does not become a word in the next."""
    word = say("hey jarvis")
    half = len(word) // 4 * 2
    assert wake.listen().hear(word[:half]) == []
    assert wake.listen().hear(word[half:] + SECOND) == []


def test_an_unknown_word_is_one_line(wake: WakeWords) -> None:
    """The error says which words there are."""
    with pytest.raises(UnknownWakeWordError, match="'hey_you': there are okay_nabu, hey_jarvis"):
        wake.listen(["hey_you"])


def test_half_a_sample_is_refused(wake: WakeWords) -> None:
    """An odd number of bytes would shift every sample that follows."""
    with pytest.raises(ValueError, match="3 bytes"):
        wake.listen().hear(b"abc")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the import says what to install."""
    monkeypatch.setitem(sys.modules, "pyopen_wakeword", None)
    monkeypatch.delitem(sys.modules, "services.wake")
    with pytest.raises(MissingExtraError, match=r"pip install 'parley\[wake\]'"):
        import_module("services.wake")


def test_damaged_models_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A library that cannot be loaded is an engine's error."""

    def broken() -> None:
        raise OSError(f"{tmp_path}/libtensorflowlite_c.so: no such file")

    monkeypatch.setattr("services.wake.OpenWakeWordFeatures.from_builtin", broken)
    with pytest.raises(EngineError, match=r"models cannot be loaded: .*no such file"):
        WakeWords()
