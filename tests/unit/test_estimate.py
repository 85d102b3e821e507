"""Word times where a model gives none."""

import random
from collections.abc import Iterator
from itertools import pairwise
from threading import Event

import pytest

from services.tts.engine import Word
from services.tts.estimate import (
    CHUNK_MS,
    LETTERS_PER_SECOND,
    WordEstimate,
    cut,
    duration,
    with_words,
)

RATE = 24000


def spread(text: str, seconds: float, step: float = 0.02, speed: float = 1.0) -> list[Word]:
    """The words of `text` over audio of that length, which comes `step` seconds at a time."""
    estimate = WordEstimate(text, RATE, speed)
    words: list[Word] = []
    left = round(seconds * RATE)
    heard = 0
    while left:
        samples = min(round(step * RATE), left)
        left -= samples
        heard += samples
        new = estimate.advance(samples)
        assert all(word.end <= heard / RATE for word in new)
        words += new
    return [*words, *estimate.finish()]


def seconds(letters: float) -> float:
    return letters / LETTERS_PER_SECOND


def test_words_last_as_long_as_their_letters() -> None:
    """A word's time is its letters' at a usual pace, and the pauses are its punctuation's."""
    one, two, three = spread("Hello, you there.", 10.0)
    assert (one.text, two.text, three.text) == ("Hello,", "you", "there.")
    assert one.start == 0.0
    assert one.end == pytest.approx(seconds(5))
    assert two.start > one.end
    assert two.end - two.start == pytest.approx(seconds(3))
    assert three.start == two.end
    assert all(word.estimated for word in (one, two, three))


def test_marks_behind_brackets_and_quotes_pause() -> None:
    """A full stop pauses longer than a comma, also where a quotation mark or bracket follows it."""
    for text in ('"No." So', "(no.) so"):
        first, second = spread(text, 10.0)
        comma, after = spread("no, so", 10.0)
        assert second.start - first.end > after.start - comma.end > 0


@pytest.mark.parametrize(("text", "letters"), [("1998", 16), ("50%", 12), ("—", 0), ("你好", 5.4)])
def test_what_is_no_letter_has_its_time(text: str, letters: float) -> None:
    """Digits and signs are spoken as words, a Chinese character as a syllable, a dash not."""
    (word,) = spread(text, 10.0)
    assert word.end == pytest.approx(seconds(letters))


def test_speed_divides_the_times() -> None:
    """At twice the speed everything is heard in half the time, pauses included."""
    text = "Well, that is what we said."
    for slow, fast in zip(spread(text, 20.0), spread(text, 20.0, speed=2.0), strict=True):
        assert fast.start == pytest.approx(slow.start / 2)
        assert fast.end == pytest.approx(slow.end / 2)


def test_a_fast_voice_presses_the_rest_together() -> None:
    """Words that the audio's end overtakes share what is left of it; none is lost or moved."""
    text = "These are eight words that end too soon."
    words = spread(text, 1.0)
    assert [word.text for word in words] == text.split()
    assert words[-1].end == pytest.approx(1.0)
    assert all(a.end <= b.start for a, b in pairwise(words))
    assert all(word.start < word.end <= 1.0 for word in words)


def test_a_word_is_not_reported_before_its_end() -> None:
    """One sample before its end a word is not there yet, at its end it is."""
    estimate = WordEstimate("a b", 1400)
    assert estimate.advance(99) == ()
    assert [word.text for word in estimate.advance(1)] == ["a"]
    assert [word.text for word in estimate.finish()] == ["b"]
    assert estimate.finish() == ()


def test_a_text_lasts_as_long_as_its_words() -> None:
    """A text's length is where its last word ends, and the pause behind that."""
    text = "Well, that is what we said 2 times"
    assert duration(text) == pytest.approx(spread(text, 30.0)[-1].end)
    assert duration(text + ".") > duration(text)
    assert duration("") == 0.0


def test_silence_says_nothing() -> None:
    """Without audio nothing was said, and without words nothing is."""
    assert WordEstimate("hello", RATE).finish() == ()
    assert spread("", 1.0) == []


def test_any_text_over_any_audio() -> None:
    """Every word comes once, in order, apart from the others and inside the audio."""
    draw = random.Random(3)
    for _ in range(300):
        text = "".join(draw.choices("abc 12 ,.—你\n'", k=draw.randint(1, 40)))
        length = draw.uniform(0.01, 4.0)
        words = spread(text, length, draw.uniform(0.001, 0.5), draw.uniform(0.25, 4.0))
        assert [word.text for word in words] == text.split()
        assert all(word.start <= word.end <= length + 1 / RATE for word in words)
        assert all(a.end <= b.start + 1e-9 for a, b in pairwise(words))


@pytest.mark.parametrize("rate", [8000, 22050, 24000, 44100])
def test_cut_keeps_every_sample(rate: int) -> None:
    """The stretches are the audio, whole samples, none longer than a chunk may be."""
    pcm = bytes(range(256)) * 100
    parts = list(cut(pcm, rate))
    assert b"".join(parts) == pcm
    assert all(0 < len(part) <= 2 * rate * CHUNK_MS / 1000 for part in parts)
    assert all(len(part) % 2 == 0 for part in parts)
    assert list(cut(b"", rate)) == []


def test_an_utterance_has_all_its_audio_and_words() -> None:
    """However the model cuts its audio, chunks hold all of it, and the last one the last word."""
    draw = random.Random(4)
    for _ in range(50):
        pieces = [
            draw.randbytes(2 * draw.choice((0, 1, 100, 5000))) for _ in range(draw.randint(0, 9))
        ]
        chunks = list(with_words(pieces, "one two three", RATE, 1.0, Event()))
        assert b"".join(chunk.pcm for chunk in chunks) == b"".join(pieces)
        assert all(0 < len(chunk.pcm) <= 2 * RATE * CHUNK_MS // 1000 for chunk in chunks)
        words = [word.text for chunk in chunks for word in chunk.words]
        assert words == (["one", "two", "three"] if chunks else [])


def test_stop_asks_for_no_more() -> None:
    """Once stop is set no further chunk comes, and the model is asked for nothing."""
    stop = Event()
    asked = 0

    def pieces() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield bytes(RATE)

    chunks = with_words(pieces(), "one two", RATE, 1.0, stop)
    next(chunks)
    stop.set()
    assert list(chunks) == []
    assert asked == 1
