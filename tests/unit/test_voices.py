"""Voices by name: what is here, what is fetched, and what is refused."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from services.errors import EngineError, UnavailableError, UnknownVoiceError
from services.tts import voices
from tests.fakes.voice_hub import VoiceHub, voice_hub

NAME = "en_GB-rose-low"
MODEL = bytes(range(256)) * 4096
CONFIG = json.dumps({"audio": {"sample_rate": 16000}, "language": {"code": "en_GB"}}).encode()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[VoiceHub]:
    # A busy machine's hub may be slow to answer.
    monkeypatch.setattr(voices, "REACH_S", 60.0)
    with voice_hub() as hub:
        hub.add(NAME, MODEL, CONFIG)
        yield hub


def test_a_voice_is_downloaded_once(hub: VoiceHub, tmp_path: Path) -> None:
    """A voice that is not here is fetched whole into the cache; then the hub is not asked again."""
    cache = tmp_path / "made" / "on demand"
    path = voices.resolve(NAME, cache, hub.url)
    assert path == cache / f"{NAME}.onnx"
    assert path.read_bytes() == MODEL
    assert (cache / f"{NAME}.onnx.json").read_bytes() == CONFIG
    asked = len(hub.requests)
    assert voices.resolve(NAME, cache, hub.url) == path
    assert len(hub.requests) == asked
    assert [info.name for info in voices.list_cached(cache)] == [NAME]


def test_progress_ends_at_the_whole(hub: VoiceHub, tmp_path: Path) -> None:
    """Progress grows for each file from its first bytes to all of them."""
    seen: dict[str, list[tuple[int, int]]] = {}

    def note(name: str, done: int, total: int) -> None:
        seen.setdefault(name, []).append((done, total))

    voices.resolve(NAME, tmp_path, hub.url, note)
    for name, size in ((f"{NAME}.onnx", len(MODEL)), (f"{NAME}.onnx.json", len(CONFIG))):
        assert seen[name] == sorted(seen[name])
        assert seen[name][-1] == (size, size)


@pytest.mark.parametrize("sent", [MODEL[:-1] + b"x", MODEL[:-1], MODEL + b"x", b""])
def test_a_wrong_file_is_refused(hub: VoiceHub, tmp_path: Path, sent: bytes) -> None:
    """A model other than the catalogue describes is no voice, and nothing of it stays."""
    hub.files[hub.add(NAME, MODEL, CONFIG)] = sent
    with pytest.raises(UnavailableError, match="not the file"):
        voices.resolve(NAME, tmp_path, hub.url)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(hub: VoiceHub, tmp_path: Path) -> None:
    """Whoever is interrupted within a file leaves no part of it behind."""

    def interrupt(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        voices.resolve(NAME, tmp_path, hub.url, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_two_downloads_at_once_both_succeed(hub: VoiceHub, tmp_path: Path) -> None:
    """Two that fetch the same voice at the same time both get it, and leave only it."""
    hub.together = Barrier(2, timeout=10)
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: voices.resolve(NAME, tmp_path, hub.url), range(2)))
    assert paths == [tmp_path / f"{NAME}.onnx"] * 2
    assert paths[0].read_bytes() == MODEL
    assert len(list(tmp_path.iterdir())) == 2


def test_a_hub_that_refuses_is_unavailable(tmp_path: Path) -> None:
    """A hub that nobody answers for makes the voice unavailable, and says which hub."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=url):
            voices.resolve(NAME, tmp_path, url)


