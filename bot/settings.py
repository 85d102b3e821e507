"""Every setting of the agent, once: its flag, environment variable, default and meaning.

`services.settings` tells how they are spelled, and has those of the engines.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from services import settings as command_line
from services.settings import (
    Address,
    CommaList,
    EngineSettings,
    Key,
    Place,
    Program,
    SettingsError,
    secret,
    setting,
)
from services.tts.engine import SPEED_LIMITS

__all__ = ["OPENAI_MODEL", "Settings", "SettingsError", "load"]

OPENAI_MODEL = "gpt-4.1-mini"
"""What OpenAI is asked for when no model is named."""

_PROGRAM = Program(
    name="python bot/main.py",
    description="A voice agent that you can talk to: open the address it prints.",
    epilog="Each setting is also an environment variable or a line in .env: --tts-voice is "
    "PARLEY_TTS_VOICE, but the mind's address is OPENAI_BASE_URL. Secrets are variables alone: "
    "OPENAI_API_KEY for the mind and all else that OpenAI does; PARLEY_TTS_API_KEY and "
    "PARLEY_STT_API_KEY for other endpoints of --tts openai and --stt openai; PARLEY_WORKER_TOKEN "
    "for workers.",
)


def _are_stun(urls: list[str]) -> list[str]:
    for url in urls:
        if not re.fullmatch(r"stun:[^\s:/]+(:\d+)?", url):
            raise ValueError(f"{url!r} is not like stun:stun.example.org:3478")
    return urls


def _nothing(value: object) -> object:
    return value or None


class Settings(EngineSettings):
    """The settings in force, validated together."""

    # Server
    list: bool = setting(
        "Server", False, "show what can speak, hear and think here, what else lacks, and stop"
    )
    host: str = setting("Server", "127.0.0.1", "address to listen on")
    port: int = setting("Server", 7860, "port to listen on; 0 takes a free one", ge=0, le=65535)
    max_calls: int = setting("Server", 8, "calls at once; the next one is told to wait", ge=1)
    max_call_seconds: float = setting(
        "Server", 3600.0, "longest call; the agent says so and hangs up", gt=0
    )
    connect_seconds: float = setting(
        "Server", 15.0, "how long a caller's media may take to connect", gt=0
    )
    drain_seconds: float = setting(
        "Server", 30.0, "how long calls may go on after SIGTERM or Ctrl-C", ge=0
    )
    stun_servers: Annotated[CommaList, AfterValidator(_are_stun)] = setting(
        "Server", [], "stun:host:port, comma-separated, for callers behind other networks"
    )
    allowed_origins: CommaList = setting(
        "Server", [], "web origins besides our own that may start calls, comma-separated"
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "Server", "info", "how much is logged"
    )

    # Who answers
    agent: Path | None = setting(
        "Who answers", None, "YAML file that says who answers (see bot/agent.example.yaml)"
    )

    # Voice
    tts: Place = setting(
        "Voice",
        "piper",
        "what the agent speaks with; or workers: ws://a:7001,ws://b:7001 or redis://host:6379",
    )
    tts_fallback: Annotated[str | None, BeforeValidator(_nothing)] = setting(
        "Voice", None, "what speaks here when no worker does; nothing unless it is set"
    )
    tts_speed: float = setting(
        "Voice", 1.0, "pace; 2.0 is twice as fast", ge=SPEED_LIMITS[0], le=SPEED_LIMITS[1]
    )
    tts_first_clause_words: int = setting(
        "Voice", 4, "words a reply's first clause needs to be spoken early; 0 waits", ge=0
    )

    # Ear
    stt: Place = setting(
        "Ear",
        "auto",
        "what the agent hears with, or workers as for --tts; auto takes Whisper where its model "
        "can be had",
    )

    # Workers
    worker_first_audio: float = setting(
        "Workers", 2.0, "seconds without a sound after which another worker is asked", gt=0, le=60
    )
    worker_token: Key | None = secret("what workers ask of those who use them")

    # Mind
    llm: str = setting(
        "Mind",
        "auto",
        "what the agent thinks with; auto takes OPENAI_API_KEY or OPENAI_BASE_URL, "
        "else a local Ollama, else the built-in responder",
    )
    openai_base_url: Address | None = setting(
        "Mind",
        None,
        "address of an OpenAI-compatible endpoint",
        validation_alias="OPENAI_BASE_URL",
    )
    llm_model: str | None = setting(
        "Mind", None, f"model to ask for (default: {OPENAI_MODEL} at OpenAI, Ollama's latest)"
    )
    llm_temperature: float | None = setting("Mind", None, "0 is the most sober", ge=0, le=2)
    llm_timeout: float = setting("Mind", 8.0, "seconds that the model may stay silent", gt=0)
    ollama_url: Address = setting("Mind", "http://127.0.0.1:11434", "where a local Ollama answers")

    # Turns
    vad_confidence: float = setting("Turns", 0.7, "how sure Silero must be of speech", ge=0, le=1)
    vad_start_seconds: float = setting(
        "Turns",
        0.12,
        "speech that counts as the caller speaking; less interrupts sooner",
        gt=0,
        le=5,
    )
    vad_stop_seconds: float = setting("Turns", 0.2, "silence that counts as a pause", gt=0, le=5)
    vad_min_volume: float = setting(
        "Turns", 0.0, "loudness below which speech is ignored, 0 to 1", ge=0, le=1
    )
    turn_end: Literal["smart", "timeout"] = setting(
        "Turns", "smart", "what ends the caller's turn: the smart-turn model, or silence alone"
    )
    turn_stop_seconds: float = setting(
        "Turns", 2.0, "silence that ends a turn which smart-turn believes unfinished", gt=0, le=60
    )
    turn_timeout_seconds: float = setting(
        "Turns", 0.6, "silence that ends a turn with --turn-end timeout", gt=0, le=60
    )
    idle_seconds: float = setting(
        "Turns", 20.0, "silence after which the agent asks if anyone is there; 0 never", ge=0
    )
    idle_prompts: int = setting("Turns", 2, "times it asks before it hangs up", ge=0)


def load(argv: Sequence[str], choices: Mapping[str, Sequence[str]] | None = None) -> Settings:
    """The settings that the command line, the environment and `.env` make.

    Args:
        argv: The arguments after the program's name.
        choices: The values that a setting may take, for settings whose choice grows with the
            catalog: `{"tts": ["piper"], …}`.

    Raises:
        SettingsError: A flag is unknown or a value is wrong.
        SystemExit: `--help` was asked for and printed.
    """
    return command_line.load(Settings, _PROGRAM, argv, choices or {})
