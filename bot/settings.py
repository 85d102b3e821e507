"""Every setting of the agent, once: its flag, environment variable, default and meaning.

`services.settings` tells how they are spelled, and has those of the engines.
"""

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, SecretStr

from bot.line import is_number
from services import command_line
from services.command_line import Program
from services.reach import LOOPBACK, origin_of
from services.settings import (
    Address,
    CommaList,
    EngineSettings,
    Key,
    Place,
    SettingsError,
    secret,
    setting,
)
from services.tts.engine import SPEED_LIMITS

__all__ = ["OPENAI_MODEL", "Settings", "SettingsError", "load"]

OPENAI_MODEL = "gpt-4.1-mini"
"""What OpenAI is asked for when no model is named."""

MIN_KEY = 16
"""Characters of an API key: with fewer, it could be guessed."""

_PROGRAM = Program(
    name="python bot/main.py",
    description="A voice agent that you can talk to: open the address it prints.",
    epilog="Each setting is also an environment variable or a line in .env: --tts-voice is "
    "PARLEY_TTS_VOICE, but the mind's address is OPENAI_BASE_URL. Secrets are variables alone: "
    "OPENAI_API_KEY for the mind and all else that OpenAI does; PARLEY_TTS_API_KEY and "
    "PARLEY_STT_API_KEY for other endpoints of --tts openai and --stt openai; PARLEY_WORKER_TOKEN "
    "for workers; PARLEY_API_KEY for whoever starts calls; PARLEY_TURN_SECRET for --turn-urls. "
    "Those of rooms and carriers are in docs/daily.md, docs/livekit.md and docs/phone.md.",
)


def _are_stun(urls: list[str]) -> list[str]:
    for url in urls:
        if not re.fullmatch(r"stun:[^\s:/]+(:\d+)?", url):
            raise ValueError(f"{url!r} is not like stun:stun.example.org:3478")
    return urls


def _are_turn(urls: list[str]) -> list[str]:
    for url in urls:
        if not re.fullmatch(r"turns?:[^\s:/?]+(:\d+)?(\?transport=(udp|tcp))?", url):
            raise ValueError(f"{url!r} is not like turn:turn.example.org:3478")
    return urls


def _are_origins(origins: list[str]) -> list[str]:
    for origin in origins:
        if not re.fullmatch(r"https?://[^\s/?#@*]+/?", origin, re.IGNORECASE):
            raise ValueError(f"{origin!r} is not like https://shop.example.org")
    return [origin_of(origin) for origin in origins]


def _are_networks(networks: list[str]) -> list[str]:
    return [str(ip_network(network, strict=False)) for network in networks]


def _are_keys(value: SecretStr | None) -> SecretStr | None:
    if value and any(len(key) < MIN_KEY for key in value.get_secret_value().split(",")):
        raise ValueError(f"a key has {MIN_KEY} characters or more; openssl rand -hex 32 makes one")
    return value


def _is_livekit(url: str) -> str:
    if not re.fullmatch(r"(wss?|https?)://[^\s/]+(/\S*)?", url):
        raise ValueError("the address is like wss://livekit.example.org")
    return url


def _in_e164(value: str) -> str:
    if not is_number(value):
        raise ValueError("a number begins with its country code, like +4930123456")
    return value


