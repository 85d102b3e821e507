"""`parley.v1`, spoken to a worker over a real socket by a client that knows only the protocol."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from services.stt.engine import Segment, Transcript
from tests.fakes.speech_engine import FakeSpeechEngine
from tests.fakes.worker import LocalWorker

WORD_S = 0.1


class Peer:
    """One socket to a worker."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.lease: dict[str, Any] = {}

    async def tell(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def next(self) -> dict[str, Any]:
        """The next message; audio as `{"type": "audio", "id", "pcm"}`. Leases are kept apart."""
        while True:
            async with asyncio.timeout(5):
                frame = await self.socket.recv()
            if isinstance(frame, bytes):
                return {"type": "audio", "id": struct.unpack(">I", frame[:4])[0], "pcm": frame[4:]}
            message: dict[str, Any] = json.loads(frame)
            if message["type"] != "lease":
                return message
            self.lease = message

    async def until_end(self, number: int) -> list[dict[str, Any]]:
        """All of an utterance's messages up to the one that ends it."""
        found = []
        while True:
            message = await self.next()
            if message.get("id") == number:
                found.append(message)
                if message["type"] in {"end", "error", "busy", "transcript"}:
                    return found


@asynccontextmanager
async def peer(worker: LocalWorker, token: str | None = None) -> AsyncIterator[Peer]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with connect(
        worker.url,
        subprotocols=["parley.v1"],  # type: ignore[list-item]
        additional_headers=headers,
        max_size=None,
        proxy=None,
    ) as socket:
        yield Peer(socket)


def audio(messages: list[dict[str, Any]]) -> bytes:
    return b"".join(m["pcm"] for m in messages if m["type"] == "audio")


async def speaks(worker: LocalWorker) -> None:
    """The worker serves the next request: one word, on a new socket."""
    async with peer(worker) as other:
        await other.tell(type="speak", id=1, text="still")
        assert (await other.until_end(1))[-1]["type"] == "end"


async def test_text_becomes_audio_and_words() -> None:
    """Begin, then audio, each word just ahead of its end, then end; no sample is missing."""
    async with LocalWorker(FakeSpeechEngine()) as worker, peer(worker) as one:
        await one.tell(type="speak", id=7, text="three short words", voice="basso", field="ignored")
        messages = await one.until_end(7)
    assert [messages[0]["type"], messages[-1]["type"]] == ["begin", "end"]
    assert messages[0]["sample_rate"] == 22050
    assert len(audio(messages)) == 2 * 3 * round(WORD_S * 22050)
    sent, words = 0, []
    for message, following in pairwise(messages):
        if message["type"] == "audio":
            sent += len(message["pcm"]) // 2
        elif message["type"] == "words":
            assert following["type"] == "audio"
            for word in message["words"]:
                words.append(word["text"])
                end = round(word["end"] * 22050)
                assert sent < end <= sent + len(following["pcm"]) // 2
    assert words == ["three", "short", "words"]


async def test_many_utterances_share_a_socket() -> None:
    """Two utterances are computed together, and each gets its own audio."""
    engine = FakeSpeechEngine(gated=True)
    async with LocalWorker(engine) as worker, peer(worker) as one:
        await one.tell(type="speak", id=1, text="one two")
        await one.tell(type="speak", id=2, text="three four five")
        assert await asyncio.to_thread(engine.wait_for_utterance, 2)
        engine.permit(100)
        left, lengths = {1, 2}, {1: 0, 2: 0}
        while left:
            message = await one.next()
            if message["type"] == "audio":
                lengths[message["id"]] += len(message["pcm"])
            elif message["type"] == "end":
                left.remove(message["id"])
    assert lengths == {1: 2 * 2 * 1600, 2: 2 * 3 * 1600}


async def test_cancel_ends_the_utterance_and_frees_the_engine() -> None:
    """After a cancel comes `end` and nothing more of it; others go on."""
    engine = FakeSpeechEngine(gated=True)
    async with LocalWorker(engine) as worker, peer(worker) as one:
        await one.tell(type="speak", id=1, text="a b c d e f g h")
        engine.permit(1)
        assert (await one.next())["type"] == "begin"
        await one.tell(type="cancel", id=1)
        assert (await one.until_end(1))[-1]["type"] == "end"
        engine.permit(100)
        assert await asyncio.to_thread(engine.utterances[0].ended.wait, 5)
        assert engine.utterances[0].chunks < 5
        await one.tell(type="speak", id=1, text="again")
        assert len(audio(await one.until_end(1))) == 2 * 1600


async def test_a_cancel_right_behind_its_text_is_answered() -> None:
    """An utterance that is cancelled before it began ends all the same, and so does its place."""
    async with LocalWorker(FakeSpeechEngine(), capacity=1) as worker, peer(worker) as one:
        for number in range(20):
            await one.tell(type="speak", id=number, text="never mind")
            await one.tell(type="cancel", id=number)
            assert (await one.until_end(number))[-1]["type"] == "end"
        await speaks(worker)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        ("not json", "JSON"),
        ("[]", "object"),
        ('{"type": "sing", "id": 1}', "sing"),
        ('{"id": 1}', "type"),
        ('{"type": "speak", "id": 1}', "text"),
        ('{"type": "speak", "id": -1, "text": "x"}', "id"),
        ('{"type": "speak", "id": 1, "text": "x", "speed": 1e9}', "speed"),
        (json.dumps({"type": "speak", "id": 1, "text": "x" * 100_000}), "text"),
        (b"", "0 bytes"),
        (b"\0\0\0\1\0", "5 bytes"),
    ],
)
async def test_what_is_wrong_is_answered_with_an_error(frame: str | bytes, says: str) -> None:
    """Each mistake costs one error, which says what it was, and the socket goes on."""
    async with LocalWorker(FakeSpeechEngine()) as worker, peer(worker) as one:
        await one.socket.send(frame)
        message = await one.next()
        assert (message["type"], message["code"]) == ("error", "bad-request")
        assert says in message["message"]
        await one.tell(type="speak", id=2, text="on")
        assert (await one.until_end(2))[-1]["type"] == "end"


