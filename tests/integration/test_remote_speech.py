"""Speech through workers: no word lost and none said twice, whatever happens to a worker."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from services.errors import BusyError, EngineError
from services.tts.engine import Chunk, VoiceInfo
from services.tts.local import LocalSpeech
from services.tts.remote import RemoteSpeech
from services.worker.leases import FixedWorkers
from services.worker.pool import WorkerPool
from services.worker.protocol import Lease
from tests.fakes.speech_engine import FakeSpeechEngine
from tests.fakes.worker import LocalWorker, until

TEXT = "one two three four five six seven eight nine ten"


@asynccontextmanager
async def remote(
    *workers: LocalWorker,
    wait_for: int | None = None,
    token: str | None = None,
    fallback: FakeSpeechEngine | None = None,
    silence_s: float = 2.0,
    worker_s: float = 0.5,
) -> AsyncIterator[RemoteSpeech]:
    """Speech through workers, of which so many are connected (all, if not told otherwise)."""
    pool = WorkerPool(FixedWorkers([worker.url for worker in workers]), token)
    pool.start()
    speech = RemoteSpeech(
        pool,
        fallback=LocalSpeech(fallback) if fallback else None,
        first_audio_limit_s=silence_s,
        worker_limit_s=worker_s,
    )
    try:
        async with asyncio.timeout(5):
            while len(list(pool)) < (len(workers) if wait_for is None else wait_for):
                await pool.wait_for_change(1)
        yield speech
    finally:
        await speech.close()


async def say(speech: RemoteSpeech, text: str = TEXT, voice: str = "") -> list[Chunk]:
    async with asyncio.timeout(10):
        return [chunk async for chunk in speech.speak(text, voice, 1.0)]


def words(chunks: list[Chunk]) -> str:
    return " ".join(word.text for chunk in chunks for word in chunk.words)


def seconds(chunks: list[Chunk]) -> float:
    return sum(len(chunk.pcm) / 2 / chunk.sample_rate for chunk in chunks)


async def test_a_worker_speaks_as_its_engine_does() -> None:
    """Same samples, same words, same times."""
    engine = FakeSpeechEngine()
    local = LocalSpeech(engine)
    here = [chunk async for chunk in local.speak(TEXT, "basso", 1.0)]
    async with LocalWorker(engine) as worker, remote(worker) as speech:
        there = await say(speech, voice="fake/basso")
    await local.close()
    assert b"".join(c.pcm for c in there) == b"".join(c.pcm for c in here)
    assert [w for c in there for w in c.words] == [w for c in here for w in c.words]


async def test_voices_are_those_of_all_workers() -> None:
    """Each under its engine's name, once."""
    async with (
        LocalWorker(FakeSpeechEngine(), name="piper") as one,
        LocalWorker(FakeSpeechEngine(), name="piper") as two,
        LocalWorker(FakeSpeechEngine(), name="other") as three,
        remote(one, two, three) as speech,
    ):
        names = sorted(voice.name for voice in speech.voices())
    assert names == ["other/alto", "other/basso", "piper/alto", "piper/basso"]


@pytest.mark.parametrize("chunks", [0, 1, 2, 5, 12])
async def test_a_worker_that_dies_costs_no_words(chunks: int) -> None:
    """Wherever it stops, another speaks the rest from the first word that was not passed on."""
    dying, spare = FakeSpeechEngine(gated=True), FakeSpeechEngine()
    heard: list[Chunk] = []

    async def listen(speech: RemoteSpeech) -> None:
        async for chunk in speech.speak(TEXT, "dying/alto", 1.0):
            heard.append(chunk)  # noqa: PERF401 - looked at meanwhile.

    async with (
        LocalWorker(dying, name="dying") as one,
        LocalWorker(spare, name="spare") as two,
        remote(one, two) as speech,
    ):
        speaking = asyncio.create_task(listen(speech))
        assert await asyncio.to_thread(dying.wait_for_utterance, 1)
        if chunks:
            dying.permit(chunks)
        # What is computed is not heard yet: of each chunk, all words that end in it have to be.
        complete = chunks * 8 // 10
        await until(lambda: len(words(heard).split()) == complete)
        await until(lambda: dying.utterances[0].chunks == chunks)
        await one.stop()
        async with asyncio.timeout(10):
            await speaking
        dying.permit(1000)
    assert words(heard) == TEXT
    (rest,) = spare.utterances
    assert TEXT.endswith(rest.text)
    assert chunks < 2 or len(rest.text) < len(TEXT)
    # All of every word, and of the one that was cut no more than its beginning twice.
    assert 1.0 - 1e-6 <= seconds(heard) < 1.1
    ends = [word.end for chunk in heard for word in chunk.words]
    assert ends == sorted(ends)


async def test_an_engine_that_fails_is_left_for_another() -> None:
    """A failure in mid-sentence is as little of a loss as a death."""
    failing, spare = FakeSpeechEngine(), FakeSpeechEngine()
    failing.fail = lambda _, chunks: chunks == 4
    async with (
        LocalWorker(failing, name="failing") as one,
        LocalWorker(spare, name="spare") as two,
        remote(one, two) as speech,
    ):
        assert words(await say(speech, voice="failing/alto")) == TEXT
    assert len(spare.utterances) == 1


