"""The rules of the built-in responder: what to answer, given the conversation so far.

No model and no network. The conversation itself is the only memory, so that what was never heard,
because the caller interrupted, was never said: "go on" resumes a story at the sentence where it was
cut off. The rules expect the words of a speech recogniser, in lower case, without punctuation and
a little wrong, and look for what can be made out rather than for whole sentences.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from services.llm.arithmetic import solve
from services.llm.stories import STORIES, resume, story_of

_ONLY_RULES = "only a few rules"
_IDEAS = "the time, the date, a sum, or a story"
_SHALL_I_GO_ON = "Shall I go on with the story?"
_STILL_THERE = "Are you still there?"
_DIDNT_CATCH = "Sorry, I didn't catch that."
_MAX_DICE = 6

_LAST_TURNS = 40
# How many of each side's turns are looked at. The rules run on the event loop, whatever the length
# of the call.

_MAX_PLAIN = 400
# Characters of a text that are looked at, which is half a minute of speech.

_MAX_ECHO = 60
# Characters of what the caller said that are repeated.


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the conversation.

    Attributes:
        role: Who speaks; `developer` gives an instruction, `tool` the result of a call.
        text: The words, or a tool's result as JSON.
        tool: For `tool`, the name of the tool.
    """

    role: Literal["user", "assistant", "developer", "tool"]
    text: str
    tool: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool to call, with its arguments by name."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What to say, and the tool to call once it is said."""

    text: str = ""
    call: Call | None = None


def reply(turns: Sequence[Turn], tools: Collection[str] = (), name: str = "Parley") -> Reply:
    """What to answer to the last of `turns`.

    Args:
        turns: The conversation, oldest first, as far as it was heard.
        tools: The names of the tools that can be called; those it does not know are ignored.
        name: What the agent calls itself.
    """
    talk = _Talk(turns, tools, name)
    last = turns[-1] if turns else None
    if last is None or last.role == "assistant":
        return Reply(_introduction(talk))
    if last.role == "tool":
        return _report(last, talk)
    if last.role == "developer":
        return _obey(last.text, talk)
    if not talk.words:
        return Reply(_DIDNT_CATCH)
    for pattern, rule in _RULES:
        if pattern.search(talk.words) and (answer := rule(talk)) is not None:
            return answer
    return _fallback(talk)


class _Talk:
    """The conversation as the rules look at it.

    Attributes:
        heard: What the caller said last, oldest first.
        said: What the agent said last, as far as it was heard, oldest first.
        words: The caller's last words, plain.
        tools: The names of the tools that can be called.
        name: What the agent calls itself.
    """

    def __init__(self, turns: Sequence[Turn], tools: Collection[str], name: str) -> None:
        heard = [turn.text for turn in turns if turn.role == "user"]
        said = [turn.text for turn in turns if turn.role == "assistant" and turn.text.strip()]
        self.heard = heard[-_LAST_TURNS:]
        self.said = said[-_LAST_TURNS:]
        self.words = plain(self.heard[-1]) if self.heard else ""
        self.tools = tools
        self.name = name

    def last_said(self) -> str:
        """What the agent said last, or nothing."""
        return self.said[-1] if self.said else ""

    def caller(self) -> str | None:
        """The name that the caller gave last, if that is not long ago."""
        for text in reversed(self.heard):
            if found := _GIVEN_NAME.search(plain(text)):
                return found[1].capitalize()
        return None

    def rest_of_story(self) -> str | None:
        """What was not heard of the story told last; None if all of it was, or none was told."""
        told = next((text for text in reversed(self.said) if story_of(text)), None)
        return resume(told) if told else None


_GIVEN_NAME = re.compile(
    r"\b(?:my name is|(?:can|please|just) call me) (?!not\b|when\b|back\b|a\b|the\b)(\w+)"
)
_CONTRACTIONS = (
    (r"\b(what|that|who|how|it|name)s\b", r"\1 is"),
    (r"\bim\b", "i am"),
    (r"\b(what|how|who|you)re\b", r"\1 are"),
    (r"\b(do|did|have|ca)nt\b", r"\1 not"),
)