@pytest.mark.parametrize("frame", [bytes(10_000_000), "x" * 10_000_000])
async def test_a_frame_of_10_mb_closes_its_socket_only(frame: str | bytes) -> None:
    """It is refused by its size, and whoever is on another socket notices nothing."""
    async with LocalWorker(FakeSpeechEngine()) as worker, peer(worker) as one:
        async with peer(worker) as two:
            with suppress(ConnectionClosed):
                await two.socket.send(frame)
            with pytest.raises(ConnectionClosed) as closed:
                await two.next()
            assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
        await one.tell(type="speak", id=1, text="unmoved")
        assert (await one.until_end(1))[-1]["type"] == "end"


async def test_text_that_is_no_utf8_closes_its_socket_only() -> None:
    """RFC 6455: such a text frame fails the connection, with 1007."""
    async with LocalWorker(FakeSpeechEngine()) as worker:
        async with peer(worker) as one:
            await one.socket.send(b'{"type": "speak", "id": 1, "text": "\xff\xfe"}', text=True)
            with pytest.raises(ConnectionClosed) as closed:
                await one.next()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1007
        await speaks(worker)


async def test_a_socket_cut_within_a_message_leaves_nothing_behind() -> None:
    """Half a frame, then silence and a reset: the worker ends what that peer had asked for."""
    engine = FakeSpeechEngine(gated=True)
    async with LocalWorker(engine) as worker:
        async with peer(worker) as one:
            await one.tell(type="speak", id=1, text="a b c d")
            assert await asyncio.to_thread(engine.wait_for_utterance, 1)
            # A masked text frame of 100 bytes, of which ten come.
            one.socket.transport.write(b"\x81\xe4" + bytes(4) + b'{"type": "')
            one.socket.transport.abort()
        engine.permit(100)
        assert await asyncio.to_thread(engine.utterances[0].ended.wait, 5)
        async with asyncio.timeout(5):
            await worker.host.admission.wait_until_empty()
        await speaks(worker)


@pytest.mark.parametrize("text", ["", "   "])
async def test_text_without_anything_to_say_ends_at_once(text: str) -> None:
    """No audio, no error."""
    async with LocalWorker(FakeSpeechEngine()) as worker, peer(worker) as one:
        await one.tell(type="speak", id=1, text=text)
        assert [m["type"] for m in await one.until_end(1)] == ["end"]


async def test_unknown_voice_is_an_error_of_its_own() -> None:
    """A client can tell it from a failure, and choose another."""
    async with LocalWorker(FakeSpeechEngine()) as worker, peer(worker) as one:
        await one.tell(type="speak", id=1, text="hello", voice="nobody")
        (message,) = await one.until_end(1)
        assert message["code"] == "unknown-voice"
        assert "nobody" in message["message"]


async def test_number_in_use_is_refused() -> None:
    """The utterance that has it goes on."""
    engine = FakeSpeechEngine(gated=True)
    async with LocalWorker(engine) as worker, peer(worker) as one:
        await one.tell(type="speak", id=1, text="one two")
        await one.tell(type="speak", id=1, text="three")
        assert (await one.next())["code"] == "bad-request"
        engine.permit(100)
        assert len(audio(await one.until_end(1))) == 2 * 2 * 1600


