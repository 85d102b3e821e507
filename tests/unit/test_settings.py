"""Settings: one name in three spellings, and one line for what is wrong."""

import os
from pathlib import Path

import pytest

from bot import settings
from bot.settings import SettingsError
from services import catalog


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine's, and no `.env` but the test's."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("PARLEY_", "OPENAI_")):
            monkeypatch.delenv(name)


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
        (["--public-url", "https://host:99999"], "--public-url: an address is like https://"),
        (["hello"], "hello: there is no such flag"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(argv: list[str], said: str) -> None:
    """Whatever is wrong on the command line is said in one line that names the flag."""
    with pytest.raises(SettingsError) as error:
        settings.load(argv, catalog.choices())
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_address_ends_in_no_slash() -> None:
    """Paths are put behind an address, whichever setting it is and however it was written."""
    urls = [name for name in settings.Settings.model_fields if name.endswith(("_url", "_hub"))]
    urls.remove("livekit_url")  # It is for LiveKit's SDKs alone.
    assert len(urls) > 8
    for name in urls:
        loaded = settings.load([f"--{name.replace('_', '-')}", "https://host:1/path//"])
        assert getattr(loaded, name) == "https://host:1/path"


def test_a_wrong_variable_is_named_as_it_was_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value from the environment is blamed on the variable, not on a flag nobody typed."""
    monkeypatch.setenv("PARLEY_PORT", "many")
    with pytest.raises(SettingsError, match=r"^PARLEY_PORT: "):
        settings.load([])


SECRETS = {
    "openai_api_key": "OPENAI_API_KEY",
    "tts_api_key": "PARLEY_TTS_API_KEY",
    "stt_api_key": "PARLEY_STT_API_KEY",
    "worker_token": "PARLEY_WORKER_TOKEN",
    "api_key": "PARLEY_API_KEY",
    "turn_secret": "PARLEY_TURN_SECRET",
    "daily_api_key": "DAILY_API_KEY",
    "livekit_api_key": "LIVEKIT_API_KEY",
    "livekit_api_secret": "LIVEKIT_API_SECRET",
    "twilio_auth_token": "TWILIO_AUTH_TOKEN",
    "exotel_secret": "PARLEY_EXOTEL_SECRET",
    "exotel_api_key": "PARLEY_EXOTEL_API_KEY",
    "exotel_api_token": "PARLEY_EXOTEL_API_TOKEN",
    "daily_dialin_secret": "PARLEY_DAILY_DIALIN_SECRET",
    "telnyx_api_key": "TELNYX_API_KEY",
    "plivo_auth_token": "PLIVO_AUTH_TOKEN",
    "vonage_signature_secret": "VONAGE_SIGNATURE_SECRET",
}


@pytest.mark.parametrize(("name", "variable"), SECRETS.items())
def test_a_secret_has_no_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, variable: str
) -> None:
    """It comes from the environment alone, as who tries a flag is told, and is never shown."""
    monkeypatch.setenv(variable, "sk-secret-of-some-length\n")
    loaded = settings.load([])
    assert getattr(loaded, name).get_secret_value() == "sk-secret-of-some-length"
    assert "sk-secret-of-some-length" not in repr(loaded)
    flag = f"--{name.replace('_', '-')}"
    for argv in ([flag, "sk-secret-of-some-length"], [f"{flag}=sk-secret-of-some-length"]):
        with pytest.raises(SettingsError) as error:
            settings.load(argv)
        assert str(error.value) == (
            f"{flag}: there is no such flag; a secret is set in the environment or in .env: "
            f"{variable}"
        )
    with pytest.raises(SystemExit):
        settings.load(["--help"])
    assert f"--{name.replace('_', '-')}" not in capsys.readouterr().out


@pytest.mark.parametrize("variable", SECRETS.values())
def test_a_wrong_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """What no header may have is refused under the variable's name, without its value."""
    monkeypatch.setenv(variable, "sk secret")
    with pytest.raises(SettingsError, match=f"^{variable}: ") as error:
        settings.load([])
    assert "sk secret" not in str(error.value)


def test_help_shows_every_setting_with_its_choices(capsys: pytest.CaptureFixture[str]) -> None:
    """Each setting but secrets is in `--help`, and choices of the catalog are spelled out."""
    with pytest.raises(SystemExit) as stop:
        settings.load(["--help"], catalog.choices())
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in settings.Settings.model_fields:
        assert (f"--{name.replace('_', '-')} " in text) == (name not in SECRETS)
    assert "{auto,whisper,pocketsphinx,openai}" in text
    # What the program itself is asked for comes before what it is built of.
    assert text.index("--tts ") < text.index("--tts-speed ") < text.index("--tts-voice ")
    assert text.index("Server:") < text.index("Voice:") < text.index("Voice engines:")


@pytest.mark.parametrize("flag", ["--tts", "--stt"])
@pytest.mark.parametrize(
    "place",
    [
        "ws://a:7001",
        "wss://a/speech",
        "ws://a:7001,wss://b.example:7002",
        "redis://host:6379",
        "rediss://user:word@host:6379/2",
    ],
)
def test_workers_may_stand_for_an_engine(flag: str, place: str) -> None:
    """Their addresses, or one of Redis, are kept as they are."""
    loaded = settings.load([flag, place], catalog.choices())
    assert getattr(loaded, flag[2:]) == place


@pytest.mark.parametrize("flag", ["--tts", "--stt"])
@pytest.mark.parametrize(
    "place",
    [
        "http://a:7001",
        "ws://",
        "ws://a:7001,piper",
        "ws://a:99999",
        "redis://a:port",
        "ws://a:7001,redis://b",
        "redis://a,redis://b",
        "ws://a:7001,",
        "ws://[a",
    ],
)
def test_an_address_that_is_none_is_one_line(flag: str, place: str) -> None:
    """What cannot be workers' addresses is said to be none, under the flag's name."""
    with pytest.raises(SettingsError, match=f"^{flag}: ") as error:
        settings.load([flag, place], catalog.choices())
    assert "\n" not in str(error.value)


def test_a_password_in_an_address_is_not_shown() -> None:
    """The message about a wrong address has the host, not what precedes it."""
    with pytest.raises(SettingsError, match="@b") as error:
        settings.load(["--tts", "redis://me:word@b,ws://c"], catalog.choices())
    assert "word" not in str(error.value)


def test_workers_do_not_think() -> None:
    """An address stands for what speaks or hears alone."""
    with pytest.raises(SettingsError, match=r"^--llm: 'ws://a:7001' is not one of auto"):
        settings.load(["--llm", "ws://a:7001"], catalog.choices())


def test_the_fallback_is_an_engine_or_nothing() -> None:
    """Workers cannot be what speaks when workers do not."""
    assert settings.load([], catalog.choices()).tts_fallback is None
    assert settings.load(["--tts-fallback", ""], catalog.choices()).tts_fallback is None
    assert settings.load(["--tts-fallback", "piper"], catalog.choices()).tts_fallback == "piper"
    for wrong in ("gramophone", "ws://a:7001"):
        with pytest.raises(SettingsError, match=r"^--tts-fallback: .* is not one of piper"):
            settings.load(["--tts-fallback", wrong], catalog.choices())


@pytest.mark.parametrize(
    ("value", "lufs"), [("off", None), ("-16", -16.0), ("-23.5", -23.5), (None, -16.0)]
)
def test_loudness_can_be_off(value: str | None, lufs: float | None) -> None:
    """A number of LUFS, or none."""
    argv = [] if value is None else [f"--tts-loudness={value}"]
    assert settings.load(argv).tts_loudness == lufs


@pytest.mark.parametrize("value", ["loud", "0", "-99", "nan", ""])
def test_no_other_loudness(value: str) -> None:
    """What is neither is one line."""
    with pytest.raises(SettingsError, match=r"^--tts-loudness: "):
        settings.load([f"--tts-loudness={value}"])


@pytest.mark.parametrize("flag", ["--tts-base-url", "--stt-base-url", "--piper-hub"])
def test_an_endpoint_is_an_address(flag: str) -> None:
    """A name without a scheme is not."""
    with pytest.raises(SettingsError, match=f"^{flag}: an address is like https://"):
        settings.load([flag, "localhost:8000"])


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "vonage"])
def test_a_number_has_its_country_code(carrier: str) -> None:
    """One that no carrier can dial from is refused at the start, and not when a call is placed."""
    with pytest.raises(SettingsError, match=rf"^--{carrier}-number: .*\+4930123456"):
        settings.load([f"--{carrier}-number", "030 1234"])
    loaded = settings.load([f"--{carrier}-number", "+4930123456"])
    assert getattr(loaded, f"{carrier}_number") == "+4930123456"
