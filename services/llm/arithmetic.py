"""Sums as people say and type them: "twelve times seven", "half of 90", "(2 + 3) * 4".

A recursive-descent parser over exact fractions. It computes nothing but what it has parsed, and
bounds the size and the number of its steps: it runs on the event loop.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

MAX_TEXT = 200
"""Characters of input that are looked at; nobody says a longer sum."""

MAX_VALUE = 10**15
"""Results from here on are not read out."""

_MAX_BITS = 512
_MAX_DEPTH = 12
_MAX_DIGITS = 20

_TOO_BIG = "That is a bigger number than I can say."

_NAMES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
fifteen sixteen seventeen eighteen nineteen"""
_TEN_NAMES = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {name: value for value, name in enumerate(_NAMES.split())}
_TENS = {name: 10 * value for value, name in enumerate(_TEN_NAMES.split(), start=2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}

# What each operator may be called, the longest phrase first.
_WORDS = {
    "*": "multiplied by|times",
    "/": "divided by|over",
    "%": "percent of|per cent of",
    "²": "squared",
    "³": "cubed",
    "^": "to the power of|to the power",
    "+": "plus|added to",
    "-": "minus|take away|negative",
    "√": "the square root of|square root of",
    "half of": "half of|half",
    "a third of": "a third of|one third of",
    "a quarter of": "a quarter of|one quarter of",
    "twice": "twice|double",
}
_SIGNS = {
    "*": r"\u00d7|\*(?!\*)|(?<=\d)\s*x\s*(?=\d)",
    "/": "\u00f7|/",
    "%": r"% of\b",
    "^": r"\*\*|\^",
    "+": r"\+",
    "-": "-|\u2212",
    "(": r"\(",
    ")": r"\)",
}
_SAID = {"*": "times", "/": "divided by", "%": "percent of", "²": "squared", "³": "cubed"} | {
    "^": "to the power of",
    "+": "plus",
    "-": "minus",
    "√": "the square root of",
}
_SHARES = {
    "half of": Fraction(1, 2),
    "a third of": Fraction(1, 3),
    "a quarter of": Fraction(1, 4),
    "twice": Fraction(2),
}
_PATTERNS = [(symbol, rf"\b(?:{pattern})\b") for symbol, pattern in _WORDS.items()]
_PATTERNS += list(_SIGNS.items())
_TOKEN = re.compile(
    "|".join(
        [
            r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)",
            *(f"(?P<op{index}>{pattern})" for index, (_, pattern) in enumerate(_PATTERNS)),
            r"(?P<word>[^\W\d_]+)",
            r"(?P<other>[^\s?!.])",
        ]
    )
)
_ASKED = re.compile(
    r"\b(?:whats|what is|how much|calculate|compute|work out)\b|^[\d\s.,()+*/=x^-]+$"
)
_OPERATOR = r"(?:plus|minus|times|divided by|multiplied by|squared|cubed)"


class _NoAnswerError(ArithmeticError):
    """The sum was understood but has no answer to read out; the message says why, to the caller."""


class _TooDeepError(Exception):
    """The sum is nested more deeply than anybody's."""


@dataclass(frozen=True, slots=True)
class _Token:
    """A number, an operator, or (both None) a word that belongs to no sum."""

    spoken: str
    number: Fraction | None = None
    symbol: str | None = None


def solve(text: str) -> str | None:
    """Answer the sum in `text`, in a sentence that repeats the sum as it was understood.

    Args:
        text: What was said or typed, in any case, with or without punctuation.

    Returns:
        For example "12 times 7 is 84."; None where `text` holds no sum.
    """
    tokens = tuple(_tokens(text))
    longest, answer = 0, None
    for start in range(len(tokens)):
        if len(tokens) - start <= longest:
            break
        parser = _Parser(tokens, start)
        try:
            value = parser.sum()
            reply = _sentence(tokens[start : parser.position], value)
        except _NoAnswerError as reason:
            reply = str(reason)
        except ZeroDivisionError:
            reply = "I can't divide by zero; nobody can."
        except OverflowError:
            reply = _TOO_BIG
        except ValueError:
            continue
        except _TooDeepError:
            break
        if parser.operations and parser.position - start > longest:
            longest, answer = parser.position - start, reply
    return answer


