"""The Piper engine on real voices: the embedded ones, and small ones of the standard structure."""

import importlib
import json
import shutil
import sys
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Timer
from typing import Any
from weakref import ref

import numpy as np
import onnx
import pytest
from piper import PiperVoice, SynthesisConfig

from services.errors import EngineError, MissingExtraError, UnavailableError, UnknownVoiceError
from services.models import ModelStore
from services.settings import EngineSettings, SettingsError
from services.tts import piper, piper_model, voices
from services.tts.engine import Chunk, SpeechEngine, Word
from services.tts.estimate import CHUNK_MS
from services.tts.piper import MOST_PHONEMES, PiperEngine
from tests.fakes.voice_hub import voice_hub

SENTENCE = "The quick brown fox jumps over the lazy dog, and then it walks home again."
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine's hub may be slow to answer."""
    monkeypatch.setattr(voices, "REACH_S", 60.0)


def engine(tmp_path: Path, voice: Path | str, **settings: Any) -> PiperEngine:
    """An engine with an empty cache and no hub."""
    return PiperEngine(tmp_path / "cache", default_voice=str(voice), hub=NOWHERE, **settings)


def speak(engine: PiperEngine, text: str, speed: float = 1.0) -> list[Chunk]:
    return list(engine.speak(text, "", speed, Event()))


def pcm(chunks: list[Chunk]) -> "np.ndarray[Any, np.dtype[np.int16]]":
    return np.frombuffer(b"".join(chunk.pcm for chunk in chunks), "<i2")


def words(chunks: list[Chunk]) -> list[Word]:
    return [word for chunk in chunks for word in chunk.words]


def assert_words_cover(text: str, chunks: list[Chunk]) -> None:
    """Every word once, in order, as it stood, each with the chunk that completes it."""
    assert [word.text for word in words(chunks)] == text.split()
    last = 0.0
    done = 0.0
    for chunk in chunks:
        before, done = done, done + len(chunk.pcm) / 2 / chunk.sample_rate
        for word in chunk.words:
            assert last <= word.start <= word.end <= done + 1e-9
            assert word.end > before - 1e-9 or word.start == word.end
            last = word.end


def test_it_is_a_speech_engine(tmp_path: Path, small_piper_voice: Path) -> None:
    """The engine keeps the contract; mypy checks the assignment, the test that it can be used."""
    contract: SpeechEngine = engine(tmp_path, small_piper_voice)
    assert contract.name == "piper"
    assert contract.at_once > 1
    assert contract.voices()[0].name == "piper-small"


def test_the_audio_is_pipers(tmp_path: Path, small_piper_voice: Path) -> None:
    """Samples are what Piper gives for the sentence, to one step of 16 bits."""
    chunks = speak(engine(tmp_path, small_piper_voice), SENTENCE)
    settings = SynthesisConfig(normalize_audio=False)
    (theirs,) = PiperVoice.load(small_piper_voice).synthesize(SENTENCE, settings)
    ours = pcm(chunks)
    assert ours.shape == theirs.audio_int16_array.shape
    assert np.abs(ours.astype(int) - theirs.audio_int16_array).max() <= 1


def test_chunks_are_short(tmp_path: Path, small_piper_voice: Path) -> None:
    """No chunk holds more than 80 ms, and every one holds something."""
    for chunk in speak(engine(tmp_path, small_piper_voice), SENTENCE):
        assert 0 < len(chunk.pcm) <= 2 * chunk.sample_rate * CHUNK_MS // 1000
        assert chunk.sample_rate == 22050


