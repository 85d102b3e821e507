"""Which phonemes are which words."""

# ruff: noqa: RUF001 - the International Phonetic Alphabet looks like others

import random
from itertools import pairwise

import pytest

from services.tts.piper_words import place_words


def heard_as(words: list[str], heard: str) -> list[str]:
    """What each word gets of `heard`, a string of one-letter phonemes."""
    return [heard[a:b] for a, b in place_words([list(word) for word in words], list(heard))]


@pytest.mark.parametrize(
    ("words", "heard", "expected"),
    [
        (["həlˈoʊ", "wˈɜːld."], "həlˈoʊ wˈɜːld.", ["həlˈoʊ", "wˈɜːld"]),
        # Unstressed, and with a linking sound.
        (["ðə", "ˈæpəl"], "ðɪʲ ˈæpəl", ["ðɪʲ", "ˈæpəl"]),
        # Two words as one group of phonemes.
        (["ˈʌv", "ðə", "tˈaɪm"], "ʌvðə tˈaɪm", ["ʌv", "ðə", "tˈaɪm"]),
        # One word as several groups, beside two as one: the counts agree, the places do not.
        (
            ["θɹˈiː pɔɪnt fˈaɪv", "ˈʌv", "ðə", "tˈaɪm"],
            "θɹˈiː pɔɪnt fˈaɪv ʌvðə tˈaɪm",
            ["θɹˈiː pɔɪnt fˈaɪv", "ʌv", "ðə", "tˈaɪm"],
        ),
        # Stress that only the sentence has belongs to the word that it begins.
        (["ɐ", "biː"], "ˈeɪ bˈiː", ["ˈeɪ", "bˈiː"]),
        # Words without a sound.
        (["", "ɐ", "", "biː", ""], "ɐ biː", ["", "ɐ", "", "biː", ""]),
        (["", ""], "", ["", ""]),
        ([], "", []),
        # Phonemes that no word has by itself.
        (["", ""], "ɐ biː", ["", ""]),
        (["ɐ"], "", [""]),
        # A sentence that ends within the text.
        (["dˈɑːktɚ.", "nˈoʊ."], "dˈɑːktɚ. nˈoʊ.", ["dˈɑːktɚ", "nˈoʊ"]),
    ],
)
def test_words_get_their_phonemes(words: list[str], heard: str, expected: list[str]) -> None:
    """Each word gets the phonemes that stand for it, stress included and punctuation not."""
    assert heard_as(words, heard) == expected


def test_a_long_text_keeps_its_place() -> None:
    """Far into a text longer than the band, with words lost on the way, places are exact."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abdefgiklmnopstuvz", k=draw.randint(1, 9))) for _ in range(600)]
    lost = set(range(50, 600, 60))
    heard = " ".join(word for number, word in enumerate(words) if number not in lost)
    got = heard_as(words, heard)
    assert sum(map(len, words)) > 2000
    kept = [n for n in range(600) if n not in lost]
    right = sum(words[n] == got[n] for n in kept)
    assert right >= 0.97 * len(kept)  # beside a lost word the cheapest way may be another
    assert got[-5:] == words[-5:]


def test_any_two_strings_give_ordered_spans() -> None:
    """However little the strings have in common, spans are in order, inside and apart."""
    draw = random.Random(2)
    for _ in range(200):
        words = [draw.choices("ab ,.", k=draw.randint(0, 6)) for _ in range(draw.randint(0, 8))]
        heard = draw.choices("abc ,.", k=draw.randint(0, 30))
        spans = place_words(words, heard)
        assert len(spans) == len(words)
        stops = [stop for _, stop in spans]
        assert stops == sorted(stops)
        assert all(0 <= a <= b <= len(heard) for a, b in spans)
        taken = [span for span in spans if span[0] < span[1]]
        assert all(a[1] <= b[0] for a, b in pairwise(taken))
