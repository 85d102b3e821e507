"""The process's models: each loaded once and shared by every call."""

from collections.abc import Callable
from threading import Condition
from typing import TypeVar, cast

T = TypeVar("T")


class ModelStore:
    """Models by key, kept until the process ends.

    Safe to use from several threads: whoever asks while a model is being loaded waits for that load
    rather than starting another.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._loading: set[str] = set()
        self._models: dict[str, object] = {}

    def get(self, key: str, load: Callable[[], T]) -> T:
        """The model under `key`, loaded with `load` if nobody has yet.

        Blocks while loading: call it from a thread, or before the event loop serves calls.

        Args:
            key: What the model is, for example `piper:/path/to/voice.onnx`.
            load: Makes the model. When it raises, nothing is stored and whoever asks next, or is
                waiting, tries again.
        """
        with self._changed:
            self._changed.wait_for(lambda: key not in self._loading)
            if key in self._models:
                return cast(T, self._models[key])
            self._loading.add(key)
        try:
            model = load()
            with self._changed:
                self._models[key] = model
            return model
        finally:
            with self._changed:
                self._loading.remove(key)
                self._changed.notify_all()


models = ModelStore()
"""The one store of the process: the only mutable state that is shared by all calls."""
