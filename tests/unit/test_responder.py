"""The built-in responder answers what it can, says what it cannot, and behaves as an LLM."""

import json
import random
import string

import pytest
from pipecat.frames.frames import (
    EndWorkerFrame,
    ErrorFrame,
    FunctionCallResultFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMTextFrame,
    MetricsFrame,
)
from pipecat.metrics.metrics import LLMUsageMetricsData, ProcessingMetricsData, TTFBMetricsData
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.services.llm_service import FunctionCallParams

from bot.agent import current_time, end_call, roll_dice
from services.llm import rules
from services.llm.arithmetic import solve
from services.llm.responder import ResponderLLMService
from services.llm.rules import Call, Reply, Turn, reply
from services.llm.stories import STORIES, resume
from tests.fakes.text_call import TextCall

TOOLS = {"current_time", "end_call", "roll_dice"}


def ask(*lines: str, tools: set[str] = TOOLS) -> str:
    """What is answered to the last line; lines alternate between caller and agent."""
    turns = [Turn("user" if i % 2 == 0 else "assistant", line) for i, line in enumerate(lines)]
    return reply(turns, tools).text


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("what is twelve times seven", "12 times 7 is 84."),
        ("seventeen plus 5", "17 plus 5 is 22."),
        ("half of 90", "Half of 90 is 45."),
        ("2+2", "2 plus 2 is 4."),
        ("What's 3x4?", "3 times 4 is 12."),
        ("(2 + 3) * 4", "(2 plus 3) times 4 is 20."),
        ("two plus three times four", "2 plus 3 times 4 is 14."),
        ("ten over three", "10 divided by 3 is about 3.33."),
        ("ten divided by four", "10 divided by 4 is 2.5."),
        ("two to the power of ten", "2 to the power of 10 is 1,024."),
        ("the square root of eighty-one", "The square root of 81 is 9."),
        ("square root of two", "The square root of 2 is about 1.41."),
        ("twenty percent of 50", "20 percent of 50 is 10."),
        ("five squared", "5 squared is 25."),
        ("minus five plus two", "Minus 5 plus 2 is minus 3."),
        ("two point five times two", "2.5 times 2 is 5."),
        ("a hundred and twenty three plus one", "123 plus 1 is 124."),
        (
            "two hundred thousand plus three hundred and five",
            "200,000 plus 305 is 200,305.",
        ),
        ("1,234 + 1", "1,234 plus 1 is 1,235."),
        ("0.1 + 0.2", "0.1 plus 0.2 is 0.3."),
        ("how much is to times for", "2 times 4 is 8."),
        ("what is 12-7", "12 minus 7 is 5."),
        ("ten divided by zero", "I can't divide by zero; nobody can."),
        (
            "nine to the power of nine to the power of nine",
            "That is a bigger number than I can say.",
        ),
        ("a million times a million times a million", "That is a bigger number than I can say."),
        ("square root of minus four", "A negative number has no square root that I could say."),
        ("two to the power of 0.5", "I only know whole powers."),
    ],
)
def test_sums_are_solved_as_said_or_typed(said: str, answer: str) -> None:
    """A sum gets its exact result, or a plain word on why it has none."""
    assert solve(said) == answer


@pytest.mark.parametrize(
    "said",
    [
        "",
        "go forward ten meters",
        "I told you two times",
        "call me at 555-1234",
        "on 9/11 in 2001",
        "two plus",
        "half an hour",
        "it is over and over",
        "((((((((((((((((((((((((((((((1",
        "1^" * 90 + "1",
        "what is 5 + * 3",
    ],
)
def test_what_is_no_sum_is_left_alone(said: str) -> None:
    """Numbers without a whole sum around them are not calculated with."""
    assert solve(said) is None


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ("hello", "I'm Parley"),
        ("hey how are you today", "And how are you?"),
        ("who are you", "rules rather than a language model"),
        ("are you a robot", "rules rather than a language model"),
        ("what can you do", "a story"),
        ("thank you very much", "welcome"),
        ("my name is ada and i live here", "Nice to meet you, Ada."),
        ("what's my name", "haven't told me"),
        ("can you hear me", "I can hear you"),
        ("hello what is two plus two", "is 4"),
        ("say that again", "haven't said anything"),
        ("go on", "nothing for me to go on with"),
        ("don't hang up", "not going anywhere"),
        ("goodbye", "Goodbye!"),
        ("?!...", "didn't catch"),
        ("привет", "You said: привет."),
        ("go forward ten meters", "You said: go forward ten meters."),
    ],
)
def test_small_talk(said: str, part: str) -> None:
    """What the rules know is answered, however a recogniser spells it."""
    assert part in ask(said)


