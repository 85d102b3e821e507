"""Who answers: the agent's prompt, its fixed lines and its tools.

`Agent()` is the agent that answers without a file. A file (`--agent my_agent.yaml`) changes what it
names and leaves the rest; `bot/agent.example.yaml` shows every key.

A tool is a Pipecat direct function: an async function whose first parameter is `params`, whose
other parameters are what the model fills in, and whose docstring is what the model reads about it.
`roll_dice` below is the one to copy; put yours into a file next to the YAML file and name it there
as `my_tools.py:my_tool`.
"""

import difflib
import importlib.util
import random
import re
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import yaml
from pipecat.adapters.llm.schemas.direct_function import DirectFunction, DirectFunctionWrapper
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.audio.dtmf.types import KeypadEntry
from pipecat.frames.frames import FunctionCallResultProperties, OutputDTMFFrame
from pipecat.services.llm_service import FunctionCallParams
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bot.line import is_number, is_sip
from processors.digits import MAX_DIGITS, wait_for_digits
from processors.hang_up import HangUpFrame, TransferFrame

EXAMPLE = "bot/agent.example.yaml"

_PROMPT = """\
You are {name}, a warm and attentive voice agent on a call. Everything you write is spoken aloud.
Answer in one to three short sentences, in plain words, as people talk. Never use markdown, lists,
emojis or abbreviations; write numbers and signs as they are said.
What you read of the caller comes from a speech recogniser and may be a little wrong: make sense of
it from the conversation, and when you cannot, ask briefly.
When you do not know something, say so. Use your tools rather than guess, and say their results in
your own words.
When the caller wants to end the call, say a short goodbye and call end_call."""

_IDLE_PROMPT = (
    "The user has been silent for a while. Ask in a few words whether they are still there."
)

_TRANSFER_FAILED = "The transfer did not work. Tell the user so, and ask what else you can do."


class AgentFileError(ValueError):
    """The agent file is wrong; the message is one line that names file, key and cure."""


async def current_time(params: FunctionCallParams, timezone: str | None = None) -> None:
    """Tell the current time and date.

    Args:
        params: The call, from Pipecat; the model sees only the others.
        timezone: IANA name of the time zone, such as "Europe/Paris"; leave out for the local time.
    """
    try:
        now = datetime.now(ZoneInfo(timezone)) if timezone else datetime.now().astimezone()
    except (KeyError, OSError, ValueError):
        await params.result_callback({"error": f"there is no time zone {timezone!r}"})
        return
    await params.result_callback(
        {
            "time": f"{now:%H:%M}",
            "weekday": f"{now:%A}",
            "date": f"{now:%Y-%m-%d}",
            "timezone": timezone or now.tzname(),
        }
    )


async def end_call(params: FunctionCallParams) -> None:
    """End the call. Say goodbye in the same answer; the line is kept until it has been heard."""
    # The model is not run again: whatever it had to say, it has said before it called.
    await params.result_callback(
        {"call": "ended"}, properties=FunctionCallResultProperties(run_llm=False)
    )
    await params.llm.push_frame(HangUpFrame())


async def change_voice(params: FunctionCallParams, voice: str = "") -> None:
    """Speak with another voice from the next sentence on.

    Args:
        params: The call, from Pipecat; the model sees only the others.
        voice: Name of the voice or a part of it, or a language such as "en-GB"; leave out for any
            other voice.
    """
    call = params.app_resources
    voices = call.voices()
    names = [info.name for info in voices]
    # From the next one on, so that asking again and again goes through all of them.
    after = names.index(call.voice) + 1 if call.voice in names else 0
    wanted = voice.strip().casefold()
    exact = [info for info in voices if info.name.casefold() == wanted]
    close = [
        info
        for info in (*voices[after:], *voices[:after])
        if wanted in f"{info.name} {info.label} {info.language}".casefold()
    ]
    found = next((info.name for info in exact + close), None)
    if found is None:
        await params.result_callback({"error": f"there is no such voice; there are: {names[:20]}"})
    elif found == call.voice:
        await params.result_callback({"error": "that is the voice you have; there is no other"})
    else:
        await call.set_voice(found)
        await params.result_callback({"voice": found})


