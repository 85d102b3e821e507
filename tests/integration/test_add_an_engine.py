"""docs/add-an-engine.md, followed literally in a copy of the tree: file, row and commands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bot.agent import Agent
from tests.callers.conformance import broken_promises
from tests.callers.server import FOREIGN, ROOT, AgentServer, WorkerServer
from tests.callers.webrtc import WebRTCCaller
from tests.fakes.speech_engine import FakeSpeechEngine

PAGE = (ROOT / "docs" / "add-an-engine.md").read_text("utf-8")

AGENT = ("--stt", "pocketsphinx", "--llm", "builtin", "--offline")


def fenced(language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[str]:
    """The lines of the shell blocks that begin with a program."""
    lines = "".join(fenced("sh")).splitlines()
    return [line for line in lines if line.startswith(program)]


def flags(command: str, program: str) -> list[str]:
    """What a command line says behind the program."""
    return shlex.split(command.removeprefix(program))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the page's file and row in it."""
    tree = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=30,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    (module,) = fenced("python")
    (name,) = re.findall(r"^`(\S+)`:\n\n```python", PAGE, re.MULTILINE)
    assert not (tree / name).exists()
    (tree / name).write_text(module)
    (row,) = fenced("diff")
    (name,) = re.findall(r"In `(\S+)`,[^\n]*:\n\n```diff", PAGE)
    edit(tree / name, row)
    return tree


def edit(path: Path, diff: str) -> None:
    """Make the change that a diff without line numbers shows."""
    lines = diff.splitlines()
    before = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    after = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    text = path.read_text()
    assert text.count(before) == 1, f"{path.name} has not the lines that the page shows"
    path.write_text(text.replace(before, after))


def run(command: str, tree: Path) -> str:
    """What a command prints that succeeds."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    env["COLUMNS"] = "200"
    done = subprocess.run(
        command,
        shell=True,
        cwd=tree,
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def python_in(tree: Path) -> tuple[str, ...]:
    """The interpreter, run in the copy."""
    return ("env", "-C", str(tree), sys.executable)


def test_the_page_touches_one_file_and_one_row() -> None:
    """A file, a line, and nothing else."""
    (row,) = fenced("diff")
    assert len(fenced("python")) == 1
    assert [line for line in row.splitlines() if line[0] != " "] == [
        '+    Choice("beeper", module="services.tts.beeper"),'
    ]


def test_every_command_is_followed() -> None:
    """No command is on the page that the tests here do not run."""
    known = ("python ", "ruff ", "mypy ", "curl ")
    assert all(line.startswith(known) for block in fenced("sh") for line in block.splitlines())


def test_the_list_shows_it(tree: Path) -> None:
    """It can run here and lacks nothing."""
    (command,) = commands("python bot/main.py --list")
    (line,) = [line for line in run(command, tree).splitlines() if "--tts beeper" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")][2:] == ["yes", ""]


@pytest.mark.parametrize("tool", ["ruff", "mypy"])
def test_it_is_clean(tree: Path, tool: str) -> None:
    """Style and types, as `make check` has them."""
    for command in commands(tool):
        run(command, tree)


def test_it_keeps_its_promises(tree: Path) -> None:
    """The check that the page names says so."""
    (command,) = commands("python -m tests.callers.conformance")
    assert run(command, tree).strip() == "beeper keeps every promise"


async def test_it_speaks_in_a_worker_and_for_the_agent(tree: Path) -> None:
    """The worker's MP3 is one, and a caller hears the greeting, word for word, through it."""
    program = "python -m services.worker"
    (command,) = commands(program)
    with WorkerServer(*flags(command, program), python=python_in(tree)) as worker:
        (curl,) = commands("curl ")
        run(curl.replace("localhost:7001", f"127.0.0.1:{worker.port}"), tree)
        assert (tree / "hello.mp3").stat().st_size > 2000
        (remote,) = [line for line in commands("python bot/main.py") if "ws://" in line]
        await is_greeted(tree, remote.replace("ws://localhost:7001", worker.address))


async def test_it_speaks_in_the_agents_process(tree: Path) -> None:
    """A caller hears the greeting."""
    (local,) = commands("python bot/main.py --tts beeper")
    await is_greeted(tree, local)


async def is_greeted(tree: Path, command: str) -> None:
    """Start the agent as the page says, and hear it out."""
    said = flags(command, "python bot/main.py")
    with AgentServer(*said, *AGENT, python=python_in(tree)) as server:
        assert "beeper" in str(server.get("/api/agent")["tts"])
        async with WebRTCCaller(server.url) as caller:
            began = await caller.wait_for_speech()
            await caller.wait_for_silence(began, hold=1.2, limit=60)
            assert caller.spoken_words() == Agent().greeting.split()


def test_the_engine_of_the_tests_keeps_its_promises() -> None:
    """What stands in for engines elsewhere does what they do."""
    assert broken_promises(FakeSpeechEngine()) == []


def test_piper_keeps_its_promises(tree: Path) -> None:
    """The reference engine does, on the embedded voice."""
    command = "python -m tests.callers.conformance --engine piper --offline"
    assert run(command, tree).strip() == "piper keeps every promise"


class Babbler(FakeSpeechEngine):
    """Breaks what can be broken: long chunks, lost words, deaf to `stop`."""

    def __init__(self) -> None:
        super().__init__(chunk_secs=0.5)

    def loaded(self) -> tuple[str, ...]:
        return ()

    def speak(self, text, voice, speed, stop):  # type: ignore[no-untyped-def]
        stop = type(stop)()
        for chunk in super().speak(text or "hm", voice, 1.0, stop):
            yield type(chunk)(chunk.pcm, chunk.sample_rate, chunk.words[1:])


def test_broken_promises_are_found() -> None:
    """Each is named once, and the others are not."""
    found = broken_promises(Babbler())
    assert [line.split(":")[0].split(",")[0] for line in found] == [
        "What is loaded is told",
        "Chunks hold whole 16-bit samples at one rate",
        "Each word of the text comes once",
        "A text without anything to say yields nothing. '' was spoken.",
        "At twice the speed a text takes clearly less time. 1.40 s became 1.40 s.",
        "Once `stop` is set at most one chunk follows. After 0 chunks and `stop` came 3 more.",
        "An utterance can be closed in its middle",
        "Several threads may speak at once",
        "Whatever the text",
    ]
