"""One call's life: admitted, built, greeted, run, ended; and the calls that a process has."""

import asyncio
import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import asdict
from enum import StrEnum
from typing import Any
from uuid import uuid4

from loguru import logger
from pipecat.frames.frames import (
    EndWorkerFrame,
    LLMMessagesAppendFrame,
    TTSSpeakFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.observers.base_observer import BaseObserver
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frameworks.rtvi import RTVIObserverParams, RTVIProcessor
from pipecat.processors.frameworks.rtvi.models import ClientMessage
from pipecat.transports.base_transport import BaseTransport
from pipecat.workers.runner import WorkerRunner

from bot import pipeline
from bot.agent import Agent
from bot.engines import VOICE_RATE, Engines
from bot.line import AnsweredBy, Line, LineError
from bot.records.folder import Records
from bot.settings import Settings
from bot.token_bucket import TokenBucket
from processors.frame_log import FrameLog
from processors.hang_up import HangUpFrame, TransferFrame
from processors.latency import latency_observer
from processors.rtvi import CallerRTVIProcessor
from services.errors import UnknownVoiceError
from services.process import trim_memory
from services.stt.engine import SAMPLE_RATE as EAR_RATE
from services.tts.engine import VoiceInfo
from services.tts.service import SpeechTTSSettings

CLIENT_READY_SECONDS = 1.0
"""How long the greeting waits for a client that opened a data channel to say that it is ready."""

HANG_UP_SECONDS = 15.0
"""How long the agent's last words may take before the call is ended without them."""


MESSAGES_AT_ONCE = 50
"""How many messages a client may send at once: each can be a question to the language model."""

MESSAGES_A_SECOND = 2.0
"""How many it may send for long: more than anybody types."""


class EndReason(StrEnum):
    """Why a call ended, where it was not the agent's own goodbye."""

    HANGUP = "hangup"
    IDLE = "idle"
    MAX_LENGTH = "max-length"
    SHUTDOWN = "shutdown"
    TRANSFER = "transfer"
    VOICEMAIL = "voicemail"


class Call:
    """One conversation, from connect to hang-up, whatever carries it."""

    def __init__(
        self,
        line: Line,
        engines: Engines,
        agent: Agent,
        settings: Settings,
        *,
        voice: str | None = None,
        records: Records | None = None,
    ) -> None:
        """Build a call on a line that is about to connect.

        Args:
            line: What carries it.
            engines: What speaks, hears and thinks.
            agent: Who answers.
            settings: The settings in force.
            voice: A voice other than the agent's own.
            records: Where its record goes, if it is to have one.
        """
        self.id = uuid4().hex
        self.line = line
        self.voice = ""
        """The voice that the next sentence is spoken with; empty while nobody speaks."""
        self.ended = asyncio.Event()
        """Set when the call is over and its line closed."""
        self._wanted = voice or engines.wanted_voice()
        self._engines = engines
        self._choose_voice()
        self._agent = agent
        self._settings = settings
        self._idle_prompts = 0
        self._connected = asyncio.Event()
        self._client_ready = asyncio.Event()
        self._hanging_up = asyncio.Event()
        self._cancelled = False
        self._conversation = pipeline.build(
            line.transport,
            engines.stt(agent),
            engines.llm(agent),
            engines.tts(self.voice),
            agent,
            settings,
            can_transfer=line.can_transfer,
            detect_machine=self._detects_machine(),
            listen=engines.listen,
        )
        observers: list[BaseObserver] = [latency_observer(self._tell_latency)]
        self.record = records and records.begin(
            self.id,
            line.origin,
            rate=line.sample_rate or EAR_RATE,
            about={"agent": agent.name, "voice": self.voice},
        )
        if self.record:
            wake_word = self._conversation.wake_word
            observers.append(FrameLog(self.record, line.transport, wake_word=wake_word))
        self._worker = PipelineWorker(
            self._conversation.pipeline,
            params=PipelineParams(
                audio_in_sample_rate=line.sample_rate or EAR_RATE,
                audio_out_sample_rate=line.sample_rate or VOICE_RATE,
                enable_metrics=True,
                enable_usage_metrics=True,
            ),
            observers=observers,
            # Silence is the caller's right: idle prompts and the longest call end a call instead.
            idle_timeout_secs=None,
            conversation_id=self.id,
            # What tools find in `params.app_resources`.
            app_resources=self,
            rtvi_processor=CallerRTVIProcessor(
                also=line.client_messages,
                allow=TokenBucket(MESSAGES_AT_ONCE, MESSAGES_A_SECOND).take,
            ),
            rtvi_observer_params=RTVIObserverParams(metrics_enabled=False),
        )
        self._runner = WorkerRunner(handle_sigint=False)
        self._listen(line.transport)

    @property
    def context(self) -> LLMContext:
        """What the mind knows of the conversation: what was said by then, and heard of it."""
        return self._conversation.context

    async def run(self) -> None:
        """Carry the call to its end."""
        logger.info("call {}: begins", self.id)
        await self._runner.add_workers(self._worker)
        watch = asyncio.create_task(self._watch(), name=f"call {self.id}: watch")
        try:
            # A runner that is told to stop before it runs forgets it.
            if not self._cancelled:
                await self._runner.run()
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
            if self.record:
                self.record.end()
            logger.info("call {}: ended", self.id)

    async def hang_up(self, reason: EndReason, say: str) -> None:
        """Interrupt the agent, have it say `say`, and end the call once that has been heard."""
        self._hanging_up.set()
        frame = HangUpFrame(goodbye=say, reason=reason.value)
        if detector := self._conversation.detector:
            # Once it has detected a machine, it lets nothing through.
            await detector.broadcast_interruption()
            await detector.push_frame(frame)
        else:
            await self._worker.rtvi.interrupt_bot()
            await self._worker.queue_frame(frame)

    async def answered_by(self, who: AnsweredBy) -> None:
        """Note who answered the agent's call, and do what the settings want done with a machine.

        Args:
            who: A person, or a machine.
        """
        # Carriers repeat themselves, and what is being said to the machine is not to stop for it.
        again = self.line.origin.data.get("answered_by") == who
        self.line.answered_by(who)
        if who == "machine" and not again and self._settings.voicemail != "ignore":
            message = self._agent.voicemail if self._settings.voicemail == "message" else ""
            await self.hang_up(EndReason.VOICEMAIL, message)

    def voices(self) -> tuple[VoiceInfo, ...]:
        """The voices that the call may change to."""
        return self._engines.voices()

    async def set_voice(self, name: str) -> None:
        """Speak the next sentence with another voice; what is being spoken goes on as it is.

        Args:
            name: One of `voices`.

        Raises:
            UnknownVoiceError: It is none of them.
        """
        if not self._engines.has_voice(name):
            raise UnknownVoiceError(f"there is no voice {name[:80]!r}")
        self._wanted = name
        await self.update_voices()

    async def update_voices(self) -> None:
        """Have the voice that was asked for, or what stands in for it, and tell the client.

        To be called when the voices are others than before.
        """
        before = self.voice
        self._choose_voice()
        if self.voice not in ("", before):
            delta = SpeechTTSSettings(voice=self.voice)
            # From the beginning of the pipeline it could come after what the LLM says next.
            await self._conversation.llm.push_frame(TTSUpdateSettingsFrame(delta=delta))
        await self._tell_voices()

    async def cancel(self) -> None:
        """End the call at once."""
        self._cancelled = True
        await self._runner.cancel()

    def _listen(self, transport: BaseTransport) -> None:
        """Answer to what the transport, the client and the caller do."""
        rtvi, caller, worker = self._worker.rtvi, self._conversation.caller, self._worker

        @transport.event_handler("on_client_connected")
        async def connected(_: BaseTransport, _client: object) -> None:
            self._connected.set()

        @transport.event_handler("on_client_disconnected")
        async def disconnected(_: BaseTransport, _client: object) -> None:
            if not self.line.occupied:
                await self._runner.cancel(EndReason.HANGUP.value)

        @rtvi.event_handler("on_client_ready")
        async def ready(_: RTVIProcessor) -> None:
            self._client_ready.set()
            await self._tell_voices()
            if wake_word := self._conversation.wake_word:
                await self._send(wake_word.state())

        @rtvi.event_handler("on_client_message")
        async def message(rtvi: RTVIProcessor, message: ClientMessage) -> None:
            if message.type == "set-voice":
                await self._set_voice(rtvi, message)
            else:
                await rtvi.send_error_response(message, f"unknown message {message.type[:40]!r}")

        @rtvi.event_handler("on_text")
        @caller.event_handler("on_user_turn_started")
        async def said_something(*_: object) -> None:
            self._idle_prompts = 0

        @caller.event_handler("on_user_turn_idle")
        async def idle(_: object) -> None:
            await self._prompt_idle_caller()

        if detector := self._conversation.detector:

            @detector.event_handler("on_conversation_detected")
            async def person(_: object) -> None:
                await self.answered_by("human")

            @detector.event_handler("on_voicemail_detected")
            async def machine(_: object) -> None:
                await self.answered_by("machine")

        # Whatever was queued ahead of the frame has been played when it reaches the end.
        worker.set_reached_downstream_filter((EndWorkerFrame, TransferFrame))

        @worker.event_handler("on_frame_reached_downstream")
        async def reached(_: PipelineWorker, frame: EndWorkerFrame | TransferFrame) -> None:
            if isinstance(frame, TransferFrame):
                await self._transfer(frame.to)
            else:
                reason = str(frame.reason or EndReason.HANGUP)
                await self._send({"type": "call-ended", "reason": reason})

    def _detects_machine(self) -> bool:
        """Whether the call is to find out by itself if a machine has answered it."""
        if not self.line.detect_machine or self._settings.voicemail == "ignore":
            return False
        if not self._engines.judges:
            logger.warning("call {}: only a language model could detect a machine", self.id)
        return self._engines.judges

    async def _watch(self) -> None:
        """Greet the caller, and end a call that never connects or goes on for too long."""
        try:
            limit = self.line.connect_seconds or self._settings.connect_seconds
            await asyncio.wait_for(self._connected.wait(), limit)
        except TimeoutError:
            logger.warning("call {}: the caller did not connect in time", self.id)
            await self.cancel()
            return
        if self.line.awaits_client:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._client_ready.wait(), CLIENT_READY_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.line.until_heard(), CLIENT_READY_SECONDS)
        # A machine may be known, or the process stop, before anybody was greeted.
        if not self._hanging_up.is_set():
            await self._greet()
        try:
            await asyncio.wait_for(self._hanging_up.wait(), self._settings.max_call_seconds)
        except TimeoutError:
            await self.hang_up(EndReason.MAX_LENGTH, self._agent.time_up)
        await asyncio.sleep(HANG_UP_SECONDS)
        await self.cancel()

    async def _greet(self) -> None:
        """Say what is said first: that the call is recorded, and the greeting."""
        if self.record and self._settings.record_notice:
            notice = TTSSpeakFrame(self._settings.record_notice)
            notice.interruptible = False
            await self._worker.queue_frame(notice)
        if self._agent.greeting and not self._conversation.wake_word:
            await self._worker.queue_frame(TTSSpeakFrame(self._agent.greeting))

    async def _prompt_idle_caller(self) -> None:
        """Ask a silent caller whether anyone is there; hang up when nobody has been for long."""
        if self._idle_prompts >= self._settings.idle_prompts:
            await self.hang_up(EndReason.IDLE, self._agent.goodbye)
            return
        self._idle_prompts += 1
        await self._worker.queue_frame(
            LLMMessagesAppendFrame(
                [{"role": "developer", "content": self._agent.idle_prompt}], run_llm=True
            )
        )

    async def _transfer(self, to: str) -> None:
        """Have the line transferred; the agent goes on with the call where that fails."""
        try:
            await self.line.transfer(to)
        except LineError as error:
            logger.warning("call {}: not transferred: {}", self.id, error)
            await self._worker.queue_frame(
                LLMMessagesAppendFrame(
                    [{"role": "developer", "content": self._agent.transfer_failed}], run_llm=True
                )
            )
        else:
            logger.info("call {}: transferred", self.id)
            await self._runner.cancel(EndReason.TRANSFER.value)

    async def _set_voice(self, rtvi: RTVIProcessor, message: ClientMessage) -> None:
        """Speak the next sentence with the voice that the client asks for."""
        voice = message.data.get("voice") if isinstance(message.data, dict) else None
        try:
            await self.set_voice(str(voice))
        except UnknownVoiceError as error:
            await rtvi.send_error_response(message, str(error))
        else:
            await rtvi.send_server_response(message, {"voice": self.voice})

    def _choose_voice(self) -> None:
        """Take the voice that was asked for; while it is away, one that is there."""
        engines = self._engines
        self._wanted = engines.find_voice(self._wanted) or self._wanted or engines.first_voice()
        if engines.has_voice(self._wanted):
            self.voice = self._wanted
        elif not engines.has_voice(self.voice):
            self.voice = engines.closest_voice(self._wanted)

    async def _tell_voices(self) -> None:
        """Tell the client which voices there are, the call's own, and the one it asked for."""
        if self._client_ready.is_set():
            await self._send(
                {
                    "type": "voices",
                    "call": self.id,
                    "voice": self.voice,
                    "wanted": self._wanted,
                    "voices": [asdict(voice) for voice in self.voices()],
                }
            )

    async def _tell_latency(self, message: dict[str, Any]) -> None:
        """Tell the client and the record of a turn's latency."""
        if self.record:
            self.record.note("turn-latency", **{k: v for k, v in message.items() if k != "type"})
        await self._send(message)

    async def _send(self, message: dict[str, Any]) -> None:
        """Tell the call's client something, as an RTVI server message."""
        await self._worker.rtvi.send_server_message(message)