async def ask_for_digits(params: FunctionCallParams, count: int = 0) -> None:
    """Wait for digits that the caller presses on the telephone's keypad.

    Ask for them in the same answer, and, unless you know how many there are, for the hash key after
    the last one.

    Args:
        params: The call, from Pipecat; the model sees only the others.
        count: How many digits there are; leave out if that is not known.
    """
    digits = await wait_for_digits(params.llm, count=max(0, min(count, MAX_DIGITS)))
    if digits:
        await params.result_callback({"digits": digits})
    else:
        await params.result_callback({"error": "the caller pressed no digits"})


async def press_keys(params: FunctionCallParams, keys: str) -> None:
    """Press keys of the telephone, where a menu or a machine asks for them.

    They are pressed after what you say in the same answer; then wait for what comes of it.

    Args:
        params: The call, from Pipecat; the model sees only the others.
        keys: The keys in their order: 0 to 9, * and #; 32 at most.
    """
    pressed = str(keys)
    if not re.fullmatch(f"[0-9*#]{{1,{MAX_DIGITS}}}", pressed):
        error = f"keys are 0 to 9, * and #, and 1 to {MAX_DIGITS} are pressed"
        await params.result_callback({"error": error})
        return
    # Whoever hears the keys speaks next.
    await params.result_callback(
        {"keys": "pressed"}, properties=FunctionCallResultProperties(run_llm=False)
    )
    # One frame for each, since LiveKit's transport sends no more than the first key of a frame.
    for key in pressed:
        frame = OutputDTMFFrame(button=KeypadEntry(key))
        # A menu that goes on talking must not take them back.
        frame.interruptible = False
        await params.llm.push_frame(frame)


async def roll_dice(params: FunctionCallParams, sides: int = 6, count: int = 1) -> None:
    """Roll one or more dice.

    Args:
        params: The call, from Pipecat; the model sees only the others.
        sides: How many sides each die has, 2 to 100.
        count: How many dice to roll, 1 to 10.
    """
    # A model may ask for anything: check, and tell it in words, which it can pass on.
    if not (2 <= sides <= 100 and 1 <= count <= 10):
        await params.result_callback({"error": "dice have 2 to 100 sides, and 1 to 10 are rolled"})
        return
    rolls = [random.randint(1, sides) for _ in range(count)]
    await params.result_callback({"rolls": rolls, "total": sum(rolls)})


TOOLS: Mapping[str, DirectFunction] = {
    tool.__name__: tool
    for tool in (current_time, end_call, change_voice, roll_dice, ask_for_digits, press_keys)
}
"""The tools that come with the agent, by name."""

_DEFAULT_TOOLS = (current_time, end_call, change_voice, roll_dice)
# Keys are for agents that talk on telephones.


def _target(value: str) -> str:
    """A number as ITU-T's E.164 has it, 15 digits at most, or a SIP address."""
    if not (is_number(value) or is_sip(value)):
        raise ValueError(f"{value!r} is neither like '+4930123456' nor like sip:help@example.org")
    return value


def _transfer_tool(transfers: Mapping[str, str]) -> FunctionSchema:
    """The tool that puts the caller through; the model learns the targets' names alone."""
    names = list(transfers)

    async def transfer_call(params: FunctionCallParams) -> None:
        wanted = str(params.arguments.get("to", "")).casefold()
        # The longest, should one name be a part of another.
        name = max((n for n in names if n.casefold() in wanted), key=len, default="")
        if not name:
            await params.result_callback({"error": "there is nobody of that name", "names": names})
            return
        await params.result_callback(
            {"transfer": name}, properties=FunctionCallResultProperties(run_llm=False)
        )
        await params.llm.push_frame(TransferFrame(to=transfers[name]))

    return FunctionSchema(
        name="transfer_call",
        description="Put the caller through to somebody else. Say in the same answer that you do; "
        "the line is kept until it has been heard.",
        properties={
            "to": {"type": "string", "enum": names, "description": "Whom to put them through to."}
        },
        required=["to"],
        handler=transfer_call,
    )


