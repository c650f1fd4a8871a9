"""Random fills that wait until somebody looks: a draw that the next one overwrites is never made.

`nn.Conv2d` and `nn.Linear` draw their weights when they are built, and networks then draw them again by their own rule:
of the time that timm needs for a ResNet-50, two fifths are random numbers that nobody ever sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FILLS = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)
BLIND: set[Any] = {  # what may be asked of a tensor without looking at its values
    *(Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_contiguous),
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "device", "dtype", "is_meta", "requires_grad")),
}


class DeferredDraws(TorchFunctionMode):
    """While it is active, random fills of whole tensors on the CPU wait, and the last one of each is made.

    A fill is made before its tensor (or another view of the same memory) is used by anything else, and otherwise when
    the mode ends; a second fill of the same tensor replaces one that waits. The values have the same distribution as
    without the mode and are as reproducible, but the order of the draws, and so the numbers, are others.

    >>> _ = torch.manual_seed(0)
    >>> with DeferredDraws():
    ...     layer = nn.Linear(2, 1, bias=False)
    ...     _ = nn.init.normal_(layer.weight)
    >>> _ = torch.manual_seed(0)
    >>> bool(layer.weight.equal(torch.empty(1, 2).normal_()))
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[int, tuple[Tensor, Callable[[], object]]] = {}

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Lets a fill wait; makes the waiting fills of the tensors that any other function is given."""
        kwargs = kwargs or {}
        if func in BLIND or (not self.waiting and func not in FILLS):
            return func(*args, **kwargs)
        filled = (args[0] if args else kwargs.get("tensor")) if func in FILLS else None
        for tensor in _tensors((*args, *kwargs.values())):
            self._make(_memory(tensor), unless=filled)
        if isinstance(filled, Tensor) and filled.device.type == "cpu":
            self.waiting[_memory(filled)] = (filled, partial(func, *args, **kwargs))
            return filled
        return func(*args, **kwargs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Makes the fills that still wait, in the order in which they were asked for."""
        super().__exit__(kind, error, trace)
        for memory in list(self.waiting):
            self._make(memory)

    def _make(self, memory: int, unless: Any = None) -> None:
        """Makes the fill that waits for this memory; drops it if it is the tensor `unless`, which is filled anew."""
        tensor, draw = self.waiting.pop(memory, (None, None))
        if draw is not None and tensor is not unless:
            with torch.no_grad():
                draw()


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.device.type == "cpu" else 0


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
