"""Text cut for models that can speak so much at a time."""

import random

import pytest

from services.tts.pieces import pieces


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("Short.", 20, ["Short."]),
        ("", 20, []),
        ("  \n ", 20, []),
        ("One two. Three four. Five.", 20, ["One two. Three four.", "Five."]),
        # No cut inside a number or an abbreviation without a blank.
        ("It is 3.14 or so. Yes.", 18, ["It is 3.14 or so.", "Yes."]),
        ('He said "Go." She went.', 16, ['He said "Go."', "She went."]),
        ("First a clause, then another one.", 20, ["First a clause,", "then another one."]),
        ("alpha beta gamma delta", 11, ["alpha beta", "gamma delta"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("一二三。四五六。", 4, ["一二三。", "四五六。"]),
    ],
)
def test_cuts_where_one_pauses(text: str, most: int, expected: list[str]) -> None:
    """Sentences stay together; what is too long is cut at clauses, words, and last anywhere."""
    assert list(pieces(text, most)) == expected


def test_nothing_is_lost() -> None:
    """Whatever the text, no piece is empty or too long, and every character is in one."""
    draw = random.Random(5)
    for _ in range(500):
        text = "".join(draw.choices("ab .,!?\n。，\"')", k=draw.randint(0, 120)))  # noqa: RUF001
        most = draw.randint(1, 40)
        cut = list(pieces(text, most))
        assert all(0 < len(piece) <= most for piece in cut)
        assert "".join("".join(cut).split()) == "".join(text.split())


def test_a_long_text_is_quick() -> None:
    """100 000 characters, with blanks or without, are cut in well under a second."""
    assert len(list(pieces("word " * 20000, 200))) >= 500
    assert len(list(pieces("x" * 100000, 200))) == 500
