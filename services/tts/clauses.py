"""Which text is spoken together, and how soon it is."""

import re
from collections.abc import AsyncIterator
from typing import Any

from pipecat.utils.text.base_text_aggregator import Aggregation, TextType
from pipecat.utils.text.simple_text_aggregator import SimpleTextAggregator

_CJK = "\u3040-\u30ff\u3400-\u9fff"  # Kana and ideographs: written without blanks.
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]*\w[^\s{_CJK}]*")
_FULL_WIDTH = "\uff0c\uff1a\uff1b"  # Comma, colon and semicolon, which stand without blanks.
# A mark that ends a clause, with the blanks that say it is one: "1,000", "10:30" and "well-known"
# have none. \u2013 and \u2014 are the dashes.
_MARK = re.compile(
    rf"(?<=\S)[,;:](?=\s)|(?<=\S)[ \t]?[\u2013\u2014](?=\s)|(?<=[ \t])-(?=[ \t])|[{_FULL_WIDTH}]"
)
# The words before a list's last item, in languages that Piper has voices for.
_LIST_ENDERS = frozenset(
    ["and", "or", "nor", "und", "oder", "et", "ou", "ni", "y", "e", "o", "u", "en", "of"]
)
_ENCLOSING = ("()", "[]", "{}", "\u201c\u201d", "\u00ab\u00bb", "\u300c\u300d", "\uff08\uff09")
_PAIRED = re.compile(r'"+|\*+|`+|~+')


class ClauseTextAggregator(SimpleTextAggregator):
    """Sentences, and the reply's first clause as soon as it is complete.

    A sentence is released as Pipecat's own aggregator releases it: at the first character of
    the next one. That wait is kept, since only it tells "Dr. Smith" and "29.95" from an end.

    Until a reply has some words under way, a clause is released ahead of its sentence, so that
    speech starts while the model is still writing. A clause ends at a comma, semicolon, colon or
    dash; never at a bare conjunction, before which a voice that cannot see the rest would fall
    as at a full stop. After a comma two more words are awaited, because only they tell a clause
    from a list ("apples, pears and plums") or an address ("good to see you, John."). Nothing is
    cut inside a bracket, a quotation or emphasis.

    Every character of the input is released once, in order, but for the blanks at both ends of
    each release.
    """

    def __init__(self, *, first_clause_words: int, **kwargs: Any) -> None:
        """Make an aggregator.

        Args:
            first_clause_words: Words that a clause must have to be released ahead of its
                sentence, and words after which a reply is released by whole sentences; 0 to
                release nothing but sentences.
            **kwargs: For `SimpleTextAggregator`, for example `language`.
        """
        super().__init__(**kwargs)
        self._first_clause_words = first_clause_words
        self._words_released = 0

    async def aggregate(self, text: str) -> AsyncIterator[Aggregation]:
        """Take more of the reply.

        Args:
            text: What the model wrote next: any number of characters.

        Yields:
            Sentences, and the first clause; in token mode the text itself.
        """
        if self._aggregation_type == TextType.TOKEN:
            async for token in super().aggregate(text):
                yield token
            return
        for char in text:
            self._text += char
            released = await self._check_sentence_with_lookahead(char)
            if released is None:
                released = self._first_clause(char)
            if released is not None:
                self._words_released += _count_words(released.text)
                yield released

    async def flush(self) -> Aggregation | None:
        """End the reply.

        Returns:
            What is left of it, or None where nothing is.
        """
        rest = await super().flush()
        self._words_released = 0
        return rest

    async def handle_interruption(self) -> None:
        """Drop what is left of the reply; what follows starts another."""
        await super().handle_interruption()
        self._words_released = 0

    async def reset(self) -> None:
        """Drop what is left of the reply; what follows starts another."""
        await super().reset()
        self._words_released = 0

    def _first_clause(self, char: str) -> Aggregation | None:
        """The clause that `char`, already in the buffer, shows to be complete."""
        if self._words_released >= self._first_clause_words:
            return None
        if not char.isspace() and char not in _FULL_WIDTH:
            return None
        end = _clause_end(self._text, self._first_clause_words)
        if not end:
            return None
        clause = Aggregation(text=self._text[:end].strip(" "), type=TextType.SENTENCE)
        self._text = self._text[end:]
        return clause


def _clause_end(text: str, min_words: int) -> int:
    """Where the first clause of `text` ends, or 0 while that cannot be said.

    Args:
        text: The start of a sentence, up to and with the character after a word.
        min_words: Words that the clause must have.
    """
    after_last_comma = 0
    for mark in _MARK.finditer(text):
        end = mark.end()
        is_comma = mark.group() == ","
        item = text[after_last_comma : mark.start()]
        after_last_comma = end if is_comma else after_last_comma
        if _count_words(text[:end]) < min_words or _is_open(text[:end]):
            continue
        if not is_comma:
            return end
        if _count_words(item) > 1:
            following = text[end:].split()[:2]
            if len(following) < 2:
                return 0
            if _continues(*following):
                return end
    return 0


def _continues(first: str, second: str) -> bool:
    """Whether the two words after a comma go on with a sentence, rather than a list or its end."""
    if not first[-1].isalnum() or not first[0].isalpha():
        return False
    return second[-1] not in ".!?…" and second.lower() not in _LIST_ENDERS


def _is_open(text: str) -> bool:
    """Whether `text` ends inside a bracket, a quotation or emphasis."""
    signs = [run[0] for run in _PAIRED.findall(text)]
    return any(text.count(pair[0]) > text.count(pair[1]) for pair in _ENCLOSING) or any(
        signs.count(sign) % 2 for sign in set(signs)
    )


def _count_words(text: str) -> int:
    return len(_WORD.findall(text))
