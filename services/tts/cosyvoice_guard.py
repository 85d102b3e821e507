"""Makes one CosyVoice model safe to use, without changing a line of its code.

What it guards against was read in, and seen with, CosyVoice at commit ace7c47f (2026-03-16),
`cosyvoice/cli/model.py`:

- The hop, how many speech tokens make a chunk, grows from 25 to 100 in an utterance and is never
  set back: the second utterance's first chunk takes four times as long.
- An exception in the language model's thread is lost. The loop that waits for its tokens waits
  for ever.
- Closing the generator stops nothing: the thread computes on, and what the model keeps for the
  utterance stays in its dictionaries.
- The loop looks for tokens ten times a second only, and asks nobody whether it should go on.
- Utterances share the hop and a CUDA stream without a lock: two at once spoil each other.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.errors import EngineError, one_line

POLL_S = 0.02
"""Seconds after which whoever waits looks whether it should stop."""

_DICTIONARIES = ("tts_speech_token_dict", "llm_end_dict", "hift_cache_dict")
# What a model keeps for each utterance under way.


class Guard:
    """Runs the utterances of one model, one at a time, each to its end or until told to stop."""

    def __init__(self, model: Any, module: Any) -> None:
        """Take charge of a model; nobody else may use it from now on.

        Args:
            model: A `cosyvoice.cli.model.CosyVoice2Model` or one derived from it.
            module: The module `cosyvoice.cli.model`.
        """
        self._model = model
        self._hop = model.token_hop_len
        self._turn = threading.Lock()
        self._run: _Run | None = None
        self._llm_job = model.llm_job
        model.llm_job = self._watched_llm_job
        model.llm.inference = self._watched(model.llm.inference)
        # A forward pass may take longer than a caller will wait: each block of layers asks, too.
        for part in (model.llm, model.flow, model.hift):
            for blocks in part.modules():
                if type(blocks).__name__ == "ModuleList":
                    for block in blocks:
                        block.register_forward_pre_hook(lambda *_: self._check())
        module.time = _Clock()

    @contextmanager
    def turn(self, stop: threading.Event) -> Iterator[bool]:
        """Wait for the model; False when `stop` was set before it was free."""
        while not (mine := self._turn.acquire(timeout=POLL_S)):
            if stop.is_set():
                break
        try:
            yield mine and not stop.is_set()
        finally:
            if mine:
                self._turn.release()

    def run(
        self, outputs: Iterator[dict[str, Any]], stop: threading.Event
    ) -> Iterator[NDArray[np.float32]]:
        """Run one utterance, in a turn.

        Args:
            outputs: What an `inference_` method returned, streaming, for a text that it does not
                split.
            stop: Ends the utterance, at the model's next block of layers or within `POLL_S`.

        Yields:
            Samples, shape (n,). When this ends, however it does, the model's thread has ended and
            nothing of the utterance is left.

        Raises:
            EngineError: The model failed, in whichever thread.
        """
        run = self._run = _Run(stop)
        self._model.token_hop_len = self._hop
        try:
            while (output := run.next(outputs)) is not None:
                yield np.asarray(output["tts_speech"].numpy(), np.float32).reshape(-1)
        except _Stopped:
            return
        except Exception as error:  # torch's errors have no class of their own
            raise EngineError(
                f"CosyVoice failed: {type(error).__name__} ({one_line(error)})"
            ) from error
        finally:
            run.over.set()
            outputs.close()  # type: ignore[attr-defined]
            if run.thread is not None:
                run.thread.join()
            for name in _DICTIONARIES:
                getattr(self._model, name).clear()
            self._run = None

    def _check(self) -> None:
        """End the thread that asks, if its utterance is to end."""
        if self._run is not None:
            self._run.check()

    def _watched_llm_job(self, *inputs: Any) -> None:
        """`llm_job`, with its end and its failure told to whoever waits for its tokens."""
        run = self._run
        assert run is not None
        run.thread = threading.current_thread()
        run.begun.set()
        try:
            self._llm_job(*inputs)
        except BaseException as error:
            run.error = error
        finally:
            run.news.set()

    def _watched(self, inference: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """`llm.inference`, with each token told to whoever waits for it."""

        def tokens(*inputs: Any, **named: Any) -> Iterator[Any]:
            run = self._run
            assert run is not None
            for token in inference(*inputs, **named):
                run.check()
                yield token
                # The token is where the loop looks for it by now.
                run.news.set()

        return tokens


class _Stopped(BaseException):
    """Ends a thread of the model. No `Exception`, lest something on the way handle it."""


class _Run:
    """One utterance under way."""

    def __init__(self, stop: threading.Event) -> None:
        self.over = threading.Event()
        self.begun = threading.Event()
        self.news = threading.Event()
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self._stop = stop

    def check(self) -> None:
        """End the thread that asks, if it is not needed any more."""
        if self._stop.is_set() or self.over.is_set():
            raise _Stopped

    def next(self, outputs: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
        """The model's next output; None after the last.

        A generator may go from thread to thread between its outputs, so each is told apart by the
        thread that computes it.
        """
        _current.run = self
        try:
            return next(outputs, None)
        finally:
            _current.run = None

    def wait(self, seconds: float) -> None:
        """Wait for tokens or the end of them."""
        # Until then, the model's thread could begin after its utterance has been cleared away.
        self.begun.wait()
        self.news.wait(min(seconds, POLL_S))
        self.news.clear()
        self.check()
        if self.error is not None:
            raise self.error


_current = threading.local()


class _Clock:
    """The module `time`, as `cosyvoice.cli.model` sees it: its sleep ends when there is news."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    @staticmethod
    def sleep(seconds: float) -> None:
        """Wait for what the utterance of this thread waits for."""
        run: _Run | None = getattr(_current, "run", None)
        if run is None:
            time.sleep(seconds)
        else:
            run.wait(seconds)
