"""Real worker processes: stopped, killed, frozen, started wrongly, filled, fed with nonsense."""

import asyncio
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
import wave
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from services.errors import BusyError
from services.tts.voices import embedded_name
from services.worker import leases
from services.worker.__main__ import main
from services.worker.leases import KEY, FixedWorkers, read_leases
from services.worker.pool import WorkerPool
from tests.callers.redis import RedisServer
from tests.callers.server import FOREIGN, ROOT, WorkerServer
from tests.fakes.worker import until

FLAGS = ("--engine", "piper", "--offline")
FIRST, SECOND = embedded_name(24000), embedded_name(16000)

BIG_VOICE = ROOT / ".cache" / "models" / "piper-medium.onnx"
"""A voice whose memory shows: 63 MB of weights."""

BIG_MIB = 40
"""What it takes at least."""

LONG = "All that is said here is said again and again. " * 200
"""More than is computed ahead of whoever hears it: ten minutes."""

TOKEN = "sesame-4711"


class Peer:
    """A socket to a worker; speaks one utterance at a time."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.said: set[str] = set()
        """The types of all messages that came."""

    async def ask(self, text: str, voice: str = "") -> None:
        """Ask for utterance 1."""
        request = {"type": "speak", "id": 1, "text": text, "voice": voice}
        await self.socket.send(json.dumps(request))

    async def first_audio(self) -> None:
        """Return once the utterance is heard."""
        while not isinstance(await self._next(), bytes):
            pass

    async def hear_out(self) -> tuple[str, list[str], int]:
        """How the utterance ends: the last message's type, its words, its samples."""
        words: list[str] = []
        samples = 0
        while True:
            message = await self._next()
            if isinstance(message, bytes):
                assert struct.unpack(">I", message[:4]) == (1,)
                samples += (len(message) - 4) // 2
            elif message["type"] == "words":
                words += [word["text"] for word in message["words"]]
            elif message["type"] in {"end", "error", "busy"}:
                return message["type"], words, samples

    async def say(self, text: str, voice: str = "") -> tuple[str, list[str], int]:
        """Ask for an utterance and hear it out."""
        await self.ask(text, voice)
        return await self.hear_out()

    async def cancel(self) -> None:
        """End the utterance."""
        await self.socket.send('{"type": "cancel", "id": 1}')

    async def _next(self) -> bytes | dict[str, Any]:
        async with asyncio.timeout(30):
            frame = await self.socket.recv()
        if isinstance(frame, bytes):
            return frame
        message: dict[str, Any] = json.loads(frame)
        self.said.add(message["type"])
        return message


@asynccontextmanager
async def peer(worker: WorkerServer, token: str | None = None) -> AsyncIterator[Peer]:
    end = socket.socket()
    # What is not read here is soon not sent there.
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    end.connect(("127.0.0.1", worker.port))
    async with connect(
        worker.address,
        sock=end,
        subprotocols=["parley.v1"],  # type: ignore[list-item]
        additional_headers={"Authorization": f"Bearer {token}"} if token else {},
        proxy=None,
        close_timeout=1,
    ) as connection:
        yield Peer(connection)


async def ask(
    worker: WorkerServer, method: str, path: str, token: str = "", **body: Any
) -> httpx.Response:
    """What the worker answers over HTTP."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.request(method, worker.url + path, headers=headers, **body)


async def post_speech(worker: WorkerServer, text: str, token: str = "") -> httpx.Response:
    return await ask(worker, "POST", "/v1/audio/speech", token, json={"input": text})


async def still_serves(worker: WorkerServer) -> None:
    """The next utterance is spoken."""
    async with peer(worker) as one:
        ended, words, samples = await one.say("Still here.")
    assert (ended, words) == ("end", ["Still", "here."])
    assert samples


def resident(worker: WorkerServer) -> list[str]:
    """The voices in the worker's memory, as `/ready` tells."""
    found: list[str] = worker.get("/ready")["resident"]
    return found


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerServer]:
    """A worker with one embedded voice, which outlives whatever a test does to it."""
    with WorkerServer(*FLAGS) as worker:
        yield worker


