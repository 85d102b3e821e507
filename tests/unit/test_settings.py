"""Settings: one name in three spellings, and one line for what is wrong."""

from pathlib import Path

import pytest

from bot import settings
from bot.settings import SettingsError
from services import catalog


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine's, and no `.env` but the test's."""
    monkeypatch.chdir(tmp_path)
    for name in ("PORT", "TTS_VOICE", "HOST"):
        monkeypatch.delenv(f"PARLEY_{name}", raising=False)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_flag_beats_environment_beats_dotenv(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The nearest spelling wins: the flag, then the environment, then `.env`."""
    (tmp_path / ".env").write_text("PARLEY_PORT=1001\nPARLEY_HOST=10.0.0.1\n")
    assert settings.load([]).port == 1001
    monkeypatch.setenv("PARLEY_PORT", "1002")
    assert settings.load([]).port == 1002
    loaded = settings.load(["--port", "1003"])
    assert (loaded.port, loaded.host) == (1003, "10.0.0.1")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--prot", "1"], "did you mean --port?"),
        (["--port", "many"], "--port: "),
        (["--port", "70000"], "--port: "),
        (["--tts", "gramophone"], "--tts: 'gramophone' is not one of piper"),
        (["--turn-end", "never"], "--turn-end: "),
        (["--tts-speed", "9"], "--tts-speed: "),
        (["hello"], "hello: there is no such flag"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(argv: list[str], said: str) -> None:
    """Whatever is wrong on the command line is said in one line that names the flag."""
    with pytest.raises(SettingsError) as error:
        settings.load(argv, catalog.choices())
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_variable_is_named_as_it_was_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value from the environment is blamed on the variable, not on a flag nobody typed."""
    monkeypatch.setenv("PARLEY_PORT", "many")
    with pytest.raises(SettingsError, match=r"^PARLEY_PORT: "):
        settings.load([])


def test_the_key_is_a_secret_without_a_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key comes from the environment alone, and is not shown when settings are printed."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    loaded = settings.load([])
    assert loaded.openai_api_key is not None
    assert "sk-secret" not in repr(loaded)
    with pytest.raises(SystemExit):
        settings.load(["--help"])
    assert "--openai-api-key" not in capsys.readouterr().out


def test_help_shows_every_setting_with_its_choices(capsys: pytest.CaptureFixture[str]) -> None:
    """Each setting but the secret is in `--help`, and choices of the catalog are spelled out."""
    with pytest.raises(SystemExit) as stop:
        settings.load(["--help"], catalog.choices())
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in settings.Settings.model_fields:
        assert (f"--{name.replace('_', '-')}" in text) == (name != "openai_api_key")
    assert "{auto,whisper,pocketsphinx}" in text
