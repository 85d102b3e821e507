"""Every voice at the same loudness: on tones whose loudness is known, and on the embedded voice."""

import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Semaphore
from typing import Any

import numpy as np
import pytest
import soxr

from services.audio import Filters
from services.errors import EngineError, UnknownVoiceError
from services.tts import voices
from services.tts.engine import LUFS, Chunk, VoiceInfo, Word
from services.tts.levels import CEILING_DB, DIGITS, ENOUGH_S, WARM_UPS, Levelled, loudness
from services.tts.piper import PiperEngine

RATE = 24000
CHUNK = RATE * 80 // 1000
VOICES = {"soft": ("en-US", -40.0), "loud": ("de-DE", -9.0), "other": ("xx", -30.0)}
"""The test engine's voices: their languages, and the peaks of their tones in dB of full scale."""


def tone(peak_db: float, seconds: float, hertz: float = 997.0) -> bytes:
    """A sine. At 997 Hz one of -20 dB is -23 LUFS in a single channel (EBU Tech 3341)."""
    time = np.arange(round(seconds * RATE)) / RATE
    peak = 10 ** (peak_db / 20) * 32767
    return np.rint(peak * np.sin(2 * np.pi * hertz * time)).astype("<i2").tobytes()


class ToneEngine:
    """Says each word as half a second of a voice's tone, in chunks of 80 ms.

    Attributes:
        said: What was spoken, and with which voice, in order.
        fails: How many utterances are still to fail, after their first chunk.
        word_s: Seconds a word lasts.
        gate: Waited for before each chunk.
        turn: Held by each utterance.
        waited_for: Set once an utterance waits for its turn.
    """

    name = "tone"
    at_once = 8

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.fails = 0
        self.word_s = 0.5
        self.closed = False
        self.gate = Event()
        self.gate.set()
        self.turn = Semaphore(100)
        self.waited_for = Event()

    def load(self, voice: str = "") -> None:
        if voice and voice not in VOICES:
            raise UnknownVoiceError(f"no voice {voice!r}")

    def loaded(self) -> tuple[str, ...]:
        return ("soft",)

    def voices(self) -> tuple[VoiceInfo, ...]:
        return tuple(VoiceInfo(name, name, tag) for name, (tag, _) in VOICES.items())

    def close(self) -> None:
        self.closed = True

    def speak(self, text: str, voice: str, speed: float, stop: Event) -> Iterator[Chunk]:
        self.load(voice)
        if not self.turn.acquire(blocking=False):
            self.waited_for.set()
            self.turn.acquire()
        try:
            yield from self._chunks(text, voice, stop)
        finally:
            self.turn.release()

    def _chunks(self, text: str, voice: str, stop: Event) -> Iterator[Chunk]:
        self.said.append((voice, text))
        words = text.split()
        pcm = tone(VOICES[voice or "soft"][1], self.word_s * len(words))
        given = 0
        for start in range(0, len(pcm), 2 * CHUNK):
            self.gate.wait(10)
            part = pcm[start : start + 2 * CHUNK]
            until = int((start + len(part)) / 2 / RATE / self.word_s)
            step = self.word_s
            done = [Word(words[n], n * step, (n + 1) * step) for n in range(given, until)]
            given = until
            yield Chunk(part, RATE, tuple(done))
            if stop.is_set():
                return
            if self.fails:
                self.fails -= 1
                raise EngineError("out of breath")


def spoken(engine: Levelled | ToneEngine | PiperEngine, text: str, voice: str) -> list[Chunk]:
    """All the chunks of an utterance."""
    return list(engine.speak(text, voice, 1.0, Event()))


def audio(chunks: list[Chunk]) -> bytes:
    return b"".join(chunk.pcm for chunk in chunks)


def level(chunks: list[Chunk]) -> float:
    """The loudness of an utterance."""
    measured = loudness(audio(chunks), RATE)
    assert measured is not None
    return measured


def peak_db(pcm: bytes) -> float:
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    return float(20 * np.log10(np.abs(samples).max() / 32768))


