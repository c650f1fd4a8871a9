"""What a network costs, whole and by block: parameters, multiplications of one image, and the time they take here."""

from __future__ import annotations

import copy
import hashlib
import re
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError, SpecError
from transfuse.models.blocks import Blocks, blocks_of, check_blocks
from transfuse.models.by_block import HEAD, by_block
from transfuse.models.weightless import example_images, naming_the_smallest, run_weightless

Size = int | tuple[int, ...] | None

FEWEST_REPEATS = 6
"""With fewer, no two of them hold the median between them with 95 % confidence."""
_WARM_UP = 3


class Cost(NamedTuple):
    """What one block, or the head, has part in.

    Attributes:
        parameters: numbers that can be trained; those that two blocks share count for the first.
        macs: multiply-accumulate operations of a forward pass of one image.
    """

    parameters: int
    macs: int


class Complexity(NamedTuple):
    """How large a network is.

    Attributes:
        parameters: numbers that can be trained, frozen ones and the head included; without buffers.
        macs: multiply-accumulate operations of a forward pass of one image.
        per_block: the same of each block by name, in their order, and of "head" at the end; they sum to the whole.
            Empty for a network that has no blocks, such as a layer alone.
    """

    parameters: int
    macs: int
    per_block: dict[str, Cost]


class Latency(NamedTuple):
    """How long a forward pass takes.

    Attributes:
        seconds: median time of a batch.
        low: lower end of the 95 % interval of the median.
        high: upper end.
    """

    seconds: float
    low: float
    high: float


