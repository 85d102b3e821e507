"""Reference clips: which are taken, and what is said of those that are not."""

from pathlib import Path

import numpy as np
import pytest

from services.errors import EngineError
from services.tts.references import ANY_LANGUAGE, find_references
from tests.fakes.clips import write_clip


def test_no_folder_has_no_clips() -> None:
    """Cloning is a choice: without a folder there are no cloned voices."""
    assert find_references(None) == {}


def test_clips_by_name_in_order(tmp_path: Path) -> None:
    """Each clip is a voice under its file's name, whatever else lies in the folder."""
    write_clip(tmp_path / "zoe.wav")
    write_clip(tmp_path / "adam.WAV", text="Grüße,\n aus Köln. ".encode())
    (tmp_path / "README.md").write_text("notes")
    found = find_references(tmp_path)
    assert list(found) == ["adam", "zoe"]
    assert found["adam"].text == "Grüße, aus Köln."
    assert found["zoe"].audio == tmp_path / "zoe.wav"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    """What an editor on Windows writes is taken."""
    write_clip(tmp_path / "a.wav", text=b"\xef\xbb\xbfhello")
    assert find_references(tmp_path)["a"].text == "hello"


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("de-anna", "de"),
        ("en_US-joe-loud", "en-US"),
        ("yue-ming", "yue"),
        ("anna", ANY_LANGUAGE),
        ("mary-ann", ANY_LANGUAGE),
        ("de-", ANY_LANGUAGE),
    ],
)
def test_the_name_tells_the_language(tmp_path: Path, name: str, language: str) -> None:
    """A tag in front is the voice's language; without one a voice speaks any."""
    write_clip(tmp_path / f"{name}.wav")
    assert find_references(tmp_path)[name].language == language


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"text": None}, r"a\.wav needs the words that are said in it, in a\.txt"),
        ({"text": b" \n"}, "is empty"),
        ({"text": b"gr\xfc\xdfe"}, "is not UTF-8"),
        ({"seconds": 0.5}, r"lasts 0\.5 s: 1 to 30 s"),
        ({"seconds": 30.5}, r"lasts 30\.5 s: 1 to 30 s"),
        ({"seconds": 0.0}, r"lasts 0\.0 s"),
        ({"rate": 8000}, "has 8000 samples a second: 16000 are the least"),
        ({"width": 3}, "24 bits a sample: save it as 16-bit PCM"),
    ],
)
def test_a_clip_of_no_use_is_one_line(
    tmp_path: Path, clip: dict[str, object], message: str
) -> None:
    """What is wrong with a clip is said at start with its name, not found out in a call."""
    write_clip(tmp_path / "a.wav", **clip)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=message) as caught:
        find_references(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"ID3\x04 this is an mp3", b"RIFF\x10\x00\x00\x00WAVE"])
def test_what_is_not_a_wav_is_one_line(tmp_path: Path, content: bytes) -> None:
    """A file that only bears the name of a WAV says what to save it as."""
    write_clip(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(EngineError, match=r"cannot be read as WAV.*16-bit PCM") as caught:
        find_references(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_clip_that_was_cut_off_counts_what_is_there(tmp_path: Path) -> None:
    """A header that promises more than the file holds does not make the clip longer."""
    write_clip(tmp_path / "a.wav", seconds=5)
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[: 44 + 24000])
    with pytest.raises(EngineError, match=r"lasts 0\.5 s"):
        find_references(tmp_path)


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    """A folder that is not there is named."""
    with pytest.raises(EngineError, match=r"nowhere cannot be read: No such file"):
        find_references(tmp_path / "nowhere")


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (24000, 1)])
def test_samples_at_any_rate(tmp_path: Path, rate: int, channels: int) -> None:
    """A clip comes as one channel in -1 to 1 at the rate asked for, its pitch unchanged."""
    write_clip(tmp_path / "a.wav", rate=rate, channels=channels)
    samples = find_references(tmp_path)["a"].samples(24000)
    assert samples.dtype == np.float32
    assert samples.shape == pytest.approx((48000,), abs=2)
    spectrum = np.abs(np.fft.rfft(samples[:24000]))
    assert int(spectrum.argmax()) == 440
    assert float(np.abs(samples).max()) == pytest.approx(8000 / 32768, rel=0.02)
