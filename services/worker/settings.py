"""Every setting of a worker, once."""

import re
import socket
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import field_validator

from services import command_line
from services.command_line import Program
from services.reach import LOOPBACK
from services.settings import CommaList, EngineSettings, Key, SettingsError, secret, setting

PROGRAM = Program(
    name="python -m services.worker",
    description="A worker: engines that speak and hear for agents elsewhere.",
    epilog="Each setting is also an environment variable or a line in .env: --tts-voice is "
    "PARLEY_TTS_VOICE, but the limits are MAX_CONCURRENT_SESSIONS, RESIDENT_CAP and TTL_MS. The "
    "token that clients have to show is PARLEY_WORKER_TOKEN.",
)


class WorkerSettings(EngineSettings):
    """The settings in force, validated together."""

    # Worker
    engine: str | None = setting("Worker", None, "what speaks")
    stt: str | None = setting("Worker", None, "what hears")
    host: str = setting("Worker", "127.0.0.1", "address to listen on")
    port: int = setting("Worker", 7001, "port to listen on; 0 takes a free one", ge=0, le=65535)
    wyoming_port: int | None = setting(
        "Worker", None, "port for Home Assistant's Wyoming protocol", ge=0, le=65535
    )
    wyoming_host: str = setting(
        "Worker", "127.0.0.1", "address for it; the protocol knows no token, so take care"
    )
    max_concurrent_sessions: int = setting(
        "Worker",
        8,
        "utterances at once; the next one is told that the worker is busy",
        ge=1,
        validation_alias="MAX_CONCURRENT_SESSIONS",
    )
    preload: CommaList = setting(
        "Worker", list, "voices to load at start besides the default one, comma-separated"
    )
    resident_cap: int | None = setting(
        "Worker",
        None,
        "models kept in memory; above, the one unused for longest goes",
        ge=1,
        validation_alias="RESIDENT_CAP",
    )
    ttl_ms: float | None = setting(
        "Worker",
        None,
        "milliseconds after which a model that nobody uses goes",
        gt=0,
        validation_alias="TTL_MS",
    )
    redis: str | None = setting(
        "Worker", None, "redis://host:port of the Redis by which agents find workers"
    )
    public_url: str | None = setting(
        "Worker", None, "where agents reach this worker (default: ws://HOST:PORT)"
    )
    drain_seconds: float = setting(
        "Worker", 30.0, "how long utterances may go on after SIGTERM or Ctrl-C", ge=0
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "Worker", "info", "how much is logged"
    )
    worker_token: Key | None = secret("what clients have to show")

    @field_validator("redis")
    @classmethod
    def _is_redis(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"rediss?://[^\s/]+", value):
            raise ValueError("an address is like redis://host:6379")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_websocket(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"wss?://[^\s/?#]+(/[^\s?#]*)?", value):
            raise ValueError("an address is like ws://host:7001")
        return value

    def url(self, port: int) -> str:
        """Where agents reach this worker.

        Args:
            port: The port that is listened on.
        """
        if self.public_url:
            return self.public_url
        everywhere = self.host in ("0.0.0.0", "::", "")
        # Containers of one network know each other by it; so do machines that have a DNS.
        name = socket.gethostname() if everywhere else self.host
        return f"ws://[{name}]:{port}" if ":" in name else f"ws://{name}:{port}"

    @property
    def open_to_all(self) -> bool:
        """Whether other machines can use it without showing anything."""
        return self.host not in LOOPBACK and self.worker_token is None


def load(argv: Sequence[str], choices: Mapping[str, Sequence[str]]) -> WorkerSettings:
    """The settings in force.

    Args:
        argv: The arguments after the program's name.
        choices: The names that `engine` and `stt` may have.

    Raises:
        SettingsError: A flag is unknown, a value is wrong, or there is nothing to do.
        SystemExit: `--help` was asked for and printed.
    """
    settings = command_line.load(WorkerSettings, PROGRAM, argv, choices)
    if not settings.engine and not settings.stt:
        raise SettingsError(
            "--engine: name what speaks, or with --stt what hears; both will do, too"
        )
    return settings
