"""Piper voices by name: those that ship with Parley, those in the cache, and those on the hub.

A voice is two files, `NAME.onnx` and `NAME.onnx.json`. Names are the hub's, like
`en_US-ljspeech-medium`: language, speaker or data set, quality. The hub's layout is that of
`rhasspy/piper-voices`, and its catalogue is `voices.json` there.
"""

import difflib
import hashlib
import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import httpx

from services.errors import EngineError, UnavailableError, UnknownVoiceError
from services.reach import REACH_S, within
from services.tts.engine import VoiceInfo

HUB = "https://huggingface.co/rhasspy/piper-voices/resolve/main"
"""Where voices come from. A mirror with the same layout serves as well."""

DEFAULT_VOICE = "en_US-ljspeech-medium"
"""The voice to fetch when the user names none: its recordings are in the public domain, while those
of many others, `lessac` among them, are for research only (see each voice's MODEL_CARD)."""

STALL_S = 10.0
"""Seconds without a byte after which a download is given up."""

DOWNLOAD_S = 900.0
"""Seconds within which a file has to be complete."""

MAX_VOICE_BYTES = 512 * 1024**2
MAX_CATALOGUE_BYTES = 8 * 1024**2

_NAME = re.compile(
    r"(?P<language>(?P<family>[a-z]{2,3})_[A-Z0-9]{2,3})-(?P<speaker>\w+)-(?P<quality>\w+)"
)
_MAX_NAME = 100
_EMBEDDED = Path(__file__).parent / "embedded"
_EMBEDDED_BY_RATE = {16000: "en_US-slt_tiny-16k", 24000: "en_US-slt_tiny-24k"}

EMBEDDED = frozenset(_EMBEDDED_BY_RATE.values())
"""The names of the voices that ship with Parley."""


class Progress(Protocol):
    """Told how far a download is, from the thread that downloads."""

    def __call__(self, name: str, done: int, total: int) -> None:
        """`done` of `total` bytes of the file `name` are here."""
        ...


def embedded_name(sample_rate: int) -> str:
    """The name of the voice that ships with Parley, at the rate that suits `sample_rate` best.

    Args:
        sample_rate: Samples a second of what carries the call: at 16000 or less, as on the
            telephone, a smaller voice loses nothing.
    """
    return _EMBEDDED_BY_RATE[16000 if sample_rate <= 16000 else 24000]


def embedded_voice(sample_rate: int) -> Path:
    """The `.onnx` of the voice that ships with Parley; see `embedded_name`."""
    return _EMBEDDED / f"{embedded_name(sample_rate)}.onnx"


def find_voice(name: str, cache: Path) -> Path | None:
    """The `.onnx` of a voice that is on this machine: embedded or in the cache.

    Args:
        name: As the hub spells it. It may come from anywhere: a name that could lead out of the
            cache is not one.
        cache: The folder that downloads go to.

    Returns:
        The path, or None where the voice is not here.

    Raises:
        UnknownVoiceError: No voice can have that name.
    """
    _parse(name)
    for folder in (_EMBEDDED, cache):
        path = folder / f"{name}.onnx"
        if _is_complete(path):
            return path
    return None


def resolve(
    name: str,
    cache: Path,
    hub: str = HUB,
    progress: Progress | None = None,
    *,
    offline: bool = False,
) -> Path:
    """The `.onnx` of a voice, downloaded into the cache if it is not on this machine.

    Args:
        name: As the hub spells it; checked as in `find_voice`.
        cache: The folder that downloads go to; made where missing.
        hub: Base address of the hub.
        progress: Told how far the download is.
        offline: Do not ask the hub.

    Raises:
        UnknownVoiceError: No voice has that name; the message names close ones.
        UnavailableError: The hub may not be asked or cannot be reached within `REACH_S`, or its
            file is not the one that its catalogue describes. Nothing is left behind.
    """
    here = find_voice(name, cache)
    if here is not None:
        return here
    if offline:
        raise UnavailableError(f"voice {name} is not here, and this run is offline")
    return _download(name, cache, hub, progress)


def local_voice(path: Path) -> Path:
    """The `.onnx` of a voice that the operator names by its path.

    Not for names that come in over a network.

    Raises:
        UnknownVoiceError: There is no such file, or its `.onnx.json` is missing.
    """
    if not path.is_file():
        raise UnknownVoiceError(f"there is no voice file {path}")
    if not _is_complete(path):
        raise UnknownVoiceError(f"the voice {path} lacks its settings file {path.name}.json")
    return path


def list_cached(cache: Path) -> tuple[VoiceInfo, ...]:
    """The voices that are in the cache, by name; not those whose settings file cannot be read."""
    listed = []
    for path in sorted(cache.glob("*.onnx")):
        if _NAME.fullmatch(path.stem) and _is_complete(path):
            with suppress(EngineError):
                listed.append(describe(path))
    return tuple(listed)


def list_embedded() -> tuple[VoiceInfo, ...]:
    """The voices that ship with Parley, the better one first."""
    return tuple(describe(embedded_voice(rate)) for rate in (24000, 16000))