class TestMeter:
    """`loudness`."""

    @pytest.mark.parametrize("peak", [-40.0, -20.0, -3.0])
    def test_measures_as_the_standard_says(self, peak: float) -> None:
        """A 997 Hz sine is 3 LU below its peak in one channel, at any level (EBU Tech 3341)."""
        assert loudness(tone(peak, 3.0), RATE) == pytest.approx(peak - 3.0, abs=0.1)

    def test_pauses_do_not_count(self) -> None:
        """The gate leaves silence out: speech with pauses is as loud as without."""
        words = tone(-20, 3.0)
        assert loudness(words + bytes(20 * RATE) + words, RATE) == pytest.approx(-23, abs=0.4)

    def test_measures_speech_as_the_standard_says(self) -> None:
        """Filters and gates are those of the standard, on real speech."""
        pcm = audio(spoken(embedded(), REPLIES, ""))
        assert loudness(pcm, RATE) == pytest.approx(by_the_standard(pcm), abs=0.2)

    @pytest.mark.parametrize("pcm", [b"", tone(-20, 0.3), bytes(2 * RATE)])
    def test_nothing_to_measure(self, pcm: bytes) -> None:
        """No audio, too little of it and silence have no loudness."""
        assert loudness(pcm, RATE) is None


class TestLoudness:
    """The gain of a voice."""

    @pytest.mark.parametrize("target", [-14.0, LUFS, -23.0])
    @pytest.mark.parametrize("voice", ["loud", "other"])
    def test_a_loaded_voice_is_at_the_target(self, voice: str, target: float) -> None:
        """What `load` measured holds for the first utterance, voice by voice."""
        engine = Levelled(ToneEngine(), lufs=target)
        engine.load(voice)
        assert level(spoken(engine, "one two three", voice)) == pytest.approx(target, abs=0.2)

    def test_voices_are_independent(self) -> None:
        """Measuring one voice moves no other that is known."""
        engine = Levelled(ToneEngine())
        for voice in ("loud", "other", "loud"):
            engine.load(voice)
            assert level(spoken(engine, "one two", voice)) == pytest.approx(LUFS, abs=0.2)
        assert level(spoken(engine, "one two", "other")) == pytest.approx(LUFS, abs=0.2)

    @pytest.mark.parametrize(
        ("voice", "text"),
        [("soft", WARM_UPS["en"]), ("loud", WARM_UPS["de"]), ("other", DIGITS), ("", "")],
    )
    def test_is_measured_in_its_language(self, voice: str, text: str) -> None:
        """A voice says a text of its own language, or digits; no name means the default voice."""
        tones = ToneEngine()
        Levelled(tones).load(voice)
        assert tones.said == [(voice or "soft", text or WARM_UPS["en"])]

    def test_eight_at_once_measure_once(self) -> None:
        """Who asks for a voice that is being measured waits for that, and starts nothing."""
        tones = ToneEngine()
        engine = Levelled(tones)
        barrier = Barrier(8)

        def call(_: int) -> float:
            barrier.wait(10)
            engine.load("loud")
            return level(spoken(engine, "one two", "loud"))

        with ThreadPoolExecutor(8) as pool:
            heard = list(pool.map(call, range(8)))
        assert heard == [pytest.approx(LUFS, abs=0.2)] * 8
        assert [text for _, text in tones.said].count(WARM_UPS["de"]) == 1

    def test_an_engine_that_fails_is_measured_when_it_works(self) -> None:
        """A failed measurement is an error of `load`, leaves no gain, and can be repeated."""
        tones = ToneEngine()
        engine = Levelled(tones)
        tones.fails = 1
        with pytest.raises(EngineError, match="out of breath"):
            engine.load("loud")
        engine.load("loud")
        assert level(spoken(engine, "one two", "loud")) == pytest.approx(LUFS, abs=0.2)

    def test_an_unknown_voice_is_not_measured(self) -> None:
        """The engine's own error passes, and names that clients make up are not kept."""
        tones = ToneEngine()
        engine = Levelled(tones)
        with pytest.raises(UnknownVoiceError):
            engine.load("nobody")
        with pytest.raises(UnknownVoiceError):
            spoken(engine, "one", "nobody")
        assert tones.said == []
        assert not engine._levels

    def test_close_ends_a_measurement(self) -> None:
        """A long warm-up does not hold back the end of the process."""
        tones = ToneEngine()
        tones.gate.clear()
        engine = Levelled(tones)
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(engine.load, "loud")
            engine.close()
            tones.gate.set()
            loading.result(10)
        assert tones.closed
        assert all(text == WARM_UPS["de"] for _, text in tones.said)

    def test_a_voice_not_loaded_ahead_is_not_kept_waiting(self) -> None:
        """Its first utterance says nothing else first; from the second on it is at the target."""
        tones = ToneEngine()
        engine = Levelled(tones)
        first = spoken(engine, "one two three four", "other")
        assert level(first) == pytest.approx(-33, abs=0.3)
        assert level(spoken(engine, "five six", "other")) == pytest.approx(LUFS, abs=0.2)
        assert [text for _, text in tones.said] == ["one two three four", "five six"]

    def test_a_voice_not_loaded_ahead_borrows_a_gain(self) -> None:
        """Voices of one engine are alike more than unlike: the known ones' gain is the guess."""
        engine = Levelled(ToneEngine())
        engine.load("other")
        gain = LUFS + 33
        assert level(spoken(engine, "one two", "soft")) == pytest.approx(-43 + gain, abs=0.3)

    def test_an_unloaded_voice_settles(self) -> None:
        """After `ENOUGH_S` of speech the gain stays, and no more of it is kept in memory."""
        tones = ToneEngine()
        engine = Levelled(tones)
        spoken(engine, "word " * round(ENOUGH_S / tones.word_s), "other")
        (state,) = engine._levels.values()
        assert state.settled
        assert not state.heard

    def test_an_interrupted_utterance_counts(self) -> None:
        """What was heard before a barge-in tells the loudness as well as what is not said."""
        engine = Levelled(ToneEngine())
        stop = Event()
        for n, _ in enumerate(engine.speak("one two three four", "other", 1.0, stop)):
            if n == 10:
                stop.set()
        assert level(spoken(engine, "five six", "other")) == pytest.approx(LUFS, abs=0.2)

    def test_a_measurement_and_an_utterance_do_not_wait_for_each_other(self) -> None:
        """An engine that does one thing at a time is measured once its utterance was stopped."""
        tones = ToneEngine()
        tones.turn = Semaphore(1)
        engine = Levelled(tones)
        stop = Event()
        going = engine.speak("one two three four", "other", 1.0, stop)
        next(going)
        with ThreadPoolExecutor(2) as pool:
            loading = pool.submit(engine.load, "other")
            assert tones.waited_for.wait(10)
            stop.set()
            assert len(pool.submit(list, going).result(10)) <= 1
            loading.result(10)
        assert level(spoken(engine, "one two", "other")) == pytest.approx(LUFS, abs=0.2)

    def test_no_gain_moves_within_an_utterance(self) -> None:
        """An utterance ends as loud as it began, though its voice was measured meanwhile."""
        engine = Levelled(ToneEngine())
        going = engine.speak("one two three four", "other", 1.0, Event())
        chunks = [next(going)]
        engine.load("other")
        chunks += going
        assert level(chunks) == pytest.approx(-33, abs=0.3)

    def test_silence_is_not_amplified(self) -> None:
        """A voice that says nothing audible has no gain, and 24 dB is the most for any."""
        engine = Levelled(ToneEngine())
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(VOICES, "other", ("xx", -200.0))
            engine.load("other")
            assert not any(audio(spoken(engine, "one", "other")))
        engine.load("soft")
        assert level(spoken(engine, "one two", "soft")) == pytest.approx(-43 + 24, abs=0.2)

    def test_compressed_speech_is_at_the_target(self) -> None:
        """What the compressor takes, the make-up gain gives back."""
        engine = Levelled(ToneEngine(), compress=True, highpass_hz=80)
        engine.load("loud")
        assert level(spoken(engine, "one two three", "loud")) == pytest.approx(LUFS, abs=0.3)


