"""The agent file says who answers; a mistake in it is one line that names file, key and cure."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pipecat.frames.frames import OutputDTMFFrame
from pipecat.processors.aggregators.llm_context import LLMContext

from bot.agent import (
    EXAMPLE,
    Agent,
    AgentFileError,
    change_voice,
    current_time,
    end_call,
    load_agent,
    press_keys,
    roll_dice,
)
from processors.hang_up import HangUpFrame
from services.tts.engine import VoiceInfo

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write an agent file, and other files beside it."""

    def _write(text: str, **files: str) -> Path:
        folder = tmp_path / "agents"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / f"{name}.py").write_text(content)
        path = folder / "mine.yaml"
        path.write_text(text)
        return path

    return _write


def mistake(path: Path) -> str:
    """The one line that a bad file gets."""
    with pytest.raises(AgentFileError) as raised:
        load_agent(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


class Params:
    """What a tool gets from Pipecat, as far as the tools here look."""

    def __init__(self) -> None:
        self.result: Any = None
        self.properties: Any = None
        self.pushed: list[Any] = []
        self.llm = SimpleNamespace(push_frame=self._push)

    async def result_callback(self, result: Any, *, properties: Any = None) -> None:
        self.result, self.properties = result, properties

    async def _push(self, frame: object) -> None:
        self.pushed.append(frame)


def test_without_a_file() -> None:
    """The agent that answers without a file is complete, and its name is in its texts."""
    agent = load_agent(None)
    assert agent == Agent()
    assert agent.name in agent.prompt
    assert agent.name in agent.greeting
    assert "{name}" not in agent.model_dump_json(exclude={"tools"})
    assert agent.tool_functions() == [current_time, end_call, change_voice, roll_dice]


def test_the_example_shows_every_key() -> None:
    """The example loads, and there is no key that it does not mention."""
    path = Path(__file__).parents[2] / EXAMPLE
    agent = load_agent(path)
    assert agent.greeting == "The bookshop, Ada speaking. What can I do for you?"
    assert [key for key in Agent.model_fields if f"{key}:" not in path.read_text()] == []


def test_a_file_changes_what_it_names(write: Write) -> None:
    """Keys that are left out keep their defaults, with the name that the file gives."""
    agent = load_agent(write("name: Ada\nvoice: en_US-amy\nlanguage: en-US\ntools: [end_call]\n"))
    assert (agent.name, agent.voice, agent.language) == ("Ada", "en_US-amy", "en-US")
    assert agent.greeting == "Hello, I'm Ada. What can I do for you?"
    assert agent.tool_functions() == [end_call]


TOOL = '''
async def weather(params, city: str):
    """Tell the weather.

    Args:
        city: Where.
    """
    await params.result_callback({"sky": "blue"})

async def tides(params):
    """Tell the tides."""
    await params.result_callback({"sea": counter})

counter = []
'''


async def test_tools_of_ones_own(write: Write) -> None:
    """Functions in files beside the agent file become tools, and share their module."""
    path = write("tools: [current_time, 'mine.py:weather', 'mine.py:tides']", mine=TOOL)
    functions: list[Any] = load_agent(path).tool_functions()
    assert [function.__name__ for function in functions] == ["current_time", "weather", "tides"]
    assert functions[1].__globals__ is functions[2].__globals__
    tools: Any = LLMContext(tools=functions).tools
    schemas = {tool.name: tool for tool in tools.standard_tools}
    assert schemas["weather"].description == "Tell the weather."
    assert schemas["weather"].properties == {"city": {"type": "string", "description": "Where."}}
    params = Params()
    await functions[1](params, city="Paris")
    assert params.result == {"sky": "blue"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("greting: hello", "unknown key 'greting'; did you mean 'greeting'?"),
        ("zebra: 1", "unknown key 'zebra'; it takes name, prompt, greeting"),
        ("5: 1", "unknown key '5'; it takes name, prompt"),
        ("greeting: 5", "greeting: must be text; put it in quotes"),
        ("name: yes", "name: must be text; put it in quotes"),
        ("greeting:", "greeting: must be text"),
        ("prompt: ''", "prompt: must not be empty; leave the line out for the default"),
        ("language: english!", "language: 'english!' is no language tag; write it like en"),
        ("tools: end_call", "tools: must be a list"),
        ("transfers: [sales]", "transfers: must be `name: number` lines"),
        ("transfers: {sales: +4930123456}", "transfers.sales: must be text; put it in quotes"),
        ("transfers: {sales: '030 123456'}", "transfers.sales: '030 123456' is neither"),
        ("transfers: {desk: 'sip:a@b.c?x=y'}", "transfers.desk: 'sip:a@b.c?x=y' is neither"),
        ("transfers: {'': 'sip:a@b.example'}", "transfers: must not be empty"),
        ("tools: [end_cal]", "tools: there is no tool 'end_cal'; did you mean 'end_call'?"),
        ("tools: [5]", "tools: there is no tool '5'"),
        ("tools: [end_call, end_call]", "tools: there are two tools called end_call"),
        ("tools: ['other.py:weather']", "tools: there is no Python file other.py next to"),
        ("tools: ['../other.py:weather']", "tools: ../other.py lies outside of the agent file's"),
        ("tools: ['/etc/passwd:root']", "tools: /etc/passwd lies outside of the agent file's"),
        ("tools: ['mine.yaml:weather']", "tools: there is no Python file mine.yaml next to"),
        ("tools: ['good.py:wether']", "tools: good.py has no 'wether'; did you mean 'weather'?"),
        ("tools: ['good.py:counter']", "tools: good.py:counter is no tool: "),
        ("tools: ['bad.py:broken']", "tools: bad.py cannot be loaded: ZeroDivisionError"),
        ("tools: ['plain.py:sync']", "tools: plain.py:sync is no tool: Exception: Direct function"),
        ("tools: ['plain.py:mute']", "tools: plain.py:mute needs a docstring"),
        ("- a\n- b", "must be a list of `key: value` lines"),
        ("", "must be a list of `key: value` lines"),
        ("name: [", "line 1: "),
        ("name: a\nname: b: c", "line 2: mapping values are not allowed here"),
        ("name: \x01", "not YAML: "),
    ],
)
def test_a_mistake_is_one_line(write: Write, text: str, line: str) -> None:
    """Whatever is wrong, the message names the file and the key, and says what would be right."""
    plain = "def sync(params):\n    'Do.'\n\nasync def mute(params):\n    pass\n"
    path = write(text, good=TOOL, bad="1 / 0", plain=plain)
    assert mistake(path).startswith(line)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no text are told apart."""
    assert mistake(tmp_path / "none.yaml") == f"there is no such file; {EXAMPLE} shows one"
    assert mistake(tmp_path).startswith("cannot be read: ")
    (tmp_path / "latin.yaml").write_bytes(b"greeting: gr\xfc\xdfe")
    assert mistake(tmp_path / "latin.yaml").startswith("is not UTF-8 text")


def test_a_link_does_not_lead_out_of_the_folder(write: Write, tmp_path: Path) -> None:
    """A tool's file is where it says, not where a symbolic link points."""
    (tmp_path / "outside.py").write_text(TOOL)
    path = write("tools: ['link.py:weather']")
    (path.parent / "link.py").symlink_to(tmp_path / "outside.py")
    assert mistake(path).startswith("tools: link.py lies outside")


