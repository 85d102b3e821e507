"""The teacher: Festival's front end and the HMM voice `cmu_us_slt_arctic_hts`.

Festival turns text into labels, `hts_engine`'s library turns labels into frame parameters. Its
synthesis being a closed form, the parameters are the voice: nothing is measured from audio.
"""

import re
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tools.voice.phones import PAUSE

VOICE_FILE = Path(
    "/usr/share/festival/voices/us/cmu_us_slt_arctic_hts/hts/cmu_us_slt_arctic_hts.htsvoice"
)
"""Where Debian's `festvox-us-slt-hts` puts the voice: 32 kHz, 5 ms frames, 45 mel-cepstra."""

STATES = 5
"""States of each phone's HMM."""

FRAME_SECONDS = 0.005
"""What one frame of parameters covers."""

_HERE = Path(__file__).parent
_PHONE = re.compile(r"-(.+?)\+")


@dataclass(frozen=True, slots=True)
class Reading:
    """How the teacher says one sentence.

    Attributes:
        labels: S full-context labels, one a phone, in the HTS format of Festival.
        durations: Frames of 5 ms in each state of each phone, int32 [S, STATES].
        log_f0: Natural logarithm of the pitch in Hz, float32 [F]; -1e10 where unvoiced.
        cepstra: Mel-cepstrum at 32 kHz with warping 0.45, c0 first, float32 [F, 45].
    """

    labels: tuple[str, ...]
    durations: npt.NDArray[np.int32]
    log_f0: npt.NDArray[np.float32]
    cepstra: npt.NDArray[np.float32]

    @property
    def phones(self) -> list[str]:
        """The S phones of the labels."""
        return [phone_of(label) for label in self.labels]


def phone_of(label: str) -> str:
    """The phone that a full-context label describes.

    Args:
        label: `p1^p2-p3+p4=p5@…`, of which p3 is the phone.

    Raises:
        ValueError: The label has another form.
    """
    found = _PHONE.search(label)
    if found is None:
        raise ValueError(f"not an HTS label: {label!r}")
    return found[1]


def rises(labels: Sequence[str]) -> bool:
    """Whether Festival meant the sentence's last phrase to rise (ToBI `H-H%`).

    Args:
        labels: The sentence's labels.
    """
    spoken = [label for label in labels if phone_of(label) != PAUSE]
    return "|H-H%/I" in spoken[-1]


def last_stress(labels: Sequence[str]) -> int:
    """The index of the first phone of the last stressed syllable.

    Args:
        labels: The sentence's labels; `/B:1-` marks a stressed syllable, `@1_` its first phone.

    Returns:
        An index into `labels`: the first spoken phone where no syllable is stressed.
    """
    spoken = [index for index, label in enumerate(labels) if phone_of(label) != PAUSE]
    at = len(spoken) - 1
    while at > 0 and "/B:1-" not in labels[spoken[at]]:
        at -= 1
    while at > 0 and "@1_" not in labels[spoken[at]].split("/")[0]:
        at -= 1
    return spoken[at]


def read(folder: Path, name: str) -> Reading | None:
    """What `speak` wrote for one sentence.

    Args:
        folder: The folder that `speak` was given.
        name: The sentence's name.

    Returns:
        The reading, or None where the teacher could not read the sentence.
    """
    path = folder / "parameters" / f"{name}.bin"
    if not path.exists():
        return None
    labels = (folder / "labels" / f"{name}.lab").read_text(encoding="utf-8").splitlines()
    data = path.read_bytes()
    segments, frames, order = (int(value) for value in np.frombuffer(data, np.int32, 3))
    if segments != len(labels):
        return None
    durations = np.frombuffer(data, np.int32, segments * STATES, 12).reshape(segments, STATES)
    rows = np.frombuffer(data, np.float32, frames * (1 + order), 12 + durations.nbytes)
    rows = rows.reshape(frames, 1 + order)
    return Reading(tuple(labels), durations, rows[:, 0], rows[:, 1:])


def _compile(folder: Path) -> Path:
    program = folder / "hts_parameters"
    source = _HERE / "hts_parameters.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-o", program, source, "-lHTSEngine", "-lm"], check=True)
    return program


def _write_labels(sentences: Sequence[tuple[str, str]], labels: Path, script: Path) -> None:
    """Run Festival over `sentences`, with `script` as scratch."""
    lines = [f'(load "{_HERE / "labels.scm"}")']
    for name, text in sentences:
        quoted = text.replace("\\", "").replace('"', "")
        lines.append(f'(save_labels "{name}" "{quoted}" "{labels}")')
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with script.with_suffix(".log").open("w", encoding="utf-8") as log:
        subprocess.run(["festival", "-b", script], check=True, stdout=log, stderr=log)


def _write_parameters(names: Iterable[str], program: Path, folder: Path) -> None:
    """Run the C program over the label files of `names`."""
    files = ((name, folder / "labels" / f"{name}.lab") for name in names)
    listing = "".join(f"{name} {path}\n" for name, path in files if path.exists())
    subprocess.run(
        [program, VOICE_FILE, folder / "parameters"], check=True, input=listing, text=True
    )


def speak(sentences: Sequence[tuple[str, str]], folder: Path, jobs: int) -> None:
    """Write the labels and the parameters of every sentence, about 15 ms of a core each.

    Args:
        sentences: Pairs of a name (a file name without suffix) and its text.
        folder: Gets `labels/NAME.lab` and `parameters/NAME.bin`; `read` finds them there. Its path
            must hold no blank.
        jobs: Processes at a time.

    Raises:
        FileNotFoundError: gcc, Festival or the HMM voice is not installed.
        subprocess.CalledProcessError: One of them failed.
    """
    if not VOICE_FILE.exists():
        raise FileNotFoundError(f"no {VOICE_FILE}: install festvox-us-slt-hts")
    folder = folder.resolve()
    for part in ("labels", "parameters", "scratch"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    program = _compile(folder / "scratch")

    def work(job: int) -> None:
        share = sentences[job::jobs]
        _write_labels(share, folder / "labels", folder / "scratch" / f"{job}.scm")
        _write_parameters((name for name, _ in share), program, folder)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, range(jobs)))
