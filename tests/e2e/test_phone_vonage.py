"""Calls over Vonage, by a caller written from Vonage's documentation."""

import io
import json
import time
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import jwt
import numpy as np
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from pipecat.audio.dtmf.types import KeypadEntry
from pipecat.frames.frames import OutputDTMFFrame
from vonage_voice.models import connect_endpoints, ncco, requests
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from bot.engines import Engines
from bot.settings import Settings
from processors.hang_up import HangUpFrame, TransferFrame
from tests.callers.audio import Samples, level_db
from tests.callers.phone import RATE
from tests.callers.phone_place import PUBLIC, Place, phone_place
from tests.callers.phone_vonage import (
    APPLICATION,
    CALLED,
    CALLER,
    SECRET,
    VonageNetwork,
    as_pem,
    endpoint,
    sign,
    webhook,
)
from tests.callers.recordings import Recording
from tests.fakes.carrier_api import Asked


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
async def place(
    settings: Settings, engines: Engines, key: rsa.RSAPrivateKey, tmp_path: Path
) -> AsyncIterator[Place]:
    pem = tmp_path / "private.key"
    pem.write_bytes(as_pem(key))
    async with phone_place(
        settings,
        engines,
        "vonage",
        vonage_signature_secret=SECRET,
        vonage_application_id=APPLICATION,
        vonage_private_key=pem,
        vonage_number=f"+{CALLED}",
        voicemail="message",
    ) as place:
        yield place


@pytest.fixture
def vonage(place: Place) -> VonageNetwork:
    return VonageNetwork(place.http, PUBLIC)


def claims(asked: Asked, key: rsa.RSAPrivateKey) -> dict[str, object]:
    """What the token of a request to the REST API says, once it is known to be good."""
    token = asked.authorization.removeprefix("Bearer ")
    return jwt.decode(token, key.public_key(), algorithms=["RS256"])