@pytest.mark.parametrize(
    "text",
    [
        SENTENCE,
        "Yes.",
        "It is 1234567 or $3.50 of the time; see http://foo.bar/baz?x=1 & more!",
        "Dr. Who? e.g. Hello...world a—b - c",
        "Two sentences. Here, at last, is the second!  And\na third?",
        "hi 😀 there 🎉",
        "… so what",
        "Привет мир 你好 مرحبا",
        'He said "no" (twice), AT&T paid 50% at 3:30pm.',
        "tab\there nul\0there \ud800 surrogate",
        "word " * 1000,
        "a" * 5000,
        "1234567890" * 500,
        "你好 " * 500,
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_words_cover_any_text(tmp_path: Path, small_piper_voice: Path, text: str) -> None:
    """Whatever the text, each of its words is heard once, in order, within the audio."""
    assert_words_cover(text, speak(engine(tmp_path, small_piper_voice), text))


@pytest.mark.parametrize("text", ["", " \n\t", "…", "-", "( )", "\0"])
def test_nothing_to_say_yields_nothing(tmp_path: Path, small_piper_voice: Path, text: str) -> None:
    """A text without a sound gives no audio and no error."""
    assert speak(engine(tmp_path, small_piper_voice), text) == []


@pytest.mark.parametrize("text", ["one two " * 600, "x" * 5000, "yes, " * 1000])
def test_no_sentence_is_too_long(
    tmp_path: Path, small_piper_voice: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network never gets more than memory can take, and what it gets adds up to the text."""
    given: list[int] = []
    render = piper_model.StreamedModel.render

    def note(self: Any, ids: list[int], *rest: Any) -> Any:
        given.append(len(ids))
        return render(self, ids, *rest)

    monkeypatch.setattr(piper_model.StreamedModel, "render", note)
    speaking = engine(tmp_path, small_piper_voice)
    for _ in speaking.speak(text, "", 1.0, Event()):
        pass
    phonemes = sum(map(len, PiperVoice.load(small_piper_voice).phonemize(text)))
    assert max(given) <= 2 * MOST_PHONEMES + 3
    assert sum(given) == 2 * phonemes + 3 * len(given)


def test_word_times_are_the_networks(tmp_path: Path, small_piper_voice: Path) -> None:
    """Words begin and end where the alignments that Piper reports for their phonemes do."""
    chunks = speak(engine(tmp_path, small_piper_voice), "of the times, fox")
    voice = PiperVoice.load(small_piper_voice, include_alignments=True)
    (theirs,) = voice.synthesize("of the times, fox", include_alignments=True)
    assert theirs.phoneme_alignments
    edges = np.cumsum([0, *(a.num_samples for a in theirs.phoneme_alignments)]) / 22050
    phonemes = ["^", *theirs.phonemes, "$"]
    # "of the" is one group, ʌvðə; the comma is a phoneme that is no part of the word.
    spans = {word.text: (word.start, word.end) for word in words(chunks)}
    of, times, comma = phonemes.index("v"), phonemes.index("t"), phonemes.index(",")
    assert spans["of"][1] == spans["the"][0] == pytest.approx(edges[of + 1])
    assert spans["times,"] == pytest.approx((edges[times], edges[comma]))


def test_speed_changes_the_pace(tmp_path: Path, small_piper_voice: Path) -> None:
    """Twice the speed takes clearly less time, and words keep up with the audio."""
    speaking = engine(tmp_path, small_piper_voice)
    slow, usual, fast = (speak(speaking, SENTENCE, speed) for speed in (0.5, 1.0, 2.0))
    assert len(pcm(slow)) > 1.4 * len(pcm(usual)) > 1.4 * 1.2 * len(pcm(fast))
    assert_words_cover(SENTENCE, slow)
    assert_words_cover(SENTENCE, fast)


@pytest.mark.parametrize("speed", [0.0, -1.0, 1000.0, float("nan"), float("inf")])
def test_an_impossible_speed_is_refused(
    tmp_path: Path, small_piper_voice: Path, speed: float
) -> None:
    """A pace that would take forever or no time is an error, not a hang."""
    with pytest.raises(EngineError, match="speed"):
        speak(engine(tmp_path, small_piper_voice), "Hello.", speed)


def test_stop_ends_within_a_chunk(
    tmp_path: Path, small_piper_voice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once stop is set no chunk follows, and no stage of the network is run any more."""
    runs: list[str] = []
    run = piper_model._run
    monkeypatch.setattr(piper_model, "_run", lambda *a, **k: (runs.append("run"), run(*a, **k))[1])
    speaking = engine(tmp_path, small_piper_voice)
    speaking.load()
    for heard in (1, 3, 10):
        stop = Event()
        chunks = speaking.speak(SENTENCE * 20, "", 1.0, stop)
        for _ in range(heard):
            next(chunks)
        before = len(runs)
        stop.set()
        assert next(chunks, None) is None
        assert len(runs) == before


def test_stop_ends_a_run_of_the_network(tmp_path: Path, full_size_piper_voice: Path) -> None:
    """A page without a full stop is a second's work before its first audio: it is not done."""
    engine = PiperEngine(tmp_path, default_voice=str(full_size_piper_voice))
    engine.load()
    stop = Event()
    timer = Timer(0.1, stop.set)
    timer.start()
    assert list(engine.speak("word and other things that matter " * 15, "", 1.0, stop)) == []
    timer.join()
    assert stop.is_set()


def test_stop_before_the_start(tmp_path: Path, small_piper_voice: Path) -> None:
    """An utterance that is cancelled before it begins costs nothing and gives nothing."""
    stop = Event()
    stop.set()
    assert list(engine(tmp_path, small_piper_voice).speak(SENTENCE, "", 1.0, stop)) == []


def test_the_first_chunk_comes_before_the_rest_is_computed(
    tmp_path: Path, small_piper_voice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the first chunk of a long sentence only the first of its pieces has been decoded."""
    runs: list[str] = []
    run = piper_model._run
    monkeypatch.setattr(piper_model, "_run", lambda *a, **k: (runs.append("run"), run(*a, **k))[1])
    speaking = engine(tmp_path, small_piper_voice)
    speaking.load()
    runs.clear()
    chunks = speaking.speak(SENTENCE[:-1] * 5, "", 1.0, Event())
    next(chunks)
    assert len(runs) == 2  # the flow, and the decoder
    list(chunks)
    assert len(runs) > 10


def test_a_model_is_shared_by_threads_and_engines(
    tmp_path: Path, small_piper_voice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two engines that begin at once load one model, and speak at once as each would alone."""
    path = tmp_path / "shared.onnx"
    shutil.copy(small_piper_voice, path)
    shutil.copy(f"{small_piper_voice}.json", f"{path}.json")
    loads: list[Path] = []
    load = piper_model.load_model
    monkeypatch.setattr(piper, "load_model", lambda *a: (loads.append(a[0]), load(*a))[1])
    together = Barrier(2, timeout=10)
    texts = (SENTENCE, "Something else entirely, said at the very same time as the other.")

    def run(text: str) -> "np.ndarray[Any, np.dtype[np.int16]]":
        speaking = engine(tmp_path, path)
        together.wait()
        return pcm([chunk for _ in range(3) for chunk in speak(speaking, text)])

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(run, texts))
    assert loads == [path]
    alone = engine(tmp_path, small_piper_voice)
    for text, heard in zip(texts, both, strict=True):
        np.testing.assert_array_equal(heard, np.tile(pcm(speak(alone, text)), 3))


@pytest.mark.parametrize("rate", [16000, 24000])
def test_the_embedded_voice_has_headroom(tmp_path: Path, rate: int) -> None:
    """No ordinary sentence of the embedded voice reaches full scale."""
    speaking = engine(tmp_path, voices.embedded_name(rate))
    for sentence in (SENTENCE, "Absolutely! What a wonderful surprise.", "Bob got a dog today."):
        assert np.abs(pcm(speak(speaking, sentence)).astype(int)).max() < 32767


def test_what_is_too_loud_is_clipped() -> None:
    """A network may go beyond full scale; its samples do not wrap around."""
    assert piper._to_pcm(np.array([0.5, 1.5, -1.5], np.float32)).tolist() == [16384, 32767, -32767]


def test_sentences_end_in_silence(tmp_path: Path, small_piper_voice: Path) -> None:
    """After each sentence there is the silence asked for, and later words are that much later."""
    text = "One here. Two there."
    dense = speak(engine(tmp_path, small_piper_voice), text)
    airy = speak(engine(tmp_path, small_piper_voice, sentence_silence=0.25), text)
    added = round(0.25 * 22050)
    assert len(pcm(airy)) == len(pcm(dense)) + 2 * added
    assert not pcm(airy)[-added:].any()
    late = [b.start - a.start for a, b in zip(words(dense), words(airy), strict=True)]
    assert late == pytest.approx([0, 0, added / 22050, added / 22050])
    assert_words_cover(text, airy)


def test_speakers_by_name_and_number(tmp_path: Path, small_piper_speakers: Path) -> None:
    """A speaker is the same by name, number or digits, differs from others, and has a default."""
    by = {
        speaker: pcm(speak(engine(tmp_path, small_piper_speakers, speaker=speaker), SENTENCE))
        for speaker in (None, 0, "speaker0", 2, "2", "speaker2")
    }
    for same in ((None, 0, "speaker0"), (2, "2", "speaker2")):
        for other in same[1:]:
            np.testing.assert_array_equal(by[same[0]], by[other])
    assert len(by[0]) != len(by[2]) or np.any(by[0] != by[2])


@pytest.mark.parametrize("speaker", [3, "3", -1, "speaker9", ""])
def test_an_unknown_speaker_is_named(
    tmp_path: Path, small_piper_speakers: Path, speaker: str | int
) -> None:
    """A speaker that the voice has not is refused when it is loaded, with those that it has."""
    with pytest.raises(UnknownVoiceError, match=r"0 to 2.*speaker0"):
        engine(tmp_path, small_piper_speakers, speaker=speaker).load()


@pytest.mark.parametrize("rate", [16000, 24000])
def test_the_embedded_voice_speaks(tmp_path: Path, rate: int) -> None:
    """With nothing cached and no hub there is a voice, with true word times."""
    speaking = engine(tmp_path, voices.embedded_name(rate))
    speaking.load()
    chunks = speak(speaking, SENTENCE)
    assert {chunk.sample_rate for chunk in chunks} == {rate}
    assert 3 < len(pcm(chunks)) / rate < 7
    assert np.abs(pcm(chunks).astype(int)).max() > 8000
    assert_words_cover(SENTENCE, chunks)
    level = {w.text: pcm(chunks)[int(w.start * rate) : int(w.end * rate)] for w in words(chunks)}
    assert all(samples.astype(float).std() > 300 for samples in level.values())


def test_a_voice_without_durations_has_words_too(tmp_path: Path) -> None:
    """Where the network tells no durations, each word has its share of the sentence."""
    source = voices.embedded_voice(16000)
    model = onnx.load(source)
    del model.graph.output[1]
    path = tmp_path / "en_US-mute-low.onnx"
    onnx.save(model, path)
    shutil.copy(f"{source}.json", f"{path}.json")
    chunks = speak(engine(tmp_path, path), SENTENCE)
    assert_words_cover(SENTENCE, chunks)
    assert all(word.end > word.start for word in words(chunks))


def test_voices_are_listed_default_first(tmp_path: Path, small_piper_voice: Path) -> None:
    """The list has the default voice, then cached ones, then embedded ones, each once."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("en_US-b-low", "en_US-a-low"):
        shutil.copy(small_piper_voice, cache / f"{name}.onnx")
        shutil.copy(f"{small_piper_voice}.json", cache / f"{name}.onnx.json")
    embedded = [voices.embedded_name(24000), voices.embedded_name(16000)]
    names = [info.name for info in engine(tmp_path, "en_US-b-low").voices()]
    assert names == ["en_US-b-low", "en_US-a-low", *embedded]
    names = [info.name for info in engine(tmp_path, small_piper_voice).voices()]
    assert names == ["piper-small", "en_US-a-low", "en_US-b-low", *embedded]
    names = [info.name for info in engine(tmp_path, embedded[1]).voices()]
    assert names == [embedded[1], "en_US-a-low", "en_US-b-low", embedded[0]]


def test_the_voice_can_change_between_utterances(tmp_path: Path, small_piper_voice: Path) -> None:
    """Each utterance names its voice; one engine speaks with any."""
    speaking = engine(tmp_path, small_piper_voice)
    for voice, rate in (("", 22050), (voices.embedded_name(16000), 16000), ("piper-small", 22050)):
        chunk = next(iter(speaking.speak("Hello there.", voice, 1.0, Event())))
        assert chunk.sample_rate == rate


def test_a_voice_is_fetched_when_it_is_loaded(tmp_path: Path, small_piper_voice: Path) -> None:
    """The default voice is downloaded from the hub by its name alone, and spoken with."""
    with voice_hub() as hub:
        config = Path(f"{small_piper_voice}.json").read_bytes()
        hub.add("en_US-made-low", small_piper_voice.read_bytes(), config)
        speaking = PiperEngine(tmp_path, default_voice="en_US-made-low", hub=hub.url)
        speaking.load()
    here = speak(engine(tmp_path, small_piper_voice), SENTENCE)
    np.testing.assert_array_equal(pcm(speak(speaking, SENTENCE)), pcm(here))


def test_nothing_is_fetched_in_mid_call(tmp_path: Path, small_piper_voice: Path) -> None:
    """A voice of the hub that is not on this machine is unknown to `speak`, and not asked for."""
    with voice_hub() as hub:
        config = Path(f"{small_piper_voice}.json").read_bytes()
        hub.add("en_US-slt_tiny-8k", small_piper_voice.read_bytes(), config)
        speaking = PiperEngine(tmp_path, default_voice=voices.embedded_name(16000), hub=hub.url)
        with pytest.raises(UnknownVoiceError, match="close to it: en_US-slt_tiny-"):
            next(iter(speaking.speak("Hello.", "en_US-slt_tiny-8k", 1.0, Event())))
        assert hub.requests == []


def test_voices_that_cannot_be_had(tmp_path: Path, small_piper_voice: Path) -> None:
    """What cannot be a voice or is not here is unknown; what is out of reach is unavailable."""
    speaking = engine(tmp_path, voices.embedded_name(16000))
    for name in ("nobody", "../../etc/passwd", str(small_piper_voice), "en_US-ljspeech-medium"):
        with pytest.raises(UnknownVoiceError):
            next(iter(speaking.speak("Hello.", name, 1.0, Event())))
    with pytest.raises(UnavailableError):
        engine(tmp_path, "en_US-ljspeech-medium").load()
    for default in ("nobody", str(tmp_path / "gone.onnx")):
        with pytest.raises(UnknownVoiceError):
            engine(tmp_path, default)


def test_offline_nothing_is_fetched(tmp_path: Path, small_piper_voice: Path) -> None:
    """A voice of the hub is unavailable to an engine that is offline, and not asked for."""
    with voice_hub() as hub:
        config = Path(f"{small_piper_voice}.json").read_bytes()
        hub.add("en_US-made-low", small_piper_voice.read_bytes(), config)
        speaking = PiperEngine(
            tmp_path, default_voice="en_US-slt_tiny-16k", hub=hub.url, offline=True
        )
        with pytest.raises(UnavailableError, match="offline"):
            speaking.load("en_US-made-low")
        assert hub.requests == []
        PiperEngine(tmp_path, default_voice="en_US-slt_tiny-16k", hub=hub.url).load(
            "en_US-made-low"
        )
    speaking.load("en_US-made-low")
    assert speaking.voices()[1].name == "en_US-made-low"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """A model store of the test's own."""
    store = ModelStore()
    monkeypatch.setattr(piper, "models", store)
    return store


def test_an_evicted_voice_frees_its_memory(
    tmp_path: Path, small_piper_voice: Path, store: ModelStore
) -> None:
    """Above the cap a voice's sessions are gone as soon as its utterance ends, and not before."""
    store.limit(1, None)
    speaking = engine(tmp_path, small_piper_voice)
    speaking.load()
    assert speaking.loaded() == ("piper-small",)
    with speaking._voice("") as voice:
        sessions = [ref(getattr(voice._model, name)) for name in ("_acoustic", "_flow", "_decoder")]
    del voice
    chunks = speaking.speak(SENTENCE, "", 1.0, Event())
    heard = [next(chunks)]
    other = voices.embedded_name(16000)
    list(speaking.speak("Hello.", other, 1.0, Event()))
    assert speaking.loaded() == ("piper-small",)
    heard += chunks
    assert_words_cover(SENTENCE, heard)
    list(speaking.speak("Hello.", other, 1.0, Event()))
    assert speaking.loaded() == (other,)
    assert [session() for session in sessions] == [None, None, None]


def test_an_utterance_that_is_left_lets_its_voice_go(
    tmp_path: Path, small_piper_voice: Path, store: ModelStore
) -> None:
    """Closing an utterance in its middle ends the use of the voice."""
    store.limit(0, None)
    speaking = engine(tmp_path, small_piper_voice)
    chunks = speaking.speak(SENTENCE, "", 1.0, Event())
    next(chunks)
    assert store.resident()
    assert isinstance(chunks, Generator)
    chunks.close()
    assert store.resident() == ()


def settings(tmp_path: Path, **given: Any) -> EngineSettings:
    """Settings without a hub."""
    return EngineSettings(cache=tmp_path, piper_hub=NOWHERE, **given)


def built(settings: EngineSettings, voice: str | None = None) -> tuple[str, ...]:
    """What `build` says of the engine that it makes: model, source, better."""
    loaded = piper.build(settings, voice, lambda *_: None)
    assert loaded.engine.loaded() == (loaded.model,)
    return loaded.model, loaded.source, loaded.better


@pytest.mark.usefixtures("store")
def test_a_voice_that_cannot_be_had_gives_way_to_the_embedded_one(tmp_path: Path) -> None:
    """The agent speaks all the same, and says how to get the voice that was asked for."""
    for offline in (True, False):
        model, source, better = built(settings(tmp_path, offline=offline), "en_US-amy-low")
        assert (model, source) == ("en_US-slt_tiny-24k", "embedded")
        assert "--tts-voice en_US-amy-low" in better


@pytest.mark.usefixtures("store")
def test_where_a_voice_comes_from_is_told(tmp_path: Path, small_piper_voice: Path) -> None:
    """Fetched, found in the cache, or named by its path."""
    with voice_hub() as hub:
        config = Path(f"{small_piper_voice}.json").read_bytes()
        hub.add("en_US-made-low", small_piper_voice.read_bytes(), config)
        fetching = EngineSettings(cache=tmp_path, piper_hub=hub.url)
        assert built(fetching, "en_US-made-low")[:2] == ("en_US-made-low", "fetched just now")
    here = str(tmp_path / "piper" / "en_US-made-low.onnx")
    assert built(settings(tmp_path), "en_US-made-low") == ("en_US-made-low", here, "")
    path = str(small_piper_voice.resolve())
    assert built(settings(tmp_path), path) == ("piper-small", path, "")


@pytest.mark.parametrize(
    ("voice", "said"),
    [
        ("nobody", "--tts-voice: 'nobody' is not a voice"),
        ("gone.onnx", "--tts-voice: there is no voice file"),
        ("x" * 300 + ".onnx", "--tts-voice: "),
    ],
)
def test_a_wrong_voice_is_blamed_on_its_setting(tmp_path: Path, voice: str, said: str) -> None:
    """One line that begins with the setting."""
    with pytest.raises(SettingsError) as raised:
        piper.build(settings(tmp_path), voice, lambda *_: None)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_a_wrong_speaker_is_blamed_on_its_setting(
    tmp_path: Path, small_piper_speakers: Path
) -> None:
    """The speaker is at fault, not the voice."""
    with pytest.raises(SettingsError, match=r"^--piper-speaker: .*no speaker 'bob'"):
        piper.build(
            settings(tmp_path, piper_speaker="bob"), str(small_piper_speakers), lambda *_: None
        )


@pytest.mark.parametrize("broken", ["model", "settings", "empty settings"])
def test_a_damaged_voice_is_one_line(tmp_path: Path, small_piper_voice: Path, broken: str) -> None:
    """A damaged voice is an error of one line that names it; once mended it speaks."""
    path = tmp_path / "en_US-hurt-low.onnx"
    config = Path(f"{small_piper_voice}.json").read_bytes()
    path.write_bytes(b"garbage" if broken == "model" else small_piper_voice.read_bytes())
    damaged = {"model": config, "settings": b"\xff{", "empty settings": json.dumps({}).encode()}
    Path(f"{path}.json").write_bytes(damaged[broken])
    speaking = engine(tmp_path, path)
    with pytest.raises(EngineError, match="en_US-hurt-low") as raised:
        speaking.load()
    assert "\n" not in str(raised.value)
    path.write_bytes(small_piper_voice.read_bytes())
    Path(f"{path}.json").write_bytes(config)
    assert speak(speaking, "Mended.")


@pytest.mark.parametrize("stage", ["_acoustic", "_flow", "_decoder"])
def test_a_network_that_fails_is_one_line(
    tmp_path: Path, small_piper_voice: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Whichever stage fails, the caller gets an error of ours, and the next utterance is whole."""

    class Failing:
        def get_inputs(self) -> list[Any]:
            return []

        def run(self, *_: object) -> None:
            raise RuntimeError("out of\nmemory")

    speaking = engine(tmp_path, small_piper_voice)
    speaking.load()
    with monkeypatch.context() as patch:
        with speaking._voice("") as voice:
            patch.setattr(voice._model, stage, Failing())
        with pytest.raises(EngineError, match="piper-small failed") as raised:
            speak(speaking, SENTENCE)
        assert "\n" not in str(raised.value)
    assert_words_cover(SENTENCE, speak(speaking, SENTENCE))


@pytest.fixture
def fresh_import() -> Iterator[None]:
    """Lets a test import the engine anew, and puts back what was imported."""
    mine = {n: m for n, m in sys.modules.items() if n.startswith("services.tts.piper")}
    for name in mine:
        del sys.modules[name]
    yield
    sys.modules.update(mine)


@pytest.mark.usefixtures("fresh_import")
@pytest.mark.parametrize("package", ["piper", "onnx"])
def test_a_missing_extra_names_the_cure(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Without the GPL extra the engine cannot be imported, and says how to get it."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'parley\[piper\]'"):
        importlib.import_module("services.tts.piper")
