"""The stories that the built-in responder tells, each long enough to be interrupted."""

import re
from dataclasses import dataclass
from functools import cache

_TAIL = 5
"""Words that tell where in a story a sentence was cut off."""

_SHORTEST_TAIL = 3

_TAIL_CHARACTERS = 100
# More than `_TAIL` words of any story have.


@dataclass(frozen=True, slots=True)
class Story:
    """A story, sentence by sentence.

    Attributes:
        sentences: In the order in which they are told.
    """

    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole story."""
        return " ".join(self.sentences)


STORIES = (
    Story(
        (
            "On a small island at the edge of the charts there stood a lighthouse, "
            "and in it lived a keeper called Marta.",
            "Every evening she climbed two hundred and twelve steps, lit the lamp, "
            "and wound the great clock that turned it.",
            "One winter night the clock stopped.",
            "Marta oiled the wheels, she tightened the spring, she even spoke to it kindly, "
            "but the lamp would not turn.",
            "Far out she could see the lights of a ship, feeling its way towards the rocks.",
            "So she took hold of the heavy lamp with both hands and began to walk.",
            "Round and round she went, counting under her breath, ten seconds for every turn.",
            "She counted until her voice was gone, and then she counted in her head.",
            "When the sky turned grey, the ship was lying safe in the bay, "
            "and its captain came rowing ashore to thank the clock.",
            "Marta laughed until she had to sit down on the stairs.",
            "The captain looked into the clock, and there, between two wheels, "
            "he found a small brown mouse, fast asleep on a bed of wool.",
            "They moved the mouse, bed and all, to a warm place by the stove.",
            "The clock has kept good time ever since, "
            "and on the longest night of every year Marta turns the lamp by hand, "
            "so as not to forget how it is done.",
            "And that is the end of the story.",
        )
    ),
    Story(
        (
            "There was once a fox who collected sounds.",
            "She kept them in jars along the wall of her den, each with a label: "
            "rain on leaves, ice in spring, the first word of an owl.",
            "The other animals came to listen on long evenings, "
            "and they paid her in berries and in gossip.",
            "One day a young hare asked for a sound that she did not have: "
            "the sound of nothing at all.",
            "The fox was too proud to say that she could not find it.",
            "She went to the middle of the lake at midnight, but the water breathed.",
            "She went up the mountain, where there was only snow, but the wind hummed.",
            "She went down into the deepest cave and sat very still, "
            "and there she heard her own heart, beating like a drum.",
            "So she came home and gave the hare an empty jar with a label on it.",
            "The hare opened it, and everybody in the den held their breath and listened.",
            "For a moment it was so quiet that each of them could hear all the others being there.",
            "It was the best sound that anyone had ever heard.",
            "The fox closed the jar again with great care, and changed the label.",
            "Now it says: friends.",
            "That was the fox who collected sounds.",
        )
    ),
)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def story_of(heard: str) -> Story | None:
    """The story that `heard`, one turn of the agent's, was telling; None if it was telling none."""
    return next((story for story in STORIES if _place(story, heard) is not None), None)


def resume(heard: str) -> str | None:
    """What is left of a story after a turn that told it up to some point.

    Args:
        heard: The agent's turn, as far as the caller heard it.

    Returns:
        The rest, from the start of the sentence that was cut off; None where nothing is left.
    """
    story = story_of(heard)
    place = _place(story, heard) if story else None
    if story is None or place is None:
        return None
    return " ".join(story.sentences[place:]) or None


def _place(story: Story, heard: str) -> int | None:
    """The number of the sentence in which `heard` stops; None if it does not tell `story`."""
    tail = _words(heard[-_TAIL_CHARACTERS:])[-_TAIL:]
    told, ends = _told(story)
    for length in range(len(tail), _SHORTEST_TAIL - 1, -1):
        phrase = f" {' '.join(tail[-length:])} "
        if (start := told.find(phrase)) >= 0:
            here = told.count(" ", 0, start) + length
            return sum(1 for end in ends if end <= here)
    return None


@cache
def _told(story: Story) -> tuple[str, tuple[int, ...]]:
    """The story's words, a space on both sides of each, and how many end with each sentence."""
    words: list[str] = []
    ends: list[int] = []
    for sentence in story.sentences:
        words += _words(sentence)
        ends.append(len(words))
    return f" {' '.join(words)} ", tuple(ends)
