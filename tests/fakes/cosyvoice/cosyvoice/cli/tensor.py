"""What little of torch the engine sees."""

from types import SimpleNamespace
from typing import Any

import numpy as np


class Tensor:
    """A tensor on the CPU."""

    def __init__(self, values: Any) -> None:
        """Hold `values`."""
        self._values = np.asarray(values)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes."""
        return self._values.shape

    def __getitem__(self, key: Any) -> "Tensor":
        return Tensor(self._values[key])

    def cpu(self) -> "Tensor":
        """The same."""
        return self

    def numpy(self) -> Any:
        """The values."""
        return self._values


class Module:
    """A layer: calls what is registered on it before it computes."""

    def __init__(self) -> None:
        """Have no hooks yet."""
        self._hooks: list[Any] = []

    def register_forward_pre_hook(self, hook: Any) -> None:
        """Call `hook` before each forward pass."""
        self._hooks.append(hook)

    def modules(self) -> Any:
        """This and all under it."""
        yield self
        for child in self.children():
            yield from child.modules()

    def children(self) -> list["Module"]:
        """What is directly under it."""
        return [value for value in vars(self).values() if isinstance(value, Module)]

    def __call__(self, *inputs: Any) -> Any:
        for hook in self._hooks:
            hook(self, inputs)
        return self.forward(*inputs)

    def forward(self, *inputs: Any) -> Any:
        """Give back what it is given."""
        return inputs[0] if inputs else None


class ModuleList(Module):
    """Blocks of layers."""

    def __init__(self, blocks: list[Module]) -> None:
        """Hold `blocks`."""
        super().__init__()
        self._blocks = blocks

    def __iter__(self) -> Any:
        return iter(self._blocks)

    def children(self) -> list[Module]:
        """The blocks."""
        return self._blocks


torch = SimpleNamespace(
    from_numpy=Tensor,
    cuda=SimpleNamespace(is_available=lambda: False, empty_cache=lambda: None),
)