class TooManyCallsError(Exception):
    """The process has as many calls as it can serve well."""


class Calls:
    """The calls of a process: admitted up to a limit, owned until they have ended."""

    def __init__(self, settings: Settings, engines: Engines, agent: Agent) -> None:
        """Start with none.

        Args:
            settings: The settings in force.
            engines: What the agent speaks, hears and thinks with.
            agent: Who answers.
        """
        self.limit = settings.max_calls
        self._settings = settings
        self._engines = engines
        self._agent = agent
        self.records = Records(settings, settings.record) if settings.record else None
        """The records of calls, where they are kept."""
        self.draining = False
        self._calls: dict[asyncio.Task[None], Call] = {}
        self._reserved = 0
        self._trimming: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """The calls in progress, those that are still connecting included."""
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        """The calls in progress; safe while calls begin and end."""
        return iter(tuple(self._calls.values()))

    @property
    def full(self) -> bool:
        """Whether the next call would be turned away."""
        return self.draining or len(self) + self._reserved >= self.limit

    @contextlib.contextmanager
    def reserve(self) -> Iterator[None]:
        """Keep a place for one call while what carries it is made, a room for example.

        Raises:
            TooManyCallsError: The process is full, or about to stop.
        """
        if self.full:
            raise TooManyCallsError
        self._reserved += 1
        try:
            yield
        finally:
            self._reserved -= 1

    def start(
        self, open_line: Callable[[], Line], voice: str | None = None, *, reserved: bool = False
    ) -> Call:
        """Build a call and carry it in a task of its own.

        Args:
            open_line: Makes what carries it, where there is room; the call closes it.
            voice: A voice other than the agent's own; it must be one of the engines'.
            reserved: Whether it takes the place that `reserve` keeps, within whose block it is.

        Raises:
            TooManyCallsError: The process is full, or about to stop.
        """
        if self.draining or (self.full and not reserved):
            raise TooManyCallsError
        call = Call(
            open_line(),
            self._engines,
            self._agent,
            self._settings,
            voice=voice,
            records=self.records,
        )
        task = asyncio.create_task(self._carry(call), name=f"call {call.id}")
        self._calls[task] = call
        task.add_done_callback(self._ended)
        return call

    async def _carry(self, call: Call) -> None:
        try:
            await call.run()
        except Exception:
            logger.exception("a call ended with an error")
        finally:
            try:
                await call.line.close()
            finally:
                call.ended.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.pop(task, None)
        if not self._calls:
            # A collection holds the GIL for some milliseconds. While other calls run, Python's own
            # is enough.
            gc.collect()
        self._trimming = asyncio.get_running_loop().run_in_executor(None, trim_memory)

    async def follow_voices(self) -> None:
        """Keep the calls' voices up to date for as long as they can change."""
        async for _ in self._engines.voice_changes():
            for call in self:
                await call.update_voices()

    async def drain(self, seconds: float, say: str) -> None:
        """Admit no more calls, and return when the last has ended.

        Args:
            seconds: How long the calls may go on before they are told and ended.
            say: What the agent then says.
        """
        self.draining = True
        if self._calls and seconds:
            await asyncio.wait(self._calls, timeout=seconds)
        for call in self:
            await call.hang_up(EndReason.SHUTDOWN, say)
        if self._calls:
            await asyncio.wait(self._calls, timeout=HANG_UP_SECONDS)
        for call in self:
            await call.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=5)
