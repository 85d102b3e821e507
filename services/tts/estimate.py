"""Word times for engines whose models give none, and audio in chunks of the contract's length."""

from collections import deque
from collections.abc import Iterable, Iterator
from threading import Event
from unicodedata import east_asian_width

from services.tts.engine import Chunk, Word

CHUNK_MS = 80
"""Audio in a chunk, at most."""

LETTERS_PER_SECOND = 14.0
"""How fast a voice reads, pauses left out: what the embedded Piper voice does in English."""

_SPOKEN_OUT = "%&@#+=$€£"
_SPOKEN_OUT_LETTERS = 4.0
# What is spoken as a word of its own, as a digit is, lasts as long as four letters.

_SYLLABLE_LETTERS = 2.7
# A Chinese character is a syllable, and 5.2 of those make a second of Mandarin (Pellegrino, Coupé
# and Marsico, Language 87, 2011).

_PAUSES = ((".!?…。！？", 0.2), (",;:—–、，；：", 0.13))  # noqa: RUF001
# Seconds of silence behind a word with this mark, as the embedded Piper voice leaves them.

_CLOSING = "\"'”’»)]}"  # noqa: RUF001

_HELD_BACK_MS = 5


class WordEstimate:
    """Guesses when the words of one utterance are heard, as its audio comes in.

    Words are what blanks separate. Each is given a time by its letters, and a pause behind it by
    its punctuation. A voice that is faster leaves words over when its audio ends: these share what
    lies behind the last word reported. With a slower voice words are reported early; nothing tells
    before the end of the audio.
    """

    def __init__(self, text: str, sample_rate: int, speed: float = 1.0) -> None:
        """Spread the words of `text` over time.

        Args:
            text: What is spoken.
            sample_rate: Samples a second of the audio.
            speed: 1.0 is the voice's own pace, 2.0 twice as fast.
        """
        self._rate = sample_rate
        self._samples = 0
        self._given = 0.0
        self._waiting: deque[Word] = deque()
        at = 0.0
        for word in text.split():
            end = at + _seconds(word) / speed
            self._waiting.append(Word(word, at, end, estimated=True))
            at = end + _pause(word) / speed

    def advance(self, samples: int) -> tuple[Word, ...]:
        """Take note of more audio.

        Args:
            samples: How many samples of audio follow those noted before.

        Returns:
            The words that end within the audio noted so far and were not given yet, in order.
        """
        self._samples += samples
        heard = self._samples / self._rate
        words = []
        while self._waiting and self._waiting[0].end <= heard:
            words.append(self._waiting.popleft())
            self._given = words[-1].end
        return tuple(words)

    def finish(self) -> tuple[Word, ...]:
        """Give the words that are left, once all audio is noted.

        Returns:
            The rest, pressed together between the last word given and the end of the audio; nothing
            where there was no audio.
        """
        rest = tuple(self._waiting)
        self._waiting.clear()
        if not rest or not self._samples:
            return ()
        end = self._samples / self._rate
        pace = (end - self._given) / (rest[-1].end - self._given)

        def place(at: float) -> float:
            return min(self._given + (at - self._given) * pace, end)

        return tuple(
            Word(word.text, place(word.start), place(word.end), estimated=True) for word in rest
        )


def duration(text: str) -> float:
    """Seconds that `text` is thought to last, the pauses between its words included."""
    return sum(_seconds(word) + _pause(word) for word in text.split())


def cut(pcm: bytes, sample_rate: int) -> Iterator[bytes]:
    """Cut audio into stretches of at most `CHUNK_MS`.

    Args:
        pcm: Signed 16-bit mono samples.
        sample_rate: Samples a second.
    """
    step = 2 * (sample_rate * CHUNK_MS // 1000)
    for start in range(0, len(pcm), step):
        yield pcm[start : start + step]


def with_words(
    pieces: Iterable[bytes], text: str, sample_rate: int, speed: float, stop: Event
) -> Iterator[Chunk]:
    """Make chunks of an utterance's audio, each with the words that are thought to end in it.

    The last few milliseconds of what has come are held back until more does: the last chunk,
    which takes the words that are left, so has audio.

    Args:
        pieces: The audio as the model gives it: signed 16-bit mono samples, whole ones.
        text: What is spoken.
        sample_rate: Samples a second.
        speed: 1.0 is the voice's own pace, 2.0 twice as fast.
        stop: Ends the utterance at the next chunk; no further piece is asked for.

    Yields:
        Chunks of at most `CHUNK_MS`.
    """
    estimate = WordEstimate(text, sample_rate, speed)
    hold = 2 * (sample_rate * _HELD_BACK_MS // 1000)
    held = b""
    for piece in pieces:
        pcm = held + piece
        whole = max(len(pcm) - hold, 0)
        for part in cut(pcm[:whole], sample_rate):
            if stop.is_set():
                return
            yield Chunk(part, sample_rate, estimate.advance(len(part) // 2))
        held = pcm[whole:]
        if stop.is_set():
            return
    if held and not stop.is_set():
        words = estimate.advance(len(held) // 2)
        yield Chunk(held, sample_rate, (*words, *estimate.finish()))


def _seconds(word: str) -> float:
    """How long a word is heard."""
    letters = 0.0
    for char in word:
        if char.isdigit() or char in _SPOKEN_OUT:
            letters += _SPOKEN_OUT_LETTERS
        elif char.isalpha():
            letters += _SYLLABLE_LETTERS if east_asian_width(char) in "WF" else 1.0
    return letters / LETTERS_PER_SECOND


def _pause(word: str) -> float:
    """How long the silence behind a word is."""
    last = word.rstrip(_CLOSING)[-1:]
    return next((pause for marks, pause in _PAUSES if last and last in marks), 0.0)
