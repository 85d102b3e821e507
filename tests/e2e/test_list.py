"""`python bot/main.py --list`: what can speak, hear and think here, and what the rest lacks."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from services import catalog
from tests.callers.server import FOREIGN, ROOT

HEAVY = ("torch", "transformers", "onnxruntime", "piper", "faster_whisper", "av", "pipecat", "TTS")
"""What takes its time to import, and is not looked into for a list."""

NOBODY = "http://127.0.0.1:9"


def listed(
    *flags: str, env: dict[str, str] | None = None, before: str = "", after: str = ""
) -> dict[str, tuple[str, str]]:
    """By setting, whether it can run here, and what it lacks.

    Args:
        flags: The rest of the command line.
        env: Environment variables to add.
        before: Python that runs in the process first.
        after: Python that runs in it last.
    """
    code = (
        f"import runpy, sys\n{before}\ntry:\n runpy.run_path('bot/main.py', run_name='__main__')\n"
        f"except SystemExit as end:\n assert not end.code, end.code\n{after}"
    )
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    done = subprocess.run(
        [sys.executable, "-c", code, "--list", "--ollama-url", NOBODY, *flags],
        cwd=ROOT,
        env={**inherited, "COLUMNS": "400", **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.strip("│").split("│") for line in done.stdout.splitlines() if "│" in line]
    told = {setting.strip(): (here.strip(), lacks.strip()) for _, setting, here, lacks in rows}
    return {setting: row for setting, row in told.items() if setting.startswith("--")}


def test_every_engine_is_listed_with_its_cure() -> None:
    """Each row of the catalog has one line: it can run here, or what it lacks is said with a cure.

    Nothing heavy is imported for it.
    """
    unloaded = f"assert not (loaded := set({HEAVY}) & sys.modules.keys()), loaded"
    rows = listed(after=unloaded)
    kinds = (("tts", catalog.TTS), ("stt", catalog.STT), ("llm", catalog.LLM))
    assert list(rows) == [f"--{flag} {row.name}" for flag, kind in kinds for row in kind]
    for setting, (here, lacks) in rows.items():
        assert (here, bool(lacks)) in {("yes", False), ("no", True)}, setting
    cures = ("pip install 'parley[", "set ", "start it")
    assert all(any(cure in lacks for cure in cures) for here, lacks in rows.values() if lacks)
    for setting in ("--tts piper", "--stt whisper", "--stt pocketsphinx", "--llm builtin"):
        assert rows[setting] == ("yes", "")


@pytest.mark.parametrize(
    ("module", "setting", "extra"),
    [
        ("piper", "--tts piper", "piper"),
        ("onnx", "--tts piper", "piper"),
        ("torch", "--tts sesame", "sesame"),
        ("pocket_tts", "--tts pocket", "pocket"),
        ("faster_whisper", "--stt whisper", "whisper"),
        ("pocketsphinx", "--stt pocketsphinx", "pocketsphinx"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(module: str, setting: str, extra: str) -> None:
    """As that of an engine's start: the line can be copied to a shell."""
    here, lacks = listed(before=f"sys.modules[{module!r}] = None")[setting]
    assert here == "no"
    assert lacks.endswith(f"{module} is not installed; pip install 'parley[{extra}]'")


def test_settings_count(tmp_path: Path) -> None:
    """What a setting or a key gives is not lacking; a setting that is wrong is named."""
    rows = listed(
        *("--tts-base-url", f"{NOBODY}/v1", "--tts-model", "any"),
        *("--llm-model", "any", "--cosyvoice-repo", str(tmp_path)),
        env={"OPENAI_API_KEY": "sk-secret"},
        before="import types; sys.modules['torch'] = types.ModuleType('torch')",
        after="assert 'services.tts.cosyvoice' not in sys.modules",
    )
    assert rows["--tts openai"] == ("yes", "")
    assert rows["--llm openai"] == ("yes", "")
    assert rows["--stt openai"][1].startswith("--stt-model: ")
    assert rows["--tts cosyvoice"] == (
        "no",
        f"--cosyvoice-repo: {tmp_path} holds no checkout of CosyVoice",
    )
    assert "sk-secret" not in str(rows)


def test_every_cure_can_be_followed() -> None:
    """An extra that the list says to install is one that the project has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {row.extra for row in (*catalog.TTS, *catalog.STT) if row.extra}
    assert named <= project["optional-dependencies"].keys()
