"""What carriers send is checked as their own SDKs do it; nothing else passes."""

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import httpx
import pytest
import telnyx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from pipecat.frames.frames import InputDTMFFrame
from plivo.utils import validate_v3_signature
from twilio.request_validator import RequestValidator
from vonage_jwt import verify_signature

from bot.line import LineError
from bot.server.phone import carrier as carrier_module
from bot.server.phone.carrier import Carrier, HandshakeError, Start, Webhook
from bot.server.phone.exotel import Exotel
from bot.server.phone.media import MediaSerializer
from bot.server.phone.plivo import Plivo
from bot.server.phone.telnyx import Telnyx
from bot.server.phone.twilio import Twilio
from bot.server.phone.vonage import Vonage
from bot.server.signatures import Replays, SignatureError
from bot.settings import Settings
from tests.callers import phone_plivo, phone_telnyx, phone_twilio, phone_vonage
from tests.callers.phone import PhoneCaller

URL = "https://agent.example.org/phone/"


def carrier(kind: Callable[..., Carrier], **wanted: Any) -> Carrier:
    """A carrier with these settings, which asks nothing of its REST API."""
    given: dict[str, Any] = {"public_url": "https://agent.example.org", **wanted}
    return kind(Settings(**given), httpx.AsyncClient())


def webhook(headers: dict[str, str], body: bytes = b"", url: str = URL) -> Webhook:
    """A request that claims to come from a carrier."""
    return Webhook(url, httpx.Headers(headers), body)


@pytest.mark.parametrize("host", ["agent.example.org", "Agent.Example.org", "a.example:8443"])
def test_twilios_sdk_takes_what_is_taken(host: str) -> None:
    """Twilio signs an address as it was given it, a host in capitals included."""
    ours = carrier(Twilio, twilio_auth_token=phone_twilio.TOKEN)
    fields = phone_twilio.webhook(phone_twilio.sid("CA"))
    url, socket = f"https://{host}/phone/twilio", f"wss://{host}/phone/twilio/media/ticket"
    headers = phone_twilio.sign(url, fields)
    signature = headers["X-Twilio-Signature"]
    assert RequestValidator(phone_twilio.TOKEN).validate(url, fields, signature)
    ours.verify(webhook(headers, urlencode(fields).encode(), url))
    ours.verify_socket(socket, httpx.Headers(phone_twilio.sign(socket)))
    with pytest.raises(SignatureError):
        ours.verify_socket(socket + "x", httpx.Headers(phone_twilio.sign(socket)))


def test_telnyxs_sdk_takes_what_is_taken() -> None:
    """A signature is good here where it is with Telnyx's code, and bad where it is bad."""
    ours = carrier(Telnyx, telnyx_public_key=phone_telnyx.PUBLIC_KEY)
    theirs = telnyx.Telnyx(api_key="KEY", public_key=phone_telnyx.PUBLIC_KEY)
    body = json.dumps({"data": {"event_type": "call.initiated", "id": "1"}})
    headers = phone_telnyx.sign(body.encode())
    theirs.webhooks.unwrap(body, headers=headers)
    ours.verify(webhook(headers, body.encode()))
    for wrong, changed in ((headers, body + " "), (headers | {"telnyx-timestamp": "1"}, body)):
        with pytest.raises(ValueError, match=r"[Ss]ignature|timestamp"):
            theirs.webhooks.unwrap(changed, headers=wrong)
        with pytest.raises(SignatureError):
            ours.verify(webhook(wrong, changed.encode()))


@pytest.mark.parametrize("query", ["", "?b=2&a=1", "?a=b%26c&d=&a=0", "?transfer=x_-y"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"b": "2", "a": "1"}, {"From": "+1 415", "Name": "é ü", "Empty": ""}],
    ids=["no form", "a form", "an odd form"],
)
def test_plivos_sdk_takes_what_is_taken(query: str, fields: dict[str, str]) -> None:
    """A signature made with Plivo's code is good here, with any query and form."""
    ours = carrier(Plivo, plivo_auth_token=phone_plivo.TOKEN)
    url = f"{URL}plivo{query}"
    headers = phone_plivo.sign(url, fields)
    nonce, signature = headers["X-Plivo-Signature-V3-Nonce"], headers["X-Plivo-Signature-V3"]
    assert validate_v3_signature("POST", url, nonce, phone_plivo.TOKEN, signature, dict(fields))
    # While an account's token is replaced, Plivo signs with both.
    both = headers | {"X-Plivo-Signature-V3": f"b3RoZXI=,{signature}"}
    ours.verify(webhook(both, urlencode(fields).encode(), url))
    for changed in (fields | {"a": "9"}, fields | {"z": ""}):
        with pytest.raises(SignatureError):
            ours.verify(webhook(phone_plivo.sign(url, fields), urlencode(changed).encode(), url))


