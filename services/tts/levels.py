"""How loud speech is: every voice at the same loudness, whatever its engine makes of it.

The filters are FFmpeg's. Those used here give a sample for each sample they take.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean
from threading import Event, Lock

from services.audio import Filter, Filters
from services.tts.engine import LUFS, Chunk, SpeechEngine, VoiceInfo, Word

CEILING_DB = -1.0
"""No sample is louder, in dB of full scale: what EBU R 128 and Apple allow a peak."""

LOOK_AHEAD_MS = 5
"""Speech that the limiter holds back: what it sees coming it turns down without a click."""

MOST_GAIN_DB = 24.0
"""How much a quiet voice is amplified at most: beyond, one hears its noise."""

ENOUGH_S = 5.0
"""Seconds of speech whose loudness stands for the voice. One short sentence can be 3 dB off."""

WARM_UPS = {
    "de": "Einst stritten sich Nordwind und Sonne, wer von ihnen beiden wohl der Stärkere wäre, "
    "als ein Wanderer des Weges daherkam.",
    "en": "The North Wind and the Sun were disputing which was the stronger, when a traveler came "
    "along wrapped in a warm cloak.",
    "es": "El viento norte y el sol discutían sobre cuál de ellos era el más fuerte, cuando pasó "
    "un viajero envuelto en una capa.",
    "fr": "La bise et le soleil se disputaient, chacun assurant qu'il était le plus fort, quand "
    "ils ont vu un voyageur qui s'avançait.",
    "it": "Si bisticciavano un giorno il vento di tramontana e il sole, quando videro un "
    "viaggiatore, che veniva innanzi avvolto nel mantello.",
    "ja": "北風と太陽が、どちらが強いかを言い争っていると、旅人がやって来ました。",
    "nl": "De noordenwind en de zon hadden een discussie over de vraag wie van hun tweeën de "
    "sterkste was, toen er juist iemand voorbij kwam.",
    "pl": "Północny Wiatr i Słońce sprzeczali się, kto z nich jest silniejszy, gdy drogą "
    "przechodził człowiek owinięty w ciepły płaszcz.",
    "pt": "O vento norte e o sol discutiam qual dos dois era o mais forte, quando apareceu um "
    "viajante envolto numa capa.",
    "ru": "Северный ветер и солнце поспорили, кто из них сильнее, и заметили "
    "закутанного в плащ путника.",
    "sv": "Nordanvinden och solen tvistade en gång om vem av dem som var starkast, när en "
    "vandrare kom vägen fram.",
    "zh": "有一回，北风跟太阳在那儿争论谁的本事大，来了一个过路的，身上穿了一件厚袍子。",  # noqa: RUF001
}
"""What a voice is measured by, by its language: the start of the story that the International
Phonetic Association shows languages with, chosen for being told in an even voice."""

DIGITS = "1 2 3 4 5 6 7 8 9 10"
"""What a voice of another language is measured by. With commas between they would be a list, which
the embedded voice says 2.5 dB more softly than its sentences; without, 0.5 dB."""

_SILENCE_LUFS = -70.0
# What the meter gives where nothing passes its gate (ITU-R BS.1770-4, annex 1).


def loudness(pcm: bytes, sample_rate: int, filters: tuple[Filter, ...] = ()) -> float | None:
    """The integrated loudness of speech, as ITU-R BS.1770 and EBU R 128 measure it.

    Args:
        pcm: Signed 16-bit little-endian mono samples.
        sample_rate: Samples a second.
        filters: What the speech goes through first.

    Returns:
        LUFS; None for silence, and for less than the 400 ms that a measurement takes.
    """
    chain = Filters(sample_rate, (*filters, ("ebur128", {"metadata": "1", "framelog": "quiet"})))
    # The meter writes what it has heard so far on every 100 ms of audio.
    values = [frame.metadata for part in (pcm, None) for frame in chain.frames(part)]
    heard = [float(value["lavfi.r128.I"]) for value in values if "lavfi.r128.I" in value]
    return heard[-1] if heard and heard[-1] > _SILENCE_LUFS else None


class Levelled:
    """A speech engine whose voices are all equally loud; see `SpeechEngine`.

    **A voice has one gain**, from the loudness of what it has said, and no gain moves within an
    utterance. `load` has the voice say a sentence to nobody, so that its first utterance is right.
    A voice that nobody has loaded ahead is not made to say one while a caller waits, which takes
    some engines seconds: it speaks at once, with the mean gain of the engine's other voices, and is
    measured by what it says, from one utterance to the next, until `ENOUGH_S` were heard. From
    then on the gain stays.

    The order is high-pass, gain, compressor, make-up gain, volume, limiter. The loudness is that
    before the volume: a volume of 2 is 6 dB above the target. The first chunk comes when the
    engine gives it, `LOOK_AHEAD_MS` shorter; what it lacks comes with the second. Audio is as long
    as it was, and words stay where they were.

    Without a target, filters and volume nothing is measured, and chunks pass untouched.
    """

    def __init__(
        self,
        engine: SpeechEngine,
        *,
        lufs: float | None = LUFS,
        highpass_hz: float = 0.0,
        compress: bool = False,
        volume: float = 1.0,
    ) -> None:
        """Put the settings around `engine`, which this closes.

        Args:
            engine: What speaks.
            lufs: The loudness that voices are brought to; None leaves each as it is.
            highpass_hz: Where sound below is taken away, with 12 dB an octave; 0 for nowhere. Some
                80 Hz remove hum and thumps, and nothing of a voice.
            compress: Whether loud syllables are brought nearer to soft ones: 2 to 1 from 2 dB below
                the target on (or -18 dB without one).
            volume: Factor on the samples, above 0, after all else but the limiter.
        """
        self._engine = engine
        self._lufs = lufs
        self._compress = compress
        self._volume = volume
        self._highpass: tuple[Filter, ...] = ()
        if highpass_hz:
            self._highpass = (("highpass", {"f": f"{highpass_hz:g}"}),)
        self._untouched = lufs is None and not highpass_hz and not compress and volume == 1.0
        self._levels: dict[str, _Level] = {}
        self._lock = Lock()
        self._closed = Event()

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._engine.name

    @property
    def at_once(self) -> int:
        """What the engine can do at once."""
        return self._engine.at_once

    def load(self, voice: str = "") -> None:
        """Load a voice and measure it, once; who asks meanwhile waits.

        Args:
            voice: The voice's name; empty for the default one.

        Raises:
            UnknownVoiceError: There is no such voice.
            UnavailableError: It is not here and cannot be fetched.
            EngineError: It cannot be used; whoever asks next tries again.
        """
        self._engine.load(voice)
        if self._lufs is None:
            return
        level = self._level(voice)
        with level.measuring:
            if level.settled:
                return
            language = next((v.language for v in self.voices() if v.name == level.voice), "")
            text = WARM_UPS.get(language.partition("-")[0].lower(), DIGITS)
            said = list(self._engine.speak(text, level.voice, 1.0, self._closed))
            if said and not self._closed.is_set():
                pcm = b"".join(chunk.pcm for chunk in said)
                level.gain = self._measure(pcm, said[0].sample_rate) or level.gain
                level.settled = level.gain is not None

    def loaded(self) -> tuple[str, ...]:
        """The voices whose models are in memory."""
        return self._engine.loaded()

    def voices(self) -> tuple[VoiceInfo, ...]:
        """The voices that can be spoken with now, the default one first."""
        return self._engine.voices()

    def speak(self, text: str, voice: str, speed: float, stop: Event) -> Iterator[Chunk]:
        """Speak `text`; see `SpeechEngine.speak`.

        Args:
            text: What to say.
            voice: The voice's name; empty for the default one.
            speed: 1.0 is the voice's own pace.
            stop: Ends synthesis early.

        Yields:
            What the engine yields, at the loudness asked for.

        Raises:
            UnknownVoiceError: There is no such voice.
            EngineError: Synthesis failed.
        """
        chunks = self._engine.speak(text, voice, speed, stop)
        return chunks if self._untouched else self._levelled(chunks, voice, stop)

    def close(self) -> None:
        """End a measurement under way, and close the engine."""
        self._closed.set()
        self._engine.close()

    def _levelled(self, chunks: Iterator[Chunk], voice: str, stop: Event) -> Iterator[Chunk]:
        level: _Level | None = None
        chain: Filters | None = None
        heard: list[bytes] | None = None
        words: deque[Word] = deque()
        rate = done = 0

        def rest() -> Iterator[Chunk]:
            pcm = chain.flush() if chain is not None else b""
            if pcm or words:
                yield Chunk(pcm, rate, tuple(words))

        try:
            for chunk in chunks:
                if chain is None:
                    # Not sooner: until now the voice may be unknown, or just being measured.
                    level = self._level(voice) if self._lufs is not None else None
                    rate = chunk.sample_rate
                    chain = Filters(rate, self._filters(level))
                    heard = [] if level is not None and not level.settled else None
                if heard is not None and done < rate * ENOUGH_S:
                    heard.append(chunk.pcm)
                words.extend(chunk.words)
                pcm = chain.push(chunk.pcm)
                done += len(pcm) // 2
                if pcm:
                    yield Chunk(pcm, rate, tuple(_until(words, (done + 0.5) / rate)))
                if stop.is_set():
                    return
        except Exception:
            # Whoever goes on in the engine's place does so behind the words that were given.
            yield from rest()
            raise
        else:
            yield from rest()
        finally:
            if heard and level is not None:
                self._hear(level, b"".join(heard), rate)

    def _filters(self, level: "_Level | None") -> tuple[Filter, ...]:
        """What an utterance goes through."""
        gain = self._gain(level) if level is not None else _Gain(0.0, 0.0)
        last = gain.after + 20 * math.log10(self._volume)
        limiter = {
            "limit": f"{_factor(CEILING_DB):.6f}",
            "attack": str(LOOK_AHEAD_MS),
            "level": "0",
            "latency": "1",  # Gives back the samples that it looked ahead.
        }
        return (*self._body(gain), _volume(last), ("alimiter", limiter))

    def _body(self, gain: "_Gain") -> tuple[Filter, ...]:
        """The part of it that a voice is measured through."""
        if not self._compress:
            return (*self._highpass, _volume(gain.before))
        threshold = (LUFS if self._lufs is None else self._lufs) - 2
        compressor = {"threshold": f"{_factor(threshold):.6f}", "ratio": "2"}
        return (*self._highpass, _volume(gain.before), ("acompressor", compressor))

    def _gain(self, level: "_Level") -> "_Gain":
        if level.gain is not None:
            return level.gain
        with self._lock:
            known = [other.gain for other in self._levels.values() if other.gain is not None]
        if not known:
            return _Gain(0.0, 0.0)
        return _Gain(fmean(g.before for g in known), fmean(g.after for g in known))

    def _measure(self, pcm: bytes, rate: int) -> "_Gain | None":
        """The gain that brings `pcm` to the target; None where there is nothing to measure."""
        assert self._lufs is not None
        loud = loudness(pcm, rate, self._highpass)
        if loud is None:
            return None
        gain = _Gain(min(self._lufs - loud, MOST_GAIN_DB), 0.0)
        if not self._compress:
            return gain
        loud = loudness(pcm, rate, self._body(gain))
        return gain if loud is None else _Gain(gain.before, min(self._lufs - loud, MOST_GAIN_DB))

    def _hear(self, level: "_Level", pcm: bytes, rate: int) -> None:
        """Measure a voice by what it has now said as well."""
        # Whoever measures it now may be waiting for the engine, which this utterance still holds.
        if not level.measuring.acquire(blocking=False):
            return
        try:
            if level.settled:
                return
            level.heard += pcm
            level.gain = self._measure(bytes(level.heard), rate) or level.gain
            if len(level.heard) >= 2 * rate * ENOUGH_S:
                level.settled = level.gain is not None
                level.heard.clear()
        finally:
            level.measuring.release()

    def _level(self, voice: str) -> "_Level":
        if not voice:
            voice = next((info.name for info in self.voices()), "")
        with self._lock:
            return self._levels.setdefault(voice, _Level(voice))


@dataclass(frozen=True, slots=True)
class _Gain:
    """Gains in dB before and after the compressor."""

    before: float
    after: float


@dataclass(slots=True)
class _Level:
    """What is known of a voice's loudness; what is measured is measured under `measuring`."""

    voice: str
    gain: _Gain | None = None
    settled: bool = False
    heard: bytearray = field(default_factory=bytearray)
    measuring: Lock = field(default_factory=Lock)


def _volume(gain_db: float) -> Filter:
    return "volume", {"volume": f"{gain_db:.4f}dB", "precision": "double"}


def _factor(db: float) -> float:
    return float(10 ** (db / 20))


def _until(words: deque[Word], end: float) -> Iterator[Word]:
    """Take the words that are over at `end`."""
    while words and words[0].end <= end:
        yield words.popleft()
