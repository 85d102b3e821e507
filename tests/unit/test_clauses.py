"""Which text is spoken together, and how soon."""

import re

import pytest

from services.tts.clauses import ClauseTextAggregator

PROSE = (
    "Sure! In the old town of Prague, next to Dr. Novak's shop, there is a clock; it cost 1,000 "
    "crowns, or $29.95 today. It shows the sun - and the moon (at night, of course) - for you."
)


async def pieces(text: str, size: int = 0, **options: int) -> list[str]:
    """What an aggregator releases for `text` fed `size` characters, or a word, at a time."""
    aggregator = ClauseTextAggregator(**{"first_clause_words": 4, **options})
    step = rf"(?s).{{1,{size}}}" if size else r"\s*\S+"
    released = []
    for token in re.findall(step, text):
        released += [piece.text async for piece in aggregator.aggregate(token)]
    rest = await aggregator.flush()
    return released + ([rest.text] if rest else [])


async def released_by(text: str) -> list[str]:
    """What has been released by the time `text`, and no more, has come in."""
    return [
        piece.text async for piece in ClauseTextAggregator(first_clause_words=4).aggregate(text)
    ]


@pytest.mark.parametrize(
    ("start", "clause"),
    [
        ("In the old town of Prague, there is a", "In the old town of Prague,"),
        ("We sold 1,000 pairs of shoes, and then the", "We sold 1,000 pairs of shoes,"),
        ("The clock is very old; ", "The clock is very old;"),
        ("Here is what I know: ", "Here is what I know:"),
        ("My plan is simple \u2014 ", "My plan is simple \u2014"),
        ("My plan is simple\u2014 ", "My plan is simple\u2014"),
        ("My plan is simple - ", "My plan is simple -"),
        ("Dr. Smith of the county hospital, who is ", "Dr. Smith of the county hospital,"),
        ("It rains (a lot, often) in town, and it ", "It rains (a lot, often) in town,"),
        (
            "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c",
            "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c",
        ),
    ],
)
async def test_a_first_clause_is_released_before_its_sentence_ends(start: str, clause: str) -> None:
    """The first clause is released once it is known to be one, not at the sentence's end."""
    assert await released_by(start) == [clause]


@pytest.mark.parametrize(
    "start",
    [
        "Well, I think that it is going to rain all ",
        "Dear old John, I have been waiting for you ",
        "It is good to see you, John. ",
        "It is good to see you, old John. ",
        "In the basket are apples, pears and plums ",
        "In the basket are apples, pears, plums and a ",
        "In the basket are apples, pears, plums, and cherries for ",
        "The meeting is on Monday, 3 March at the ",
        "We have sold some 1,000,000 pairs of shoes ",
        "The train leaves here at 10:30 and it takes ",
        "This is a very well-known and far-off place ",
        "They said to me (as always, and each time ",
        'They said to me "as always, and each time ',
        "Note that **this is bold, and this is also ",
        "In the old town of Prague, there",
    ],
)
async def test_nothing_is_cut_where_it_would_be_heard(start: str) -> None:
    """No release at numbers, lists, an address, a short opening, or inside what is enclosed."""
    assert await released_by(start) == []


async def test_after_the_first_clause_whole_sentences() -> None:
    """A clause is released early once a reply; the rest comes as stock sentences."""
    assert await pieces(
        "Once upon a time there was a king, who had a castle, and a horse. One day, long ago in "
        "spring, he left."
    ) == [
        "Once upon a time there was a king,",
        "who had a castle, and a horse.",
        "One day, long ago in spring, he left.",
    ]


async def test_a_short_opening_leaves_the_first_clause_to_the_next_sentence() -> None:
    """A "Sure!" covers too little time for a whole sentence to be awaited behind it."""
    assert await pieces("Sure! Once upon a time there was a king, who had a castle.") == [
        "Sure!",
        "Once upon a time there was a king,",
        "who had a castle.",
    ]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 1000])
@pytest.mark.parametrize("words", [0, 1, 4])
async def test_no_character_is_lost_or_said_twice(size: int, words: int) -> None:
    """The releases together are the text, but for the blanks between them."""
    released = await pieces(PROSE, size, first_clause_words=words)
    assert "".join("".join(released).split()) == "".join(PROSE.split())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_how_the_text_arrives_does_not_matter(size: int) -> None:
    """Token boundaries do not move the cuts."""
    assert await pieces(PROSE, size) == await pieces(PROSE)


async def test_zero_words_means_sentences_only() -> None:
    """The setting can turn early release off."""
    assert await pieces(
        "Once upon a time there was a king, who had a castle.", 0, first_clause_words=0
    ) == ["Once upon a time there was a king, who had a castle."]


async def test_an_interruption_drops_the_rest_and_starts_a_reply() -> None:
    """Nothing of an interrupted reply is said in the next, whose first clause is early again."""
    aggregator = ClauseTextAggregator(first_clause_words=4)
    text = "Once upon a time there was a king, who had a castle and "
    first = [piece.text async for piece in aggregator.aggregate(text)]
    await aggregator.handle_interruption()
    second = [piece.text async for piece in aggregator.aggregate(text)]
    assert first == second == ["Once upon a time there was a king,"]


async def test_a_reply_that_ends_with_its_clause_starts_another() -> None:
    """A flush with nothing left to release ends a reply too."""
    aggregator = ClauseTextAggregator(first_clause_words=4)
    clause = "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c"
    for _ in range(2):
        assert [piece.text async for piece in aggregator.aggregate(clause)] == [clause]
        assert await aggregator.flush() is None


async def test_the_end_of_a_reply_starts_another() -> None:
    """After a flush a clause is released early again."""
    aggregator = ClauseTextAggregator(first_clause_words=4)
    text = "Once upon a time there was a king, who had a castle. "
    for _ in range(2):
        first = [piece.text async for piece in aggregator.aggregate(text)]
        rest = await aggregator.flush()
        assert first == ["Once upon a time there was a king,"]
        assert rest is not None
        assert rest.text == "who had a castle."
        assert await aggregator.flush() is None