def _tool(value: Any, info: ValidationInfo) -> Any:
    """The function that an entry of `tools` names."""
    if callable(value):
        return value
    value = str(value)
    if value in TOOLS:
        return TOOLS[value]
    file, colon, function = value.partition(":")
    if not colon or info.context is None:
        raise ValueError(
            f"there is no tool {value!r}{_nearest(value, TOOLS)}; "
            "a tool of your own is written my_tools.py:my_tool"
        )
    folder: Path = info.context["folder"]
    modules: dict[Path, ModuleType] = info.context["modules"]
    path = (folder / file).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(f"{file} lies outside of the agent file's folder; move it there")
    if path not in modules:
        modules[path] = _load(path, file)
    found = getattr(modules[path], function, None)
    if found is None:
        raise ValueError(f"{file} has no {function!r}{_nearest(function, vars(modules[path]))}")
    try:
        wrapper = DirectFunctionWrapper(found)
    except Exception as error:  # Pipecat's own check raises nothing more specific.
        raise ValueError(f"{value} is no tool: {_line(error)}") from error
    if not wrapper.description:
        raise ValueError(f"{value} needs a docstring: it tells the model what the tool is for")
    return found


def _load(path: Path, file: str) -> ModuleType:
    """The module in the file of a user's tools."""
    name = f"agent_tools_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ValueError(f"there is no Python file {file} next to the agent file")
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses, among others, look for the module that a class was defined in.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{file} cannot be loaded: {_line(error)}") from error
    return module


class Agent(BaseModel):
    """Who answers. `{name}` in any of the texts stands for the agent's name.

    Attributes:
        name: What it calls itself.
        prompt: What the language model is told about its part.
        greeting: What it says first; empty to let the caller speak first.
        woken: What it says when its wake word was said, and nothing else; the first time it greets.
        goodbye: What it says before it hangs up, where the model has not said goodbye itself.
        idle_prompt: What the language model is told when the caller has been silent for long.
        transfer_failed: What the language model is told when a transfer did not work.
        time_up: What it says when a call has reached the longest that is allowed.
        shutting_down: What it says when the process has to end a call in order to stop.
        voicemail: What it says to a machine that answers its call, with --voicemail message.
        apology: What it says when the language model fails and asking again may help.
        out_of_order: What it says when the language model fails and asking again cannot help.
        language: What is spoken, as a BCP 47 tag; None leaves it to the settings.
        voice: The voice it speaks with; None leaves it to the settings.
        tools: In a file, names of tools that come with the agent, or `file.py:function` for a
            function in a file of the same folder or below.
        transfers: Whom callers can be put through to, by name: numbers in E.164, or SIP addresses.
            Where a call's line can do it, the agent has the tool `transfer_call`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="Parley", min_length=1)
    prompt: str = Field(default=_PROMPT, min_length=1)
    greeting: str = "Hello, I'm {name}. What can I do for you?"
    woken: str = "Yes?"
    goodbye: str = "Goodbye, and thank you for calling."
    idle_prompt: str = Field(default=_IDLE_PROMPT, min_length=1)
    time_up: str = "I'm sorry, our time is up. Goodbye, and thank you for calling."
    shutting_down: str = "I'm sorry, I have to end the call now. Please call again in a moment."
    transfer_failed: str = Field(default=_TRANSFER_FAILED, min_length=1)
    voicemail: str = "Hello, this is {name}. I'm sorry that I missed you. I'll call again. Goodbye."
    apology: str = "Sorry, I lost my train of thought. Could you say that again?"
    out_of_order: str = (
        "Sorry, I can't think just now. Somebody has to look at how my language model is set up."
    )
    language: str | None = Field(default=None, pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")
    voice: str | None = Field(default=None, min_length=1)
    tools: tuple[Annotated[DirectFunction, BeforeValidator(_tool)], ...] = _DEFAULT_TOOLS
    transfers: Mapping[
        Annotated[str, Field(min_length=1)], Annotated[str, AfterValidator(_target)]
    ] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_name(cls, values: Any) -> Any:
        """Put the agent's name into its texts, the defaults included."""
        if not isinstance(values, dict):
            return values
        texts = {key: field.default for key, field in cls.model_fields.items()} | values
        return {
            key: text.replace("{name}", str(texts["name"])) if isinstance(text, str) else text
            for key, text in texts.items()
        }

    @field_validator("tools")
    @classmethod
    def _tools_differ_by_name(cls, tools: tuple[DirectFunction, ...]) -> tuple[DirectFunction, ...]:
        names = [tool.__name__ for tool in tools]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"there are two tools called {min(twice)}; rename one")
        return tools

    def tool_functions(
        self, *, can_transfer: bool = False
    ) -> list[FunctionSchema | DirectFunction]:
        """The tools as Pipecat takes them: `LLMContext(tools=agent.tool_functions())`.

        Args:
            can_transfer: Whether the caller can be put through to somebody else.
        """
        if can_transfer and self.transfers:
            return [*self.tools, _transfer_tool(self.transfers)]
        return list(self.tools)