@pytest.fixture(scope="module")
def small() -> Iterator[WorkerServer]:
    """A worker for one utterance and one model at a time, and for who knows its token."""
    limits = {"MAX_CONCURRENT_SESSIONS": "1", "RESIDENT_CAP": "1", "PARLEY_WORKER_TOKEN": TOKEN}
    with WorkerServer(*FLAGS, env=limits) as worker:
        yield worker


# The end of a process.


@pytest.mark.redis
async def test_sigterm_lets_what_goes_on_come_to_its_end() -> None:
    """Draining: not ready, what is new is refused, the utterance is whole, and it exits with 0."""
    # What the worker computes ahead and all sockets' buffers together do not hold.
    text = LONG[:5000]
    with RedisServer() as redis, WorkerServer(*FLAGS, "--redis", redis.url) as worker:
        store = leases.connect(redis.url)
        async with peer(worker) as one, peer(worker) as two:
            await one.ask(text, SECOND)
            await one.first_audio()
            # Nobody reads on: the utterance is under way for as long as that is so.
            stopping = asyncio.create_task(asyncio.to_thread(worker.stop))
            # No answer at all is not enough: a worker that is busy may give none in time.
            await until(lambda: bool(worker.get("/ready")["draining"]))
            ready = await ask(worker, "GET", "/ready")
            assert (ready.status_code, ready.json()["draining"]) == (503, True)
            assert (await ask(worker, "GET", "/health")).status_code == 200
            assert (await two.say("Me, too."))[0] == "busy"
            assert "draining" in two.said
            refused = await post_speech(worker, "Me, too.")
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            async with asyncio.timeout(8):
                while not (await read_leases(store))[0].draining:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert (await ask(worker, "GET", "/ready")).json()["calls"] == 1
            ended, words, _ = await one.hear_out()
            assert (ended, "draining" in one.said) == ("end", True)
            assert words == text.split()[-len(words) :]
            assert await stopping == 0
        assert await read_leases(store) == []
        await store.aclose()


async def test_draining_has_a_limit() -> None:
    """An utterance that goes on for longer is cut, and the exit is as orderly."""
    with WorkerServer(*FLAGS, "--drain-seconds", "0.2") as worker:
        async with peer(worker) as one:
            await one.ask(LONG)
            await one.first_audio()
            began = time.monotonic()
            assert await asyncio.to_thread(worker.stop) == 0
            assert time.monotonic() - began < 8
            with pytest.raises(ConnectionClosed):
                await one.hear_out()
        assert "Traceback" not in worker.log


@pytest.mark.redis
async def test_a_killed_worker_leaves_a_lease_that_expires() -> None:
    """It says nothing any more, and within seconds nobody is sent to it; restarted, it is back."""
    with RedisServer() as redis, WorkerServer(*FLAGS, "--redis", redis.url) as worker:
        store = leases.connect(redis.url)
        async with asyncio.timeout(20):
            while not await read_leases(store):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        worker.kill()
        (lease,) = await read_leases(store)
        assert lease.url == worker.address
        (key,) = await store.keys(f"{KEY}*")
        assert 0 < await store.pttl(key) <= 1000 * leases.EXPIRE_S
        async with asyncio.timeout(20):
            while await read_leases(store):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await store.keys(f"{KEY}*") == []
        await store.aclose()


async def test_a_frozen_worker_is_let_go_and_taken_back(worker: WorkerServer) -> None:
    """Who holds a socket to it notices within seconds, and is connected soon after it thaws."""
    pool = WorkerPool(FixedWorkers([worker.address]), None)
    pool.start()
    try:
        await until(lambda: any(pool), 20)
        worker.freeze()
        await until(lambda: not any(pool), 8)
        assert pool.choose("speak") is None
        worker.thaw()
        await until(lambda: any(pool), 8)
        (client,) = pool
        chunks = [chunk async for chunk in client.speak("Good morning.", "", 1.0)]
        assert [word.text for chunk in chunks for word in chunk.words] == ["Good", "morning."]
    finally:
        worker.thaw()
        await pool.close()