def complexity(
    model: nn.Module, input_size: Size = None, channels: int | None = None, *, blocks: Blocks | str = "stage"
) -> Complexity:
    """The parameters of a network and the MACs of one image; it is run without values, and nothing of it changes.

    One multiply-accumulate operation counts as one, which is half of torch's FLOPs: those of convolutions, linear
    layers, matrix products and attention. Norms, activations and pooling are not counted; programs that count them
    report about 1 % more (4.12 instead of 4.09 GMACs for ResNet-50 at 224 px). The pass is on the meta device, where
    attention is counted too; the fused attention of a CPU is not.

    Args:
        model: any network, in any mode.
        input_size: side of the images in pixels, or (H, W), of volumes (D, H, W); None: what the network is built for.
        channels: of the images; None: those of its first layer.
        blocks: of `per_block`: a level (see `blocks_of`), or blocks by hand. What a network does outside of its blocks'
            modules counts for the block before.

    Raises:
        BlocksError: images of this kind do not pass; where they are too small, the smallest that pass are named.

    >>> from transfuse.models.create import create_model
    >>> found = complexity(create_model("cbr_tiny", classes=5, device="meta"), 32)
    >>> found.parameters, found.macs
    (4310085, 120629760)
    >>> found.per_block["layer4"]
    Cost(parameters=3277824, macs=29491200)
    """
    from torch.utils.flop_counter import FlopCounterMode

    images = _images(model, input_size, channels, 1)
    parts = _blocks(model, blocks)
    with naming_the_smallest(model, images), FlopCounterMode(display=False) as counter, ExitStack() as stack:
        spent = {} if parts is None else stack.enter_context(by_block(model, parts, counter.get_total_flops))
        run_weightless(model, images)
    sizes = dict.fromkeys(spent, 0)
    for name, parameter in model.named_parameters():
        if parts is not None:
            sizes[parts.owner(name)] += parameter.numel()
    per_block = {name: Cost(sizes[name], round(flops) // 2) for name, flops in spent.items()}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Complexity(parameters, counter.get_total_flops() // 2, per_block)


def _blocks(model: nn.Module, blocks: Blocks | str) -> Blocks | None:
    """Blocks by hand or of a level, None for a network that has none of its own."""
    if isinstance(blocks, Blocks):
        return check_blocks(model, blocks)
    try:
        return blocks_of(model, blocks)
    except BlocksError:
        if blocks == "stage":
            return None
        raise


def shape_of(model: nn.Module) -> str:
    """What tells whether two networks do the same work: their modules, with settings, and the shapes of their tensors.

    Weights, and whether they are frozen, play no part.

    >>> shape_of(nn.Linear(3, 2)) == shape_of(nn.Linear(3, 2)), shape_of(nn.Linear(3, 2)) == shape_of(nn.Linear(3, 4))
    (True, False)
    """
    tensors = (f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in model.state_dict().items())
    modules = re.sub(r" at 0x[0-9a-f]+", "", repr(model))  # of functions, where a module shows one
    return hashlib.sha256("\n".join((modules, *tensors)).encode()).hexdigest()[:12]


def latency(
    model: nn.Module,
    input_size: Size = None,
    channels: int | None = None,
    *,
    batch_size: int = 1,
    repeats: int = 30,
    device: str = "cpu",
) -> Latency:
    """The median time of a forward pass on this machine, with the interval of its order statistics.

    A copy of the network is timed in eval mode, without gradients, after three passes that are not. The interval holds
    the median of passes on this machine as it was then; other machines, other loads and other numbers of threads
    (`torch.set_num_threads`) have other medians.

    Args:
        model: any network; it stays as it is.
        input_size: side in pixels, or (H, W), of volumes (D, H, W); None: what the network is built for.
        channels: of the images; None: those of its first layer.
        batch_size: images in a pass.
        repeats: passes that are timed.
        device: "cpu", "cuda" or another one of torch's; it is waited for.

    Raises:
        SpecError: a batch size below 1, or fewer than 6 repeats.

    >>> found = latency(nn.Conv2d(3, 8, 3), input_size=32, repeats=6)
    >>> 0 < found.low <= found.seconds <= found.high
    True
    """
    _check_repeats(repeats)
    timed, images = ready_to_run(model, input_size, channels, batch_size, device)
    seconds = []
    with torch.inference_mode():
        for _ in range(_WARM_UP):
            timed(images)
        for _ in range(repeats):
            began = _clock(images)
            timed(images)
            seconds.append(_clock(images) - began)
    return _median(seconds)


def latency_by_block(
    model: nn.Module,
    input_size: Size = None,
    channels: int | None = None,
    *,
    blocks: Blocks | str = "stage",
    batch_size: int = 1,
    repeats: int = 30,
    device: str = "cpu",
) -> dict[str, Latency]:
    """The median time that each block takes in a forward pass, and "head", each with its interval (see `latency`).

    The clock is read, and the device waited for, at the borders of blocks. That costs a GPU some of its overlap, and
    medians do not add up: for the whole network take `latency`.

    Args:
        model: a network with blocks; it stays as it is.
        input_size: as in `latency`, as are `channels`, `batch_size`, `repeats` and `device`.
        channels: of the images.
        blocks: a level (see `blocks_of`), or blocks by hand.
        batch_size: images in a pass.
        repeats: passes that are timed.
        device: where.

    Raises:
        BlocksError: the network has no blocks.
        SpecError: a batch size below 1, or fewer than 6 repeats.

    >>> from transfuse.models.create import create_model
    >>> list(latency_by_block(create_model("cbr_tiny", classes=2), 32, repeats=6))
    ['layer1', 'layer2', 'layer3', 'layer4', 'head']
    """
    parts = check_blocks(model, blocks) if isinstance(blocks, Blocks) else blocks_of(model, blocks)
    _check_repeats(repeats)
    timed, images = ready_to_run(model, input_size, channels, batch_size, device)
    seconds: dict[str, list[float]] = {name: [] for name in (*parts.names, HEAD)}
    with torch.inference_mode():
        for _ in range(_WARM_UP):
            timed(images)
        for _ in range(repeats):
            with by_block(timed, parts, lambda: _clock(images)) as spent:
                timed(images)
            for name, one in spent.items():
                seconds[name].append(one)
    return {name: _median(each) for name, each in seconds.items()}


def ready_to_run(
    model: nn.Module, input_size: Size, channels: int | None, batch_size: int, device: str
) -> tuple[nn.Module, Tensor]:
    """A copy of a network in eval mode and images of zeros (N, C, *sides), both on a device; see `latency`."""
    if batch_size < 1:
        raise SpecError(f"batch_size is {batch_size!r}; expected a whole number of at least 1")
    images = torch.zeros_like(_images(model, input_size, channels, batch_size), device=device)
    ready = copy.deepcopy(model).to(device)
    for module in ready.modules():
        module.training = False  # not .eval(): a frozen module answers it in its own way
    return ready, images


def _check_repeats(repeats: int) -> None:
    if repeats < FEWEST_REPEATS:
        raise SpecError(
            f"repeats is {repeats!r}; expected at least {FEWEST_REPEATS}, below which a median has no 95 % interval"
        )


def _median(seconds: Sequence[float]) -> Latency:
    """The median with the 95 % interval of its order statistics."""
    from scipy.stats import quantile_test

    found = quantile_test(seconds, p=0.5).confidence_interval(0.95)
    return Latency(statistics.median(seconds), float(found.low), float(found.high))


def _images(model: nn.Module, input_size: Size, channels: int | None, count: int) -> Tensor:
    """Images without memory of the kind that a network takes, `(count, C, *sides)`."""
    example = example_images(model, input_size)
    _, own, *sides = example.shape
    return example.new_zeros(count, own if channels is None else channels, *sides)


def _clock(tensor: Tensor) -> float:
    """Seconds, once the device of a tensor has done what it was told to."""
    if tensor.device.type != "cpu":
        getattr(torch, tensor.device.type).synchronize(tensor.device)
    return time.perf_counter()