Number = Annotated[str, AfterValidator(_in_e164), "NUMBER"]
"""A telephone number in E.164."""


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
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "Server", "info", "how much is logged"
    )
    eval: bool = setting(
        "Server", False, "let pipecat eval drive the agent at ws://…/eval, on this machine alone"
    )

    # Access
    api_key: Annotated[Key | None, AfterValidator(_are_keys)] = secret(
        "what starts and shows calls from elsewhere; several, comma-separated, while one replaces "
        "another"
    )
    insecure: bool = setting(
        "Access", False, "let anybody start calls where --host is not this machine alone"
    )
    public_url: Address | None = setting(
        "Access",
        None,
        "https address under which callers, carriers and rooms reach this server",
    )
    allowed_origins: Annotated[CommaList, AfterValidator(_are_origins)] = setting(
        "Access", [], "web origins whose pages may start calls without a key, comma-separated"
    )
    require_token: bool = setting(
        "Access", False, "have those pages show a start token, which their site makes for them"
    )
    trusted_proxies: Annotated[CommaList, AfterValidator(_are_networks)] = setting(
        "Access",
        [],
        "addresses or networks of proxies whose X-Forwarded-For is believed, comma-separated",
    )
    starts_per_minute: int = setting(
        "Access", 20, "calls that one address may start a minute without the key", ge=1
    )
    total_starts_per_minute: int = setting(
        "Access", 240, "calls that all addresses may start a minute without the key", ge=1
    )
    turn_urls: Annotated[CommaList, AfterValidator(_are_turn)] = setting(
        "Access", [], "turn:host:port, comma-separated: relays for callers whom UDP does not reach"
    )
    turn_seconds: int = setting(
        "Access", 3600, "how long a credential for a relay is good; no shorter than a call", ge=60
    )
    turn_secret: Key | None = secret("what the relays make their credentials from")

    # Daily
    daily_api_key: Key | None = secret("key of Daily's REST API", validation_alias="DAILY_API_KEY")
    daily_dialin_secret: Key | None = secret(
        "what Daily signs its webhook of telephone calls with, in base64"
    )
    daily_room: Address | None = setting("Daily", None, "room that the agent joins at the start")
    daily_token: Key | None = setting(
        "Daily", None, "meeting token for that room; processes see flags, so rather a variable"
    )
    daily_room_minutes: float = setting(
        "Daily", 120.0, "how long a room lasts that we make; no shorter than a call", gt=0
    )
    daily_dialout: bool = setting(
        "Daily", False, "call and transfer to telephones, where the account may do so"
    )
    daily_api_url: Address = setting(
        "Daily", "https://api.daily.co/v1", "where Daily's REST API answers"
    )

    # LiveKit
    livekit_url: Annotated[str, AfterValidator(_is_livekit)] | None = setting(
        "LiveKit",
        None,
        "address of the LiveKit server, for the agent and its callers: wss://host",
        validation_alias="LIVEKIT_URL",
    )
    livekit_api_key: Key | None = secret(
        "key of the LiveKit server", validation_alias="LIVEKIT_API_KEY"
    )
    livekit_api_secret: Key | None = secret(
        "secret of that key, which signs tokens and webhooks", validation_alias="LIVEKIT_API_SECRET"
    )
    livekit_room: str | None = setting("LiveKit", None, "room that the agent joins at the start")
    livekit_prefix: str = setting(
        "LiveKit",
        "parley-",
        "what the names of rooms begin with which the agent answers in, told by LiveKit's webhook",
        min_length=1,
    )

    # Telephone
    voicemail: Literal["hang-up", "message", "ignore"] = setting(
        "Telephone", "hang-up", "what the agent does when a machine answers a call that it placed"
    )
    twilio_account_sid: str | None = setting(
        "Telephone", None, "Twilio account, AC…", validation_alias="TWILIO_ACCOUNT_SID"
    )
    twilio_auth_token: Key | None = secret(
        "auth token of that account, which also signs its webhooks",
        validation_alias="TWILIO_AUTH_TOKEN",
    )
    twilio_number: Number | None = setting(
        "Telephone", None, "number that calls over Twilio are from"
    )
    twilio_api_url: Address = setting(
        "Telephone", "https://api.twilio.com", "where Twilio's REST API answers"
    )
    telnyx_public_key: str | None = setting(
        "Telephone",
        None,
        "key in base64 that Telnyx's webhooks are checked with",
        validation_alias="TELNYX_PUBLIC_KEY",
    )
    telnyx_api_key: Key | None = secret(
        "key of Telnyx's REST API, KEY…", validation_alias="TELNYX_API_KEY"
    )
    telnyx_application: str | None = setting(
        "Telephone", None, "ID of the Telnyx TeXML application that places calls"
    )
    telnyx_number: Number | None = setting(
        "Telephone", None, "number that calls over Telnyx are from"
    )
    telnyx_api_url: Address = setting(
        "Telephone", "https://api.telnyx.com", "where Telnyx's REST API answers"
    )
    plivo_auth_id: str | None = setting(
        "Telephone", None, "Plivo account, MA…", validation_alias="PLIVO_AUTH_ID"
    )
    plivo_auth_token: Key | None = secret(
        "auth token of that account, which also signs its webhooks",
        validation_alias="PLIVO_AUTH_TOKEN",
    )
    plivo_number: Number | None = setting(
        "Telephone", None, "number that calls over Plivo are from"
    )
    plivo_api_url: Address = setting(
        "Telephone", "https://api.plivo.com", "where Plivo's REST API answers"
    )
    exotel_secret: Key | None = secret("what ends the address that Exotel asks, as our proof of it")
    exotel_account_sid: str | None = setting("Telephone", None, "Exotel account")
    exotel_api_key: Key | None = secret("key of Exotel's REST API")
    exotel_api_token: Key | None = secret("token of that key")
    exotel_number: str | None = setting("Telephone", None, "number that calls over Exotel are from")
    exotel_flow: str | None = setting(
        "Telephone", None, "number of the Exotel flow that leads those calls to the agent"
    )
    exotel_api_url: Address = setting(
        "Telephone", "https://api.exotel.com", "where Exotel's REST API answers"
    )
    vonage_signature_secret: Key | None = secret(
        "what Vonage signs its webhooks with", validation_alias="VONAGE_SIGNATURE_SECRET"
    )
    vonage_application_id: str | None = setting(
        "Telephone", None, "Vonage application", validation_alias="VONAGE_APPLICATION_ID"
    )
    vonage_private_key: Path | None = setting(
        "Telephone",
        None,
        "file of that application's private key, in PEM",
        validation_alias="VONAGE_PRIVATE_KEY",
    )
    vonage_number: Number | None = setting(
        "Telephone", None, "number that calls over Vonage are from"
    )
    vonage_api_url: Address = setting(
        "Telephone", "https://api.nexmo.com", "where Vonage's REST API answers"
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
    digits_seconds: float = setting(
        "Turns", 2.0, "pause after which keys that the caller pressed are a turn; # ends it", gt=0
    )
    wake_word: str | None = setting(
        "Turns",
        None,
        "words without which the agent neither hears nor answers, such as 'hey jarvis'",
    )
    wake_seconds: float = setting(
        "Turns", 15.0, "silence of both after which the wake word is needed again", ge=2
    )

    # Records
    record: Path | None = setting(
        "Records", None, "folder in which calls are recorded, what is said in them included"
    )
    record_days: float = setting(
        "Records", 30.0, "how long records are kept; 0 keeps them until they are deleted", ge=0
    )
    record_megabytes: int = setting(
        "Records",
        500,
        "largest record of one call; an hour takes 230, by telephone 115",
        ge=1,
        le=4000,
    )
    record_notice: str = setting(
        "Records", "", "what the agent says first in a call that is recorded"
    )

    @property
    def exposed(self) -> bool:
        """Whether others than this machine can reach the server."""
        return self.host not in LOOPBACK or self.public_url is not None

    def check_access(self) -> None:
        """Make sure that nobody gets in whom nobody has let in, and that relays have a secret.

        Raises:
            SettingsError: The server can be reached from elsewhere and asks for no key, or has
                `--eval`; or tokens are asked for without the key that makes them; or relays are
                named without their secret, or a secret without relays.
        """
        if self.exposed and not self.api_key and not self.insecure:
            flag = "--public-url" if self.host in LOOPBACK else f"--host {self.host}"
            raise SettingsError(
                f"{flag}: others can reach this server; set PARLEY_API_KEY to what "
                "openssl rand -hex 32 prints, or say --insecure to let anybody start calls"
            )
        if self.exposed and self.eval:
            raise SettingsError(
                "--eval: it is for this machine alone; leave it out, or --host and --public-url"
            )
        if self.require_token and not self.api_key:
            raise SettingsError(
                "--require-token: what makes and checks tokens is PARLEY_API_KEY; set it to what "
                "openssl rand -hex 32 prints"
            )
        if bool(self.turn_urls) != bool(self.turn_secret):
            raise SettingsError("--turn-urls and PARLEY_TURN_SECRET need each other: set both")


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
