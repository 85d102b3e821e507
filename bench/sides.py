"""The two sides, each a server in a process of its own with the same voice, ear and mind."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench import probe, stock_bot
from bot.agent import Agent
from tests.callers.server import ROOT, AgentServer

VOICE = ROOT / "services/tts/embedded/en_US-slt_tiny-24k.onnx"
FULL_SIZE_VOICE = ROOT / ".cache/models/piper-medium.onnx"
"""A voice of the usual 63 MB. Its weights are random, so it is no voice to call."""

WHISPER = ROOT / ".cache/models/whisper-tiny-random"
"""Hears words that nobody said: good enough for what is measured, which is not what was heard."""

FLAGS = (
    *("--offline", "--stt", "whisper", "--whisper-model", str(WHISPER), "--llm", "openai"),
    # A call of the stock bot may be silent for as long as it likes.
    *("--idle-seconds", "0"),
)
"""What each of our servers is told."""

RECORDINGS = ROOT / ".cache/speech"


def ours(mind: Mapping[str, str], lag: Path | None = None) -> AgentServer:
    """`bot/main.py`, not yet started.

    Args:
        mind: The variables by which it finds its language model.
        lag: Where a probe in its event loop writes; None for no probe.
    """
    return _server("bot/main.py", "/health", ("--tts-voice", str(VOICE), *FLAGS), mind, lag)


def through_workers(mind: Mapping[str, str], place: str, *flags: str) -> AgentServer:
    """`bot/main.py` whose voice is in workers, not yet started.

    Args:
        mind: The variables by which it finds its language model.
        place: What `--tts` takes: the workers' addresses, or that of a Redis.
        flags: More of its flags.
    """
    return _server("bot/main.py", "/health", ("--tts", place, *FLAGS, *flags), mind, None)


def peer(mind: Mapping[str, str], lag: Path | None = None) -> AgentServer:
    """`bench/stock_bot.py`, not yet started; the arguments are those of `ours`."""
    env = {
        **mind,
        stock_bot.VOICE: str(VOICE),
        stock_bot.WHISPER: str(WHISPER),
        stock_bot.GREETING: Agent().greeting,
    }
    return _server("bench/stock_bot.py", "/status", (), env, lag)


SIDES = (ours, peer)


@contextlib.contextmanager
def both(
    mind: Mapping[str, str], lag: tuple[Path | None, Path | None] = (None, None)
) -> Iterator[tuple[AgentServer, AgentServer]]:
    """Both servers, running: ours and the peer's."""
    with ours(mind, lag[0]) as first, peer(mind, lag[1]) as second:
        yield first, second


def _server(
    script: str, health: str, flags: tuple[str, ...], env: Mapping[str, str], lag: Path | None
) -> AgentServer:
    python: tuple[str, ...] = (sys.executable,)
    if lag:
        python, env = (sys.executable, "-m", "bench.probe"), {**env, probe.VARIABLE: str(lag)}
    return AgentServer(*flags, script=script, health=health, env=env, python=python)