def frequencies(samples: Samples) -> list[float]:
    """The two loudest frequencies of the first fifth of a second, in Hz."""
    spectrum = np.abs(np.fft.rfft(samples[: RATE // 5]))
    return sorted(float(bin_) * 5 for bin_ in np.argsort(spectrum)[-2:])


async def test_a_call_is_greeted_and_interrupts(
    place: Place, vonage: VonageNetwork, recording: Recording, key: rsa.RSAPrivateKey
) -> None:
    """The agent greets in words, and is silent at Vonage as soon as the caller speaks.

    Vonage says of a hang-up no more than that the socket closes.
    """
    async with await vonage.call() as caller:
        words = await place.interrupt(caller, recording("goforward", RATE))
        origin = (await place.only_call()).line.origin
        assert (origin.transport, origin.id) == ("vonage", caller.call_id)
        assert (origin.caller, origin.called) == (f"+{CALLER}", f"+{CALLED}")
        assert not origin.outbound
    await place.until_calls(0)
    assert {"telephone", "agent", "hello"} & set(words), words
    hung_up = await place.asked()
    assert (hung_up.method, hung_up.path) == ("PUT", f"/v1/calls/{caller.call_id}")
    assert hung_up.json == {"action": "hangup"}
    told = claims(hung_up, key)
    assert told["application_id"] == APPLICATION
    assert told["jti"]


async def test_the_nccos_are_those_of_vonages_sdk(
    place: Place, vonage: VonageNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is connected with a socket at 8 kHz; one too many hears a tone, and then ends."""
    call_id = str(uuid4())
    answer = await vonage.post("/phone/vonage", webhook(call_id))
    url = endpoint(answer)["uri"]
    assert url.startswith("wss://agent.example.org/phone/vonage/media/")
    socket = connect_endpoints.WebsocketEndpoint(
        uri=url, contentType="audio/l16;rate=8000", headers={"call": call_id}
    )
    connected = ncco.Connect(endpoint=[socket], from_=CALLED)
    made = connected.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert answer.json() == [made]
    monkeypatch.setattr(place.server.calls, "limit", 0)
    busy = await vonage.post("/phone/vonage", webhook(str(uuid4())))
    tone = ncco.Stream(streamUrl=[f"{PUBLIC}/phone/busy.wav"], loop=6)
    assert busy.json() == [tone.model_dump(mode="json", exclude_none=True)]


async def test_the_busy_tone_is_a_sound_that_vonage_plays(place: Place) -> None:
    """A 16-bit WAV file at 8 kHz, for anybody: half a second of 425 Hz, and as much silence."""
    response = await place.http.get("/phone/busy.wav")
    assert (response.status_code, response.headers["content-type"]) == (200, "audio/wav")
    # What fetches files may ask first whether there is one.
    head = await place.http.head("/phone/busy.wav")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(response.content)))
    with wave.open(io.BytesIO(response.content)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, RATE)
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    tone, pause = samples[: RATE // 2], samples[RATE // 2 :]
    assert pytest.approx(425, abs=5) in frequencies(tone)
    assert level_db(tone) > -20
    assert len(pause) == RATE // 2
    assert not pause.any()


async def test_our_own_call_that_cannot_be_carried_just_ends(
    place: Place, vonage: VonageNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whom the agent has called is not told that they are busy."""
    call_id = str(uuid4())
    place.api.answer = lambda _: web.json_response({"uuid": call_id}, status=201)
    wanted = {"carrier": "vonage", "to": "sip:desk@example.org"}
    assert (await place.http.post("/calls", json=wanted)).status_code == 201
    asked = (await place.asked()).json
    assert asked["to"] == [{"type": "sip", "uri": "sip:desk@example.org"}]
    requests.CreateCallRequest(**{**asked, "from_": asked["from"]})
    monkeypatch.setattr(place.server.calls, "limit", 0)
    path = asked["answer_url"][0].removeprefix(PUBLIC)
    busy = await vonage.post(path, webhook(call_id, **{"from": CALLED, "to": CALLER}))
    assert (busy.status_code, busy.json()) == (200, [])


async def test_keys_that_are_pressed_are_heard(place: Place, vonage: VonageNetwork) -> None:
    """Digits on the keypad reach the conversation."""
    async with await vonage.call() as caller:
        await caller.wait_for_speech()
        call = await place.only_call()
        await caller.press("42#")
        await place.until(lambda: "42" in str(call.context.messages))


async def test_keys_that_the_agent_presses_are_tones(place: Place, vonage: VonageNetwork) -> None:
    """Each key's two frequencies, sent as they are played, in messages like those of speech."""
    async with await vonage.call() as caller:
        call = await place.only_call()
        over = await caller.wait_for_silence(await caller.wait_for_speech(), hold=1.0)
        for key in "5#":
            await call._worker.queue_frame(OutputDTMFFrame(button=KeypadEntry(key)))
        began = await caller.wait_for_speech(after=over)
        await caller.wait_for_silence(began, hold=1.0)
    sent = [(at, data) for at, data in caller.received if at > over and isinstance(data, bytes)]
    samples = np.frombuffer(b"".join(data for _, data in sent), "<i2")
    second = samples[len(samples) // 2 :]
    assert frequencies(samples) == pytest.approx([770, 1336], abs=10)
    assert frequencies(second) == pytest.approx([941, 1477], abs=10)
    assert sent[-1][0] - sent[0][0] > 0.9


async def test_the_agents_hang_up_waits_for_the_notification(
    place: Place, vonage: VonageNetwork
) -> None:
    """The call ends over the REST API, after Vonage has said that the last word was played."""
    async with await vonage.call() as caller:
        call = await place.only_call()
        await caller.wait_for_speech()
        await call._worker.queue_frame(HangUpFrame())
        await caller.wait_for_end()
        assert caller.marks
    await place.until_calls(0)
    assert (await place.asked()).json == {"action": "hangup"}


async def test_a_transfer_connects_and_leaves_the_call(place: Place, vonage: VonageNetwork) -> None:
    """The call gets an NCCO that connects a telephone; it is not hung up."""
    async with await vonage.call() as caller:
        call = await place.only_call()
        await caller.wait_for_speech()
        await call._worker.queue_frame(TransferFrame(to="+4930123456"))
        await caller.wait_for_end()
    await place.until_calls(0)
    asked = await place.asked()
    assert (asked.method, asked.path) == ("PUT", f"/v1/calls/{caller.call_id}")
    phone = connect_endpoints.PhoneEndpoint(number="4930123456")
    wanted = ncco.Connect(endpoint=[phone], from_=CALLED)
    made = wanted.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert asked.json == {
        "action": "transfer",
        "destination": {"type": "ncco", "ncco": [made]},
    }


async def test_the_agent_calls_and_speaks_to_a_machine_after_its_beep(
    place: Place, vonage: VonageNetwork
) -> None:
    """A call is placed from our number; the machine hears a message, then the call ends."""
    call_id = str(uuid4())
    place.api.answer = lambda _: web.json_response(
        {
            "uuid": call_id,
            "status": "started",
            "direction": "outbound",
            "conversation_uuid": f"CON-{uuid4()}",
        },
        status=201,
    )
    placed = await place.http.post("/calls", json={"carrier": "vonage", "to": f"+{CALLER}"})
    assert placed.status_code == 201, placed.text
    asked = await place.asked()
    wanted = asked.json
    assert (asked.method, asked.path) == ("POST", "/v1/calls")
    model = requests.CreateCallRequest(**{**wanted, "from_": wanted["from"]})
    assert model.model_dump(mode="json", by_alias=True, exclude_none=True) == wanted
    assert wanted["to"] == [{"type": "phone", "number": CALLER}]
    assert wanted["from"] == {"type": "phone", "number": CALLED}
    assert wanted["event_url"] == [f"{PUBLIC}/phone/vonage/events"]

    path = wanted["answer_url"][0].removeprefix(PUBLIC)
    answered = webhook(call_id, **{"from": CALLED, "to": CALLER})
    async with vonage.caller(endpoint(await vonage.post(path, answered))) as caller:
        await caller.wait_for_speech()
        origin = (await place.only_call()).line.origin
        assert (origin.caller, origin.called) == (f"+{CALLER}", f"+{CALLED}")
        assert origin.outbound
        for verdict in ({"status": "machine"}, {"status": "machine", "sub_state": "beep_start"}):
            assert "answered_by" not in origin.data
            event = json.dumps({"uuid": call_id, "direction": "outbound", **verdict}).encode()
            assert (await vonage.post("/phone/vonage/events", event)).is_success
        assert origin.data["answered_by"] == "machine"
        await caller.wait_for_end()
    await place.until_calls(0)
    assert [asked.method for asked in place.api.asked] == ["POST", "PUT"]


BODY = webhook("bad")
NOW = int(time.time())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer a.b.c"},
        {"Authorization": "Basic " + sign(BODY)["Authorization"].partition(" ")[2]},
        {"Authorization": "Bearer " + jwt.encode({"iss": "Vonage"}, "", algorithm="none")},
        sign(webhook("other")),
        sign(BODY, secret="another-secret-of-the-same-length-0123456789abcdef"),
        sign(BODY, iss="somebody"),
        sign(BODY, iat=NOW - 310),
        sign(BODY, iat=NOW + 900),
        sign(BODY, exp=NOW - 100),
        sign(BODY, iat=None),
        sign(BODY, jti=None),
        sign(BODY, payload_hash=None),
        sign(BODY, payload_hash=7),
    ],
    ids=[
        "none",
        "empty",
        "rubbish",
        "another scheme",
        "no algorithm",
        "another body",
        "another key",
        "another issuer",
        "old",
        "from the future",
        "expired",
        "no time",
        "no name",
        "no hash",
        "a hash that is none",
    ],
)
async def test_a_webhook_needs_vonages_token(
    vonage: VonageNetwork, headers: dict[str, str]
) -> None:
    """Whoever is not Vonage gets no NCCO; the refusal is one line."""
    for path in ("/phone/vonage", "/phone/vonage/events"):
        response = await vonage.post(path, BODY, headers=headers)
        assert response.status_code == 403
        assert len(response.json()["detail"].splitlines()) == 1


async def test_a_token_is_taken_once(place: Place, vonage: VonageNetwork) -> None:
    """A webhook that is played again is refused, and the ticket of the first stays good."""
    body = webhook(str(uuid4()))
    headers = sign(body)
    wanted = endpoint(await vonage.post("/phone/vonage", body, headers=headers))
    assert (await vonage.post("/phone/vonage", body, headers=headers)).status_code == 403
    async with vonage.caller(wanted) as caller:
        await caller.wait_for_speech()


async def test_a_socket_needs_its_ticket_and_its_start(place: Place, vonage: VonageNetwork) -> None:
    """A ticket opens one socket, once, for the call that was signed for, at 8 kHz."""
    async with await vonage.call() as caller:
        await caller.wait_for_speech()
        for url in (caller._url, caller._url + "x"):
            with pytest.raises(InvalidStatus):
                async with connect(url, proxy=None):
                    pass
    for change in ({"headers": {"call": "another"}}, {"content-type": "audio/l16;rate=16000"}):
        wanted = await vonage.ring(str(uuid4()))
        async with vonage.caller({**wanted, **change}) as stranger:
            await stranger.wait_for_end(limit=5)
            assert stranger.close_code == 1008
    await place.until_calls(0)
