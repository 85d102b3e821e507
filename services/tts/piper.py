"""Piper: a small neural voice for each speaker, run on the CPU in this process.

Importing this module needs the `piper` extra, which is GPL-3.0.
"""

import json
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import accumulate, chain
from pathlib import Path
from threading import Event, Thread

import numpy as np
from loguru import logger
from numpy.typing import NDArray
from onnxruntime import RunOptions

from services.catalog import Loaded
from services.errors import (
    EngineError,
    MissingExtraError,
    UnavailableError,
    UnknownVoiceError,
    one_line,
)
from services.models import models
from services.settings import EngineSettings, blame
from services.tts import voices
from services.tts.engine import Chunk, SpeechEngine, VoiceInfo, Word, check_speed
from services.tts.estimate import cut
from services.tts.piper_words import SILENT, place_words

try:
    from piper import PiperConfig, PiperVoice

    from services.tts.piper_model import Floats, Rendering, Scales, load_model
except ImportError as missing:
    raise MissingExtraError(
        f"Piper needs the package {missing.name}: pip install 'parley[piper]'"
    ) from missing

MOST_PHONEMES = 500
"""What a voice is given at a time, some twenty-five seconds of speech. Its memory for a sentence
grows with the square of the length: a page without a full stop would end the process."""

STOP_S = 0.02
"""How often a stop is looked for while a network runs."""

WARM_UP = "1 2 3 4 5 6 7 8 9 10"
"""Spoken to nobody when a voice is loaded: digits can be read in every language."""