def test_a_silent_hub_is_not_waited_for(
    hub: VoiceHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that takes the request and says nothing is given up while it is still silent."""
    monkeypatch.setattr(voices, "REACH_S", 0.1)
    hub.answer.clear()
    with pytest.raises(UnavailableError, match="cannot be reached"):
        voices.resolve(NAME, tmp_path, hub.url)
    assert not hub.answer.is_set()


@pytest.mark.parametrize(
    "catalogue", [b"not json", b"[]", b"{}", b'{"%s": 1}', b'{"%s": {"files": {}}}', b""]
)
def test_a_strange_catalogue_is_an_error_of_ours(
    hub: VoiceHub, tmp_path: Path, catalogue: bytes
) -> None:
    """Whatever a hub calls its catalogue, the outcome is one line, not a traceback."""
    hub.files["/voices.json"] = catalogue.replace(b"%s", NAME.encode())
    with pytest.raises(EngineError) as raised:
        voices.resolve(NAME, tmp_path, hub.url)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_an_endless_catalogue_is_cut_short(
    hub: VoiceHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalogue beyond any honest size is not read to its end."""
    monkeypatch.setattr(voices, "MAX_CATALOGUE_BYTES", 10)
    with pytest.raises(UnavailableError):
        voices.resolve(NAME, tmp_path, hub.url)


def test_an_enormous_voice_is_not_begun(
    hub: VoiceHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A voice that the catalogue says is too large is not asked for."""
    monkeypatch.setattr(voices, "MAX_VOICE_BYTES", 1000)
    with pytest.raises(UnavailableError, match="too large"):
        voices.resolve(NAME, tmp_path, hub.url)
    assert not any(path.endswith(".onnx") for path in hub.requests)


@pytest.mark.parametrize(
    "name",
    [
        *("", "x", "../x", "/etc/passwd", "en_GB-rose-low/../../x", "en_GB-../..-low"),
        *("en_GB-rose-low.onnx", "en_GB-rose-low\n", "en_GB-rose-low\0", "en_GB-rose-%2e%2e"),
        *("..\\en_GB-rose-low", "C:en_GB-rose-low", "en_GB-rose-low?x=1", "en_GB-" + "a" * 300),
    ],
)
def test_a_name_is_never_a_path(hub: VoiceHub, tmp_path: Path, name: str) -> None:
    """What is not shaped like a voice's name reaches neither the disk nor the hub."""
    with pytest.raises(UnknownVoiceError):
        voices.resolve(name, tmp_path, hub.url)
    assert hub.requests == []


def test_an_unknown_name_gets_suggestions(hub: VoiceHub, tmp_path: Path) -> None:
    """A name that the hub has not is another error than a hub that is away; it names close ones."""
    with pytest.raises(UnknownVoiceError, match=NAME):
        voices.resolve("en_GB-roes-low", tmp_path, hub.url)


def test_names_beyond_ascii(hub: VoiceHub, tmp_path: Path) -> None:
    """The hub has names such as pt_PT-tugão-medium; their addresses are quoted on the way."""
    name = "pt_PT-tugão-medium"
    path = hub.add(name, MODEL, CONFIG)
    for suffix in ("", ".json"):
        quoted = path.replace("ã", "%C3%A3") + suffix
        hub.files[quoted] = hub.files.pop(path + suffix)
    assert voices.resolve(name, tmp_path, hub.url).read_bytes() == MODEL


def test_half_a_voice_is_none(tmp_path: Path) -> None:
    """A model without its settings is not listed, not found and not taken by its path."""
    model = tmp_path / f"{NAME}.onnx"
    model.write_bytes(MODEL)
    assert voices.find_voice(NAME, tmp_path) is None
    assert voices.list_cached(tmp_path) == ()
    with pytest.raises(UnknownVoiceError, match="json"):
        voices.local_voice(model)
    with pytest.raises(UnknownVoiceError, match="no voice file"):
        voices.local_voice(tmp_path / "other.onnx")


def test_unreadable_settings_hide_a_voice_from_lists(tmp_path: Path) -> None:
    """A list is of what can be spoken with: a damaged settings file does not break it."""
    for name, config in ((NAME, CONFIG), ("en_GB-thorn-low", b"{"), ("en_GB-bud-low", b"[]")):
        (tmp_path / f"{name}.onnx").write_bytes(MODEL)
        (tmp_path / f"{name}.onnx.json").write_bytes(config)
    (info,) = voices.list_cached(tmp_path)
    assert (info.name, info.language) == (NAME, "en-GB")


def test_embedded_voices_need_no_hub(tmp_path: Path) -> None:
    """The embedded voices are found by name with nothing cached and no hub; each suits a rate."""
    best, small = (info.name for info in voices.list_embedded())
    for rate, chosen in ((8000, small), (16000, small), (24000, best), (48000, best)):
        path = voices.embedded_voice(rate)
        assert voices.embedded_name(rate) == path.stem == chosen
        assert voices.resolve(chosen, tmp_path, "http://127.0.0.1:9") == path
