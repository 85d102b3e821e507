"""The text that the teacher reads and the student learns from.

Usage examples of WordNet for breadth, templates of an agent's talk for what the voice will mostly
say, and questions. No digits and no abbreviations, so that Festival and espeak read the same words.
WordNet's text is fit for training and not for print (some examples are unpleasant): it stays in the
work folder.
"""

import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

HELDOUT_FILE = Path(__file__).with_name("heldout.txt")
"""Forty sentences of our own, for listening and for the word error rate; never trained on."""

WORDNET_FOLDER = Path("/usr/share/wordnet")
"""Where Debian's `wordnet-base` puts `data.noun`, `data.verb`, `data.adj` and `data.adv`."""

WORD_LIST = Path("/usr/share/dict/words")
"""Debian's `wamerican`."""

EXAMPLES = 9000
TEMPLATED = 4000
QUESTIONS = 600
UNSEEN = 120

_TEXT_SEED = 7
_QUESTION_SEED = 11

_TEMPLATES: Final = tomllib.loads(
    Path(__file__).with_name("templates.toml").read_text(encoding="utf-8")
)

_PLAIN = re.compile(r"^[A-Za-z' ,;:?!.]+$")
_ACRONYM = re.compile(r"\b[A-Z]{2,}\b")
_QUOTED = re.compile(r'"([A-Za-z][^"]*)"')
_ASKS = re.compile(
    r"(who|what|when|where|why|how|do|does|did|is|are|can|could|will|would)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Corpus:
    """All the text of one voice.

    Attributes:
        heldout: Our own held-out sentences.
        unseen: Usage examples that no one trains on, for a second opinion on intelligibility.
        train: What the student learns from, in random order.
        questions: Questions from templates, which the dataset gives a rise at the end.
    """

    heldout: tuple[str, ...]
    unseen: tuple[str, ...]
    train: tuple[str, ...]
    questions: tuple[str, ...]

    def first(self, count: int) -> "Corpus":
        """The same corpus with `count` training sentences, for a trial run.

        Args:
            count: Training sentences to keep; the questions are cut in proportion.
        """
        share = min(1.0, count / len(self.train))
        questions = self.questions[: round(share * len(self.questions))]
        return Corpus(self.heldout, self.unseen, self.train[:count], questions)


def known_words(dictionary: Path) -> set[str]:
    """The words of a CMU-format pronouncing dictionary, alternative readings left out.

    Args:
        dictionary: One word and its phones a line.
    """
    with dictionary.open(encoding="utf-8") as lines:
        heads = [line.split(maxsplit=1)[0] for line in lines if line.strip()]
    return {head for head in heads if "(" not in head}


def usage_examples(lines: Iterable[str], known: set[str]) -> set[str]:
    """The usage examples in WordNet's data files that both front ends read alike.

    Args:
        lines: Lines of `data.*`; those that begin with two blanks are the licence.
        known: Lower-case words that the dictionary has.

    Returns:
        Sentences of 3 to 16 known words, without digits, hyphens or acronyms.
    """
    examples = set()
    for line in lines:
        if line.startswith("  "):
            continue
        for example in _QUOTED.findall(line):
            words = example.split()
            if (
                3 <= len(words) <= 16
                and _PLAIN.match(example)
                and not _ACRONYM.search(example)
                and all(word.lower().strip(",.;:?!'") in known for word in words)
            ):
                examples.add(example.strip(" ;,"))
    return examples


class Templates:
    """Fills the slots of a template with random words."""

    def __init__(self, random: Random, vocabulary: list[str]):
        """Fill from `random`.

        Args:
            random: Where every choice comes from: the same seed gives the same sentences.
            vocabulary: Lower-case words for the slot `{word}`.
        """
        self._random = random
        self._slots: dict[str, Callable[[], str]] = {
            slot: partial(random.choice, words) for slot, words in _TEMPLATES["slots"].items()
        }
        self._slots["num"] = self._number
        self._slots["word"] = partial(random.choice, vocabulary)

    def _number(self) -> str:
        random = self._random
        ones, tens = _TEMPLATES["numbers"]["ones"], _TEMPLATES["numbers"]["tens"]
        size = random.random()
        if size < 0.5:
            return str(random.choice(ones))
        if size < 0.8:
            spoken = random.choice(tens)
            return f"{spoken} {random.choice(ones[:9])}" if random.random() < 0.7 else str(spoken)
        if size < 0.95:
            spoken = f"{random.choice(ones[:9])} hundred"
            return f"{spoken} and {random.choice(tens)}" if random.random() < 0.6 else spoken
        return f"{random.choice(ones[:9])} thousand {random.choice(ones[:9])} hundred"

    def fill(self, template: str) -> str:
        """One sentence from `template`, its first letter a capital."""
        sentence = re.sub(r"\{(\w+)\}", lambda slot: self._slots[slot[1]](), template)
        return sentence[0].upper() + sentence[1:]


def _sentence(example: str) -> str:
    capital = example[0].upper() + example[1:]
    return capital if capital[-1] in ".?!" else capital + "."


def compose(examples: set[str], vocabulary: list[str], heldout: tuple[str, ...]) -> Corpus:
    """Put the corpus together; the same arguments always give the same one.

    Args:
        examples: Usage examples.
        vocabulary: Lower-case words for the templates.
        heldout: Sentences to keep out of the training text.
    """
    random = Random(_TEXT_SEED)
    shuffled = sorted(examples)
    random.shuffle(shuffled)

    train = []
    for example in shuffled[:EXAMPLES]:
        sentence = _sentence(example)
        if _ASKS.match(sentence) and random.random() < 0.6:
            sentence = sentence[:-1] + "?"
        train.append(sentence)
    templates = Templates(random, vocabulary)
    train += [templates.fill(random.choice(_TEMPLATES["statements"])) for _ in range(TEMPLATED)]
    kept_out = {sentence.lower() for sentence in heldout}
    train = [sentence for sentence in dict.fromkeys(train) if sentence.lower() not in kept_out]
    random.shuffle(train)

    random = Random(_QUESTION_SEED)
    templates = Templates(random, vocabulary)
    drawn = [
        templates.fill(random.choice(_TEMPLATES["questions"])) for _ in range(QUESTIONS * 3 // 2)
    ]
    questions = list(dict.fromkeys(drawn))[:QUESTIONS]

    trained = {sentence.lower() for sentence in train}
    unseen = [
        sentence
        for sentence in map(_sentence, shuffled[EXAMPLES:])
        if 7 <= len(sentence.split()) <= 14
        and sentence.lower() not in trained
        and not re.search(r"[;:]|\. ", sentence)
    ]
    return Corpus(heldout, tuple(unseen[:UNSEEN]), tuple(train), tuple(questions))


def read_heldout() -> tuple[str, ...]:
    """The forty held-out sentences."""
    return tuple(HELDOUT_FILE.read_text(encoding="utf-8").splitlines())


def corpus(dictionary: Path) -> Corpus:
    """The corpus, from what Debian's packages and the recogniser's dictionary hold.

    Args:
        dictionary: A CMU-format pronouncing dictionary.

    Raises:
        FileNotFoundError: A package is not installed.
    """
    known = known_words(dictionary)
    files = sorted(WORDNET_FOLDER.glob("data.*"))
    if not files:
        raise FileNotFoundError(f"no WordNet in {WORDNET_FOLDER}: install wordnet-base")
    examples: set[str] = set()
    for file in files:
        with file.open(encoding="utf-8", errors="ignore") as lines:
            examples |= usage_examples(lines, known)
    vocabulary = [
        word
        for word in WORD_LIST.read_text(encoding="utf-8").split()
        if word.isalpha() and word.islower() and 3 <= len(word) <= 11 and word in known
    ]
    return compose(examples, vocabulary, read_heldout())