def load_agent(path: Path | None) -> Agent:
    """The agent that a YAML file describes.

    Args:
        path: The file; None for the agent that answers without one.

    Raises:
        AgentFileError: The file cannot be read, is no YAML, has an unknown key or a wrong value, or
            names a tool that cannot be had. The first mistake found is the one that is named.
    """
    if path is None:
        return Agent()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AgentFileError(f"{path}: there is no such file; {EXAMPLE} shows one") from None
    except OSError as error:
        raise AgentFileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise AgentFileError(f"{path}: is not UTF-8 text; {EXAMPLE} shows one") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise AgentFileError(f"{path}: line {line}: {error.problem or 'not YAML'}") from None
    except yaml.YAMLError as error:
        raise AgentFileError(f"{path}: not YAML: {_line(error)}") from None
    except (ValueError, RecursionError) as error:
        # A date that no calendar has, or a thousand brackets.
        raise AgentFileError(f"{path}: cannot be understood: {_line(error)}") from None
    if not isinstance(values, dict):
        raise AgentFileError(f"{path}: must be a list of `key: value` lines; {EXAMPLE} shows one")
    try:
        context = {"folder": path.resolve().parent, "modules": {}}
        texts = {str(key): value for key, value in values.items()}
        return Agent.model_validate(texts, context=context)
    except ValidationError as error:
        raise AgentFileError(f"{path}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """The first mistake, with its key and the cure."""
    mistake = error.errors()[0]
    # A mapping's key that is itself wrong stands there too, before a mark.
    where = [p for p in mistake["loc"] if isinstance(p, str) and p not in ("", "[key]")]
    key = ".".join(where) or "file"
    match mistake["type"]:
        case "extra_forbidden":
            keys = ", ".join(Agent.model_fields)
            return f"unknown key {key!r}{_nearest(key, Agent.model_fields) or f'; it takes {keys}'}"
        case "string_type":
            return f"{key}: must be text; put it in quotes"
        case "string_too_short":
            return f"{key}: must not be empty; leave the line out for the default"
        case "string_pattern_mismatch":
            return f"{key}: {mistake['input']!r} is no language tag; write it like en or en-US"
        case "tuple_type":
            return f"{key}: must be a list, one `- entry` a line"
        case "mapping_type" | "dict_type":
            return f"{key}: must be `name: number` lines"
        case _:
            return f"{key}: {mistake['msg'].removeprefix('Value error, ')}"


def _nearest(word: str, words: Mapping[str, Any]) -> str:
    """A hint at the word that was probably meant."""
    near = difflib.get_close_matches(str(word), [name for name in words if name[0] != "_"], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _line(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