# Wrong settings.


def complaint(*flags: str, before: str = "") -> str:
    """The one line that a worker says before it exits with 2."""
    code = f"{before}\nimport runpy; runpy.run_module('services.worker', run_name='__main__')"
    env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    done = subprocess.run(
        [sys.executable, "-c", code, "--port", "0", *flags],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "env", "says"),
    [
        ((), {}, ("--engine", "--stt")),
        (("--engine", "gramophone"), {}, ("--engine", "'gramophone'", "piper")),
        (("--engine", "ws://a:7001"), {}, ("--engine", "ws://a:7001")),
        (("--enigne", "piper"), {}, ("--enigne", "did you mean --engine?")),
        ((*FLAGS, "--redis", "localhost:6379"), {}, ("--redis", "redis://host:6379")),
        ((*FLAGS, "--public-url", "http://a:7001"), {}, ("--public-url", "ws://host:7001")),
        (FLAGS, {"RESIDENT_CAP": "0"}, ("RESIDENT_CAP", "0")),
        (FLAGS, {"TTL_MS": "soon"}, ("TTL_MS", "soon")),
        (FLAGS, {"MAX_CONCURRENT_SESSIONS": "many"}, ("MAX_CONCURRENT_SESSIONS", "many")),
        (FLAGS, {"PARLEY_WORKER_TOKEN": "s\u00e9same"}, ("PARLEY_WORKER_TOKEN",)),
    ],
)
def test_a_wrong_setting_is_one_line(
    flags: tuple[str, ...],
    env: dict[str, str],
    says: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It names the setting, as it was spelled, and what is wrong with it; exit code 2."""
    monkeypatch.chdir(tmp_path)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert main(flags) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(part in said for part in says), said
    assert "s\u00e9same" not in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((*FLAGS, "--tts-voice", "en_US-noboddy-low/x"), ("--tts-voice", "noboddy")),
        ((*FLAGS, "--preload", "en_US-nobody-low"), ("en_US-nobody-low", "offline")),
        ((*FLAGS, "--preload", "nobody"), ("--preload", "'nobody'")),
        ((*FLAGS, "--redis", "redis://h:x"), ("--redis",)),
        (("--stt", "pocketsphinx", "--language", "xx"), ("--language", "xx")),
    ],
)
def test_what_cannot_be_had_is_one_line(flags: tuple[str, ...], says: tuple[str, ...]) -> None:
    """So is what shows only when engines are made: nothing is left running."""
    said = complaint(*flags)
    assert all(part in said for part in says), said


def test_a_missing_extra_is_one_line() -> None:
    """It names the command that installs it."""
    said = complaint(*FLAGS, before="import sys; sys.modules['piper'] = None")
    assert "--engine piper" in said
    assert "pip install 'parley[piper]'" in said


@pytest.mark.parametrize("flag", ["--port", "--wyoming-port"])
def test_a_port_in_use_is_one_line(worker: WorkerServer, flag: str) -> None:
    """It names the port and its setting."""
    said = complaint(*FLAGS, flag, str(worker.port))
    assert f"{flag} {worker.port}" in said


# Models in memory.


async def test_the_cap_evicts_the_voice_unused_for_longest(small: WorkerServer) -> None:
    """With room for one model, the second voice takes the place of the first, and back again."""
    async with peer(small, TOKEN) as one:
        for voice in (FIRST, SECOND, FIRST):
            assert (await one.say("Make room.", voice))[0] == "end"
            assert resident(small) == [voice]


@pytest.fixture
def two_big_voices(tmp_path: Path) -> Path:
    """A cache with two voices that take memory."""
    folder = tmp_path / "piper"
    folder.mkdir()
    for name in ("en_US-anna-medium", "en_US-berta-medium"):
        (folder / f"{name}.onnx").symlink_to(BIG_VOICE)
        (folder / f"{name}.onnx.json").symlink_to(f"{BIG_VOICE}.json")
    return tmp_path


async def test_eight_first_utterances_load_a_voice_once_and_ttl_frees_it(
    two_big_voices: Path,
) -> None:
    """Whoever asks while it is loaded waits for that; unused for long, its memory is given back."""
    ttl = {"TTL_MS": "5000"}
    flags = ("--cache", str(two_big_voices), "--tts-voice", FIRST)
    with WorkerServer(*FLAGS, *flags, "--preload", SECOND, env=ttl) as worker:
        assert {FIRST, SECOND} >= set(resident(worker))
        before = worker.resident_mib()

        async def say() -> int:
            async with peer(worker) as one:
                ended, _, samples = await one.say("We are many.", "en_US-anna-medium")
                assert ended == "end"
                return samples

        assert all(await asyncio.gather(*(say() for _ in range(8))))
        assert "en_US-anna-medium" in resident(worker)
        assert BIG_MIB < worker.resident_mib() - before < 6 * BIG_MIB
        full = worker.resident_mib()
        await until(lambda: resident(worker) == [], 15)
        # It is off the list before its memory is given back.
        await until(lambda: full - worker.resident_mib() > BIG_MIB)
        await still_serves(worker)


def test_preloaded_voices_are_there_from_the_start() -> None:
    """Ready means that they are in memory, the default voice with them."""
    with WorkerServer(*FLAGS, "--tts-voice", SECOND, "--preload", FIRST) as worker:
        assert set(resident(worker)) == {FIRST, SECOND}


# Limits.


async def test_the_one_too_many_is_told_to_wait(small: WorkerServer) -> None:
    """With one place: `busy` over the socket, 503 over HTTP; once it is free it is given again."""
    async with peer(small, TOKEN) as one, peer(small, TOKEN) as two:
        await one.ask(LONG)
        await one.first_audio()
        assert (await two.say("And I?"))[0] == "busy"
        refused = await post_speech(small, "And I?", TOKEN)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert small.get("/ready")["calls"] == 1
        await one.cancel()
        assert (await one.hear_out())[0] == "end"
        assert (await two.say("And now?"))[0] == "end"
        assert (await post_speech(small, "And I?", TOKEN)).status_code == 200


async def test_without_the_token_there_is_nothing_to_be_had(small: WorkerServer) -> None:
    """Neither socket nor API; health and metrics tell everybody, and the log tells no token."""
    for token in (None, "wrong"):
        with pytest.raises(InvalidStatus) as refused:
            async with peer(small, token):
                pass
        assert refused.value.response.status_code == 403
        for method, path in (
            ("POST", "/v1/audio/speech"),
            ("POST", "/v1/audio/transcriptions"),
            ("GET", "/v1/voices"),
            ("GET", "/v1/models"),
        ):
            answer = await ask(small, method, path, token or "")
            assert answer.status_code == 401, path
            assert answer.json()["error"]["code"] == "invalid_api_key"
    for path in ("/health", "/ready", "/metrics", "/"):
        assert (await ask(small, "GET", path)).status_code == 200
    pool = WorkerPool(FixedWorkers([small.address]), TOKEN)
    pool.start()
    await until(lambda: any(pool))
    await pool.close()
    assert TOKEN not in small.log


async def test_more_calls_than_places_are_all_answered(small: WorkerServer) -> None:
    """Twenty at once for one place: each is spoken or told that the worker is busy."""
    pool = WorkerPool(FixedWorkers([small.address]), TOKEN)
    pool.start()
    await until(lambda: any(pool))
    (client,) = pool

    async def say() -> bool:
        try:
            return bool([chunk async for chunk in client.speak("Me first.", "", 1.0)])
        except BusyError:
            return False

    try:
        async with asyncio.timeout(20):
            spoken = await asyncio.gather(*(say() for _ in range(20)))
        assert 1 <= sum(spoken) < 20
        assert await say()
    finally:
        await pool.close()


async def test_utterances_leave_nothing_behind(worker: WorkerServer) -> None:
    """After 200 more, every second of them cancelled, memory is where it was."""

    async def speak(count: int) -> None:
        async with peer(worker) as one:
            for number in range(count):
                await one.ask("Yes, indeed.", SECOND)
                if number % 2:
                    await one.first_audio()
                    await one.cancel()
                assert (await one.hear_out())[0] == "end"

    await speak(40)
    before = worker.resident_mib()
    await speak(200)
    assert worker.resident_mib() - before < 6
    assert worker.get("/ready")["calls"] == 0


async def test_the_client_in_the_documentation_works(worker: WorkerServer, tmp_path: Path) -> None:
    """docs/workers.md tells enough to speak to a worker: its client writes a WAVE file."""
    page = (ROOT / "docs" / "workers.md").read_text("utf-8")
    (client,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "say.py").write_text(client)
    command = [sys.executable, "say.py", worker.address, "Hello, world.", "hello.wav"]
    said = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, capture_output=True, timeout=30, check=True
    )
    assert said.stdout.split() == [b"Hello,", b"world."]
    with wave.open(str(tmp_path / "hello.wav")) as file:
        assert file.getframerate() == 24000
        assert 0.5 < file.getnframes() / 24000 < 3


# Nonsense.


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"not json", 400),
        (b'{"input": "\xff\xfe"}', 400),
        (b'{"input": 7}', 400),
        (b'{"input": ""}', 400),
        (b"[" * 100_000, 400),
        (json.dumps({"input": "x" * 100_000}).encode(), 400),
        (json.dumps({"input": "x", "voice": "nobody"}).encode(), 400),
        (json.dumps({"input": "x", "voice": "../../etc/passwd"}).encode(), 400),
        (bytes(10_000_000), 413),
    ],
)
async def test_a_wrong_body_is_a_clear_error(
    worker: WorkerServer, body: bytes, status: int
) -> None:
    """OpenAI's shape, one line, and the worker serves the next request."""
    answer = await ask(worker, "POST", "/v1/audio/speech", content=body)
    assert answer.status_code == status, answer.text[:200]
    assert "\n" not in answer.json()["error"]["message"]
    await still_serves(worker)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        bytes(range(256)) * 40,
        b"\0" * 1_000_000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1_000_000,
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000,
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
    ids=["tls", "bytes", "nuls", "long header", "headers", "negative", "chunks", "half upgrade"],
)
async def test_garbage_on_the_port_hurts_nobody(worker: WorkerServer, sent: bytes) -> None:
    """It is answered or cut off in time, with no traceback in the log, and the next is served."""

    def throw() -> bytes:
        answer = b""
        with socket.create_connection(("127.0.0.1", worker.port), 5) as connection:
            connection.settimeout(5)
            with suppress(OSError):
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    answer += part
        return answer

    answer = await asyncio.to_thread(throw)
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:100]
    await still_serves(worker)
    assert "Traceback" not in worker.log


@pytest.mark.parametrize("frame", [bytes(10_000_000), "\0" * 100_000, "{" * 10_000, b"\xff"])
async def test_wrong_frames_cost_their_own_socket_at_most(
    worker: WorkerServer, frame: str | bytes
) -> None:
    """An error or a closed socket for who sent them; nothing for the others."""
    async with peer(worker) as other, peer(worker) as one:
        with suppress(ConnectionClosed):
            await one.socket.send(frame)
            await one.hear_out()
        assert (await other.say("Unmoved."))[0] == "end"
