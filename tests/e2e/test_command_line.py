"""`python bot/main.py`: what is wrong is one line that names the setting and the cure."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.callers.server import FOREIGN, ROOT

OFFLINE = ("--offline", "--stt", "pocketsphinx", "--llm", "builtin", "--port", "0")


def run(*flags: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the agent until it ends by itself.

    Args:
        flags: Its command line.
        before: Python that runs in the process first.
    """
    code = f"{before}\nimport runpy; runpy.run_path('bot/main.py', run_name='__main__')"
    env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    return subprocess.run(
        [sys.executable, "-c", code, *flags],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a wrong setting comes to."""
    lines = [line for line in result.stderr.splitlines() if " INFO " not in line]
    assert result.returncode == 2, result.stderr
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("flags", "setting", "cure"),
    [
        (("--prot", "7999"), "--prot", "did you mean --port?"),
        (("--tts", "gramophone"), "--tts", "piper"),
        (("--tts-voice", "en_US-nobody-medium/../x"), "en_US-nobody-medium/../x", "names are like"),
        (("--tts-voice", "missing.onnx"), "missing.onnx", "no voice file"),
        (("--agent", "missing.yaml"), "missing.yaml", "--agent"),
        (("--record", "README.md"), "--record README.md", "name a folder"),
        (("--livekit-room", "hall"), "--livekit-room", "LIVEKIT_URL"),
        (("--wake-word", "hey you"), "--wake-word", "hey_jarvis"),
        (("--stt", "whisper", "--whisper-model", "enormous"), "enormous", "the sizes are"),
        (("--stt", "whisper", "--whisper-device", "cuda"), "'cuda'", "use auto or cpu"),
        (("--stt", "whisper", "--whisper-model", "a/b/c"), "--whisper-model", "a/b/c"),
        (("--stt", "whisper", "--whisper-model", "x" * 300), "--whisper-model", "xxx"),
        (("--tts-voice", "x" * 300 + ".onnx"), "--tts-voice", "xxx"),
        (("--language", "xx"), "--language", "--stt whisper"),
        (("--llm", "openai"), "--llm openai", "OPENAI_API_KEY"),
        (("--tts", "openai"), "--tts openai", "--tts-base-url"),
        (("--stt", "openai"), "--stt openai", "--stt-base-url"),
        (("--tts", "http://a:7001"), "--tts", "ws://a:7001"),
        (("--tts-loudness", "loud"), "--tts-loudness", "number"),
        (("--tts-references", "missing", "--tts", "cosyvoice"), "--tts cosyvoice", "pip install"),
    ],
)
def test_a_wrong_setting_is_one_line(flags: tuple[str, ...], setting: str, cure: str) -> None:
    """Exit code 2 and one line with the setting and the cure; never a traceback."""
    said = complaint(run(*OFFLINE, *flags))
    assert setting in said
    assert cure in said


def test_a_port_in_use_is_one_line(taken_port: int) -> None:
    """Said before any model is loaded, with the port and what to do."""
    said = complaint(run(*OFFLINE, "--port", str(taken_port)))
    assert f"--port {taken_port}" in said
    assert "--port 0" in said


@pytest.mark.parametrize(
    ("module", "flags", "extra"),
    [
        ("piper", (), "parley[piper]"),
        ("faster_whisper", ("--stt", "whisper"), "parley[whisper]"),
        ("pocketsphinx", (), "parley[pocketsphinx]"),
        ("pocket_tts", ("--tts", "pocket"), "parley[pocket]"),
    ],
)
def test_a_missing_extra_is_named(module: str, flags: tuple[str, ...], extra: str) -> None:
    """A package that is not installed is one line with the command that installs it."""
    said = complaint(run(*OFFLINE, *flags, before=f"import sys; sys.modules[{module!r}] = None"))
    assert f"pip install '{extra}'" in said


def test_the_list_says_what_can_run_here() -> None:
    """`--list` shows every engine, and the cure for those that lack something; it exits with 0."""
    wide = "import os, sys; os.environ['COLUMNS'] = '250'; sys.modules['pocket_tts'] = None"
    result = run("--list", "--ollama-url", "http://127.0.0.1:9", before=wide)
    assert result.returncode == 0, result.stderr
    rows = {}
    for line in result.stdout.splitlines():
        if "--" in line:
            _, setting, here, lacks = (cell.strip() for cell in line.strip("│").split("│"))
            rows[setting] = (here, lacks)
    assert rows["--tts piper"] == ("yes", "")
    assert rows["--tts pocket"][0] == "no"
    assert rows["--tts pocket"][1].endswith("pip install 'parley[pocket]'")
    assert rows["--llm builtin"] == ("yes", "")
    assert "start it" in rows["--llm ollama"][1]


def test_a_bad_agent_file_names_the_key(tmp_path: Path) -> None:
    """An unknown key in the agent's file is named, with the nearest that exists."""
    path = tmp_path / "agent.yaml"
    path.write_text("greting: Hello\n")
    said = complaint(run(*OFFLINE, "--agent", str(path)))
    assert "greting" in said
    assert "greeting" in said


def test_torch_is_not_needed() -> None:
    """The agent's environment holds no torch."""
    found = subprocess.run(
        [sys.executable, "-c", "import torch"], capture_output=True, check=False, cwd=ROOT
    )
    assert found.returncode != 0