def _sentence(tokens: tuple[_Token, ...], value: Fraction) -> str:
    if abs(value) >= MAX_VALUE:
        raise _NoAnswerError(_TOO_BIG)
    words = " ".join(token.spoken for token in tokens).replace("( ", "(").replace(" )", ")")
    rounded = round(value, 4)
    about = "" if rounded == value else "about "
    return f"{words[0].upper()}{words[1:]} is {about}{_digits(rounded if not about else value)}."


def _digits(value: Fraction) -> str:
    """`value` in digits: up to four decimals where they are all of it, otherwise two."""
    if value < 0:
        return f"minus {_digits(-value)}"
    if value.denominator == 1:
        return f"{value.numerator:,}"
    if round(value, 4) == value:
        return f"{float(value):,.4f}".rstrip("0")
    if value < Fraction(1, 100):
        return f"{float(value):.2g}"
    return f"{float(value):,.2f}".rstrip("0").rstrip(".")


def _tokens(text: str) -> Iterator[_Token]:
    """The tokens of `text`, with number words gathered into numbers."""
    plain = unicodedata.normalize("NFKC", text[:MAX_TEXT])[:MAX_TEXT].casefold()
    plain = re.sub("['\u2019]", "", plain)
    plain = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", plain)
    if not _ASKED.search(plain):
        # "555-1234" is a telephone number and "9/11" a date, unless a sum was asked for.
        plain = re.sub(r"(?<=\d)[-/](?=\d)", " ; ", plain)
    # A recogniser writes "to" and "for" where "two" and "four" were said; next to an operator they
    # can be nothing else.
    for heard, meant in (("too?", "two"), ("for", "four")):
        plain = re.sub(rf"\b{heard}(?= {_OPERATOR}\b)", meant, plain)
        plain = re.sub(rf"\b(plus|minus|times|divided by) {heard}\b", rf"\1 {meant}", plain)
    words: list[str] = []
    for match in _TOKEN.finditer(plain):
        kind = match.lastgroup or ""
        if kind == "word":
            words.append(match[0])
            continue
        yield from _numbers(words)
        words = []
        if kind == "digits" and len(match[0]) <= _MAX_DIGITS:
            yield _Token(match[0], number=Fraction(match[0].replace(",", "")))
        elif kind.startswith("op"):
            symbol = _PATTERNS[int(kind[2:])][0]
            yield _Token(_SAID.get(symbol, symbol), symbol=symbol)
        else:
            yield _Token(match[0])
    yield from _numbers(words)


def _numbers(words: list[str]) -> Iterator[_Token]:
    """Tokens for a run of words: numbers where they are number words."""
    position = 0
    while position < len(words):
        value, end = _number(words, position)
        if value is None:
            yield _Token(words[position])
            end = position + 1
        else:
            yield _Token(_digits(value), number=value)
        position = end


def _number(words: list[str], start: int) -> tuple[Fraction | None, int]:
    """The number at `start`, such as "two thousand and five", and where it ends."""
    total, position, limit = 0, start, 10**12
    found = False
    while True:
        after = position + 1 if found and words[position : position + 1] == ["and"] else position
        group, end = _below_thousand(words, after)
        if group is None:
            break
        scale = _SCALES.get(words[end], 1) if end < len(words) else 1
        if scale >= limit:
            break
        found, total, limit = True, total + group * scale, scale
        position = end + (scale > 1)
        if scale == 1:
            break
    if not found:
        return None, start
    fraction = ""
    if words[position : position + 1] == ["point"]:
        for word in words[position + 1 : position + 10]:
            if _SMALL.get(word, 10) > 9:
                break
            fraction += str(_SMALL[word])
    if fraction:
        return total + Fraction(int(fraction), 10 ** len(fraction)), position + 1 + len(fraction)
    return Fraction(total), position


def _below_thousand(words: list[str], start: int) -> tuple[int | None, int]:
    """The number below a thousand at `start`, such as "a hundred and three"."""
    value, position = _below_hundred(words, start)
    following = words[start + 1] if start + 1 < len(words) else ""
    if words[start : start + 1] == ["a"] and (following in _SCALES or following == "hundred"):
        value, position = 1, start + 1
    if value is None or words[position : position + 1] != ["hundred"]:
        return value, position
    position += 1
    value *= 100
    after = position + 1 if words[position : position + 1] == ["and"] else position
    rest, end = _below_hundred(words, after)
    return (value, position) if rest is None else (value + rest, end)


