"""Calls over Vonage, by a caller written from Vonage's documentation."""

import io
import json
import time
import wave
from collections.abc import AsyncIterator
from uuid import uuid4

import jwt
import numpy as np
import pytest
from aiohttp import web
from pipecat.audio.dtmf.types import KeypadEntry
from pipecat.frames.frames import OutputDTMFFrame
from vonage_voice.models import connect_endpoints, ncco, requests

from bot.engines import Engines
from bot.settings import Settings
from processors.hang_up import TransferFrame
from tests.callers.audio import Samples, level_db
from tests.callers.phone import RATE
from tests.callers.phone_place import PUBLIC, Place, phone_place
from tests.callers.phone_vonage import CALLED, CALLER, VonageNetwork, sign, webhook

Vonage = Place[VonageNetwork]


@pytest.fixture
async def place(settings: Settings, engines: Engines) -> AsyncIterator[Vonage]:
    async with phone_place(settings, engines, VonageNetwork, voicemail="message") as place:
        yield place


def frequencies(samples: Samples) -> list[float]:
    """The two loudest frequencies of the first fifth of a second, in Hz."""
    spectrum = np.abs(np.fft.rfft(samples[: RATE // 5]))
    return sorted(float(bin_) * 5 for bin_ in np.argsort(spectrum)[-2:])


async def test_the_nccos_are_those_of_vonages_sdk(
    place: Vonage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is connected with a socket at 8 kHz; one too many hears a tone, and then ends."""
    call_id = str(uuid4())
    answer = await place.network.announce(call_id)
    url = place.network.socket_in(answer)
    assert url.startswith("wss://agent.example.org/phone/vonage/media/")
    socket = connect_endpoints.WebsocketEndpoint(
        uri=url, contentType="audio/l16;rate=8000", headers={"call": call_id}
    )
    connected = ncco.Connect(endpoint=[socket], from_=CALLED)
    made = connected.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert answer.json() == [made]
    monkeypatch.setattr(place.server.calls, "limit", 0)
    busy = await place.network.announce(str(uuid4()))
    tone = ncco.Stream(streamUrl=[f"{PUBLIC}/phone/busy.wav"], loop=6)
    assert busy.json() == [tone.model_dump(mode="json", exclude_none=True)]


async def test_the_busy_tone_is_a_sound_that_vonage_plays(place: Vonage) -> None:
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
    place: Vonage, monkeypatch: pytest.MonkeyPatch
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
    busy = await place.network.post(path, webhook(call_id, **{"from": CALLED, "to": CALLER}))
    assert (busy.status_code, busy.json()) == (200, [])


async def test_keys_that_the_agent_presses_are_tones(place: Vonage) -> None:
    """Each key's two frequencies, sent as they are played, in messages like those of speech."""
    async with await place.network.call() as caller:
        over = await caller.wait_for_silence(await caller.wait_for_speech(), hold=1.0)
        for key in "5#":
            await place.queue(OutputDTMFFrame(button=KeypadEntry(key)))
        began = await caller.wait_for_speech(after=over)
        await caller.wait_for_silence(began, hold=1.0)
    sent = [(at, data) for at, data in caller.received if at > over and isinstance(data, bytes)]
    samples = np.frombuffer(b"".join(data for _, data in sent), "<i2")
    second = samples[len(samples) // 2 :]
    assert frequencies(samples) == pytest.approx([770, 1336], abs=10)
    assert frequencies(second) == pytest.approx([941, 1477], abs=10)
    assert sent[-1][0] - sent[0][0] > 0.9


async def test_a_transfer_connects_and_leaves_the_call(place: Vonage) -> None:
    """The call gets an NCCO that connects a telephone; it is not hung up."""
    async with await place.network.call() as caller:
        await caller.wait_for_speech()
        await place.queue(TransferFrame(to="+4930123456"))
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


async def test_the_agent_calls_and_speaks_to_a_machine_after_its_beep(place: Vonage) -> None:
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
    url = place.network.socket_in(await place.network.post(path, answered))
    async with place.network.caller(url, call_id) as caller:
        await caller.wait_for_speech()
        origin = (await place.only_call()).line.origin
        assert (origin.caller, origin.called) == (f"+{CALLER}", f"+{CALLED}")
        assert origin.outbound
        for verdict in ({"status": "machine"}, {"status": "machine", "sub_state": "beep_start"}):
            assert "answered_by" not in origin.data
            event = json.dumps({"uuid": call_id, "direction": "outbound", **verdict}).encode()
            assert (await place.network.post("/phone/vonage/events", event)).is_success
        assert origin.data["answered_by"] == "machine"
        await caller.wait_for_end()
    await place.until_calls(0)
    assert [asked.method for asked in place.api.asked] == ["POST", "PUT"]


BODY = webhook("bad")
NOW = int(time.time())


async def test_a_webhook_needs_vonages_token(place: Vonage) -> None:
    """Whoever is not Vonage gets no NCCO; the refusal is one line."""
    forged = {
        "none": {},
        "empty": {"Authorization": "Bearer"},
        "rubbish": {"Authorization": "Bearer a.b.c"},
        "another scheme": {
            "Authorization": "Basic " + sign(BODY)["Authorization"].partition(" ")[2]
        },
        "no algorithm": {
            "Authorization": "Bearer " + jwt.encode({"iss": "Vonage"}, "", algorithm="none")
        },
        "another body": sign(webhook("other")),
        "another key": sign(BODY, secret="another-secret-of-the-same-length-0123456789abcdef"),
        "another issuer": sign(BODY, iss="somebody"),
        "old": sign(BODY, iat=NOW - 310),
        "from the future": sign(BODY, iat=NOW + 900),
        "expired": sign(BODY, exp=NOW - 100),
        "no time": sign(BODY, iat=None),
        "no name": sign(BODY, jti=None),
        "no hash": sign(BODY, payload_hash=None),
        "a hash that is none": sign(BODY, payload_hash=7),
    }
    for what, headers in forged.items():
        for path in ("/phone/vonage", "/phone/vonage/events"):
            response = await place.network.post(path, BODY, headers=headers)
            assert response.status_code == 403, what
            assert len(response.json()["detail"].splitlines()) == 1, what


async def test_audio_that_was_not_asked_for_is_refused(place: Vonage) -> None:
    """At another rate than 8 kHz it would be heard as noise."""
    network = place.network
    call_id = network.new_id()
    url = await network.ring(call_id)
    async with network.caller(url, call_id, "audio/l16;rate=16000") as stranger:
        await stranger.wait_for_end(limit=5)
        assert stranger.close_code == 1008
    await place.until_calls(0)
