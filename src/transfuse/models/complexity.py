"""What a network costs: its parameters, the multiplications of one image, and the time they take here."""

from __future__ import annotations

import copy
import hashlib
import re
import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from transfuse.errors import SpecError
from transfuse.models.weightless import example_images, run_weightless

FEWEST_REPEATS = 6
"""With fewer, no two of them hold the median between them with 95 % confidence."""
_WARM_UP = 3


class Complexity(NamedTuple):
    """How large a network is.

    Attributes:
        parameters: numbers that can be trained, frozen ones and the head included; without buffers.
        macs: multiply-accumulate operations of a forward pass of one image.
    """

    parameters: int
    macs: int


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


def complexity(model: nn.Module, image_size: int | None = None, channels: int | None = None) -> Complexity:
    """The parameters of a network and the MACs of one image; it is run without values, and nothing of it changes.

    One multiply-accumulate operation counts as one, which is half of torch's FLOPs: those of convolutions, linear
    layers, matrix products and attention. Norms, activations and pooling are not counted; programs that count them
    report about 1 % more (4.12 instead of 4.09 GMACs for ResNet-50 at 224 px). The pass is on the meta device, where
    attention is counted too; the fused attention of a CPU is not.

    Args:
        model: any network, in any mode.
        image_size: side in pixels; None: what the network is built for.
        channels: of the images; None: those of its first layer.

    Raises:
        BlocksError: images of this kind do not pass.

    >>> complexity(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), image_size=32)
    Complexity(parameters=224, macs=221184)
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run_weightless(model, _images(model, image_size, channels, 1))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Complexity(parameters, counter.get_total_flops() // 2)


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
    image_size: int | None = None,
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
        image_size: side in pixels; None: what the network is built for.
        channels: of the images; None: those of its first layer.
        batch_size: images in a pass.
        repeats: passes that are timed.
        device: "cpu", "cuda" or another one of torch's; it is waited for.

    Raises:
        SpecError: a batch size below 1, or fewer than 6 repeats.

    >>> found = latency(nn.Conv2d(3, 8, 3), image_size=32, repeats=6)
    >>> 0 < found.low <= found.seconds <= found.high
    True
    """
    from scipy.stats import quantile_test

    if batch_size < 1:
        raise SpecError(f"batch_size is {batch_size!r}; expected a whole number of at least 1")
    if repeats < FEWEST_REPEATS:
        raise SpecError(
            f"repeats is {repeats!r}; expected at least {FEWEST_REPEATS}, below which a median has no 95 % interval"
        )
    images = torch.zeros(_images(model, image_size, channels, batch_size).shape, device=device)
    timed = copy.deepcopy(model).to(device)
    for module in timed.modules():
        module.training = False  # not .eval(): a frozen module answers it in its own way
    seconds = []
    with torch.inference_mode():
        for _ in range(_WARM_UP):
            timed(images)
        for _ in range(repeats):
            _wait(images)
            began = time.perf_counter()
            timed(images)
            _wait(images)
            seconds.append(time.perf_counter() - began)
    found = quantile_test(seconds, p=0.5).confidence_interval(0.95)
    return Latency(statistics.median(seconds), float(found.low), float(found.high))


def _images(model: nn.Module, image_size: int | None, channels: int | None, count: int) -> Tensor:
    """Images without memory of the kind that a network takes, `(count, C, *side)`."""
    _, own, *side = example_images(model, image_size).shape
    return torch.zeros(count, own if channels is None else channels, *side, device="meta")


def _wait(tensor: Tensor) -> None:
    """Until the device of a tensor has done what it was told to."""
    if tensor.device.type != "cpu":
        getattr(torch, tensor.device.type).synchronize(tensor.device)