def _below_hundred(words: list[str], start: int) -> tuple[int | None, int]:
    """The number below a hundred at `start`, such as "twenty five"."""
    word = words[start] if start < len(words) else ""
    if word in _SMALL:
        return _SMALL[word], start + 1
    if word not in _TENS:
        return None, start
    unit = _SMALL.get(words[start + 1], 0) if start + 1 < len(words) else 0
    return (_TENS[word] + unit, start + 2) if 0 < unit < 10 else (_TENS[word], start + 1)


class _Parser:
    """Recursive descent from one token on, as far as the tokens make a sum.

    Its methods raise ValueError where no number stands, ArithmeticError where there is no answer
    and `_TooDeepError`.

    Attributes:
        position: The first token after what has been read as part of the sum.
        operations: How many operators were applied; 0 means that it was a bare number.
    """

    def __init__(self, tokens: tuple[_Token, ...], position: int) -> None:
        self._tokens = tokens
        self._depth = 0
        self.position = position
        self.operations = 0

    def sum(self) -> Fraction:
        """Products, added and subtracted."""
        value = self._product()
        while (symbol := self._symbol()) in ("+", "-"):
            right = self._right(self._product)
            if right is None:
                break
            value = _bounded(value + right if symbol == "+" else value - right)
        return value

    def _product(self) -> Fraction:
        """Factors, multiplied and divided."""
        value = self._factor()
        while (symbol := self._symbol()) in ("*", "/", "%"):
            right = self._right(self._factor)
            if right is None:
                break
            value *= 1 / right if symbol == "/" else right
            value = _bounded(value / 100 if symbol == "%" else value)
        return value

    def _factor(self) -> Fraction:
        """A number, signed, shared, rooted, raised or in parentheses."""
        if self._depth == _MAX_DEPTH:
            raise _TooDeepError
        self._depth += 1
        value = self._base()
        while (symbol := self._symbol()) in ("^", "²", "³"):
            if symbol == "^":
                exponent = self._right(self._factor)
                if exponent is None:
                    break
            else:
                exponent = Fraction(2 if symbol == "²" else 3)
                self.position += 1
                self.operations += 1
            value = _power(value, exponent)
        self._depth -= 1
        return value

    def _base(self) -> Fraction:
        token = self._tokens[self.position] if self.position < len(self._tokens) else None
        self.position += 1
        if token is None:
            raise ValueError("nothing here")
        if token.number is not None:
            return token.number
        if token.symbol == "-":
            return -self._factor()
        if token.symbol == "(":
            value = self.sum()
            if self._symbol() != ")":
                raise ValueError("parenthesis left open")
            self.position += 1
            return value
        if token.symbol == "√":
            self.operations += 1
            return _root(self._factor())
        if token.symbol in _SHARES:
            self.operations += 1
            return _SHARES[token.symbol] * self._factor()
        raise ValueError("no number here")

    def _right(self, read: Callable[[], Fraction]) -> Fraction | None:
        """What stands right of the operator; None, and nothing read, where no number does."""
        before = self.position, self.operations, self._depth
        self.position += 1
        try:
            value = read()
        except ValueError:
            self.position, self.operations, self._depth = before
            return None
        self.operations += 1
        return value

    def _symbol(self) -> str | None:
        return self._tokens[self.position].symbol if self.position < len(self._tokens) else None


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise _NoAnswerError(_TOO_BIG)
    return value


def _root(value: Fraction) -> Fraction:
    """The square root, exact for a square and to nine decimals otherwise."""
    if value < 0:
        raise _NoAnswerError("A negative number has no square root that I could say.")
    numerator, denominator = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if numerator**2 == value.numerator and denominator**2 == value.denominator:
        return Fraction(numerator, denominator)
    return Fraction(math.isqrt(int(value * 10**18)), 10**9)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    """`base` raised to a whole power, refused before it grows out of bounds."""
    if exponent.denominator != 1:
        raise _NoAnswerError("I only know whole powers.")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > _MAX_BITS:
        raise _NoAnswerError(_TOO_BIG)
    return Fraction(base ** int(exponent))