async def test_current_time_tells_the_time_there() -> None:
    """The time is that of the zone asked for, or the local one; an unknown zone is named."""
    for zone in (None, "Asia/Tokyo"):
        params = Params()
        before = datetime.now(ZoneInfo(zone) if zone else None).replace(second=0, microsecond=0)
        await current_time(params, zone)  # type: ignore[arg-type]
        told = datetime.fromisoformat(f"{params.result['date']}T{params.result['time']}")
        assert timedelta(0) <= told - before.replace(tzinfo=None) <= timedelta(minutes=1)
        assert params.result["weekday"] == f"{told:%A}"
        assert zone is None or params.result["timezone"] == zone
    for zone in ("Middle/Earth", "../../etc/passwd", "Europe"):
        await current_time(params, zone)  # type: ignore[arg-type]
        assert params.result == {"error": f"there is no time zone {zone!r}"}


async def test_roll_dice_rolls_what_it_is_asked_for() -> None:
    """Every roll is a side of the die; what cannot be rolled is answered in words."""
    params = Params()
    await roll_dice(params, sides=4, count=10)  # type: ignore[arg-type]
    assert len(params.result["rolls"]) == 10
    assert set(params.result["rolls"]) <= {1, 2, 3, 4}
    assert params.result["total"] == sum(params.result["rolls"])
    for sides, count in ((1, 1), (101, 1), (6, 0), (6, 11)):
        await roll_dice(params, sides, count)  # type: ignore[arg-type]
        assert "error" in params.result


