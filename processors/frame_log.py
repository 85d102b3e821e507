"""A call as its record has it: both sides' audio, and every frame that mattered, with its time."""

import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    ClientConnectedFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    FunctionCallCancelFrame,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMMessagesAppendFrame,
    LLMTextFrame,
    OutputAudioRawFrame,
    OutputDTMFFrame,
    OutputDTMFUrgentFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    TTSUpdateSettingsFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import BaseTransport
from pipecat.utils.errors import ErrorCategory

from processors.digits import PREFIX
from processors.hang_up import HangUpFrame, TransferFrame

PRE_ROLL_SECONDS = 1.0
"""What `SegmentedSTTService` keeps of the audio before the VAD notices speech."""

ONSET_SECONDS = 0.1
"""How much sooner speech may begin than the VAD believes, which has to be sure of it first."""

MASKED_DIGITS = 4
"""How long a number may be of which nothing is kept; of a longer one, the last two digits are."""

_NUMBER = re.compile(r"\d([\s\u2010-\u2015\u2212-]{0,3}\d){2,}|\d+([./_]\d+){2,}")
"""Three digits or more, in groups or not; two groups with a dot between them are a decimal."""

Side: TypeAlias = Literal["caller", "agent"]


class Journal(Protocol):
    """Takes down what a `FrameLog` sees. Neither method may block."""

    def begin(self) -> None:
        """The caller is there: all times count from now."""
        ...

    def audio(self, side: Side, at: float, pcm: bytes, rate: int) -> None:
        """Take what was heard or played.

        Args:
            side: Whose voice it is.
            at: Seconds into the call, at the audio's end.
            pcm: Signed 16-bit mono samples.
            rate: Samples a second.
        """
        ...

    def note(self, event: str, at: float | None = None, **data: Any) -> None:
        """Take an event.

        Args:
            event: Its name.
            at: Seconds into the call; now, if not given.
            data: What else there is to say; JSON can hold it, or `str` makes it a text.
        """
        ...


def _nothing(_: Any) -> dict[str, Any]:
    return {}