def test_plivos_repeated_fields_are_signed_in_order() -> None:
    """Fields that share a name are signed by their values' order, as Plivo's code does."""
    ours = carrier(Plivo, plivo_auth_token=phone_plivo.TOKEN)
    body = urlencode([("To", "2"), ("To", "1"), ("From", "3")])
    headers = phone_plivo.sign(URL, parse_qs(body))  # type: ignore[arg-type]
    ours.verify(webhook(headers, body.encode()))


def test_plivos_signature_is_taken_once_wherever_its_nonce_begins() -> None:
    """What was signed says not where the form ends: the rest of it is no other nonce."""
    ours = carrier(Plivo, plivo_auth_token=phone_plivo.TOKEN)
    headers = phone_plivo.sign(URL, {"BillRate": "0.0085", "To": "1"}, nonce="7")
    ours.verify(webhook(headers, b"BillRate=0.0085&To=1"))
    moved = headers | {"X-Plivo-Signature-V3-Nonce": "0085To1.7"}
    with pytest.raises(SignatureError, match="before"):
        ours.verify(webhook(moved, b"BillRate=0"))


async def test_a_rest_api_that_dribbles_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for the whole answer, however many pieces it comes in."""
    monkeypatch.setattr(carrier_module, "REST_SECONDS", 0.3)

    async def dribble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)

    async with await asyncio.start_server(dribble, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ours = carrier(Plivo, plivo_auth_id="x", plivo_api_url=url)
        async with asyncio.timeout(5), ours.http:
            with pytest.raises(LineError, match="plivo does not answer"):
                await ours.hang_up("call")


def test_vonages_sdk_takes_what_is_taken() -> None:
    """A token is good here where it is with Vonage's code, and bad where it is bad."""
    ours = carrier(Vonage, vonage_signature_secret=phone_vonage.SECRET)
    good = phone_vonage.sign(b"{}")
    assert verify_signature(good["Authorization"].split()[1], phone_vonage.SECRET)
    ours.verify(webhook(good, b"{}"))
    bad = phone_vonage.sign(b"{}", secret="x" * 40)
    assert not verify_signature(bad["Authorization"].split()[1], phone_vonage.SECRET)
    with pytest.raises(SignatureError):
        ours.verify(webhook(bad, b"{}"))


@pytest.mark.parametrize(
    "token", ["", "a", "a.b", "a.b.c", "." * 5000, "é.é.é", "W1tb.e30.x", "bnVsbA.bnVsbA.x"]
)
def test_a_token_that_is_none_is_refused(token: str) -> None:
    """Whatever a header has in place of a token, it is wrong and nothing else."""
    ours = carrier(Vonage, vonage_signature_secret=phone_vonage.SECRET)
    with pytest.raises(SignatureError):
        ours.verify(Webhook(URL, {"authorization": f"Bearer {token}"}, b""))


def test_a_webhook_of_the_wrong_method_is_told_the_right_one() -> None:
    """Vonage asks with GET unless told otherwise; the log says what to set, and only then."""
    ours = carrier(Vonage, vonage_signature_secret=phone_vonage.SECRET)
    query = json.dumps({"to": "442079460000", "from": "447700900000"}).encode()
    with pytest.raises(SignatureError, match=r"another body; set .* to POST"):
        ours.verify(webhook(phone_vonage.sign(query)))
    with pytest.raises(SignatureError, match=r"another body$"):
        ours.verify(webhook(phone_vonage.sign(query), b"{}"))


def test_what_a_carrier_lacks_is_one_line(tmp_path: Path) -> None:
    """Each setting that is missing or no key is named, until none is."""
    other = tmp_path / "other.pem"
    key = rsa.generate_private_key(65537, 2048)
    pem = tmp_path / "key.pem"
    for path, private in ((pem, key), (other, ed25519.Ed25519PrivateKey.generate())):
        path.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    public = phone_telnyx.PUBLIC_KEY
    application = {"vonage_signature_secret": "s", "vonage_application_id": "a"}
    lacking: list[tuple[Callable[..., Carrier], dict[str, Any], str]] = [
        (Telnyx, {}, "TELNYX_PUBLIC_KEY"),
        (Telnyx, {"telnyx_public_key": "rubbish"}, "TELNYX_PUBLIC_KEY"),
        (Telnyx, {"telnyx_public_key": "AAAA"}, "TELNYX_PUBLIC_KEY"),
        (Telnyx, {"telnyx_public_key": public}, "TELNYX_API_KEY"),
        (Telnyx, {"telnyx_public_key": public, "telnyx_api_key": "k"}, ""),
        (Plivo, {}, "PLIVO_AUTH_ID"),
        (Plivo, {"plivo_auth_id": "MA"}, "PLIVO_AUTH_TOKEN"),
        (Plivo, {"plivo_auth_id": "MA", "plivo_auth_token": "t"}, ""),
        (Vonage, {}, "VONAGE_SIGNATURE_SECRET"),
        (Vonage, {"vonage_signature_secret": "s"}, "VONAGE_APPLICATION_ID"),
        (Vonage, application, "--vonage-private-key"),
        (Vonage, {**application, "vonage_private_key": tmp_path / "no"}, "--vonage-private-key"),
        (Vonage, {**application, "vonage_private_key": tmp_path}, "--vonage-private-key"),
        (Vonage, {**application, "vonage_private_key": other}, "--vonage-private-key"),
        (Vonage, {**application, "vonage_private_key": pem}, ""),
    ]
    for kind, wanted, setting in lacking:
        line = carrier(kind, **wanted).lacks()
        assert line.partition(":")[0] == setting
        assert len(line.splitlines()) <= 1
        # A file that is there, or should be, is not asked for as if none had been named.
        assert str(wanted.get("vonage_private_key", "")) in line or not line
    dialling: dict[Callable[..., Carrier], dict[str, str]] = {
        Telnyx: {"telnyx_application": "1", "telnyx_number": "+15550100"},
        Plivo: {"plivo_number": "+15550100"},
        Vonage: {"vonage_number": "+15550100"},
    }
    for kind, enough in dialling.items():
        assert carrier(kind).lacks_for_dialling().startswith("--")
        assert carrier(kind, **enough).lacks_for_dialling() == ""