class PiperEngine:
    """Speaks with Piper voices; see `SpeechEngine`.

    A sentence's first audio comes before the rest of it is computed where the voice is a standard
    one (`services.tts.piper_graph`); with another voice it comes when the sentence is complete.
    The times of words are the voice's own; with one that gives no durations, the words of a
    sentence are spread over it by their phonemes. The samples are the network's own, whose loudness
    differs from voice to voice: Piper's command line raises every sentence to full scale, for which
    it needs the whole sentence.

    Attributes:
        name: `piper`.
        at_once: Many: a voice keeps nothing of an utterance. How many are served well is a matter
            of cores.
    """

    name = "piper"
    at_once = 64

    def __init__(
        self,
        voice_cache: Path,
        *,
        default_voice: str,
        speaker: str | int | None = None,
        noise_scale: float | None = None,
        noise_w_scale: float | None = None,
        sentence_silence: float = 0.0,
        threads: int = 2,
        hub: str = voices.HUB,
        progress: voices.Progress | None = None,
        offline: bool = False,
    ) -> None:
        """Take the settings; nothing is loaded before `load` or the first `speak`.

        Args:
            voice_cache: The folder of downloaded voices.
            default_voice: A voice's name, or the path of an `.onnx` beside its `.onnx.json`.
            speaker: Name or number of the speaker, for voices with several; None for the voice's
                default. Voices with one speaker ignore it.
            noise_scale: Variety of the sound; None for the voice's own (mostly 0.667).
            noise_w_scale: Variety of the rhythm; None for the voice's own (mostly 0.8).
            sentence_silence: Seconds of silence after each sentence.
            threads: Threads that a run of the network may use, its caller's among them.
            hub: Where `load` fetches a voice from that is not in the cache.
            progress: Told how far a download is.
            offline: Whether `load` fetches nothing.

        Raises:
            UnknownVoiceError: `default_voice` is a path that holds no voice, or no voice's name.
        """
        self._sentence_silence = sentence_silence
        self._cache = voice_cache
        self._local: dict[str, Path] = {}
        if default_voice.endswith(".onnx"):
            path = voices.local_voice(Path(default_voice).resolve())
            # By its path it is asked for only by whoever knows the settings; lists show its name.
            self._local = {default_voice: path, path.stem: path}
            default_voice = path.stem
        else:
            voices.find_voice(default_voice, voice_cache)
        self._default = default_voice
        self._speaker = speaker
        self._noise = noise_scale
        self._noise_w = noise_w_scale
        self._threads = threads
        self._hub = hub
        self._progress = progress
        self._offline = offline
        # What the voices that were used are called in the model store.
        self._keys: dict[str, str] = {}

    def voices(self) -> tuple[VoiceInfo, ...]:
        """The voices on this machine, the default one first."""
        local = [voices.describe(path) for path in dict.fromkeys(self._local.values())]
        known = {
            info.name: info
            for info in (*local, *voices.list_cached(self._cache), *voices.list_embedded())
        }
        first = known.pop(self._default, None)
        return (*([first] if first else []), *known.values())

    def load(self, voice: str = "") -> None:
        """Load a voice and run it once, so that the first call finds it warm.

        Fetches it if need be.

        Args:
            voice: The voice's name; empty for the default one.

        Raises:
            UnknownVoiceError: There is no such voice, or the voice has no such speaker.
            UnavailableError: It is not here and cannot be fetched.
            EngineError: Its files cannot be used.
        """
        name = voice or self._default
        if name not in self._local:
            voices.resolve(name, self._cache, self._hub, self._progress, offline=self._offline)
        with self._voice(name) as loaded:
            speaker = loaded.speaker(self._speaker)
            if not loaded.warm:
                scales = self._scales(loaded, 1.0)
                for phonemes in loaded.sentences(WARM_UP):
                    deque(loaded.render(phonemes, scales, speaker).pieces, maxlen=0)
                loaded.warm = True

    def loaded(self) -> tuple[str, ...]:
        """The voices that are in memory, of those that this engine has spoken with."""
        resident = models.resident()
        return tuple(name for name, key in self._keys.copy().items() if key in resident)

    def speak(self, text: str, voice: str, speed: float, stop: Event) -> Iterator[Chunk]:
        """Speak `text`; see `SpeechEngine.speak`.

        Args:
            text: What to say.
            voice: The name of a voice on this machine; the default voice where empty.
            speed: 1.0 is the voice's own pace, 2.0 twice as fast; within `SPEED_LIMITS`.
            stop: Ends synthesis within `STOP_S`, in the middle of whatever is being computed.

        Yields:
            At most 80 ms of audio at a time, with the words that end in it.

        Raises:
            UnknownVoiceError: There is no such voice here, or the voice has no such speaker.
            EngineError: Synthesis failed.
        """
        check_speed(speed)
        with self._voice(voice) as loaded, _ended_by(stop) as run:
            speaker = loaded.speaker(self._speaker)
            sentences = loaded.sentences(text)
            track = _WordTrack(loaded, text, sentences)
            rate = loaded.config.sample_rate
            done = 0
            if stop.is_set():
                return
            scales = self._scales(loaded, speed)
            pieces = self._pieces(loaded, sentences, track, scales, speaker, run)
            while (piece := _next(pieces, stop)) is not None:
                for part in cut(_to_pcm(piece).tobytes(), rate):
                    done += len(part) // 2
                    yield Chunk(part, rate, track.until(done))
                    if stop.is_set():
                        return

    def close(self) -> None:
        """Nothing to free: the voices are the model store's."""

    def _pieces(
        self,
        voice: "_Voice",
        sentences: list[list[str]],
        track: "_WordTrack",
        scales: Scales,
        speaker: int | None,
        run: RunOptions,
    ) -> Iterator[Floats]:
        """The audio of all sentences, each piece computed when it is asked for."""
        silence = np.zeros(round(self._sentence_silence * voice.config.sample_rate), np.float32)
        total = 0
        for phonemes in sentences:
            rendering = voice.render(phonemes, scales, speaker, run)
            track.add_sentence(phonemes, rendering, total)
            for piece in chain(rendering.pieces, [silence]):
                total += len(piece)
                yield piece

    def _voice(self, name: str) -> AbstractContextManager["_Voice"]:
        """A voice, loaded, for as long as it is needed; the default one where `name` is empty."""
        name = name or self._default
        path = self._local.get(name) or voices.find_voice(name, self._cache)
        if path is None:
            raise voices.unknown(name, [info.name for info in self.voices()])
        key = self._keys[path.stem] = f"piper:{path.resolve()}:{self._threads}"
        return models.use(key, lambda: _Voice(path, self._cache, self._threads))

    def _scales(self, voice: "_Voice", speed: float) -> Scales:
        config = voice.config
        return Scales(
            noise=config.noise_scale if self._noise is None else self._noise,
            length=config.length_scale / speed,
            noise_w=config.noise_w_scale if self._noise_w is None else self._noise_w,
        )


