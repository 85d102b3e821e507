"""An engine that hears what a test tells it to, and takes as long as the test wants."""

from collections import deque
from dataclasses import dataclass, field
from threading import Condition, Event

from services.stt.engine import Segment, Transcript


def heard(
    text: str, *, confidence: float = 0.9, no_speech: float = 0.01, language: str = "en"
) -> Transcript:
    """A transcript of one segment."""
    return Transcript((Segment(text, 0.0, 1.0, confidence, no_speech),), language)


@dataclass
class Request:
    """One call of `transcribe`.

    Attributes:
        pcm: What was to be recognised.
        language: The language asked for.
        stop: The caller's stop flag.
        ended: Set once the call has returned or raised.
    """

    pcm: bytes
    language: str | None
    stop: Event
    ended: Event = field(default_factory=Event)


class FakeHearingEngine:
    """A `HearingEngine` without a model.

    It answers its requests with the given answers in order: a transcript is returned, an exception
    raised. When they run out it hears nothing. A `gated` engine answers only for each permit that
    `permit` gives it, or once it is told to stop.

    Attributes:
        name: `fake`.
        at_once: 64.
        requests: What was asked, in order.
        loaded: Whether it was loaded ahead.
        closed: Whether it was closed.
    """

    name = "fake"
    at_once = 64

    def __init__(self, *answers: Transcript | Exception, gated: bool = False) -> None:
        """Make an engine with its answers."""
        self.requests: list[Request] = []
        self.loaded = False
        self.closed = False
        self._answers = deque(answers)
        self._gated = gated
        self._permits = 0
        self._changed = Condition()

    def load(self, language: str | None = None) -> None:
        """Note that it was loaded."""
        self.loaded = True

    def transcribe(self, pcm: bytes, language: str | None, stop: Event) -> Transcript:
        """Hear as `HearingEngine.transcribe` says."""
        request = Request(pcm, language, stop)
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        try:
            if self._gated:
                self._wait_for_permit(stop)
            if stop.is_set() or not self._answers:
                return Transcript((), language)
            answer = self._answers.popleft()
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            request.ended.set()

    def permit(self) -> None:
        """Let a gated engine answer one request."""
        with self._changed:
            self._permits += 1
            self._changed.notify_all()

    def wait_for_request(self, count: int, timeout: float = 20.0) -> bool:
        """Wait, in a thread, until `transcribe` has been called `count` times; whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.requests) >= count, timeout)

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True

    def _wait_for_permit(self, stop: Event) -> None:
        with self._changed:
            # A stop flag wakes nobody, so look at it from time to time.
            while not self._changed.wait_for(lambda: self._permits > 0, 0.01):
                if stop.is_set():
                    return
            self._permits -= 1
