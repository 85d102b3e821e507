"""The ways in that a caller may take, and what each lacks.

It is told without Pipecat, which takes its time to import: `--list` asks for nothing else.
"""

from base64 import b64decode
from collections.abc import Mapping
from importlib.util import find_spec

import httpx

from bot.server.phone.carrier import Carrier
from bot.server.phone.exotel import Exotel
from bot.server.phone.plivo import Plivo
from bot.server.phone.telnyx import Telnyx
from bot.server.phone.twilio import Twilio
from bot.server.phone.vonage import Vonage
from bot.settings import Settings, SettingsError
from services.settings import revealed

CARRIERS: tuple[type[Carrier], ...] = (Twilio, Telnyx, Plivo, Exotel, Vonage)
"""Every carrier; adding one is a line here."""


def lacks(settings: Settings) -> dict[str, str]:
    """What each way in lacks before it can be used, in a line; empty where it can be.

    Args:
        settings: The settings in force.
    """
    return {
        "webrtc": "",
        "daily": daily_lacks(settings),
        "daily dial-in": daily_lacks_for_dialin(settings),
        "livekit": livekit_lacks(settings),
        **{carrier.name: carrier_lacks(carrier) for carrier in _carriers(settings)},
    }


def lacks_for_dialling(settings: Settings) -> dict[str, str]:
    """What each of those lacks over which the agent could place calls; empty where it can.

    Args:
        settings: The settings in force.
    """
    return {
        "daily": daily_lacks_for_dialling(settings),
        **{
            carrier.name: carrier_lacks(carrier) or carrier.lacks_for_dialling()
            for carrier in _carriers(settings)
        },
    }


def begun(settings: Settings) -> list[str]:
    """The carriers of which something is set, so that somebody expects their calls.

    Args:
        settings: The settings in force.
    """
    return [
        carrier.name
        for carrier in CARRIERS
        if any(name.startswith(f"{carrier.name}_") for name in settings.model_fields_set)
    ]


def check_rooms(settings: Settings) -> None:
    """Make sure that the agent can join the rooms that it is to join at its start.

    Args:
        settings: The settings in force.

    Raises:
        SettingsError: It lacks something.
    """
    if settings.daily_room and (missing := daily_sdk_lacks()):
        raise SettingsError(f"--daily-room: {missing}")
    if settings.livekit_room and (missing := livekit_lacks(settings)):
        raise SettingsError(f"--livekit-room: {missing}")


def daily_lacks(settings: Settings) -> str:
    """What calls over Daily lack, in one line; empty if nothing."""
    if not settings.daily_api_key:
        return "Daily needs DAILY_API_KEY in the environment or in .env"
    return daily_sdk_lacks()


def daily_lacks_for_dialin(settings: Settings) -> str:
    """What telephone calls lack that come in over Daily, in one line; empty if nothing."""
    if missing := daily_lacks(settings):
        return missing
    name = "PARLEY_DAILY_DIALIN_SECRET"
    try:
        if b64decode(revealed(settings.daily_dialin_secret), validate=True):
            return ""
    except ValueError:
        return f"{name} is no base64; openssl rand -base64 32 makes one"
    return f"telephone calls over Daily need {name} in the environment or in .env"


def daily_lacks_for_dialling(settings: Settings) -> str:
    """What calls lack that the agent places over Daily, in one line; empty if nothing."""
    if not settings.daily_dialout:
        return daily_lacks(settings) or "Daily calls telephones only with --daily-dialout"
    return daily_lacks(settings)


def daily_sdk_lacks() -> str:
    """What to install before any room of Daily's can be entered; empty if nothing."""
    if find_spec("daily") is None:
        return "Daily's SDK is not installed; pip install 'parley[daily]'"
    return ""


def livekit_lacks(settings: Settings) -> str:
    """What calls over LiveKit lack, in one line; empty if nothing."""
    given: Mapping[str, object] = {
        "LIVEKIT_URL": settings.livekit_url,
        "LIVEKIT_API_KEY": settings.livekit_api_key,
        "LIVEKIT_API_SECRET": settings.livekit_api_secret,
    }
    if missing := [name for name, value in given.items() if not value]:
        return f"LiveKit needs {' and '.join(missing)} in the environment or in .env"
    if find_spec("livekit") is None or find_spec("livekit.api") is None:
        return "LiveKit's packages are not installed; pip install 'parley[livekit]'"
    return ""


def _carriers(settings: Settings) -> list[Carrier]:
    http = httpx.AsyncClient()  # It opens nothing before it is asked.
    return [carrier(settings, http) for carrier in CARRIERS]


def carrier_lacks(carrier: Carrier) -> str:
    """What calls over a carrier lack, in one line; empty if nothing."""
    missing = carrier.lacks()
    if not carrier.public_url.startswith("https://"):
        address = "--public-url: set it to our address as the carrier reaches it, https://…"
        return f"{missing}; {address}" if missing else address
    return missing