class _Voice:
    """A loaded voice: what all engines and calls that speak with it share."""

    def __init__(self, path: Path, downloads: Path, threads: int) -> None:
        self.name = path.stem
        try:
            settings = json.loads(Path(f"{path}.json").read_text("utf-8"))
            self.config = PiperConfig.from_dict(settings)
            self._model = load_model(path, self.config.hop_length, threads)
        except Exception as error:  # those of onnx and onnxruntime have no class in common
            raise EngineError(
                f"the voice {path} cannot be used: {type(error).__name__} ({one_line(error)}); "
                "if it is damaged, delete it to have it downloaded again"
            ) from error
        # For its phonemizers only: it could run the network whole and in no other way.
        self._phonemizer = PiperVoice(session=None, config=self.config, download_dir=downloads)
        table = self.config.phoneme_id_map
        self.ids_before_sentence = len(table.get("^", ())) + len(table.get("_", ()))
        self.warm = False

    def speaker(self, asked: str | int | None) -> int | None:
        """The number of a speaker; None if the voice has but one."""
        if self.config.num_speakers <= 1:
            return None
        if asked is None:
            return int(self.config.default_speaker_id)
        by_name = self.config.speaker_id_map
        if str(asked) in by_name:
            return int(by_name[str(asked)])
        if str(asked).isdecimal() and int(asked) < self.config.num_speakers:
            return int(asked)
        some = ", ".join(list(by_name)[:5])
        raise UnknownVoiceError(
            f"the voice {self.name} has no speaker {asked!r}: it has the numbers 0 to "
            f"{self.config.num_speakers - 1}" + (f" and names like {some}" if some else "")
        )

    def phonemes(self, text: str) -> list[list[str]]:
        """The phonemes of each sentence of `text`."""
        # espeak takes UTF-8 that ends at the first NUL.
        clean = text.replace("\0", " ").encode(errors="replace").decode()
        result: list[list[str]] = self._phonemizer.phonemize(clean)
        return result

    def sentences(self, text: str) -> list[list[str]]:
        """The phonemes of each sentence, or part of a long one, that has something to hear."""
        parts = (part for sentence in self.phonemes(text) for part in _shorten(sentence))
        return [part for part in parts if not SILENT.issuperset(part)]

    def render(
        self,
        phonemes: list[str],
        scales: Scales,
        speaker: int | None,
        run: RunOptions | None = None,
    ) -> Rendering:
        """Begin a sentence."""
        with self._explained():
            ids = self._phonemizer.phonemes_to_ids(phonemes)
            rendering = self._model.render(ids, scales, speaker, run)
        return replace(rendering, pieces=self._watched(rendering.pieces))

    def _watched(self, pieces: Iterator[Floats]) -> Iterator[Floats]:
        with self._explained():
            yield from pieces

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Tell as one line what goes wrong in the network."""
        try:
            yield
        except Exception as error:  # onnxruntime's errors have no class of their own
            raise EngineError(f"the voice {self.name} failed: {one_line(error)}") from error

    def id_ends(self, phonemes: list[str], ids: int) -> list[int]:
        """For each phoneme, how many of a sentence's `ids` ids are its own or before it.

        `piper.phoneme_ids` gives one id or several to a phoneme and a pad after it, none to a
        phoneme that the voice does not know, and a beginning and an end to the sentence. Where a
        language's phonemizer has rules of its own, the ids are taken as spread evenly.
        """
        table = self.config.phoneme_id_map
        pad = len(table.get("_", ()))
        own = [len(table[p]) + pad if p in table else 0 for p in phonemes]
        ends = list(accumulate(own, initial=self.ids_before_sentence))[1:]
        if ends and ends[-1] + len(table.get("$", ())) == ids:
            return ends
        return [ids * (n + 1) // len(phonemes) for n in range(len(phonemes))]


class _WordTrack:
    """Where the words of one utterance are in its audio."""

    def __init__(self, voice: _Voice, text: str, sentences: list[list[str]]) -> None:
        self._voice = voice
        # One space between sentences, as there is between words.
        heard = [p for phonemes in sentences for p in (*phonemes, " ")]
        words = text.split()
        alone = [[p for part in voice.phonemes(word) for p in (*part, " ")][:-1] for word in words]
        self._waiting = deque(zip(words, place_words(alone, heard), strict=True))
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add_sentence(self, phonemes: list[str], rendering: Rendering, start: int) -> None:
        """Take the timing of the next sentence, whose first sample is the utterance's `start`th."""
        ids = rendering.id_samples
        ends = [0, *np.cumsum(ids).tolist()]
        places = [start + ends[n] for n in self._voice.id_ends(phonemes, len(ids))]
        first = start + ends[self._voice.ids_before_sentence]
        # The space between sentences, too, has a place in what `place_words` was given.
        self._starts += [first, *places]
        self._ends += [*places, places[-1]]

    def until(self, sample: int) -> tuple[Word, ...]:
        """The words that end before `sample` and were not given yet."""
        rate = self._voice.config.sample_rate
        words = []
        while self._waiting:
            text, (first, stop) = self._waiting[0]
            if stop > len(self._ends):
                break
            end = self._ends[stop - 1] if stop else 0
            if end > sample:
                break
            start = self._starts[first] if first < stop else end
            words.append(Word(text, start / rate, end / rate))
            self._waiting.popleft()
        return tuple(words)


