"""What a filter looks for: the input that excites it most, found by gradient ascent from noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.analysis.activations import device_and_type
from transfuse.analysis.gradients import constant
from transfuse.analysis.maps import output_path, spatial_map
from transfuse.analysis.views import finite
from transfuse.errors import AnalysisError, nearest
from transfuse.models.blocks import Blocks
from transfuse.models.weightless import hooked

__all__ = ["Maximised", "maximise"]

OBJECTIVES = ("norm", "mean")
ASCENTS = ("adam", "sign")
_NOISE = 150 / 255, 180 / 255  # P's start


@dataclass(frozen=True)
class Maximised:
    """Images that excite a filter each, and how much.

    Args:
        images: (K, C, *size) in [0, 1].
        before: (K,) the objective's activation of the noise that each began with.
        after: (K,) that of the image.
        block: whose channels they are.
        channels: the K channels.
    """

    images: Tensor
    before: Tensor
    after: Tensor
    block: str
    channels: tuple[int, ...]


def maximise(
    model: nn.Module,
    block: str,
    channels: int | Sequence[int],
    *,
    size: int | Sequence[int] = 224,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    in_channels: int = 3,
    steps: int = 500,
    rate: float = 0.1,
    jitter: int = 0,
    frequency_prior: bool = False,
    objective: str = "norm",
    ascent: str = "adam",
    seed: int = 0,
    blocks: Blocks | None = None,
) -> Maximised:
    """Feature visualisation: for each channel the input that maximises its activation.

    Defaults are those of P's older code for its Fig 9 (METHODS AN-27; Erhan et al. 2009): noise that is uniform in
    [150, 180] / 255, Adam with rate 0.1, 500 steps, ascent on ||a||_2 - mean(x^2), where a is the channel's map and x
    the normalised image, and after every step x is clipped to what images in [0, 1] can be. All channels go through
    the network as one batch; a forward pass ends at the block.

    Args:
        model: any network; it is left as it was. It runs in eval mode.
        block: a block's or a module's name.
        channels: one channel of its output, or several.
        size: of the images in pixels: one number for squares, (H, W), or (D, H, W) for volumes.
        mean, std: the normalisation that the network's images had, a number for each colour or one for all.
        in_channels: colours, C.
        steps: how many.
        rate: of the ascent, in units of normalised pixels.
        jitter: before each step the image is rolled by up to so many pixels in each direction, at random, which takes
            patterns away that hold for one exact place only (Mordvintsev et al. 2015).
        frequency_prior: ascend in Fourier space, with coefficients scaled by 1 / frequency, so that large structure
            grows as fast as fine noise (Olah et al. 2017).
        objective: "norm", or "mean": the mean of the channel's map instead of its norm, which also grows where the
            map is negative.
        ascent: "adam", or "sign": each step by `rate` along the sign of the gradient, which is what P's code does in
            effect (it makes a new Adam for every step).
        seed: of noise and jitter. Global random generators are neither used nor changed.
        blocks: the blocks that `block` is one of, where the network cannot tell them itself.

    A channel that the noise does not excite at all through a ReLU has no gradient, and `after` is still 0: name the
    module before the ReLU.

    Returns:
        `Maximised`; activations are of the images as they are, without jitter.

    Raises AnalysisError for an unknown block, channel or option, for outputs without channels, and for activations that
    are not finite.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU())
    >>> found = maximise(model, "0", [0, 3], size=16, in_channels=1, steps=20)
    >>> found.images.shape, bool((found.after > found.before).all())
    (torch.Size([2, 1, 16, 16]), True)
    """
    sides = (size,) * 2 if isinstance(size, int) else tuple(int(side) for side in size)
    wanted = (channels,) if isinstance(channels, int) else tuple(int(channel) for channel in channels)
    _check(sides, wanted, steps, rate, jitter, objective, ascent)
    device, dtype = device_and_type(model)
    shift, scale = (_per_channel(v, in_channels, len(sides)).to(device) for v in (mean, std))
    if bool((scale <= 0).any()):
        raise AnalysisError(f"std={tuple(std)}: expected numbers above 0")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(len(wanted), in_channels, *sides, generator=generator) * (_NOISE[1] - _NOISE[0]) + _NOISE[0]
    start = (noise.to(device) - shift) / scale
    encode, decode = _fourier(sides, device) if frequency_prior else (_as_is, _as_is)
    reading = _Reading(model, block, output_path(model, block, blocks), wanted, objective)

    def activation(pixels: Tensor) -> Tensor:
        return reading(pixels.to(dtype)).float()

    with constant(model):
        with torch.no_grad():
            before = activation(start)
        variable = encode(start).clone().requires_grad_()
        adam = torch.optim.Adam([variable], lr=rate)
        for _ in range(steps):
            pixels = decode(variable)
            moves = torch.randint(-jitter, jitter + 1, (len(sides),), generator=generator).tolist()
            rolled = pixels.roll(moves, tuple(range(2, pixels.ndim))) if jitter else pixels
            loss = (pixels.square().flatten(1).mean(1) - activation(rolled)).sum()
            (variable.grad,) = torch.autograd.grad(loss, [variable])
            with torch.no_grad():
                if ascent == "adam":
                    adam.step()
                else:
                    variable -= rate * variable.grad.sign()
                variable.copy_(encode(_clipped(decode(variable), shift, scale)))
        with torch.no_grad():
            result = _clipped(decode(variable), shift, scale)
            after = activation(result)
            images = (result * scale + shift).clamp(0, 1)
    return Maximised(images, before, after, block, wanted)


class _Enough(Exception):
    """The block was reached: the rest of the network need not run."""


class _Reading:
    """The activation of one channel an image, `(K,)`, with gradients."""

    def __init__(self, model: nn.Module, block: str, path: str, channels: tuple[int, ...], objective: str) -> None:
        self.model, self.module = model, model.get_submodule(path)
        self.block, self.channels, self.objective = block, channels, objective

    def __call__(self, images: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def hook(module: nn.Module, _: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) and output else output
            kept.append(self._of(module, first, tuple(images.shape[2:])))
            raise _Enough

        with hooked(self.module.register_forward_hook(hook)):
            try:
                self.model(images)
            except _Enough:
                return kept[0]
        raise AnalysisError(f"no forward pass reaches block {self.block!r}; name one that runs")

    def _of(self, module: nn.Module, output: Any, size: tuple[int, ...]) -> Tensor:
        values = output if isinstance(output, Tensor) and output.ndim == 2 else None
        if isinstance(output, Tensor) and output.ndim > 2:
            found = spatial_map(self.model, module, output, size)
            values = None if found is None else found.values
        if values is None or len(values) != len(self.channels):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise AnalysisError(
                f"block {self.block!r} gives out {shape}; expected (N, C), maps (N, C, H, W), or tokens that fill a "
                "grid. Name the module around it"
            )
        if max(self.channels) >= values.shape[1]:
            raise AnalysisError(
                f"channel {max(self.channels)} of block {self.block!r}: expected 0 to {values.shape[1] - 1}"
            )
        own = values[torch.arange(len(values)), list(self.channels)].reshape(len(values), -1)
        finite(self.block, own.detach())
        if self.objective == "mean":
            return own.mean(1)
        # not .norm(): the gradient of a map of zeros shall be 0
        squares = own.square().sum(1)
        return torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)


def _as_is(values: Tensor) -> Tensor:
    return values


def _fourier(
    sides: tuple[int, ...], device: torch.device
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """From pixels to Fourier coefficients over their scale 1 / frequency, as pairs of real numbers, and back."""
    axes = tuple(range(2, 2 + len(sides)))
    along = [torch.fft.fftfreq(side) for side in sides[:-1]] + [torch.fft.rfftfreq(sides[-1])]
    frequency = torch.stack(torch.meshgrid(*along, indexing="ij")).square().sum(0).sqrt()
    weight = 1 / frequency.clamp(min=1 / max(sides))
    weight = (weight / weight.square().mean().sqrt()).to(device)  # a step moves as much in all as it does in pixels

    def encode(pixels: Tensor) -> Tensor:
        return torch.view_as_real(torch.fft.rfftn(pixels, dim=axes, norm="ortho") / weight)

    def decode(coefficients: Tensor) -> Tensor:
        return torch.fft.irfftn(torch.view_as_complex(coefficients) * weight, s=sides, dim=axes, norm="ortho")

    return encode, decode


def _clipped(pixels: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised pixels that images in [0, 1] can have."""
    return torch.minimum(torch.maximum(pixels, -shift / scale), (1 - shift) / scale)


