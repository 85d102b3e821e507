"""Judge a voice as its users get it: through Piper.

Intelligibility is the word error rate of pocketsphinx's `en-us` model. It tells a voice that can
be understood from one that cannot; it does not tell which of two good voices a person prefers.
"""

import io
import time
import wave
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pocketsphinx
import soxr
from PIL import Image
from piper import PiperVoice, SynthesisConfig

Samples = npt.NDArray[np.float32]

LISTENING_RATE = 16000
"""What the recogniser's model is made for."""

DICTIONARY = Path(pocketsphinx.__file__).parent / "model" / "en-us" / "cmudict-en-us.dict"
"""The pronouncing dictionary in pocketsphinx's wheel."""

_SENTENCE = "Your package should arrive before the end of the week."

TRICKY = (
    "",
    ".",
    "...",
    "Hm.",
    "A",
    "OK!",
    "1234567",
    "It costs $3.50 (about 20%).",
    "Dr. Smith lives at 221B Baker St.",
    "naïve café über",
    "日本語",
    "Привет",
    "https://example.com/a?b=c",
    "what?! really... yes; no: maybe - ok",
    "AAA BBB NASA HTTP",
    "e\u0301tude",
    "[[ həl\u02c8oʊ ]]",
    " ".join(["word"] * 150),
)
"""Texts that a voice must survive."""

TIMED = (
    "Yes, of course.",
    "Your package should arrive before the end of this week.",
    "Please turn left at the next corner and keep walking until you reach the old bridge, then "
    "cross the river, follow the path beside the water for about ten minutes, and you will find "
    "the restaurant next to the museum.",
)
"""Three, ten and forty words."""


def words_of(text: str) -> list[str]:
    """The words of `text` in lower case, without punctuation."""
    letters = (c if c.isascii() and (c.isalpha() or c == "'") else " " for c in text.lower())
    return "".join(letters).split()