def _shorten(phonemes: list[str]) -> Iterator[list[str]]:
    """Cut a sentence of more than `MOST_PHONEMES`, after a pause or else after a word."""
    while len(phonemes) > MOST_PHONEMES:
        likely = range(MOST_PHONEMES - 1, MOST_PHONEMES // 2, -1)
        pauses = (n for n in likely if phonemes[n - 1] in {",", ";", ":"})
        spaces = (n for n in likely if phonemes[n] == " ")
        end = next(pauses, next(spaces, MOST_PHONEMES - 1)) + 1
        yield phonemes[:end]
        phonemes = phonemes[end:]
    yield phonemes


@contextmanager
def _ended_by(stop: Event) -> Iterator[RunOptions]:
    """How to run a network so that `stop` ends it: a long sentence's first stage takes a second."""
    run = RunOptions()
    over = Event()

    def watch() -> None:
        while not over.is_set():
            if stop.wait(STOP_S):
                run.terminate = True
                return

    Thread(target=watch, name="piper-stop", daemon=True).start()
    try:
        yield run
    finally:
        over.set()


def _next(pieces: Iterator[Floats], stop: Event) -> Floats | None:
    """The next piece; None after the last, and where `stop` ended it."""
    try:
        return next(pieces, None)
    except EngineError:
        if stop.is_set():
            return None
        raise


def _to_pcm(audio: Floats) -> NDArray[np.int16]:
    """Samples in -1 to 1 as 16-bit ones, clipped."""
    pcm: NDArray[np.int16] = np.rint(np.clip(audio, -1, 1) * 32767).astype("<i2")
    return pcm


def build(
    settings: EngineSettings, voice: str | None, progress: voices.Progress
) -> Loaded[SpeechEngine]:
    """Make the engine and load its voice, the embedded one where another cannot be fetched. Blocks.

    Args:
        settings: The settings in force.
        voice: A voice's name, or the path of an `.onnx`; None for `voices.DEFAULT_VOICE`.
        progress: Told of what is fetched.

    Raises:
        SettingsError: A setting is wrong.
        EngineError: See `PiperEngine.load`.
    """
    asked = voice or voices.DEFAULT_VOICE
    cache = settings.cache / "piper"
    better = ""
    with blame("--tts-voice"):
        try:
            name, source = asked, _source(asked, cache, settings, progress)
        except UnavailableError as error:
            logger.info("speaking with the embedded voice: {}", error)
            name, source = voices.embedded_name(24000), "embedded"
            better = f"--tts-voice {asked}, where the hub can be reached"
    engine = PiperEngine(
        cache,
        default_voice=name,
        speaker=settings.piper_speaker,
        noise_scale=settings.piper_noise,
        noise_w_scale=settings.piper_noise_w,
        sentence_silence=settings.piper_sentence_silence,
        threads=settings.tts_threads,
        hub=settings.piper_hub,
        progress=progress,
        offline=settings.offline,
    )
    with blame("--piper-speaker" if settings.piper_speaker else "--tts-voice"):
        engine.load()
    return Loaded(engine, engine.voices()[0].name, source, better)


def _source(name: str, cache: Path, settings: EngineSettings, progress: voices.Progress) -> str:
    """Where a voice is, for a person to read; fetched if need be."""
    if name.endswith(".onnx"):
        return str(voices.local_voice(Path(name)).resolve())
    here = voices.find_voice(name, cache)
    if here is None:
        voices.resolve(name, cache, settings.piper_hub, progress, offline=settings.offline)
        return "fetched just now"
    return "embedded" if name in voices.EMBEDDED else str(here)
