"""The memory that a network needs at once when it looks at images."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from transfuse.errors import SpecError
from transfuse.models.complexity import Size, ready_to_run


class PeakMemory(NamedTuple):
    """Bytes that a network needs for a forward pass.

    Attributes:
        weights: of its parameters and buffers.
        activations: the most that its intermediate results and its output take at one time; without the images.
    """

    weights: int
    activations: int


def peak_memory(
    model: nn.Module,
    input_size: Size = None,
    channels: int | None = None,
    *,
    batch_size: int = 1,
    device: str = "cpu",
) -> PeakMemory:
    """The memory of a forward pass of a batch of images, in eval mode without gradients.

    On a GPU the activations are what torch's allocator held at most during the pass above what it held before
    (`torch.cuda.max_memory_allocated`), so the work space of its kernels is in. A CPU has no such counter: there they
    are the most bytes of tensors that were alive at one time, seen between torch's operations, without what an
    operation takes for itself while it works. The two numbers are not to be set against each other.

    Args:
        model: any network; it stays as it is.
        input_size: side in pixels, or (H, W), of volumes (D, H, W); None: what the network is built for.
        channels: of the images; None: those of its first layer.
        batch_size: images in a pass.
        device: "cpu" or "cuda".

    Raises:
        SpecError: a batch size below 1, or a device of another kind.

    >>> peak_memory(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), 32)  # two maps of 8 x 32 x 32 floats
    PeakMemory(weights=896, activations=65536)
    >>> peak_memory(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True)), 32).activations
    32768
    """
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise SpecError(f"device is {device!r}; expected 'cpu' or 'cuda', of which torch tells how much memory is held")
    run, images = ready_to_run(model, input_size, channels, batch_size, device)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in {*run.parameters(), *run.buffers()})
    with torch.no_grad():
        if kind == "cuda":
            run(images)  # what kernels keep from their first run on is no part of a pass
            torch.cuda.synchronize(images.device)
            held = torch.cuda.memory_allocated(images.device)
            torch.cuda.reset_peak_memory_stats(images.device)
            run(images)
            torch.cuda.synchronize(images.device)
            return PeakMemory(weights, torch.cuda.max_memory_allocated(images.device) - held)
        with _Alive(images, *run.parameters(), *run.buffers()) as alive:
            run(images)
    return PeakMemory(weights, alive.most)


class _Alive(TorchDispatchMode):
    """Sums the memory of the tensors that operations make, each piece of memory once and as long as it is held.

    Args:
        known: tensors whose memory does not count.

    Attributes:
        most: bytes at the worst moment.
    """

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Runs the operation and looks at what it made."""
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                memory = tensor.untyped_storage()
                if memory._cdata not in self._sizes:
                    weakref.finalize(memory, self._sizes.pop, memory._cdata, 0)
                    self._sizes[memory._cdata] = memory.nbytes()
        self.most = max(self.most, sum(self._sizes.values()))
        return output