def _masked(value: Any) -> Any:
    """What a tool takes or gives, with no number whole: it may be a card's, or a code."""
    if isinstance(value, str):
        return _NUMBER.sub(lambda number: _mask(number[0]), value)
    if isinstance(value, Mapping):
        return {
            _masked(key) if isinstance(key, (str, int)) else key: _masked(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_masked(item) for item in value]
    fraction = isinstance(value, float) and not value.is_integer()
    if value is None or isinstance(value, bool) or fraction:
        return value
    shown = _masked(str(value))
    return value if isinstance(value, (int, float)) and shown == str(value) else shown


def _mask(number: str) -> str:
    """The last two digits of a number, where it is long enough to keep the others secret."""
    digits = re.sub(r"\D", "", number)
    return f"***{digits[-2:]}" if len(digits) > MASKED_DIGITS else "***"


def _voice(frame: TTSUpdateSettingsFrame) -> dict[str, Any]:
    return {"voice": frame.delta.voice if frame.delta else None}


def _message(frame: LLMMessagesAppendFrame) -> dict[str, Any]:
    return {"messages": [dict(message) for message in frame.messages if isinstance(message, dict)]}


def _end(frame: EndFrame | CancelFrame) -> dict[str, Any]:
    return {"reason": str(frame.reason) if frame.reason else None}


def _error(frame: ErrorFrame) -> dict[str, Any]:
    # What a tool raises may quote what it was given.
    message = _masked(frame.error) if frame.category is ErrorCategory.APPLICATION else frame.error
    return {"message": message, "from": str(frame.processor) if frame.processor else None}


_NOTES: dict[type, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    ClientConnectedFrame: ("connected", _nothing),
    VADUserStartedSpeakingFrame: ("vad-start", lambda f: {"after": f.start_secs}),
    VADUserStoppedSpeakingFrame: ("vad-stop", lambda f: {"after": f.stop_secs}),
    UserStartedSpeakingFrame: ("caller-start", _nothing),
    UserStoppedSpeakingFrame: ("caller-stop", _nothing),
    InterruptionFrame: ("interruption", _nothing),
    LLMMessagesAppendFrame: ("message", _message),
    LLMFullResponseStartFrame: ("llm-start", _nothing),
    LLMFullResponseEndFrame: ("llm-end", _nothing),
    FunctionCallInProgressFrame: (
        "tool-call",
        lambda f: {
            "tool": f.function_name,
            "id": f.tool_call_id,
            "arguments": _masked(f.arguments),
        },
    ),
    FunctionCallResultFrame: (
        "tool-result",
        lambda f: {"tool": f.function_name, "id": f.tool_call_id, "result": _masked(f.result)},
    ),
    FunctionCallCancelFrame: (
        "tool-cancel",
        lambda f: {"tool": f.function_name, "id": f.tool_call_id},
    ),
    TTSStartedFrame: ("tts-start", _nothing),
    TTSStoppedFrame: ("tts-stop", _nothing),
    TTSUpdateSettingsFrame: ("voice", _voice),
    BotStartedSpeakingFrame: ("agent-start", _nothing),
    BotStoppedSpeakingFrame: ("agent-stop", _nothing),
    # Which key is not told: it may be one of a card's number, or of a code.
    InputDTMFFrame: ("dtmf", _nothing),
    OutputDTMFFrame: ("dtmf-sent", _nothing),
    OutputDTMFUrgentFrame: ("dtmf-sent", _nothing),
    HangUpFrame: ("hang-up", lambda f: {"reason": f.reason}),
    # To whom is not told: it is a telephone number as a rule.
    TransferFrame: ("transfer", _nothing),
    ErrorFrame: ("error", _error),
    EndFrame: ("end", _end),
    CancelFrame: ("end", _end),
}
"""The frames that are taken down as they are, under which name, and what of them."""


class FrameLog(BaseObserver):
    """Takes down a call for its record.

    **Audio** is what the agent could hear and what the output transport took: while it waits for
    its wake word, the caller is not in it; nor is, after a barge-in, what was thrown away.
    **Words** of the agent, too, count when the output transport passes them on, right behind the
    audio in which they end (see `SpeechTTSService`). **The caller's words** come with the times
    that the engine gives them in its stretch of audio, which are brought to the call's clock: a
    stretch begins `PRE_ROLL_SECONDS` before the VAD noticed speech, or where the stretch before it
    ended, and there is one transcript for each, in order.

    Times are Pipecat's clock as of the push, so that it does not matter when an observer's turn
    comes; they count from the caller's arrival.
    """

    def __init__(
        self,
        journal: Journal,
        transport: BaseTransport,
        *,
        wake_word: FrameProcessor | None = None,
    ) -> None:
        """Watch a call.

        Args:
            journal: Where it is taken down.
            transport: What carries the call.
            wake_word: What keeps the caller's audio back until it may be heard, if anything does.
        """
        super().__init__()
        self._journal = journal
        self._input = wake_word or transport.input()
        self._output = transport.output()
        self._zero: int | None = None
        self._replies: dict[str | None, int] = {}
        self._awaits_token = False
        self._awaits_audio = False
        self._speech_began = 0.0
        self._stretch_began = 0.0
        self._stretches: deque[tuple[float, float, float]] = deque(maxlen=64)

    async def on_push_frame(self, data: FramePushed) -> None:
        """Take a frame down, if it matters and was not taken down before.

        Args:
            data: The frame, who pushed it, and when.
        """
        frame = data.frame
        if self._zero is None:
            if not isinstance(frame, (ClientConnectedFrame, InputAudioRawFrame)):
                return
            self._zero = data.timestamp
            self._journal.begin()
        at = max(0.0, (data.timestamp - self._zero) / 1e9)
        if isinstance(frame, InputAudioRawFrame):
            if data.source is self._input:
                self._journal.audio("caller", at, frame.audio, frame.sample_rate)
        elif isinstance(frame, OutputAudioRawFrame):
            self._agent_audio(data, frame, at)
        elif isinstance(frame, TTSTextFrame):
            if data.source is self._output:
                self._word(frame, at)
        elif data.first_push and not _is_copy(data):
            self._take(frame, at)

    def _agent_audio(self, data: FramePushed, frame: OutputAudioRawFrame, at: float) -> None:
        if data.source is self._output:
            self._journal.audio("agent", at, frame.audio, frame.sample_rate)
        elif self._awaits_audio and isinstance(frame, TTSAudioRawFrame):
            self._awaits_audio = False
            self._journal.note("tts-first-audio", at)

    def _word(self, frame: TTSTextFrame, at: float) -> None:
        reply = self._replies.setdefault(frame.context_id, len(self._replies) + 1)
        text = frame.text if frame.includes_inter_frame_spaces else f" {frame.text}"
        # What cannot be talked over is not cut, whatever interrupts the rest.
        firm = {} if frame.interruptible else {"firm": True}
        self._journal.note("word", at, reply=reply, text=text, **firm)

    def _take(self, frame: Frame, at: float) -> None:
        if isinstance(frame, TranscriptionFrame):
            self._heard(frame, at)
            return
        if isinstance(frame, LLMTextFrame):
            if self._awaits_token:
                self._awaits_token = False
                self._journal.note("llm-first-token", at)
            return
        found = next((_NOTES[kind] for kind in type(frame).__mro__ if kind in _NOTES), None)
        if found is None:
            return
        event, tell = found
        if event == "llm-start":
            self._awaits_token = True
        elif event == "tts-start":
            self._awaits_audio = True
        elif isinstance(frame, VADUserStartedSpeakingFrame):
            self._speech_began = at - frame.start_secs - ONSET_SECONDS
            self._stretch_began = max(self._stretch_began, at - PRE_ROLL_SECONDS)
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self._stretches.append((self._stretch_began, self._speech_began, at))
            self._stretch_began = at
        self._journal.note(event, at, **tell(frame))

    def _heard(self, frame: TranscriptionFrame, at: float) -> None:
        # `result` is a `Verdict` of services.stt.gate; of another service it has no segments.
        verdict = frame.result
        text = frame.text.strip()
        pressed = text.startswith(PREFIX)
        stretch = self._stretches.popleft() if self._stretches and not pressed else (at, at, at)
        began, first, last = stretch
        segments = [
            {
                "text": segment.text,
                # Within what the VAD heard: an engine may take the silence around for speech.
                "start": round(min(max(began + segment.start, first), last), 3),
                "end": round(max(min(began + segment.end, last), first), 3),
                "confidence": round(segment.confidence, 3),
            }
            for segment in getattr(getattr(verdict, "transcript", None), "segments", ())
        ]
        if pressed:
            text = PREFIX + _mask(text.removeprefix(PREFIX))
        if text and not segments:
            segments = [{"text": text, "start": round(first, 3), "end": round(last, 3)}]
        reason = getattr(verdict, "reason", None)
        self._journal.note("heard", at, text=text, segments=segments, rejected=reason)


def _is_copy(data: FramePushed) -> bool:
    """Whether a frame is the one of a pair that goes upstream; the other is taken down."""
    # Those of the VAD come in pairs that do not know of each other.
    paired = data.frame.broadcast_sibling_id is not None or isinstance(
        data.frame, (VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame)
    )
    return paired and data.direction is FrameDirection.UPSTREAM