async def test_a_silent_worker_is_left_and_freed() -> None:
    """One that accepts and gives nothing is left after the limit, and told that it is."""
    silent, spare = FakeSpeechEngine(gated=True), FakeSpeechEngine()
    async with (
        LocalWorker(silent, name="silent") as one,
        LocalWorker(spare, name="spare") as two,
        remote(one, two, silence_s=1.0) as speech,
    ):
        assert words(await say(speech, voice="silent/alto")) == TEXT
        async with asyncio.timeout(5):
            await one.host.admission.wait_until_empty()
        silent.permit(100)


async def test_a_worker_that_recovers_is_used_again() -> None:
    """What it failed at is forgiven soon; and one that comes back on its port is found."""
    engine = FakeSpeechEngine()
    engine.fail = lambda _, chunks: len(engine.utterances) == 1
    async with LocalWorker(engine) as worker, remote(worker, worker_s=1) as speech:
        assert words(await say(speech)) == TEXT
        await worker.stop()
        await worker.host.close()
        with suppress(EngineError):
            await say(speech)
        async with LocalWorker(FakeSpeechEngine(), port=worker.port):
            await until(lambda: bool(speech.voices()))
            assert words(await say(speech)) == TEXT


async def test_full_workers_are_passed_over() -> None:
    """The least busy is taken; where all are full, one that becomes free is waited for."""
    engines = [FakeSpeechEngine(gated=True) for _ in range(2)]
    async with (
        LocalWorker(engines[0], capacity=1) as one,
        LocalWorker(engines[1], capacity=1) as two,
        remote(one, two, worker_s=5) as speech,
    ):
        talks = [asyncio.create_task(say(speech, text)) for text in ("one", "two")]
        for engine in engines:
            assert await asyncio.to_thread(engine.wait_for_utterance, 1)
        third = asyncio.create_task(say(speech, "three"))
        await asyncio.sleep(0.05)
        assert sum(len(engine.utterances) for engine in engines) == 2
        for engine in engines:
            engine.permit(100)
        assert [words(await talk) for talk in talks] == ["one", "two"]
        assert words(await third) == "three"


async def test_where_no_worker_is_free_it_says_so_in_time() -> None:
    """After the limit, BusyError."""
    async with LocalWorker(FakeSpeechEngine(gated=True), capacity=1) as worker:
        assert isinstance(worker.engine, FakeSpeechEngine)
        async with remote(worker, worker_s=0.2) as speech:
            talk = asyncio.create_task(say(speech, "one"))
            assert await asyncio.to_thread(worker.engine.wait_for_utterance, 1)
            with pytest.raises(BusyError):
                await say(speech, "two")
            worker.engine.permit(100)
            await talk


async def test_the_fallback_speaks_the_rest() -> None:
    """With no other worker, the engine of this process goes on in mid-sentence."""
    dying, fallback = FakeSpeechEngine(gated=True), FakeSpeechEngine()
    async with LocalWorker(dying) as worker, remote(worker, fallback=fallback) as speech:
        talk = asyncio.create_task(say(speech))
        assert await asyncio.to_thread(dying.wait_for_utterance, 1)
        dying.permit(5)
        await until(lambda: dying.utterances[0].chunks == 5)
        await worker.stop()
        assert words(await talk) == TEXT
        assert [voice.name for voice in speech.voices()] == ["alto", "basso"]
        dying.permit(1000)
    assert TEXT.endswith(fallback.utterances[0].text)


async def test_the_next_sentence_comes_from_the_engine_that_is_there() -> None:
    """Another worker starts, the first drains: the voice changes between sentences, unasked."""
    first, second = FakeSpeechEngine(), FakeSpeechEngine()
    async with (
        LocalWorker(first, name="first") as one,
        LocalWorker(second, name="second") as two,
        remote(one, two) as speech,
    ):
        assert words(await say(speech, voice="first/basso")) == TEXT
        assert not second.utterances
        one.host.admission.draining = True
        await one.sockets.drain()
        assert words(await say(speech, voice="first/basso")) == TEXT
        assert len(first.utterances) == 1
        assert second.utterances[0].voice == "basso"


async def test_who_stops_listening_frees_the_worker() -> None:
    """Closing the generator cancels the utterance at the worker at once."""
    engine = FakeSpeechEngine(gated=True)
    async with LocalWorker(engine) as worker, remote(worker) as speech:
        speaking = speech.speak(TEXT, "", 1.0)
        engine.permit(2)
        await anext(speaking)
        await speaking.aclose()
        # The engine has no permit for another chunk: the place is free without its help.
        async with asyncio.timeout(5):
            await worker.host.admission.wait_until_empty()
        engine.permit(100)
        assert await asyncio.to_thread(engine.utterances[0].ended.wait, 5)
        assert engine.utterances[0].stopped


