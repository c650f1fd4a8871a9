"""Does this state dict belong to that network: every tensor is matched, excused, or an error with both sides."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from transfuse.errors import TransferError, nearest
from transfuse.models.blocks import Blocks, is_under

CLASSIFIERS = ("fc", "classifier", "head", "heads", "linear")  # what networks call their last layer

FIRST_LAYERS = ("sum", "first", "repeat")


class Matched(NamedTuple):
    """Source tensors by the names of the target, in its shapes, and what was done to make them fit.

    Fields:
        tensors: a tensor for each needed name.
        first_layer: "" or how the first convolution was fitted, e.g. "sum: 3 to 1 channels".
        excused: names left out on purpose, with the reason, e.g. ("fc.weight", "classifier of the source").
    """

    tensors: dict[str, Tensor]
    first_layer: str
    excused: tuple[tuple[str, str], ...]


def match_weights(
    model: nn.Module,
    blocks: Blocks,
    source: Mapping[str, Tensor],
    needed: Collection[str],
    *,
    first_layer: str = "sum",
    identity_statistics: str = "refuse",
) -> Matched:
    """The source's tensor for each needed entry of the model's state dict; changes neither of them.

    Excused by name are the source's classifier (unless it is needed), its tensors of the target's names that are not
    needed, and a missing `num_batches_tracked` (checkpoints older than PyTorch 0.4.1 have none; it counts from 0).

    Args:
        model: the target.
        blocks: its blocks; their head says which tensors are the classifier.
        source: state dict with the target's names.
        needed: entries of the target's state dict that want a source tensor.
        first_layer: see `fit_channels`.
        identity_statistics: "refuse" (default) or "accept" weights whose needed batch-norm statistics are all mean 0
            and variance 1: their batch norm was folded into the convolutions, or they were never trained.

    Raises TransferError that lists what is missing (-), unexpected (+) and of another shape (~), and for tensors with
    NaN or infinite values.
    """
    target = model.state_dict()
    first = _first_convolution(model)
    tensors: dict[str, Tensor] = {}
    excused: list[tuple[str, str]] = []
    fitted = ""
    missing, shapes = [], []
    for name in needed:
        wanted = target[name]
        if name not in source:
            if name.endswith(".num_batches_tracked"):
                tensors[name] = torch.zeros_like(wanted, device="cpu")
                excused.append((name, "not in the source, counts from 0"))
            else:
                missing.append(name)
            continue
        tensor = source[name].detach().to("cpu", wanted.dtype)
        if name == first and _differ_in_channels(tensor, wanted):
            fitted = f"{first_layer}: {tensor.shape[1]} to {wanted.shape[1]} channels"
            tensor = fit_channels(tensor, wanted.shape[1], first_layer)
        if tensor.shape != wanted.shape:
            shapes.append(f"{name}: {tuple(tensor.shape)} in the source, {tuple(wanted.shape)} in the network")
        tensors[name] = tensor
    unexpected = []
    for name in source:
        if name in tensors:
            continue
        if any(is_under(name, path) for path in blocks.head) or name.split(".")[0] in CLASSIFIERS:
            excused.append((name, "classifier of the source"))
        elif name in target:
            excused.append((name, "not asked for"))
        else:
            unexpected.append(name)
    if missing or unexpected or shapes:
        raise TransferError(_both_sides(type(model).__name__, len(source), missing, unexpected, shapes))
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise TransferError(f"The weights hold NaN or infinite values: {_few(broken)}. Use an earlier checkpoint.")
    _check_statistics(tensors, identity_statistics)
    return Matched(tensors, fitted, tuple(excused))


def fit_channels(weight: Tensor, channels: int, how: str = "sum") -> Tensor:
    """A first convolution (O, S, h, w) for images with another number of channels: (O, channels, h, w).

    "sum" (default): the sum over the S source channels, spread evenly over the new ones: a grey image gives exactly
    what its copy in every channel gave (timm does so for one channel). "first": the first `channels` of them (the code
    of M for one channel). "repeat": the source channels in turn, times S / channels.

    Raises TransferError for an unknown `how`, and for "first" with fewer source channels than asked for.

    >>> fit_channels(torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1), 1).flatten().tolist()
    [6.0]
    """
    if how not in FIRST_LAYERS:
        raise TransferError(f"Unknown first_layer {how!r}: {nearest(how, FIRST_LAYERS)}")
    given = weight.shape[1]
    if how == "first":
        if given < channels:
            raise TransferError(
                f"first_layer='first' wants {channels} channels and the source has {given}: use 'sum' or 'repeat'."
            )
        return weight[:, :channels].clone()
    if how == "repeat":
        return weight[:, torch.arange(channels) % given] * (given / channels)
    return (weight.sum(1, keepdim=True) / channels).expand(-1, channels, *weight.shape[2:]).clone()


def _first_convolution(model: nn.Module) -> str:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return f"{name}.weight"
    return ""


def _differ_in_channels(tensor: Tensor, wanted: Tensor) -> bool:
    same = (tensor.shape[:1], tensor.shape[2:]) == (wanted.shape[:1], wanted.shape[2:])
    return same and tensor.ndim == wanted.ndim and tensor.shape != wanted.shape


def _check_statistics(tensors: Mapping[str, Tensor], identity_statistics: str) -> None:
    if identity_statistics not in ("refuse", "accept"):
        raise TransferError(
            f"Unknown identity_statistics {identity_statistics!r}: {nearest(identity_statistics, ('refuse', 'accept'))}"
        )
    means = [tensor for name, tensor in tensors.items() if name.endswith("running_mean")]
    variances = [tensor for name, tensor in tensors.items() if name.endswith("running_var")]
    identity = means and all((t == 0).all() for t in means) and all((t == 1).all() for t in variances)
    if identity and identity_statistics == "refuse":
        raise TransferError(
            f"All {len(means)} batch-norm layers that these weights bring have mean 0 and variance 1: their batch norm "
            "was folded into the convolutions, or they were never trained, and fine-tuning them goes astray. Use "
            "weights with real statistics, or take these as they are with identity_statistics='accept'."
        )


def _both_sides(name: str, count: int, missing: list[str], unexpected: list[str], shapes: list[str]) -> str:
    sides = (
        ("-", "missing in the source", missing),
        ("+", "unexpected", unexpected),
        ("~", "other shape", shapes),
    )
    listed = "".join(
        f"\n{len(entries)} {title}:"
        + "".join(f"\n {sign} {entry}" for entry in entries[:10])
        + (f"\n {sign} ... ({len(entries) - 10} more)" if len(entries) > 10 else "")
        for sign, title, entries in sides
        if entries
    )
    return (
        f"These weights ({count} tensors) are not of this {name}; nothing was changed.{listed}\nCreate the network "
        "that they were trained in, or give weights of this one."
    )


def _few(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names) - most} more)" if len(names) > most else "")