def _per_channel(values: Sequence[float], channels: int, dims: int) -> Tensor:
    if len(values) not in (1, channels):
        raise AnalysisError(
            f"mean or std is {tuple(values)}: expected one number, or one for each of {channels} channels"
        )
    return torch.tensor([float(value) for value in values]).view(-1, *[1] * dims)


def _check(
    sides: tuple[int, ...], channels: tuple[int, ...], steps: int, rate: float, jitter: int, objective: str, ascent: str
) -> None:
    for name, value, choices in (("objective", objective, OBJECTIVES), ("ascent", ascent, ASCENTS)):
        if value not in choices:
            raise AnalysisError(f"Unknown {name} {value!r}: {nearest(value, choices)}")
    if not channels or min(channels) < 0:
        raise AnalysisError(f"channels={channels}: expected one number from 0, or several")
    if len(sides) not in (1, 2, 3) or min(sides) < 1:
        raise AnalysisError(f"size={sides}: expected pixels, (H, W), or (D, H, W)")
    if steps < 0 or not 0 < rate < math.inf or not 0 <= jitter < min(sides):
        raise AnalysisError(
            f"steps={steps}, rate={rate}, jitter={jitter}: expected steps from 0, a rate above 0, and a jitter from 0 "
            f"to below {min(sides)} pixels"
        )