async def test_a_wrong_token_leaves_the_worker_unused() -> None:
    """It is as if it were not there; the log names the setting."""
    async with LocalWorker(FakeSpeechEngine(), token="right") as worker:
        async with remote(worker, wait_for=0, token="wrong", worker_s=0.3) as speech:
            with pytest.raises(BusyError):
                await say(speech)
        async with remote(worker, token="right") as speech:
            assert words(await say(speech)) == TEXT


async def test_a_voice_that_is_gone_is_replaced_by_one_of_its_language() -> None:
    """Same name first, then same language, then the worker's default."""
    engine = FakeSpeechEngine()
    async with LocalWorker(engine, name="new") as worker, remote(worker) as speech:
        await say(speech, "x", voice="old/basso")
        await say(speech, "x", voice="old/unheard-of")
        assert [u.voice for u in engine.utterances] == ["basso", ""]
        assert VoiceInfo("new/basso", "Basso", "en-GB") in speech.voices()


async def test_empty_text_says_nothing() -> None:
    """Without asking any worker."""
    async with LocalWorker(FakeSpeechEngine()) as worker, remote(worker) as speech:
        assert await say(speech, "  ") == []


async def test_a_full_worker_is_asked_again_once_it_is_free() -> None:
    """Two agents share a worker of one place: the one that came second waits, and is served."""
    engine = FakeSpeechEngine(gated=True)
    async with (
        LocalWorker(engine, capacity=1) as worker,
        remote(worker) as one,
        remote(worker, worker_s=5) as two,
    ):
        first = asyncio.create_task(say(one, "one"))
        assert await asyncio.to_thread(engine.wait_for_utterance, 1)
        # As an agent that has not heard yet that the worker is full.
        (client,) = two._pool
        assert client.lease is not None
        client.lease = client.lease.model_copy(update={"calls": 0})
        second = asyncio.create_task(say(two, "two"))
        await until(lambda: not client.usable)
        engine.permit(100)
        assert words(await first) == "one"
        assert words(await second) == "two"


async def test_the_only_worker_is_asked_again_when_its_socket_blips() -> None:
    """Cut in mid-sentence and connected again, it speaks the rest itself."""
    engine = FakeSpeechEngine(gated=True)
    async with LocalWorker(engine) as worker, remote(worker, worker_s=5) as speech:
        talk = asyncio.create_task(say(speech))
        assert await asyncio.to_thread(engine.wait_for_utterance, 1)
        engine.permit(5)
        await until(lambda: engine.utterances[0].chunks == 5)
        for socket in list(worker.sockets._open):
            await socket._websocket.close(1011)
        engine.permit(1000)
        assert words(await talk) == TEXT
        assert TEXT.endswith(engine.utterances[1].text)


async def test_a_worker_that_always_fails_is_asked_for_as_long_as_it_is_the_only_one() -> None:
    """However often: each utterance is an error in time, and another worker is found at once."""
    engine = FakeSpeechEngine()
    engine.fail = lambda _text, _chunks: True
    async with LocalWorker(engine) as worker, remote(worker) as speech:
        (client,) = speech._pool
        for _ in range(1100):
            client.blame()
        with pytest.raises(EngineError, match="cannot say"):
            await say(speech)


@pytest.mark.parametrize("text", ["one " * 5000, "half an emoji \ud83d"])
async def test_any_text_is_spoken_as_it_would_be_here(text: str) -> None:
    """What is too long for one message goes in several; what cannot be sent is replaced."""
    engine = FakeSpeechEngine(word_secs=0.001)
    async with LocalWorker(engine) as worker, remote(worker) as speech:
        assert len(words(await say(speech, text)).split()) == len(text.split())


@pytest.mark.parametrize(
    "times", [("NaN", "NaN"), (0, "Infinity"), (0, 1e308), (-1, 0.5), (0.5, 0.1)]
)
async def test_impossible_times_are_a_failure_of_the_worker(times: tuple[object, object]) -> None:
    """Another worker speaks in its place."""
    begin, end = times
    lease = Lease(url="ws://x:1", engine="liar", voices=FakeSpeechEngine().voices(), capacity=9)

    async def lie(socket: ServerConnection) -> None:
        await socket.send(lease.model_dump_json())
        async for message in socket:
            number = json.loads(message)["id"]
            await socket.send(f'{{"type": "begin", "id": {number}, "sample_rate": 16000}}')
            word = f'{{"text": "one", "start": {begin}, "end": {end}}}'
            await socket.send(f'{{"type": "words", "id": {number}, "words": [{word}]}}')
            await socket.send(number.to_bytes(4, "big") + bytes(640))

    protocols = [Subprotocol("parley.v1")]
    async with (
        serve(lie, "127.0.0.1", 0, subprotocols=protocols) as liar,
        LocalWorker(FakeSpeechEngine(), name="honest") as honest,
    ):
        port = liar.sockets[0].getsockname()[1]
        pool = WorkerPool(FixedWorkers([f"ws://127.0.0.1:{port}", honest.url]), None)
        pool.start()
        speech = RemoteSpeech(pool)
        await until(lambda: len(list(pool)) == 2)
        assert words(await say(speech, voice="liar/alto")) == TEXT
        await speech.close()