async def test_press_keys_presses_each_key_in_its_turn() -> None:
    """A frame for each key, in order, which nobody can talk over; then the other side is heard."""
    params = Params()
    await press_keys(params, "0123456789*#")  # type: ignore[arg-type]
    assert all(isinstance(frame, OutputDTMFFrame) for frame in params.pushed)
    assert [frame.to_string() for frame in params.pushed] == list("0123456789*#")
    assert not any(frame.interruptible for frame in params.pushed)
    assert params.properties.run_llm is False


@pytest.mark.parametrize("keys", ["", "12a", "1 2", "+49", "1\n", "\u0661", "1" * 33, None, ["1"]])
async def test_what_is_no_key_is_told_to_the_model(keys: Any) -> None:
    """Nothing is pressed then, not even the keys among it, and the model may try again."""
    params = Params()
    await press_keys(params, keys)  # type: ignore[arg-type]
    assert "0 to 9, * and #" in params.result["error"]
    assert params.properties is None
    assert not params.pushed


async def test_end_call_hangs_up_without_another_answer() -> None:
    """The tool asks for the hang-up, and that the model is not run again."""
    params = Params()
    await end_call(params)  # type: ignore[arg-type]
    assert params.properties.run_llm is False
    assert [type(frame) for frame in params.pushed] == [HangUpFrame]


VOICES = (
    VoiceInfo("piper/amy", "Amy, medium (en-US)", "en-US"),
    VoiceInfo("piper/amy-low", "Amy, low (en-US)", "en-US"),
    VoiceInfo("cosyvoice/anna", "Anna", "de"),
)


async def changed(present: str, wanted: str, voices: tuple[VoiceInfo, ...] = VOICES) -> Any:
    """What the tool tells the model, with its call's voice being `present`."""
    asked: list[str] = []

    async def set_voice(name: str) -> None:
        asked.append(name)

    params: Any = Params()
    params.app_resources = SimpleNamespace(
        voice=present, voices=lambda: voices, set_voice=set_voice
    )
    await change_voice(params, wanted)
    assert asked == ([params.result["voice"]] if "voice" in params.result else [])
    return params.result


@pytest.mark.parametrize(
    ("present", "wanted", "voice"),
    [
        ("piper/amy", "", "piper/amy-low"),
        ("piper/amy-low", " ", "cosyvoice/anna"),
        ("cosyvoice/anna", "", "piper/amy"),
        ("gone", "", "piper/amy"),
        ("", "", "piper/amy"),
        ("cosyvoice/anna", "Amy", "piper/amy"),
        ("piper/amy", "amy", "piper/amy-low"),
        ("piper/amy", "LOW", "piper/amy-low"),
        ("piper/amy-low", "piper/amy", "piper/amy"),
        ("piper/amy", "cosyvoice", "cosyvoice/anna"),
        ("cosyvoice/anna", "en-us", "piper/amy"),
    ],
)
async def test_change_voice_finds_the_voice(present: str, wanted: str, voice: str) -> None:
    """By name, a part of it, label or language; another than the present one where there is one."""
    assert await changed(present, wanted) == {"voice": voice}


async def test_change_voice_says_what_there_is() -> None:
    """What cannot be had is answered in words that the model can pass on."""
    result = await changed("piper/amy", "Zoe")
    assert result == {"error": f"there is no such voice; there are: {[v.name for v in VOICES]}"}
    for wanted in ("piper/amy", "anna"):
        present = "piper/amy" if "amy" in wanted else "cosyvoice/anna"
        assert "the voice you have" in (await changed(present, wanted))["error"]
    assert "the voice you have" in (await changed("piper/amy", "", VOICES[:1]))["error"]
    for wanted in ("", "amy"):
        assert "no such voice" in (await changed("", wanted, ()))["error"]
