"""Batch-norm statistics measured again on the images at hand, with the network's function left as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from transfuse.errors import TransferError


class _Moments:
    """Mean and variance a channel over all that was seen, merged batch by batch without cancellation (Chan 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Takes in a batch (N, C) or (N, C, ...)."""
        device = "cpu" if values.device.type == "mps" else values.device  # which has no float64
        flat = values.detach().to(device, torch.float64).transpose(0, 1).flatten(1)
        count = flat.shape[1]
        if not count:
            return
        variance, mean = torch.var_mean(flat, dim=1, correction=0)
        if not self.count:
            self.count, self.mean, self.squares = count, mean, variance * count
            return
        total = self.count + count
        away = mean - self.mean
        self.squares = self.squares + variance * count + away.square() * (self.count * count / total)
        self.mean = self.mean + away * (count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        return self.squares / self.count


def recalibrate_(model: nn.Module, batches: Iterable[Tensor | Sequence[Tensor]]) -> tuple[str, ...]:
    """Measures every batch norm's mean and variance on images, in place; what the network computes stays the same.

    One pass in eval mode; each batch norm's statistics become those of its inputs over all images and places, and its
    scale and shift are set so that its output is what it was. Weights whose batch norm was folded into the convolutions
    (mean 0, variance 1) train to chance; recalibrated on the target's training images they have real statistics. Mode,
    gradients, device and the global random generator are left as they were.

    Args:
        model: the network; one without batch norm is left alone.
        batches: images (N, C, H, W) as the network gets them (normalised), or sequences that begin with the images.

    Returns:
        The names of the batch-norm layers, empty for a network without any.

    Raises TransferError, with nothing changed, for layers without scale and shift or without statistics, layers that
    no image reached, no images at all, and inputs that are not finite.

    >>> layer = nn.Sequential(nn.BatchNorm2d(1))
    >>> recalibrate_(layer, [torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)])
    ('0',)
    >>> [round(tensor.item(), 2) for tensor in (layer[0].running_mean, layer[0].running_var, layer[0].bias)]
    [2.0, 1.0, 2.0]
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    if not layers:
        return ()
    if bare := [name for name, layer in layers.items() if not layer.affine]:
        raise TransferError(
            f"{_some(bare)}: batch norm without scale and shift (affine=False) cannot get other statistics and "
            "compute the same. Leave `norm: recalibrate` out for this network."
        )
    if bare := [name for name, layer in layers.items() if layer.running_mean is None or layer.running_var is None]:
        raise TransferError(
            f"{_some(bare)}: batch norm without statistics (track_running_stats=False) has none to measure again. "
            "Leave `norm: recalibrate` out for this network."
        )
    seen = {name: _Moments() for name in layers}
    images_seen = _observe(model, {layers[name]: seen[name] for name in layers}, batches)
    if not images_seen:
        raise TransferError("There are no images to measure batch-norm statistics on: give at least one batch.")
    if idle := [name for name in layers if not seen[name].count]:
        raise TransferError(
            f"No image reached {len(idle)} of {len(layers)} batch-norm layers in a forward pass: {_some(idle)}. Remove "
            "the branch that is not used (an auxiliary classifier), or leave `norm: recalibrate` out."
        )
    if broken := [name for name in layers if not torch.isfinite(seen[name].mean + seen[name].variance).all()]:
        raise TransferError(
            f"The inputs of {len(broken)} batch-norm layers are NaN or infinite, first of {broken[0]!r}: check the "
            "images and the weights."
        )
    with torch.no_grad():
        for name, layer in layers.items():
            _set_statistics(layer, seen[name].mean, seen[name].variance)
    return tuple(layers)


def _observe(
    model: nn.Module, moments: dict[_BatchNorm, _Moments], batches: Iterable[Tensor | Sequence[Tensor]]
) -> int:
    """One pass in eval mode that adds each layer's input to its moments; the number of images."""

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], moment: _Moments) -> None:
        moment.add(inputs[0])

    first = next(model.parameters())
    if isinstance(batches, Tensor | Mapping | str) or not (
        isinstance(batches, Iterable) or hasattr(batches, "__getitem__")
    ):
        raise TransferError(
            f"images is a {type(batches).__name__}; expected batches: [images] or a DataLoader, whose batches are "
            "images (N, C, H, W) or begin with them."
        )
    modes = [(module, module.training) for module in model.modules()]
    handles = [layer.register_forward_pre_hook(partial(look, moment=moment)) for layer, moment in moments.items()]
    count = 0
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())), torch.no_grad():
            model.eval()
            for batch in batches:
                images = _images_of(batch)
                try:
                    model(images.to(first.device))
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    raise TransferError(
                        f"The network does not take images of shape {tuple(images.shape)} and type {images.dtype} "
                        f"({str(error).splitlines()[0][:160]}): give them as training gets them, with its number of "
                        "channels and its size."
                    ) from error
                count += len(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return count


def _images_of(batch: object) -> Tensor:
    """The images of a batch: itself, or what a sequence begins with."""
    images = batch[0] if isinstance(batch, Sequence) and len(batch) else batch
    if not isinstance(images, Tensor):
        raise TransferError(
            f"images holds a batch that is a {type(batch).__name__}"
            + (f" of {type(images).__name__}" if images is not batch else "")
            + ", expected a tensor (N, C, H, W) or a sequence that begins with one: torch.from_numpy(array) makes one."
        )
    return images


def _set_statistics(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Other statistics, and the scale and shift with which the layer in eval mode is the same function."""
    if layer.running_mean is None or layer.running_var is None:
        return
    old_mean, old_variance, weight, bias = (
        tensor.to(mean.device, torch.float64)
        for tensor in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    # Statistics are rounded to the layer's precision first, so that scale and shift belong to what is stored.
    mean, variance = (tensor.to(layer.running_mean.dtype).double() for tensor in (mean, variance))
    slope = weight / (old_variance + layer.eps).sqrt()
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    layer.weight.copy_(slope * (variance + layer.eps).sqrt())
    layer.bias.copy_(bias + slope * (mean - old_mean))


def _some(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names) - most} more)" if len(names) > most else "")
