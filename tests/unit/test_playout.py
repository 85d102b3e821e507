"""What is passed on of an utterance that another engine may have to finish."""

import pytest

from services.tts.engine import Chunk, Word
from services.tts.playout import LEAST_AHEAD_S, Part, Playout, Rest

RATE = 1000


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def chunk(seconds: float, *words: Word) -> Chunk:
    return Chunk(bytes(2 * round(seconds * RATE)), RATE, words)


def seconds(chunks: list[Chunk]) -> float:
    return sum(len(c.pcm) for c in chunks) / 2 / RATE


def test_rest_begins_after_the_last_word() -> None:
    """Words are counted where they stand, however often they come again."""
    rest = Rest("To be, or not to be.")
    for word in ("To", "be,", "or"):
        rest.spoken(word)
    assert rest.text == "not to be."
    rest.spoken("elephant")
    assert rest.text == "not to be."
    for word in ("not", "to", "be."):
        rest.spoken(word)
    assert rest.text == ""


@pytest.mark.parametrize(
    ("text", "spoken", "left"),
    [
        ("I am in a car.", ["i", "am", "in"], "a car."),
        ("in an inn", ["in", "inn"], ""),
        ("\u4f60\u597d\u5417", ["\u4f60", "\u597d"], "\u5417"),
        ("What?! Really?", ["What?!"], "Really?"),
        ("twenty-one", ["twenty"], "-one"),
        ("x", [""], "x"),
    ],
)
def test_words_are_found_whole(text: str, spoken: list[str], left: str) -> None:
    """A word that is spelled otherwise is never taken for a part of another."""
    rest = Rest(text)
    for word in spoken:
        rest.spoken(word)
    assert rest.text == left


def test_first_audio_is_never_kept_back() -> None:
    """Somebody who hears nothing yet gets what there is, a whole word or not."""
    part = Part(Playout(Clock()), Rest("one two"))
    assert seconds(list(part.take(chunk(0.05)))) == 0.05


def test_part_of_a_word_is_kept_back_while_there_is_audio_in_hand() -> None:
    """Once the listener is ahead, only whole words are passed on, with their words."""
    clock = Clock()
    playout, rest = Playout(clock), Rest("one two three")
    part = Part(playout, rest)
    list(part.take(chunk(0.3, Word("one", 0.0, 0.2))))
    passed = list(part.take(chunk(0.3, Word("two", 0.2, 0.5))))
    assert playout.passed_s == 0.5
    assert [w.text for c in passed for w in c.words] == ["two"]
    assert rest.text == "three"
    assert part.patience_s == 0.5 - LEAST_AHEAD_S


def test_what_is_kept_back_goes_when_the_listener_would_wait() -> None:
    """Patience ends just before the audio in hand does; then part of a word is passed on."""
    clock = Clock()
    playout = Playout(clock)
    part = Part(playout, Rest("one two"))
    list(part.take(chunk(0.4, Word("one", 0.0, 0.3))))
    assert playout.passed_s == 0.3
    clock.now = 0.3 - LEAST_AHEAD_S
    assert part.patience_s == 0
    assert seconds(list(part.flush())) == 0.1
    assert part.patience_s is None


def test_word_times_go_on_in_the_next_part() -> None:
    """The second engine's words are timed from the first sample of all."""
    playout, rest = Playout(Clock()), Rest("one two")
    first = Part(playout, rest)
    list(first.take(chunk(0.5, Word("one", 0.0, 0.5))))
    list(first.flush())
    second = Part(playout, rest)
    (passed,) = list(second.take(chunk(0.4, Word("two", 0.1, 0.4))))
    assert passed.words == (Word("two", 0.6, 0.9),)


def test_no_sample_is_lost_or_passed_on_twice() -> None:
    """Whatever the cuts, what comes out is what went in."""
    clock = Clock()
    part = Part(Playout(clock), Rest("a b c d e f g h"))
    samples = bytes(range(250)) * 8
    out = b""
    words = iter([Word(t, n * 0.1, n * 0.1 + 0.093) for n, t in enumerate("abcdefgh")])
    for n, start in enumerate(range(0, len(samples), 250)):
        clock.now += 0.07 if n % 3 else 0.2
        given = (next(words),) if n else ()
        out += b"".join(c.pcm for c in part.take(Chunk(samples[start : start + 250], RATE, given)))
    out += b"".join(c.pcm for c in part.flush())
    assert out == samples