def describe(path: Path) -> VoiceInfo:
    """What a list shows of the voice at `path`, out of its settings file.

    Raises:
        EngineError: The settings file cannot be read.
    """
    try:
        config = json.loads(Path(f"{path}.json").read_text("utf-8"))
        language = config.get("language", {}).get("code") or path.stem.partition("-")[0]
        code = language.replace("_", "-")
    except (OSError, ValueError, AttributeError) as error:
        raise EngineError(f"the settings file of the voice {path} cannot be read") from error
    speaker, _, quality = path.stem.partition("-")[2].rpartition("-")
    label = f"{speaker.replace('_', ' ')}, {quality} ({code})" if speaker else path.stem
    return VoiceInfo(path.stem, label, code)


def unknown(name: str, names: list[str]) -> UnknownVoiceError:
    """The error for a voice that is none of `names`, naming the closest of them."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = f"; close to it: {', '.join(close)}" if close else ""
    return UnknownVoiceError(f"there is no voice {name[:_MAX_NAME]!r}{hint}")


def _parse(name: str) -> re.Match[str]:
    """The parts of a voice's name. Word characters and hyphens only: never a path."""
    match = _NAME.fullmatch(name) if len(name) <= _MAX_NAME else None
    if match is None:
        raise UnknownVoiceError(
            f"{name[:_MAX_NAME]!r} is not a voice: names are like {DEFAULT_VOICE}"
        )
    return match


def _is_complete(path: Path) -> bool:
    return path.is_file() and Path(f"{path}.json").is_file()


def _download(name: str, cache: Path, hub: str, progress: Progress | None) -> Path:
    """Fetch both files of a voice.

    Two processes may do so at once: each has a folder of its own until both files are complete,
    and the one that finishes last replaces equal with equal.
    """
    parts = _parse(name)
    place = "/".join(parts.group("family", "language", "speaker", "quality"))
    timeout = httpx.Timeout(STALL_S, connect=REACH_S)
    with _explained(name, hub), httpx.Client(timeout=timeout, follow_redirects=True) as client:
        catalogue = _catalogue(client, hub)
        if name not in catalogue:
            raise unknown(name, [*catalogue, *_EMBEDDED_BY_RATE.values()])
        files = catalogue[name]["files"]
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache) as folder:
            suffixes = (".onnx.json", ".onnx")
            for suffix in suffixes:
                entry = files[f"{place}/{name}{suffix}"]
                _fetch(
                    client,
                    f"{hub.rstrip('/')}/{place}/{name}{suffix}",
                    Path(folder, name + suffix),
                    size=int(entry["size_bytes"]),
                    md5=str(entry["md5_digest"]),
                    progress=progress,
                )
            # The model last: a voice is one once both files are there.
            for suffix in suffixes:
                Path(folder, name + suffix).replace(cache / (name + suffix))
    return cache / f"{name}.onnx"


@contextmanager
def _explained(name: str, hub: str) -> Iterator[None]:
    """Tell what went wrong with a download as one line."""
    try:
        yield
    except (httpx.TransportError, TimeoutError) as error:
        reason = f"the voice hub {hub} cannot be reached ({error or type(error).__name__})"
    except httpx.HTTPStatusError as error:
        reason = f"the voice hub answered {error.response.status_code} for {error.request.url}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = f"the voice hub {hub} cannot be used ({error})"
    except (KeyError, TypeError, AttributeError, ValueError):
        reason = f"the catalogue of the voice hub {hub} does not describe it"
    except OSError as error:
        reason = f"it cannot be stored ({error})"
    else:
        return
    raise UnavailableError(f"voice {name}: {reason}")


def _catalogue(client: httpx.Client, hub: str) -> dict[str, Any]:
    """The hub's `voices.json`: by voice, its files with `size_bytes` and `md5_digest`."""
    request = client.build_request("GET", f"{hub.rstrip('/')}/voices.json")
    response = within(REACH_S, lambda: client.send(request, stream=True))
    try:
        response.raise_for_status()
        body = bytearray()
        deadline = time.monotonic() + STALL_S
        for block in response.iter_bytes():
            body += block
            if len(body) > MAX_CATALOGUE_BYTES:
                raise ValueError("too large")
            if time.monotonic() > deadline:
                raise TimeoutError("its catalogue takes too long")
    finally:
        response.close()
    catalogue = json.loads(bytes(body))
    if not isinstance(catalogue, dict):
        raise TypeError("not a catalogue")
    return catalogue


def _fetch(
    client: httpx.Client,
    url: str,
    target: Path,
    *,
    size: int,
    md5: str,
    progress: Progress | None,
) -> None:
    """Download one file and check that it is the one expected."""
    if size > MAX_VOICE_BYTES:
        raise UnavailableError(f"{target.name} is too large ({size} bytes)")
    # The hub publishes MD5 only. It finds a broken transfer; who sent it, TLS says.
    digest = hashlib.md5(usedforsecurity=False)
    done = 0
    deadline = time.monotonic() + DOWNLOAD_S
    with target.open("wb") as file, client.stream("GET", url) as response:
        response.raise_for_status()
        for block in response.iter_bytes():
            done += len(block)
            if done > size:
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{target.name} takes too long")
            digest.update(block)
            file.write(block)
            if progress:
                progress(target.name, done, size)
    if done != size or digest.hexdigest() != md5.lower():
        raise UnavailableError(
            f"{target.name} as sent by the hub is not the file that its catalogue describes"
        )
