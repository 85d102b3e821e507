"""The catalog: an engine is a row, and everything else follows from it."""

import socket
import subprocess
import sys
from pathlib import Path
from threading import Event
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from bot import banner
from bot import settings as bot_settings
from bot.agent import Agent
from bot.engines import Engines
from bot.server import ways
from services import catalog
from services.catalog import Choice, Loaded
from services.errors import EngineError, MissingExtraError, UnavailableError
from services.settings import EngineSettings, SettingsError
from services.tts.levels import Levelled
from tests.callers.server import ROOT
from tests.fakes.hearing_engine import FakeHearingEngine
from tests.fakes.speech_engine import FakeSpeechEngine


def nothing(*_: object) -> None:
    """A download that nobody watches."""


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No `.env`, no key and no Ollama."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PARLEY_OLLAMA_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """An engine of one row and one module; what its `build` is given."""
    built: list[tuple[Any, ...]] = []
    module = ModuleType("toy_engine")

    def build(*given: Any) -> Loaded[Any]:
        built.append(given)
        return Loaded(FakeSpeechEngine(), "squeak", "thin air")

    module.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_engine", module)
    monkeypatch.setattr(catalog, "TTS", (*catalog.TTS, Choice("toy", module="toy_engine")))
    return built


def test_a_row_is_all_that_a_setting_needs(
    toy: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a value of `--tts` and of `--tts-fallback`, in `--help`, and in `--list`."""
    settings = bot_settings.load(["--tts", "toy", "--tts-fallback", "toy"], catalog.choices())
    with pytest.raises(SystemExit):
        bot_settings.load(["--help"], catalog.choices())
    assert "pocket,toy}" in capsys.readouterr().out
    banner.show_choices(settings)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "--tts toy" in line]
    assert "yes" in line
    assert toy == []


def test_a_carrier_that_is_half_set_is_named_at_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever set something of it waits for its calls, and is told in a line what lacks."""
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", "AC1")
    monkeypatch.setenv("PARLEY_API_KEY", "0123456789abcdef")
    public = ["--public-url", "https://agent.example.org"]
    settings = bot_settings.load([*public, "--plivo-auth-id", "MA1"], catalog.choices())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        banner.show(settings, cast(Engines, SimpleNamespace(parts=())), Agent(), listener)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Not over")]
    assert told == [
        "Not over twilio: TWILIO_AUTH_TOKEN: set it to the account's auth token",
        "Not over plivo: PLIVO_AUTH_TOKEN: set it to the account's auth token",
    ]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (("127.0.0.1", 7860), "http://localhost:7860 "),
        (("192.0.2.7", 7860), "http://192.0.2.7:7860 "),
        (("2001:db8::7", 7860, 0, 0), "http://[2001:db8::7]:7860 "),
    ],
)
def test_the_address_to_open_is_one(
    capsys: pytest.CaptureFixture[str], address: tuple[object, ...], shown: str
) -> None:
    """It can be clicked or copied, whatever the agent listens on."""
    settings = bot_settings.load([], catalog.choices())
    listener = cast(socket.socket, SimpleNamespace(getsockname=lambda: address))
    banner.show(settings, cast(Engines, SimpleNamespace(parts=())), Agent(), listener)
    assert shown in capsys.readouterr().out


def test_a_carrier_of_which_nothing_is_set_says_so() -> None:
    """Not the public address alone, which all of them lack."""
    missing = ways.lacks(bot_settings.load([], catalog.choices()))
    for name in ("twilio", "telnyx", "plivo", "exotel", "vonage"):
        assert name in missing[name].lower()
        assert "--public-url" in missing[name]
        assert len(missing[name].splitlines()) == 1


def test_an_engine_is_made_by_its_module(toy: list[tuple[Any, ...]]) -> None:
    """`build` gets the settings, the voice and who watches; its engine gets the loudness."""
    settings = EngineSettings(tts_loudness=None, tts_volume=0.5)
    loaded = catalog.load_voice(settings, "toy", "squeak", nothing)
    assert toy == [(settings, "squeak", nothing)]
    assert (loaded.model, loaded.source) == ("squeak", "thin air")
    assert isinstance(loaded.engine, Levelled)
    assert loaded.engine.name == FakeSpeechEngine().name


def test_an_engine_that_cannot_be_levelled_is_closed(
    toy: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of an engine that failed while it was loaded."""
    closed: list[bool] = []

    def fail(*_: object) -> None:
        raise EngineError("no breath")

    monkeypatch.setattr(FakeSpeechEngine, "speak", fail)
    monkeypatch.setattr(FakeSpeechEngine, "close", lambda _self: closed.append(True))
    with pytest.raises(EngineError, match="no breath"):
        catalog.load_voice(EngineSettings(), "toy", None, nothing)
    assert closed
    assert len(toy) == 1