def test_without_a_secret_nothing_is_taken() -> None:
    """A carrier that is not set up refuses whatever comes, an empty key's signature included."""
    headers = phone_telnyx.sign(b"") | phone_plivo.sign(URL, {}, token="")
    for kind in (Telnyx, Plivo, Vonage):
        with pytest.raises(SignatureError):
            carrier(kind).verify(webhook(headers | phone_vonage.sign(b"", secret="x" * 40)))


def test_replays_are_remembered_up_to_a_limit() -> None:
    """The newest are known, and the memory does not grow."""
    replays = Replays(limit=3)
    for mark in "abcd":
        replays.refuse(mark)
    replays.refuse("a")
    for mark in "cd":
        with pytest.raises(SignatureError, match="before"):
            replays.refuse(mark)


def some_json(random_: random.Random, depth: int = 0) -> Any:
    """A value of any shape, with the words that carriers use."""
    words = [
        *("event", "start", "media", "payload", "dtmf", "digit", "mark", "name", "connected"),
        *("playedStream", "websocket:connected", "websocket:dtmf", "websocket:notify"),
        *("streamId", "stream_id", "callId", "call_control_id", "media_format", "encoding"),
        *("content-type", "audio/l16;rate=8000", "PCMU", "AAAA", "5", "!", "", "\udcff", "\x00"),
    ]
    kind = random_.randrange(6 if depth < 3 else 4)
    if kind == 4:
        return [some_json(random_, depth + 1) for _ in range(random_.randrange(3))]
    if kind == 5:
        return {random_.choice(words): some_json(random_, depth + 1) for _ in range(4)}
    return random_.choice([None, True, -1, 1e300, random_.choice(words)])


@pytest.mark.parametrize("kind", [Telnyx, Plivo, Vonage])
async def test_random_messages_raise_nothing(kind: Callable[..., Carrier]) -> None:
    """10 000 messages, as text and as bytes, are understood or dropped."""
    random_ = random.Random(4)
    ours = carrier(kind)
    start = Start("call", "stream", "PCMU")

    async def end() -> None:
        """Let a serializer that was sent too much be replaced."""

    for number in range(10_000):
        if number % 20 == 0:
            media = MediaSerializer(ours, start, on_end=end)
        value = some_json(random_)
        if isinstance(value, dict):
            with suppress(HandshakeError):
                ours.start(value)
        text = json.dumps(value)
        kinds: tuple[str | bytes, ...] = (
            text,
            text[: random_.randrange(60)],
            random_.randbytes(random_.randrange(40)),
        )
        await media.deserialize(random_.choice(kinds))


async def test_all_the_keys_of_a_telephone_are_read() -> None:
    """Each digit, star and pound comes as a frame, from each carrier's message."""

    async def end() -> None:
        raise AssertionError("the call goes on")

    callers: dict[Callable[..., Carrier], PhoneCaller] = {
        Telnyx: phone_telnyx.TelnyxCaller("", "call"),
        Plivo: phone_plivo.PlivoCaller("", "call"),
        Vonage: phone_vonage.VonageCaller("", "call"),
    }
    for kind, caller in callers.items():
        media = MediaSerializer(carrier(kind), Start("call", "stream", "PCMU"), on_end=end)
        for key in "0123456789*#":
            frame = await media.deserialize(caller.digit(key))
            assert isinstance(frame, InputDTMFFrame)
            assert frame.button.value == key


@pytest.mark.parametrize(("rate", "right"), [("8000", True), (8000, True), ("16000", False)])
def test_an_applet_at_another_rate_is_told_the_right_one(rate: object, right: bool) -> None:
    """Exotel's audio is taken at 8 kHz alone: at another rate it would be heard as noise."""
    start = {"stream_sid": "s", "call_sid": "c", "media_format": {"sample_rate": rate}}
    ours = carrier(Exotel, exotel_secret="s" * 16)
    with nullcontext() if right else pytest.raises(HandshakeError, match="8000"):
        ours.start({"event": "start", "start": start})