def test_the_name_is_remembered() -> None:
    """A name given earlier in the conversation is known later, and the last one counts."""
    talk = ["my name is bob", "Nice.", "no, my name is ada", "Nice.", "do you know my name"]
    assert ask(*talk) == "Your name is Ada."
    assert ask(*talk[:4], "bye") == "Goodbye, Ada! It was nice talking to you."


def test_it_says_once_what_it_is() -> None:
    """The first thing beyond the rules is told what can be asked, the next only that it is one."""
    first = ask("go forward ten meters")
    second = ask("go forward ten meters", first, "go somewhere and do something")
    assert first == (
        "You said: go forward ten meters. "
        "I am only a few rules: ask for the time, a sum, or a story."
    )
    assert second == "You said: go somewhere and do something. I have no rule for that."


def test_an_admission_that_was_not_heard_is_made_again() -> None:
    """What it is counts as said once the caller heard it."""
    assert "only a few rules" in ask("go forward", "You said: go forward. I am", "go somewhere")


def test_a_long_speech_is_not_echoed_whole() -> None:
    """The fallback repeats the beginning of what was said, not a minute of it."""
    assert ask("blah " * 1000).startswith("You said: blah blah ")
    assert len(ask("blah " * 1000)) < 150


def test_no_more_is_looked_at_than_a_call_can_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a call and its texts, the rules read a bounded part of them."""
    read: list[str] = []
    plain = rules.plain
    monkeypatch.setattr(rules, "plain", lambda text: (read.append(text), plain(text))[1])
    turns = [Turn("user", "lorem " * 10_000), Turn("assistant", "Ipsum. " * 10_000)] * 500
    for last in ("go forward", "bye", "who am i", "go on", "another story", "?"):
        read.clear()
        reply([*turns, Turn("user", last)], TOOLS)
        assert len(read) < 100
    assert len(plain("lorem " * 10_000)) < 1000
    # One character that stands for eighteen.
    assert len(plain("\ufdfa" * 10_000)) < 1000


def test_repeats_what_was_heard() -> None:
    """Asked to say it again, it repeats the last words as they stand in the context."""
    assert ask("what is one plus one", "1 plus 1 is 2.", "say that again") == "1 plus 1 is 2."


@pytest.mark.parametrize("story", STORIES)
def test_stories_are_long_enough_to_interrupt(story: object) -> None:
    """Each story takes 45 seconds even at 200 words a minute, in sentences that can be cut."""
    assert story in STORIES
    text = next(each.text for each in STORIES if each is story)
    assert len(text.split()) >= 45 * 200 / 60
    assert text.count(". ") >= 8


def test_a_story_resumes_where_it_was_cut_off() -> None:
    """Asked to go on, it begins with the sentence that was cut off, other turns or not."""
    story = STORIES[0]
    heard = f"All right. {' '.join(story.sentences[:3])} Marta oiled the wheels, she"
    rest = " ".join(story.sentences[3:])
    assert ask("tell me a story", heard, "one plus one", "1 plus 1 is 2.", "go on") == (
        f"Where was I? {rest}"
    )
    assert resume(f"Where was I? {rest}") is None
    assert "nothing for me" in ask("a story", heard, "go on", f"Where was I? {rest}", "go on")


def test_another_story_is_another_one() -> None:
    """Asking for a story again tells the one that has not been told."""
    first = ask("tell me a story")
    assert STORIES[0].text in first
    assert STORIES[1].text in ask("tell me a story", first, "another story please")
    assert STORIES[0].text in ask("tell me a story", first, "the same story again")


def test_a_cough_in_a_story_offers_to_go_on() -> None:
    """When a turn was not recognised it asks, and a yes to the offer resumes the story."""
    cut = "All right. There was once a fox who"
    turns = [Turn("user", "a story"), Turn("assistant", cut)]
    turns.append(Turn("developer", "The user may have said something, but it was not recognized."))
    asked = reply(turns).text
    assert asked == "Sorry, I didn't catch that. Shall I go on with the story?"
    turns += [Turn("assistant", asked), Turn("user", "yes please")]
    assert reply(turns).text == f"Where was I? {STORIES[1].text}"


def test_instructions_of_the_application() -> None:
    """A silent caller is asked for, then taken leave of; an introduction is given on request."""
    silent = Turn("developer", "The user has been silent for a while. Ask whether they are there.")
    assert reply([silent], TOOLS).text == "Are you still there?"
    leave = Turn("developer", "The user is still silent. Say goodbye, then call end_call.")
    last = reply([silent, Turn("assistant", "Are you still there?"), leave], TOOLS)
    assert "Goodbye" in last.text
    assert last.call == Call("end_call")
    assert "Ada" in reply([Turn("developer", "Please introduce yourself.")], TOOLS, "Ada").text


def test_tools_that_are_not_there_are_not_called() -> None:
    """Without a clock it says so, without `end_call` it only says goodbye; others are ignored."""
    assert reply([Turn("user", "what time is it")], TOOLS).call == Call("current_time")
    without = reply([Turn("user", "what time is it")], {"weather"})
    assert without.call is None
    assert "clock" in without.text
    assert reply([Turn("user", "bye")], {"weather"}).call is None
    assert reply([Turn("user", "roll two dice")], TOOLS).call == Call("roll_dice", {"count": 2})
    assert reply([Turn("user", "roll two dice")], ()).call is None


@pytest.mark.parametrize(
    "words", ["change your voice", "speak with another voice please", "use a different voice"]
)
def test_voice_is_changed_where_there_is_the_tool(words: str) -> None:
    """Another voice is asked for by the tool; without it there is nothing to change."""
    assert reply([Turn("user", words)], {"change_voice"}).call == Call("change_voice")
    assert reply([Turn("user", words)], ()).call is None


@pytest.mark.parametrize(
    "words",
    ["put me through to sales", "can you transfer me to sales please", "let me talk to a person"],
)
def test_callers_are_put_through_where_there_is_the_tool(words: str) -> None:
    """It gets what the caller said, and finds the name in it."""
    answer = reply([Turn("user", words)], {"transfer_call"})
    assert answer == Reply("One moment, please.", Call("transfer_call", {"to": words}))
    assert reply([Turn("user", words)], ()).call is None
    failed = "The transfer did not work. Tell the user so, and ask what else you can do."
    assert "couldn't put you through" in reply([Turn("developer", failed)]).text


def test_keys_are_asked_for_and_repeated() -> None:
    """With the tool it asks for digits; those that come without it are a turn like any other."""
    words = "can i type in my order number"
    assert reply([Turn("user", words)], {"ask_for_digits"}).call == Call("ask_for_digits")
    assert reply([Turn("user", words)], ()).call is None
    assert reply([Turn("user", "DTMF: 12*3#")]).text == "You pressed 1 2 3."


@pytest.mark.parametrize(
    ("asked", "tool", "result", "answer"),
    [
        ("time", "current_time", {"date": "2026-11-21", "time": "15:05"}, "Here it is 3:05 in the"),
        ("time", "current_time", {"date": "2026-11-21", "time": "00:30"}, "12:30 at night"),
        ("what day is it", "current_time", {"date": "2026-11-02", "time": "15:05"}, "the 2nd of"),
        ("what day is it", "current_time", {"date": "2026-11-12", "time": "15:05"}, "the 12th of"),
        ("time", "current_time", {"error": "no zone"}, "Sorry"),
        ("time", "current_time", "The function failed", "Sorry"),
        ("roll", "roll_dice", {"rolls": [4]}, "You rolled 4."),
        ("voice", "change_voice", {"voice": "piper/a"}, "This is what I sound like now."),
        ("voice", "change_voice", {"error": "none"}, "I'm afraid I have no such voice."),
        ("roll", "roll_dice", {"rolls": [4, 5, 6]}, "You rolled 4, 5 and 6, which makes 15."),
        ("digits", "ask_for_digits", {"digits": "0042"}, "You pressed 0 0 4 2."),
        ("digits", "ask_for_digits", {"error": "none"}, "You pressed no digits."),
        ("sales", "transfer_call", {"error": "?", "names": ["a", "b"]}, "through to a and b."),
        ("hm", "weather", {"rain": True}, "done"),
    ],
)
def test_results_are_put_into_words(asked: str, tool: str, result: object, answer: str) -> None:
    """A tool's result, or its failure, becomes a sentence."""
    turns = [Turn("user", asked), Turn("tool", json.dumps(result), tool)]
    assert answer in reply(turns, TOOLS).text