def test_a_missing_package_is_one_line_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named as it was asked for, with the command that installs it, and nothing imported."""
    row = Choice("far", ("no_such_package",), "far", "no_such_module")
    monkeypatch.setattr(catalog, "TTS", (row,))
    cure = "no_such_package is not installed; pip install 'parley[far]'"
    assert row.lacks(EngineSettings()) == cure
    with pytest.raises(MissingExtraError) as error:
        catalog.load_voice(EngineSettings(), "far", None, nothing, flag="--engine")
    assert str(error.value) == f"--engine far: {cure}"


@pytest.mark.parametrize(
    ("name", "given", "lacks"),
    [
        ("piper", {}, ""),
        ("openai", {}, "set PARLEY_TTS_API_KEY or OPENAI_API_KEY, or --tts-base-url"),
        ("openai", {"tts_base_url": "http://h/v1"}, "--tts-model: "),
        ("openai", {"tts_api_key": "k"}, "--tts-model: "),
        ("openai", {"tts_base_url": "http://h/v1", "tts_model": "m"}, ""),
        ("openai", {"openai_api_key": "k", "tts_model": "m"}, ""),
        ("cosyvoice", {}, "clone its repository"),
        ("cosyvoice", {"cosyvoice_repo": Path("/nowhere")}, "/nowhere holds no checkout"),
    ],
)
def test_what_a_voice_lacks(
    monkeypatch: pytest.MonkeyPatch, name: str, given: dict[str, Any], lacks: str
) -> None:
    """Packages apart, a setting that is missing is named in one line."""
    monkeypatch.setattr(catalog, "_installed", lambda _package: True)
    row = catalog.choice(catalog.TTS, name)
    said = row.lacks(EngineSettings(**given))
    assert lacks in said if lacks else not said
    assert "\n" not in said
    if said:
        with pytest.raises(SettingsError, match=f"^--tts {name}: "):
            row.require(f"--tts {name}", EngineSettings(**given))


def test_what_an_ear_lacks(tmp_path: Path, tiny: Path) -> None:
    """Whisper lacks a model only where none may be fetched."""
    whisper = catalog.choice(catalog.STT, "whisper")
    assert whisper.lacks(EngineSettings(cache=tmp_path)) == ""
    offline = EngineSettings(cache=tmp_path, offline=True)
    assert "Whisper model 'base.en' is not in" in whisper.lacks(offline)
    here = EngineSettings(cache=tmp_path, offline=True, whisper_model=str(tiny))
    assert whisper.lacks(here) == ""
    openai = catalog.choice(catalog.STT, "openai")
    assert "--stt-base-url" in openai.lacks(EngineSettings())
    assert openai.lacks(EngineSettings(stt_base_url="http://h/v1", stt_model="m")) == ""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """What looks like the folder of a Whisper model."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "model.bin").touch()
    return folder


class Ears:
    """Two engines that hear, of which the first may be out of reach."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put them into the catalog."""
        self.error: Exception | None = None
        for name in ("whisper", "pocketsphinx"):
            module = ModuleType(f"{name}_fake")
            module.build = self._builder(name)  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module.__name__, module)
        rows = [Choice(n, module=f"{n}_fake") for n in ("whisper", "pocketsphinx")]
        monkeypatch.setattr(catalog, "STT", tuple(rows))

    def _builder(self, name: str) -> Any:
        def build(_settings: EngineSettings, language: str, _progress: object) -> Loaded[Any]:
            if name == "whisper" and self.error:
                raise self.error
            return Loaded(FakeHearingEngine(), f"{name} {language}", "here")

        return build


def test_auto_takes_whisper_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """The better ear, and nothing better to tell of."""
    Ears(monkeypatch)
    loaded = catalog.load_ear(EngineSettings(), "auto", "en", nothing)
    assert (loaded.model, loaded.better) == ("whisper en", "")
    assert loaded.engine.transcribe(b"", "en", Event()).text is not None


@pytest.mark.parametrize("error", [UnavailableError("no hub"), MissingExtraError("no package")])
def test_auto_falls_back_where_whisper_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Another ear hears, and how to get the better one is told."""
    ears = Ears(monkeypatch)
    ears.error = error
    loaded = catalog.load_ear(EngineSettings(), "auto", "en", nothing)
    assert loaded.model == "pocketsphinx en"
    assert "--whisper-model" in loaded.better
    with pytest.raises(type(error)):
        catalog.load_ear(EngineSettings(), "whisper", "en", nothing)


def test_auto_does_not_hide_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is wrong is an error whoever could hear instead."""
    ears = Ears(monkeypatch)
    ears.error = SettingsError("--whisper-model: no such size")
    with pytest.raises(SettingsError, match="no such size"):
        catalog.load_ear(EngineSettings(), "auto", "en", nothing)


def test_the_list_imports_no_engine() -> None:
    """`--list` names every row, and is answered without a model's library or Pipecat."""
    heavy = ("torch", "piper", "onnxruntime", "faster_whisper", "pocketsphinx", "pipecat", "av")
    code = (
        "import sys\n"
        "sys.argv = ['bot/main.py', '--list', '--ollama-url', 'http://127.0.0.1:9']\n"
        "from bot.main import main\n"
        "code = main(sys.argv[1:])\n"
        f"print('imported', *[name for name in {heavy!r} if name in sys.modules])\n"
        "sys.exit(code)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    *table, imported = result.stdout.splitlines()
    assert imported.split() == ["imported"]
    for flag, rows in (("tts", catalog.TTS), ("stt", catalog.STT), ("llm", catalog.LLM)):
        for row in rows:
            assert any(f"--{flag} {row.name} " in line for line in table)