async def test_full_worker_says_so_at_once() -> None:
    """The one too many is told `busy`, and its lease shows it; a place that is free is taken."""
    engine = FakeSpeechEngine(gated=True)
    async with LocalWorker(engine, capacity=1) as worker, peer(worker) as one:
        await one.tell(type="speak", id=1, text="one")
        assert await asyncio.to_thread(engine.wait_for_utterance, 1)
        await one.tell(type="speak", id=2, text="two")
        assert (await one.until_end(2))[-1]["type"] == "busy"
        engine.permit(100)
        await one.until_end(1)
        await one.tell(type="speak", id=3, text="three")
        assert (await one.until_end(3))[-1]["type"] == "end"
    assert (one.lease["capacity"], one.lease["engine"]) == (1, "fake")


async def test_draining_worker_finishes_and_takes_no_more() -> None:
    """Peers are told; what goes on comes to its end; what is new is refused."""
    engine = FakeSpeechEngine(gated=True)
    async with LocalWorker(engine) as worker, peer(worker) as one:
        await one.tell(type="speak", id=1, text="one two")
        assert await asyncio.to_thread(engine.wait_for_utterance, 1)
        worker.host.admission.draining = True
        await worker.sockets.drain()
        assert (await one.next())["type"] == "draining"
        await one.tell(type="speak", id=2, text="three")
        assert (await one.until_end(2))[-1]["type"] == "busy"
        engine.permit(100)
        assert len(audio(await one.until_end(1))) == 2 * 2 * 1600


async def test_slow_reader_holds_back_its_own_utterances_only() -> None:
    """While one peer reads nothing of a long text, another hears all of its own."""
    engine = FakeSpeechEngine(word_secs=60.0)
    async with LocalWorker(engine) as worker, peer(worker) as slow:
        slow.socket.transport.pause_reading()
        await slow.tell(type="speak", id=1, text="eternity " * 20)
        assert await asyncio.to_thread(engine.wait_for_utterance, 1)
        async with peer(worker) as quick:
            await quick.tell(type="speak", id=1, text="minute")
            assert len(audio(await quick.until_end(1))) == 2 * 60 * 16000
        assert engine.utterances[0].chunks < 20 * 60 / 0.08
        slow.socket.transport.abort()


@pytest.mark.parametrize("token", [None, "wrong", "sesam\u00e9"])
async def test_without_the_token_there_is_no_socket(token: str | None) -> None:
    """The upgrade is refused; with the token it is not."""
    async with LocalWorker(FakeSpeechEngine(), token="sesame") as worker:
        with pytest.raises(InvalidStatus) as refused:
            async with peer(worker, token):
                pass
        assert refused.value.response.status_code in {401, 403}
        async with peer(worker, "sesame") as one:
            await one.tell(type="speak", id=1, text="open")
            assert (await one.until_end(1))[-1]["type"] == "end"


async def test_another_page_of_the_browser_gets_no_socket() -> None:
    """A web page elsewhere cannot use a worker on this machine."""
    async with LocalWorker(FakeSpeechEngine()) as worker:
        with pytest.raises(InvalidStatus):
            await connect(
                worker.url,
                origin="https://elsewhere.example",  # type: ignore[arg-type]
                subprotocols=["parley.v1"],  # type: ignore[list-item]
                proxy=None,
            )


class Ear:
    """Hears how long the audio is."""

    name = "ear"

    async def transcribe(self, pcm: bytes, language: str | None) -> Transcript:
        text = f"{len(pcm)} bytes"
        return Transcript((Segment(text, 0.0, 1.0, 0.9, 0.1),), language)

    async def close(self) -> None:
        pass


async def test_audio_becomes_a_transcript() -> None:
    """Whatever pieces the audio comes in, it is recognised whole."""
    async with LocalWorker(hearing=Ear()) as worker, peer(worker) as one:
        await one.tell(type="transcribe", id=3, bytes=10_000, language="de")
        for size in (4, 9_000, 996):
            await one.socket.send(struct.pack(">I", 3) + bytes(size))
        (message,) = await one.until_end(3)
        assert message["language"] == "de"
        assert message["segments"][0]["text"] == "10000 bytes"
        await one.tell(type="transcribe", id=4, bytes=10)
        await one.socket.send(struct.pack(">I", 4) + bytes(12))
        assert "more audio" in (await one.next())["message"]
        await one.tell(type="cancel", id=4)
        assert (await one.until_end(4))[-1]["type"] == "end"
        await one.tell(type="transcribe", id=5, bytes=10**9)
        assert (await one.next())["code"] == "bad-request"


async def test_a_worker_does_only_what_it_has_an_engine_for() -> None:
    """Asked for the other, it says so."""
    async with LocalWorker(hearing=Ear()) as worker, peer(worker) as one:
        await one.tell(type="speak", id=1, text="hello")
        assert "does not speak" in (await one.until_end(1))[-1]["message"]
