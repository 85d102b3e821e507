"""Calls over each carrier, by callers written from the carriers' documentation."""

from collections.abc import AsyncIterator

import pytest
from websockets.exceptions import InvalidStatus

from bot.engines import Engines
from bot.server.phone import media
from bot.settings import Settings
from processors.hang_up import HangUpFrame
from tests.callers.phone import RATE
from tests.callers.phone_network import Network
from tests.callers.phone_networks import NETWORKS
from tests.callers.phone_place import Place, phone_place, recognised
from tests.callers.phone_plivo import PlivoNetwork
from tests.callers.phone_telnyx import TelnyxNetwork
from tests.callers.phone_vonage import VonageNetwork
from tests.callers.recordings import Recording


@pytest.fixture(params=NETWORKS, ids=lambda network: network.name)
async def place(
    request: pytest.FixtureRequest, settings: Settings, engines: Engines
) -> AsyncIterator[Place[Network]]:
    async with phone_place(settings, engines, request.param) as place:
        yield place


async def test_a_caller_is_greeted_interrupts_and_presses_keys(
    place: Place[Network], recording: Recording
) -> None:
    """The agent greets in words, and is silent at the carrier as soon as the caller speaks.

    Keys reach the conversation. Who hangs up is not hung up on, unless the carrier says no more of
    it than that the socket closes.
    """
    async with await place.network.call() as caller:
        greeting = await place.interrupt(caller, recording("goforward", RATE))
        call = await place.only_call()
        origin = call.line.origin
        assert (origin.transport, origin.id) == (place.network.name, caller.call_id)
        assert (origin.caller, origin.called) == place.network.numbers
        assert not origin.outbound
        await caller.press("42#")
        await place.until(lambda: "42" in str(call.context.messages))
    await place.until_calls(0)
    assert {"evening", "welcome"} & recognised(greeting)
    if caller.stop():
        assert place.api.asked == []
    else:
        await place.network.check_hung_up(caller, place.api.asked)


async def test_the_agents_hang_up_waits_for_the_mark(
    place: Place[Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call ends when the carrier has said that the last word was played, and soon after it.

    Marks are numbered within the call: a carrier learns nothing of others.
    """
    monkeypatch.setattr(media, "MARK_SECONDS", 20.0)
    async with await place.network.call() as caller:
        await caller.wait_for_speech()
        await place.queue(HangUpFrame())
        ended = await caller.wait_for_end()
        assert caller.marks
        assert caller.marks == [f"mark-{number}" for number, _ in enumerate(caller.marks, 1)]
        assert not caller.frames[-1].audible
        assert ended - max(frame.at for frame in caller.frames if frame.audible) < 10.0
    await place.until_calls(0)
    await place.network.check_hung_up(caller, place.api.asked)


async def test_a_socket_needs_its_ticket_once_and_its_calls_start(
    place: Place[Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ticket opens one socket, once, and only for the call that was announced."""
    network = place.network
    call_id = network.new_id()
    url = await network.ring(call_id)
    async with network.caller(url, call_id) as caller:
        await caller.wait_for_speech()
        for wrong in (url, url + "x"):
            with pytest.raises(InvalidStatus) as refusal:
                async with network.caller(wrong, call_id):
                    pass
            assert refusal.value.response.status_code == 403
    mute_id = network.new_id()
    mute = network.caller(await network.ring(mute_id), mute_id)
    monkeypatch.setattr(mute, "begin", list)
    other = network.caller(await network.ring(network.new_id()), network.new_id())
    for stranger in (mute, other):
        async with stranger:
            await stranger.wait_for_end(limit=5)
            assert stranger.close_code == 1008
    await place.until_calls(0)


@pytest.mark.parametrize(
    "place",
    [TelnyxNetwork, PlivoNetwork, VonageNetwork],
    indirect=True,
    ids=lambda network: network.name,
)
async def test_a_webhook_is_taken_once(place: Place[Network]) -> None:
    """One that is played again is refused, and the ticket of the first stays good."""
    call_id = place.network.new_id()
    answer = await place.network.announce(call_id)
    assert (await place.http.send(answer.request)).status_code == 403
    async with place.network.caller(place.network.socket_in(answer), call_id) as caller:
        await caller.wait_for_speech()