class TestSound:
    """The filters."""

    def test_nothing_is_clipped(self) -> None:
        """What would exceed full scale is limited: below the ceiling, and still a sine."""
        engine = Levelled(ToneEngine(), lufs=None, volume=4.0)
        pcm = audio(spoken(engine, "one two three", "loud"))
        assert peak_db(pcm) <= CEILING_DB + 0.01
        spectrum = np.abs(np.fft.rfft(np.frombuffer(pcm, "<i2")[RATE // 2 : RATE].astype(float)))
        harmonics = [spectrum[round(997 * n / 2) - 2 :][:5].max() for n in (1, 3, 5)]
        assert max(harmonics[1:]) < 0.01 * harmonics[0]

    def test_volume_is_a_factor(self) -> None:
        """A volume of 0.5 is 6 dB below the target."""
        engine = Levelled(ToneEngine(), volume=0.5)
        engine.load("loud")
        assert level(spoken(engine, "one two", "loud")) == pytest.approx(LUFS - 6.02, abs=0.2)

    def test_the_highpass_takes_rumble_only(self) -> None:
        """20 Hz go down by 24 dB at a corner of 80 Hz; a voice's 997 Hz stay."""
        rumble = tone(-20, 1.0, hertz=20)
        chain = Filters(RATE, Levelled(ToneEngine(), highpass_hz=80)._highpass)
        passed = chain.push(rumble) + chain.flush()
        assert peak_db(passed[RATE:]) == pytest.approx(-44, abs=1)
        engine = Levelled(ToneEngine(), lufs=None, highpass_hz=80)
        assert level(spoken(engine, "one two", "other")) == pytest.approx(-33, abs=0.1)

    def test_the_compressor_narrows(self) -> None:
        """What is louder than its threshold comes nearer to what is softer, which stays."""
        engine = Levelled(ToneEngine(), lufs=None, compress=True)
        loud, soft = (level(spoken(engine, "one two", v)) for v in ("loud", "other"))
        assert soft == pytest.approx(-33, abs=0.2)
        assert -17 < loud < -12 - 2

    def test_untouched(self) -> None:
        """Without target, filters and volume the engine's very chunks pass, unmeasured."""
        tones = ToneEngine()
        engine = Levelled(tones, lufs=None)
        engine.load("loud")
        assert tones.said == []
        assert spoken(engine, "one two", "loud") == spoken(tones, "one two", "loud")

    @pytest.mark.parametrize("settings", [{}, {"highpass_hz": 80.0, "compress": True}])
    def test_words_and_samples_stay_where_they_were(self, settings: dict[str, Any]) -> None:
        """As many samples as before, each word's times its own, given once its samples are."""
        tones = ToneEngine()
        tones.word_s = 0.16
        engine = Levelled(tones, **settings)
        engine.load("loud")
        plain, done = spoken(tones, "one two three four five", "loud"), 0
        levelled = spoken(engine, "one two three four five", "loud")
        assert len(audio(levelled)) == len(audio(plain))
        assert [w for c in levelled for w in c.words] == [w for c in plain for w in c.words]
        for chunk in levelled:
            done += len(chunk.pcm) // 2
            assert all(round(word.end * RATE) <= done for word in chunk.words)
            assert len(chunk.pcm) <= 2 * CHUNK
        # Aligned: a sine that moved by even one sample would differ by far more.
        before, after = (np.frombuffer(audio(c), "<i2").astype(float) for c in (plain, levelled))
        middle = slice(RATE // 4, RATE // 2)
        assert np.corrcoef(before[middle], after[middle])[0, 1] > 0.9999 - 0.01 * bool(settings)

    def test_the_first_chunk_comes_with_the_engine_s_first(self) -> None:
        """Nothing is awaited: one chunk in is one chunk out, short by the look-ahead."""
        tones = ToneEngine()
        engine = Levelled(tones)
        engine.load("loud")
        tones.gate.clear()
        going = engine.speak("one two", "loud", 1.0, Event())
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(next, going)
            threading.Timer(0.05, tones.gate.set).start()
            chunk = first.result(10)
        assert 73 <= len(chunk.pcm) / 2 / RATE * 1000 <= 80

    def test_text_without_anything_to_say(self) -> None:
        """Nothing in, nothing out."""
        assert spoken(Levelled(ToneEngine()), "", "loud") == []

    def test_an_error_in_mid_speech_passes(self) -> None:
        """What the engine gave before it is given, to the last sample and the last word."""
        tones = ToneEngine()
        tones.word_s = 0.08
        tones.fails = 1
        given: list[Chunk] = []
        with pytest.raises(EngineError, match="out of breath"):
            given.extend(Levelled(tones).speak("one two", "other", 1.0, Event()))
        assert len(audio(given)) == 2 * CHUNK
        assert [word.text for chunk in given for word in chunk.words] == ["one"]
        assert not given[0].words

    def test_stop_ends_it(self) -> None:
        """One chunk after the flag at most, and the engine's generator is over."""
        engine = Levelled(ToneEngine())
        stop = Event()
        going = engine.speak("one two three four", "loud", 1.0, stop)
        next(going)
        stop.set()
        assert len(list(going)) <= 1

    def test_leaves_nothing_behind(self) -> None:
        """No thread stays after an utterance: FFmpeg starts them freely."""
        engine = Levelled(ToneEngine())
        engine.load("loud")
        before = set(os.listdir("/proc/self/task"))
        for _ in range(20):
            going = engine.speak("one two", "loud", 1.0, Event())
            next(going)
            # Those of other tests may end meanwhile.
            assert set(os.listdir("/proc/self/task")) <= before
            going.close()  # type: ignore[attr-defined]
        gc.collect()
        assert set(os.listdir("/proc/self/task")) <= before


K_WEIGHTING = (
    (
        (1.53512485958697, -2.69169618940638, 1.19839281085285),
        (-1.69065929318241, 0.73248077421585),
    ),
    ((1.0, -2.0, 1.0), (-1.99004745483398, 0.99007225036621)),
)
"""The filters at 48 kHz: ITU-R BS.1770-4, annex 1, tables 1 and 2."""


def by_the_standard(pcm: bytes) -> float:
    """The integrated loudness, computed from the standard's text: no code of what is tested."""
    samples = soxr.resample(np.frombuffer(pcm, "<i2") / 32768, RATE, 48000)
    size = 2 * len(samples)
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    response = np.ones_like(z)
    for (b0, b1, b2), (a1, a2) in K_WEIGHTING:
        response *= (b0 + b1 * z + b2 * z**2) / (1 + a1 * z + a2 * z**2)
    weighted = np.fft.irfft(np.fft.rfft(samples, size) * response, size)[: len(samples)]
    blocks = np.lib.stride_tricks.sliding_window_view(weighted, 19200)[::4800]
    power = (blocks**2).mean(axis=1)
    power = power[power > 10 ** ((-70 + 0.691) / 10)]
    power = power[power > power.mean() / 10]
    return float(-0.691 + 10 * np.log10(power.mean()))


def embedded() -> PiperEngine:
    """The voice in the repository."""
    return PiperEngine(Path("unused"), default_voice=voices.list_embedded()[0].name)


REPLIES = (
    "Hello, how can I help you today? I'm sorry, I did not understand that. Could you say it again?"
    " You have three new messages; the first one came on Monday at noon. Paris is the capital of"
    " France."
)


@pytest.fixture(scope="module")
def pair() -> tuple[PiperEngine, Levelled]:
    """The embedded voice, and the same levelled and loaded."""
    engine = embedded()
    levelled = Levelled(engine)
    levelled.load()
    return engine, levelled


def test_the_embedded_voice_is_at_the_target(pair: tuple[PiperEngine, Levelled]) -> None:
    """Real speech is within 1 LU of the target, and nothing of it is clipped."""
    pcm = audio(spoken(pair[1], REPLIES, pair[1].voices()[0].name))
    assert by_the_standard(pcm) == pytest.approx(LUFS, abs=1.0)
    assert peak_db(pcm) <= CEILING_DB + 0.01


def test_the_embedded_voice_keeps_its_words(pair: tuple[PiperEngine, Levelled]) -> None:
    """The real engine's words come once each, in order, none before its samples."""
    words, done = [], 0
    for chunk in pair[1].speak(REPLIES, pair[1].voices()[0].name, 1.0, Event()):
        done += len(chunk.pcm) // 2
        assert all(word.end <= (done + 0.5) / RATE for word in chunk.words)
        words += [word.text for word in chunk.words]
    assert words == REPLIES.split()