def plain(text: str) -> str:
    """`text` as a recogniser would write it: lower case, words only, contractions written out.

    Of a long text it is the beginning.
    """
    text = unicodedata.normalize("NFKC", text[:_MAX_PLAIN])[:_MAX_PLAIN].casefold()
    text = re.sub("['\u2019]", "", text)
    text = " ".join(re.findall(r"\w+", text))
    for contraction, words in _CONTRACTIONS:
        text = re.sub(contraction, words, text)
    return text


def _introduction(talk: _Talk) -> str:
    return f"Hello, I'm {talk.name}. What can I do for you?"


def _farewell(text: str, talk: _Talk) -> Reply:
    return Reply(text, Call("end_call") if "end_call" in talk.tools else None)


def _obey(instruction: str, talk: _Talk) -> Reply:
    """Carry out what the application asks, as far as the rules cover it."""
    words = plain(instruction)
    silent = re.search(r"\b(silent|silence|idle|quiet|still there)\b", words)
    if re.search(r"\b(goodbye|hang up|end_call|end the call)\b", words):
        reason = "I can't hear you any more, so I'll hang up. " if silent else ""
        return _farewell(f"{reason}Goodbye!", talk)
    if silent:
        return Reply(_STILL_THERE)
    if re.search(r"\btransfer\b.*\bnot\b", words):
        return Reply("I'm sorry, I couldn't put you through. What else can I do for you?")
    if re.search(r"\bnot (recogni[sz]ed|clear|understood|heard)\b", words):
        return Reply(f"{_DIDNT_CATCH} {_SHALL_I_GO_ON if talk.rest_of_story() else ''}".strip())
    return Reply(_introduction(talk))


def _report(turn: Turn, talk: _Talk) -> Reply:
    """Put a tool's result into words."""
    try:
        result = json.loads(turn.text)
        match turn.tool:
            case "current_time":
                return Reply(_moment(result, talk.words))
            case "roll_dice":
                return Reply(_rolls(result))
            case "change_voice":
                return Reply(_voice(result))
            case "transfer_call":
                return Reply(
                    f"I can't do that. I can put you through to {_listed(result['names'])}."
                )
            case "ask_for_digits":
                return Reply(_pressed(result.get("digits", "")))
            case _:
                return Reply("That's done.")
    except (KeyError, TypeError, ValueError):
        return Reply("Sorry, that didn't work.")


