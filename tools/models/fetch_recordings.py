"""Fetches the real speech that tests and benchmarks play to the agent.

    python tools/models/fetch_recordings.py [--out .cache/speech] [--sdist FILE]

The recordings come out of the source distribution of pocketsphinx 5.1.1 (BSD-2-Clause; the
LibriVox sentences in it are in the public domain), which pip downloads. Each becomes a 16 kHz
16-bit mono WAV file. What is already there is left alone.
"""

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import wave
from pathlib import Path

REQUIREMENT = "pocketsphinx==5.1.1"
SHA256 = "675778b309a22dfc9b7d37f7621976bba491d2a5f8c59696bd77fd6d07271355"
"""Of `pocketsphinx-5.1.1.tar.gz`, as the package index publishes it."""
DATA = "pocketsphinx-5.1.1/test/data/"
SAMPLE_RATE = 16000

RECORDINGS = {
    "goforward": "goforward.raw",
    "something": "something.raw",
    "numbers": "numbers.raw",
    "clubs": "cards/001.wav",
    "hearts": "cards/005.wav",
    "dashwood": "librivox/sense_and_sensibility_01_austen_64kb-0870.wav",
    "illdisposed": "librivox/sense_and_sensibility_01_austen_64kb-0880.wav",
    "coldhearted": "librivox/sense_and_sensibility_01_austen_64kb-0890.wav",
    "respectable": "librivox/sense_and_sensibility_01_austen_64kb-0920.wav",
    "amiable": "librivox/sense_and_sensibility_01_austen_64kb-0930.wav",
}
"""What each recording is called here, and where it lies in the distribution's test data."""


def download(folder: Path) -> Path:
    """Download the source distribution with pip, which knows the index this machine uses.

    Raises:
        SystemExit: pip failed; the message ends with what it said.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", "pocketsphinx", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise SystemExit(f"fetch_recordings: pip could not download {REQUIREMENT}: {reason[0]}")
    return next(folder.glob("pocketsphinx-*.tar.gz"))


def unpack(sdist: Path, out: Path) -> None:
    """Write every recording of `sdist` to `out` as a WAV file.

    Raises:
        SystemExit: The archive is not the one whose hash is known.
    """
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"fetch_recordings: {sdist.name} has SHA-256 {digest}, expected {SHA256}")
    out.mkdir(parents=True, exist_ok=True)
    with tarfile.open(sdist) as archive:
        for name, member in RECORDINGS.items():
            source = archive.extractfile(DATA + member)
            if source is None:
                raise SystemExit(f"fetch_recordings: {member} is not a file in {sdist.name}")
            if member.endswith(".wav"):
                with wave.open(source) as wav:
                    pcm = wav.readframes(wav.getnframes())
            else:
                pcm = source.read()
            # Renamed into place, so that a file that is there is whole.
            part = out / f"{name}.part"
            with wave.open(str(part), "wb") as wav:
                wav.setnchannels(1)
                wav.setsampwidth(2)
                wav.setframerate(SAMPLE_RATE)
                wav.writeframes(pcm)
            part.replace(out / f"{name}.wav")


def main() -> None:
    """Fetch what is missing."""
    parser = argparse.ArgumentParser(description="Fetch the recordings of speech for the tests.")
    parser.add_argument("--out", type=Path, default=Path(".cache/speech"), help="folder to fill")
    parser.add_argument("--sdist", type=Path, help="a copy of the source distribution to use")
    arguments = parser.parse_args()
    if all((arguments.out / f"{name}.wav").is_file() for name in RECORDINGS):
        return
    if arguments.sdist is not None:
        unpack(arguments.sdist, arguments.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        unpack(download(Path(folder)), arguments.out)


if __name__ == "__main__":
    main()