def word_errors(reference: Sequence[str], heard: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions that turn one into the other."""
    row = list(range(len(heard) + 1))
    for index, expected in enumerate(reference, 1):
        previous, row[0] = row[0], index
        for column, word in enumerate(heard, 1):
            substituted = previous + (expected != word)
            previous = row[column]
            row[column] = min(row[column] + 1, row[column - 1] + 1, substituted)
    return row[-1]


@dataclass(frozen=True, slots=True)
class Intelligibility:
    """How much of a text the recogniser understood.

    Attributes:
        errors: Wrong, missing and additional words.
        words: Words that were said.
        heard: What the recogniser made of each sentence.
    """

    errors: int
    words: int
    heard: tuple[str, ...]

    @property
    def rate(self) -> float:
        """Errors per word."""
        return self.errors / self.words


def intelligibility(
    say: Callable[[str], Samples], sample_rate: int, sentences: Sequence[str]
) -> Intelligibility:
    """Have every sentence said and recognised.

    Args:
        say: From text to samples.
        sample_rate: Samples a second.
        sentences: What to say.
    """
    decoder = pocketsphinx.Decoder(samprate=LISTENING_RATE, loglevel="FATAL")
    # A quiet hiss: the recogniser's noise floor has no answer to digital silence.
    hiss = np.random.RandomState(0).randn(LISTENING_RATE * 3 // 10).astype(np.float32) * 1e-4
    errors = words = 0
    heard = []
    for sentence in sentences:
        samples = soxr.resample(say(sentence), sample_rate, LISTENING_RATE)
        samples = samples / max(1e-6, float(np.abs(samples).max())) * 0.7
        pcm = (np.concatenate([hiss, samples, hiss]) * 32767).astype(np.int16)
        decoder.start_utt()
        decoder.process_raw(pcm.tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        heard.append(found.hypstr if found else "")
        reference = words_of(sentence)
        errors += word_errors(reference, words_of(heard[-1]))
        words += len(reference)
    return Intelligibility(errors, words, tuple(heard))


def load(path: Path) -> PiperVoice:
    """A voice on one core, as one of many calls would have it."""
    voice = PiperVoice.load(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    voice.session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    return voice


def speak(voice: PiperVoice, text: str, settings: SynthesisConfig | None = None) -> Samples:
    """All of `text` in one piece, float32 in -1 to 1."""
    chunks = [chunk.audio_float_array for chunk in voice.synthesize(text, settings)]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)


def _check(holds: bool, claim: str) -> None:
    if not holds:
        raise AssertionError(f"the voice breaks Piper's contract: {claim}")


def check_contract(voice: PiperVoice) -> list[str]:
    """Hold a voice against what Piper and our engine expect of one.

    Args:
        voice: The voice.

    Returns:
        What was seen, line by line.

    Raises:
        AssertionError: Something does not hold.
    """
    rate = voice.config.sample_rate
    seen = []

    lengths = {
        scale: len(speak(voice, _SENTENCE, SynthesisConfig(length_scale=scale))) / rate
        for scale in (0.7, 1.0, 1.5, 2.0)
    }
    for scale, seconds in lengths.items():
        off = abs(seconds / lengths[1.0] - scale)
        _check(off < 0.12, f"length_scale {scale} lasts {seconds:.2f} s of {lengths[1.0]:.2f}")
    seen.append("length_scale: " + ", ".join(f"{k} → {v:.2f} s" for k, v in lengths.items()))

    chunk = next(iter(voice.synthesize(_SENTENCE, include_alignments=True)))
    aligned = chunk.phoneme_id_samples
    _check(aligned is not None, "no alignments")
    assert aligned is not None
    _check(len(aligned) == len(chunk.phoneme_ids), "one alignment for each id")
    _check(int(aligned.sum()) == len(chunk.audio_float_array), "alignments add up to the audio")
    seen.append(f"alignments: {len(aligned)} ids, {int(aligned.sum())} samples, all of the audio")

    wav = io.BytesIO()
    with wave.open(wav, "wb") as file:
        voice.synthesize_wav("Hello there. How are you?", file)
    wav.seek(0)
    with wave.open(wav, "rb") as file:
        _check(file.getframerate() == rate and file.getnframes() > rate, "a WAV of over a second")

    for text in TRICKY:
        samples = speak(voice, text)
        _check(bool(np.isfinite(samples).all()), f"{text!r} gives samples that are no numbers")
        seen.append(f"{text[:40]!r}: {len(samples) / rate:.2f} s")

    raw = speak(voice, _SENTENCE, SynthesisConfig(normalize_audio=False))
    again = speak(voice, _SENTENCE, SynthesisConfig(normalize_audio=False))
    _check(len(raw) == len(again), "the same text lasts the same time")
    _check(float(np.abs(raw).max()) < 1, "an utterance as the graph gives it clips")
    varied = next(
        iter(
            voice.synthesize(
                _SENTENCE,
                SynthesisConfig(noise_scale=0.667, noise_w_scale=0.8),
                include_alignments=True,
            )
        )
    ).phoneme_id_samples
    # Id by id: the sum of varied durations is now and then the plain one's.
    varies = varied is not None and not np.array_equal(varied, aligned)
    _check(varies, "noise_w varies the durations")
    seen.append(f"peak before Piper's normalisation: {float(np.abs(raw).max()):.2f}")
    return seen


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast one text is spoken.

    Attributes:
        words: Words of the text.
        seconds: Best time from text to all samples.
        audio_seconds: How long the audio is.
    """

    words: int
    seconds: float
    audio_seconds: float


def time_speech(voice: PiperVoice, repeats: int = 20) -> list[Timing]:
    """Time `TIMED`, phonemes included.

    Args:
        voice: The voice.
        repeats: How often each text is spoken; the best counts.
    """
    speak(voice, "Warm up.")
    timings = []
    for text in TIMED:
        best = float("inf")
        for _ in range(repeats):
            began = time.perf_counter()
            samples = speak(voice, text)
            best = min(best, time.perf_counter() - began)
        timings.append(Timing(len(text.split()), best, len(samples) / voice.config.sample_rate))
    return timings


def spectrogram(samples: Samples, sample_rate: int) -> npt.NDArray[np.uint8]:
    """A picture of what was said, to look for clicks, buzz and missing sounds.

    Args:
        samples: float32 [S].
        sample_rate: Samples a second.

    Returns:
        Grey levels [bins, S / 2 ms], high frequencies first; black is 80 dB below the loudest.
    """
    size, hop = sample_rate * 16 // 1000, sample_rate * 2 // 1000
    padded = np.pad(samples, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), 4 * size)) ** 2
    decibels = 10 * np.log10(power / power.max() + 1e-12)
    grey: npt.NDArray[np.uint8] = (np.clip(1 + decibels / 80, 0, 1) * 255).astype(np.uint8)
    return grey.T[::-1]


def draw(pictures: Iterable[npt.NDArray[np.uint8]], path: Path) -> None:
    """Write pictures one below the other as a PNG."""
    rows = list(pictures)
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 8), (0, width - row.shape[1]))) for row in rows]
    Image.fromarray(np.concatenate(padded)).save(path)