def _moment(result: Mapping[str, Any], asked: str) -> str:
    moment = datetime.fromisoformat(f"{result['date']}T{result['time']}")
    if re.search(r"\b(day|date|month|year|today|todays)\b", asked):
        suffix = {1: "st", 2: "nd", 3: "rd"}.get(moment.day % 10, "th")
        suffix = "th" if 10 < moment.day < 14 else suffix
        return f"Today is {moment:%A}, the {moment.day}{suffix} of {moment:%B %Y}."
    part = ("at night", "in the morning", "in the afternoon", "in the evening")[moment.hour // 6]
    return f"Here it is {moment.hour % 12 or 12}:{moment:%M} {part}."


def _rolls(result: Mapping[str, Any]) -> str:
    rolls = [int(roll) for roll in result["rolls"]]
    if len(rolls) == 1:
        return f"You rolled {rolls[0]}."
    return f"You rolled {_listed(rolls)}, which makes {sum(rolls)}."


def _listed(things: Sequence[object]) -> str:
    *others, last = map(str, things)
    return f"{', '.join(others)} and {last}" if others else last


def _voice(result: Mapping[str, Any]) -> str:
    if "error" in result:
        return "I'm afraid I have no such voice."
    return "This is what I sound like now."


def _pressed(keys: str) -> str:
    if not (digits := re.findall(r"\d", keys)):
        return "You pressed no digits."
    return f"You pressed {' '.join(digits)}."


def _keys(talk: _Talk) -> Reply:
    return Reply(_pressed(talk.words))


def _ask_for_keys(talk: _Talk) -> Reply | None:
    if "ask_for_digits" not in talk.tools:
        return None
    return Reply("Please press the digits, and the hash key at the end.", Call("ask_for_digits"))


def _put_through(talk: _Talk) -> Reply | None:
    if "transfer_call" not in talk.tools:
        return None
    return Reply("One moment, please.", Call("transfer_call", {"to": talk.words}))


def _goodbye(talk: _Talk) -> Reply:
    if re.search(r"\b(not|never) (hang up|end|say)\b", talk.words):
        return Reply("I'm not going anywhere.")
    name = talk.caller()
    return _farewell(f"Goodbye{f', {name}' if name else ''}! It was nice talking to you.", talk)


def _again(talk: _Talk) -> Reply:
    return Reply(talk.last_said() or "I haven't said anything yet.")


def _go_on(talk: _Talk) -> Reply:
    if rest := talk.rest_of_story():
        return Reply(f"Where was I? {rest}")
    return Reply(f"There's nothing for me to go on with. Ask me for {_IDEAS}.")


def _story(talk: _Talk) -> Reply:
    told = [story for text in talk.said if (story := story_of(text))]
    if told and re.search(r"\b(same|again)\b", talk.words):
        return Reply(f"All right. {told[-1].text}")
    untold = [story for story in STORIES if story not in told]
    return Reply(f"All right. {(untold or STORIES)[0].text}")


def _sum(talk: _Talk) -> Reply | None:
    answer = solve(talk.heard[-1])
    return Reply(answer) if answer else None


def _dice(talk: _Talk) -> Reply | None:
    if "roll_dice" not in talk.tools:
        return None
    count = 1 if "die" in talk.words.split() else 2
    for number, word in enumerate("one two three four five six".split(), start=1):  # noqa: SIM905
        if re.search(rf"\b({number}|{word})\b", talk.words):
            count = number
    return Reply(call=Call("roll_dice", {"count": min(count, _MAX_DICE)}))


def _change_voice(talk: _Talk) -> Reply | None:
    return Reply(call=Call("change_voice")) if "change_voice" in talk.tools else None


def _time(talk: _Talk) -> Reply:
    if "current_time" not in talk.tools:
        return Reply("I can't tell: nobody has given me a clock.")
    return Reply(call=Call("current_time"))


def _your_name(talk: _Talk) -> Reply:
    name = talk.caller()
    return Reply(f"Your name is {name}." if name else "You haven't told me your name yet.")


def _nice_to_meet(talk: _Talk) -> Reply | None:
    name = talk.caller()
    return Reply(f"Nice to meet you, {name}. What can I do for you?") if name else None


def _who(talk: _Talk) -> Reply:
    return Reply(
        f"I'm {talk.name}, a voice agent. For want of a language model, the built-in responder "
        "answers for me: a few rules rather than a language model."
    )


def _help(talk: _Talk) -> Reply:
    return Reply(
        f"You can ask me for {_IDEAS}. Tell me your name and I'll remember it. "
        "Interrupt me whenever you like, and say goodbye to hang up."
    )


def _joke(talk: _Talk) -> Reply:
    return Reply(
        "I told my microphone a secret. It was the only one that listened, "
        "and even then it asked for it in sixteen bits."
    )


def _here(talk: _Talk) -> Reply:
    return Reply("Yes, I'm here, and I can hear you.")


def _how(talk: _Talk) -> Reply:
    return Reply("Very well, thank you. And how are you?")


def _welcome(talk: _Talk) -> Reply:
    return Reply("You're welcome. Is there anything else?")


def _glad(talk: _Talk) -> Reply:
    return Reply("Glad to hear it. What can I do for you?")


def _yes(talk: _Talk) -> Reply:
    if plain(_SHALL_I_GO_ON) in plain(talk.last_said()):
        return _go_on(talk)
    if plain(_STILL_THERE) in plain(talk.last_said()):
        return Reply("Good. What can I do for you?")
    return Reply(f"Good. Ask me for {_IDEAS}.")


def _no(talk: _Talk) -> Reply:
    return Reply("All right. Say goodbye when you want to hang up.")


def _hello(talk: _Talk) -> Reply:
    if name := talk.caller():
        return Reply(f"Hello, {name}. What can I do for you?")
    return Reply("Hello! What can I do for you?" if talk.said else _introduction(talk))


def _fallback(talk: _Talk) -> Reply:
    heard = talk.heard[-1].strip()
    if len(heard) > _MAX_ECHO:
        heard = heard[:_MAX_ECHO].rsplit(" ", 1)[0] + " and so on"
    heard = heard.rstrip(".,;:!?")
    if any(_ONLY_RULES in plain(text) for text in talk.said):
        return Reply(f"You said: {heard}. I have no rule for that.")
    return Reply(f"You said: {heard}. I am {_ONLY_RULES}: ask for the time, a sum, or a story.")


_Rule = Callable[[_Talk], Reply | None]

# The first rule whose pattern is found in the caller's words, and which has an answer, wins. What
# asks for something comes before what is merely polite: "hello, what time is it".
_TABLE: tuple[tuple[str, _Rule], ...] = (
    (r"^dtmf\b", _keys),
    (
        r"\b(put|get) me (through|on) to\b|\b(transfer|connect|forward) (me|this call|the call)\b"
        r"|\b(speak|talk) (to|with) (a|an|the|your|my|somebody|someone)\b",
        _put_through,
    ),
    (
        r"\b(press|type|key|enter|dial)\b.*\b(digits?|numbers?|codes?|pin|keys?|keypad)\b",
        _ask_for_keys,
    ),
    (
        r"\b(good ?bye|bye|farewell|see you|good night|talk to you later|that is all"
        r"|hang up|end (the|this) (call|conversation))\b",
        _goodbye,
    ),
    (
        r"\b((say|repeat) (that|it)|repeat|come again|pardon|what did you (just )?say"
        r"|did not (hear|catch|get) (that|you))\b|^(sorry|what|huh)$",
        _again,
    ),
    (
        r"^(please )?(go on|continue|carry on|keep going)\b|\bwhat happen(s|ed) next\b"
        r"|\b(continue|go on with|finish) (the|that|your) story\b",
        _go_on,
    ),
    (r"\b(story|stories|tales?)\b", _story),
    (r"", _sum),
    (r"\b(roll|throw)\b.*\b(dice|die)\b", _dice),
    (r"\b(change|switch|other|another|different)\b.*\bvoices?\b", _change_voice),
    (r"\bwhat (is )?(the )?time\b|\btime is it\b|\b(the|current) time\b", _time),
    (
        r"\b(what|which|tell|todays)\b.*\b(day|date|month|year)\b|\bwhat is today\b|^(the )?date$",
        _time,
    ),
    (r"\b(what is|know|remember) my name\b|\bwho am i\b", _your_name),
    (_GIVEN_NAME.pattern, _nice_to_meet),
    (
        r"\b((who|what) are you|who is this|your name)\b"
        r"|\bare you (a |an |the )?(\w+ )?"
        r"(robot|bot|human|person|machine|computer|ai|model|real|alive)\b",
        _who,
    ),
    (
        r"\bwhat (else )?can (you do|i (ask|say|do))\b"
        r"|\b(help|what do you (do|know)|how does this work)\b",
        _help,
    ),
    (r"\b(joke|make me laugh)\b", _joke),
    (r"\b(can you hear me|are you (still )?there)\b", _here),
    (
        r"\bhow (are|is) (you|things|it going|life)\b|\bhow do you do\b"
        r"|\bwhat is up\b|\bare you (ok|okay|well|all right)\b",
        _how,
    ),
    (r"\b(thanks|thank you|cheers)\b", _welcome),
    (r"\bi am (fine|good|well|ok|okay|great|all right)\b", _glad),
    (r"^(yes|yeah|yep|sure|ok|okay|please)( please)?$", _yes),
    (r"^(no|nope|nothing|never mind)( thanks| thank you)?$", _no),
    (r"\b(hello|hi|hey|good (morning|afternoon|evening)|greetings)\b", _hello),
)
_RULES = tuple((re.compile(pattern), rule) for pattern, rule in _TABLE)
