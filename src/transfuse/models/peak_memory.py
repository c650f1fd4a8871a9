"""The memory that a network needs at once when it looks at images, whole and by block."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from transfuse.errors import BlocksError, SpecError
from transfuse.models.blocks import Blocks, blocks_of, check_blocks
from transfuse.models.by_block import HEAD, at_borders
from transfuse.models.complexity import Size, ready_to_run


class PeakMemory(NamedTuple):
    """Bytes that a network, or one of its blocks, needs for a forward pass.

    Attributes:
        weights: of its parameters and buffers.
        activations: the most that intermediate results and the output take at one time; without the images.
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
    _check_device(device)
    run, images = ready_to_run(model, input_size, channels, batch_size, device)
    return PeakMemory(sum(_weights(run).values()), max(_activations(run, images, Blocks("stage", (), ())).values()))


def peak_memory_by_block(
    model: nn.Module,
    input_size: Size = None,
    channels: int | None = None,
    *,
    blocks: Blocks | str = "stage",
    batch_size: int = 1,
    device: str = "cpu",
) -> dict[str, PeakMemory]:
    """The memory of each block in a forward pass, and of "head" (see `peak_memory`).

    The activations of a block are the most that is held at one time while it runs: its input and what others keep for
    later (a skip of a U-Net) count with what it makes, for it cannot run without the room for all of it. So the largest
    of them are those of the whole network, and the weights, which have one owner each, sum to its weights. What a
    network does by itself between two blocks is part of the block before.

    Args:
        model: a network with blocks; it stays as it is.
        input_size: as in `peak_memory`, as are `channels`, `batch_size` and `device`.
        channels: of the images.
        blocks: a level (see `blocks_of`), or blocks by hand.
        batch_size: images in a pass.
        device: "cpu" or "cuda".

    Raises:
        BlocksError: the network has no blocks.
        SpecError: a batch size below 1, or a device of another kind.

    >>> from transfuse.models.create import create_model
    >>> model = create_model("cbr_tiny", classes=2)
    >>> found = peak_memory_by_block(model, 32)
    >>> list(found), max(each.activations for each in found.values()) == peak_memory(model, 32).activations
    (['layer1', 'layer2', 'layer3', 'layer4', 'head'], True)
    """
    parts = check_blocks(model, blocks) if isinstance(blocks, Blocks) else blocks_of(model, blocks)
    _check_device(device)
    run, images = ready_to_run(model, input_size, channels, batch_size, device)
    weights = dict.fromkeys((*parts.names, HEAD), 0)
    for name, size in _weights(run).items():
        try:
            weights[parts.owner(name)] += size
        except BlocksError:  # a buffer that no state dict holds, and so no block
            weights[(*parts.names, HEAD)[0]] += size
    activations = _activations(run, images, parts)
    return {name: PeakMemory(weights[name], activations[name]) for name in weights}


def _check_device(device: str) -> None:
    if torch.device(device).type not in ("cpu", "cuda"):
        raise SpecError(f"device is {device!r}; expected 'cpu' or 'cuda', of which torch tells how much memory is held")


def _weights(model: nn.Module) -> dict[str, int]:
    """The bytes of each parameter and buffer, by the first of its names."""
    return {
        name: tensor.numel() * tensor.element_size()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }


def _activations(run: nn.Module, images: Tensor, blocks: Blocks) -> dict[str, int]:
    """The most bytes held at one time during each block and the head of one pass, above what was held before it."""
    most = dict.fromkeys((*blocks.names, HEAD), 0)
    with torch.no_grad():
        if images.device.type == "cuda":
            run(images)  # what kernels keep from their first run on is no part of a pass
            torch.cuda.synchronize(images.device)
            held = torch.cuda.memory_allocated(images.device)

            def leave_on_gpu(owner: str) -> None:
                most[owner] = max(most[owner], torch.cuda.max_memory_allocated(images.device) - held)
                torch.cuda.reset_peak_memory_stats(images.device)  # to what is held now

            torch.cuda.reset_peak_memory_stats(images.device)
            with at_borders(run, blocks, leave_on_gpu):
                run(images)
            return most
        alive = _Alive(images, *run.parameters(), *run.buffers())

        def leave(owner: str) -> None:
            most[owner] = max(most[owner], alive.most)
            alive.forget()

        with at_borders(run, blocks, leave), alive:
            run(images)
    return most


class _Alive(TorchDispatchMode):
    """Sums the memory of the tensors that operations make, each piece of memory once and as long as it is held.

    Args:
        known: tensors whose memory does not count.

    Attributes:
        most: bytes at the worst moment, since `forget`.
    """

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.most = 0

    def forget(self) -> None:
        """From now on the worst moment is that from now on."""
        self.most = sum(self._sizes.values())

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