def test_nothing_that_can_be_said_breaks_it() -> None:
    """Any text gets an answer: noise, other scripts, and sums and rules in any mixture."""
    chance = random.Random(20261121)
    words = "plus minus times ( ) half of squared the power to my name is story 12 0 . go on x ^ %"
    alphabet = string.printable + "äßñ²½٣漢字\u2028\ud7ff\u2019😀"
    for _ in range(1500):
        noise = "".join(chance.choices(alphabet, k=chance.randrange(60)))
        mixed = " ".join(chance.choices(words.split(), k=chance.randrange(15)))
        for text in (noise, mixed, noise + mixed):
            answer = reply([Turn("user", text)], TOOLS)
            assert answer.text or answer.call


async def test_streams_token_by_token_with_metrics() -> None:
    """An answer comes as tokens whose concatenation is the text, with the metrics of an LLM."""
    async with TextCall(ResponderLLMService()) as call:
        answer = await call.ask("what is twelve times seven")
        assert answer == "12 times 7 is 84."
        assert [frame.text for frame in call.seen(LLMTextFrame)][:2] == ["12", " times"]
        data = [item for frame in call.seen(MetricsFrame) for item in frame.data]
        kinds = {type(item) for item in data if item.processor.startswith("Responder")}
        assert {TTFBMetricsData, ProcessingMetricsData, LLMUsageMetricsData} <= kinds
        assert not call.errors()


async def test_calls_a_tool_and_answers_from_its_result() -> None:
    """The time comes from the tool, through the context, and is spoken in a second run."""
    async with TextCall(ResponderLLMService(), [current_time]) as call:
        answer = await call.ask("what time is it")
        result = call.seen(FunctionCallResultFrame)[0].result
        hours, minutes = result["time"].split(":")
        assert answer.startswith(f"Here it is {int(hours) % 12 or 12}:{minutes} ")


async def test_arguments_reach_the_tool() -> None:
    """What the rules ask for is what the tool is called with."""
    async with TextCall(ResponderLLMService(), [roll_dice]) as call:
        assert "You rolled " in await call.ask("roll three dice")
        assert call.seen(FunctionCallResultFrame)[0].arguments == {"count": 3}
        assert len(call.seen(FunctionCallResultFrame)[0].result["rolls"]) == 3


async def test_a_tool_that_fails_is_admitted() -> None:
    """When a tool raises, the caller is told, and the call goes on."""

    async def current_time(params: FunctionCallParams) -> None:
        """Tell the time."""
        raise RuntimeError("the clock fell down")

    async with TextCall(ResponderLLMService(), [current_time]) as call:
        assert await call.ask("what time is it") == "Sorry, that didn't work."
        assert await call.ask("one plus one") == "1 plus 1 is 2."


async def test_an_interrupted_story_leaves_it_ready() -> None:
    """An interruption stops the tokens; the next question is answered and the story resumed."""
    async with TextCall(ResponderLLMService(token_delay=0.01)) as call:
        await call.tell("tell me a story")
        await call.until_seen(LLMTextFrame, 30)
        await call.worker.queue_frame(InterruptionFrame())
        await call.until_seen(LLMFullResponseEndFrame)
        told = call.text()
        assert told in f"All right. {STORIES[0].text}"
        assert len(told) < len(STORIES[0].text) / 2
        assert await call.ask("one plus one") == "1 plus 1 is 2."
        await call.tell("go on")
        await call.until(lambda _: call.text().endswith("Where was I?"))
        assert not call.seen(ErrorFrame)


async def test_goodbye_ends_the_call_after_the_words() -> None:
    """A goodbye is answered in words, once, and then the pipeline ends by itself."""
    async with TextCall(ResponderLLMService(), [end_call]) as call:
        assert await call.ask("okay bye") == "Goodbye! It was nice talking to you."
        await call.ended()
        assert call.seen(EndWorkerFrame)
        assert len(call.seen(LLMFullResponseEndFrame)) == 1


async def test_answers_outside_the_pipeline() -> None:
    """`run_inference` gives the text alone, whatever form the message's content has."""
    content = [{"type": "text", "text": "what is two plus two"}]
    context = LLMContext(messages=[{"role": "user", "content": content}])
    assert await ResponderLLMService().run_inference(context) == "2 plus 2 is 4."
