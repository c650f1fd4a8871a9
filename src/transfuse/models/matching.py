"""Does this state dict belong to that network: every tensor is matched, excused, or an error with both sides."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from transfuse.errors import TransferError, nearest
from transfuse.models.architectures.other_names import CLASSIFIERS, ONE_SIDED
from transfuse.models.blocks import Blocks, family_of, is_under
from transfuse.models.modules import modules_of
from transfuse.models.positions import resize_positions
from transfuse.models.renaming import CommonNames, common_names

FIRST_LAYERS = ("sum", "first", "repeat")


class Matched(NamedTuple):
    """Source tensors by the names of the target, in its shapes, and what was done to make them fit.

    Fields:
        tensors: a tensor for each needed name.
        first_layer: "" or how the first convolution was fitted, e.g. "sum: 3 to 1 channels".
        excused: names left out on purpose, with the reason, e.g. ("fc.weight", "classifier of the source").
        renamed: which rules turned the source's names into the network's, and how many names each changed.
        fitted: entries other than the first convolution that were brought into another shape, with what was done.
    """

    tensors: dict[str, Tensor]
    first_layer: str
    excused: tuple[tuple[str, str], ...]
    renamed: tuple[tuple[str, int], ...] = ()
    fitted: tuple[tuple[str, str], ...] = ()


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

    Where the two sides name their tensors as different programs do (`architectures/other_names.py`), the source's names
    are turned into the target's, and the record says by which rule. Excused by name are the source's classifier (unless
    it is needed), its tensors of the target's names that are not needed, what its dialect has no use for here (an
    auxiliary classifier, a decoder), and a missing `num_batches_tracked` (checkpoints older than PyTorch 0.4.1 have
    none; it counts from 0). Position embeddings of transformers are resized for another image size.

    Args:
        model: the target.
        blocks: its blocks; their head says which tensors are the classifier.
        source: state dict, under the names it was saved with.
        needed: entries of the target's state dict that want a source tensor.
        first_layer: see `fit_channels`.
        identity_statistics: "refuse" (default) or "accept" weights that bring batch-norm layers with mean 0 and
            variance 1: their batch norm was folded into the convolutions, or they were never trained.

    Raises TransferError that lists what is missing (-), unexpected (+) and of another shape (~), for tensors with NaN
    or infinite values, and for those that hold no plain numbers (quantised, sparse, complex, on the meta device).
    """
    target = model.state_dict()
    family = family_of(model)
    names = common_names(target, source, family.name if family else None)
    _check_numbers(target, names, needed)
    first = _weights_of_first(model)
    tensors: dict[str, Tensor] = {}
    excused, fitted = list(names.ignored), []
    first_fitted = ""
    missing, shapes = [], []
    for name in needed:
        wanted = target[name]
        if names.target[name] not in names.source:
            if name.endswith(".num_batches_tracked"):
                tensors[name] = torch.zeros_like(wanted, device="cpu")
                excused.append((name, "not in the source, counts from 0"))
            else:
                missing.append(name)
            continue
        given = names.source[names.target[name]].detach()
        tensor = given.to("cpu", wanted.dtype)
        if name in first and _differ_in_channels(tensor, wanted):
            first_fitted = f"{first_layer}: {tensor.shape[1]} to {wanted.shape[1]} channels"
            tensor = fit_channels(tensor, wanted.shape[1], first_layer)
        elif tensor.shape != wanted.shape and (done := _fit(model, name, tensor, wanted, names)):
            tensor, what = done
            fitted.append((name, what))
        if tensor.shape != wanted.shape:
            shapes.append(f"{name}: {tuple(tensor.shape)} in the source, {tuple(wanted.shape)} in the network")
        tensors[name] = tensor
    ours = {common: name for name, common in names.target.items()}
    heads = {common for name, common in names.target.items() if any(is_under(name, path) for path in blocks.head)}
    unexpected = []
    for common, own in names.origin.items():
        if ours.get(common) in tensors:
            continue
        if common in heads or common.split(".")[0] in CLASSIFIERS:
            excused.append((own, "classifier of the source"))
        elif common in ours:
            excused.append((own, "not asked for"))
        else:
            unexpected.append(own)
    if missing or unexpected or shapes:
        cures = _cures(model, source, names, missing, unexpected)
        raise TransferError(_both_sides(type(model).__name__, len(source), missing, unexpected, shapes, cures))
    if broken := [name for name, tensor in tensors.items() if not _is_finite(tensor)]:
        raise TransferError(f"The weights hold NaN or infinite values: {_few(broken)}. Use an earlier checkpoint.")
    _check_statistics(tensors, identity_statistics)
    return Matched(tensors, first_fitted, tuple(excused), names.renamed, tuple(fitted))


def _check_numbers(target: Mapping[str, Tensor], names: CommonNames, needed: Collection[str]) -> None:
    """Raises TransferError for weights that a conversion of their type would turn into other numbers, or cannot read.

    Integers that stand for weights are quantised: the scale that makes numbers of them is elsewhere.
    """
    strange: dict[tuple[str, str], list[str]] = {}
    quantised = "give the weights as they were before they were quantised"
    for name in needed:
        given = names.source.get(names.target[name])
        if given is None:
            continue
        if given.is_meta:
            kind = ("on the meta device", "they have no values: create the source network with device='cpu'")
        elif given.layout != torch.strided:
            kind = (f"{given.layout}", "make them dense with tensor.to_dense()")
        elif given.is_quantized or (target[name].is_floating_point() and not given.is_floating_point()):
            kind = (f"{given.dtype}", "convert them" if given.is_complex() else quantised)
        else:
            continue
        strange.setdefault(kind, []).append(name)
    for (kind_found, cure), found in strange.items():
        raise TransferError(
            f"The weights {_few(found)} are {kind_found.removeprefix('torch.')}; expected dense floating-point "
            f"numbers: {cure}."
        )


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


def _is_finite(tensor: Tensor) -> bool:
    # A sum takes a tenth of the time, and is finite only if every value is; large finite values may overflow it.
    return bool(torch.isfinite(tensor.sum()) or torch.isfinite(tensor).all())


def first_convolution(model: nn.Module) -> str:
    """The path of the convolution that sees the image, "" in a network without convolutions."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return name
    return ""


def _weights_of_first(model: nn.Module) -> list[str]:
    """The weight of the first convolution, by all its names."""
    first, modules = first_convolution(model), modules_of(model)
    return [f"{name}.weight" for name, module in modules.items() if first and module is modules[first]]


def _differ_in_channels(tensor: Tensor, wanted: Tensor) -> bool:
    same = (tensor.shape[:1], tensor.shape[2:]) == (wanted.shape[:1], wanted.shape[2:])
    return same and tensor.ndim == wanted.ndim and tensor.shape != wanted.shape


def _fit(model: nn.Module, name: str, tensor: Tensor, wanted: Tensor, names: CommonNames) -> tuple[Tensor, str] | None:
    """A tensor of another shape that may be brought into the wanted one, and what was done; None for any other."""
    if tensor.numel() == wanted.numel() and any(re.search(p, names.target[name]) for p in names.reshaped):
        return tensor.reshape(wanted.shape), f"{tuple(tensor.shape)} reshaped to {tuple(wanted.shape)}"
    return resize_positions(model, name, tensor, wanted)


def _check_statistics(tensors: Mapping[str, Tensor], identity_statistics: str) -> None:
    if identity_statistics not in ("refuse", "accept"):
        raise TransferError(
            f"Unknown identity_statistics {identity_statistics!r}: {nearest(identity_statistics, ('refuse', 'accept'))}"
        )
    if identity_statistics == "accept":
        return
    layers = [name.removesuffix(".running_mean") for name in tensors if name.endswith(".running_mean")]
    identity = [
        layer
        for layer in layers
        if (tensors[f"{layer}.running_mean"] == 0).all()
        and f"{layer}.running_var" in tensors
        # A folded layer stores 1, or 1 - eps to be the identity: eps is 0.001 in TensorFlow.
        and ((tensors[f"{layer}.running_var"] - 1).abs() <= 1.001e-3).all()
    ]
    if identity:
        count = "All" if len(identity) == len(layers) else f"{len(identity)} of"
        raise TransferError(
            f"{count} {len(layers)} batch-norm layers that these weights bring have mean 0 and variance 1 "
            f"({_few(identity)}): their batch norm was folded into the convolutions, or they were never trained, and "
            "fine-tuning them goes astray. Use weights with real statistics, or have them measured again on the "
            "training images with norm: recalibrate, or take these as they are with identity_statistics='accept'."
        )


def _cures(
    model: nn.Module,
    source: Mapping[str, Tensor],
    names: CommonNames,
    missing: Sequence[str],
    unexpected: Sequence[str],
) -> list[str]:
    """What is known about why these two do not fit, the most telling first."""
    ours, theirs = _convolution_sizes(model.state_dict()), _convolution_sizes(source)
    cures = []
    if ours and theirs and not ours & theirs:
        cures.append(
            f"The source's convolutions are {_sizes(theirs)} and the network's are {_sizes(ours)}; weights are not "
            "inflated from one to the other: give weights of a network with as many dimensions."
        )
    for pattern, in_source, in_network in ONE_SIDED:
        cures += [in_source] if any(re.search(pattern, name) for name in unexpected) else []
        cures += [in_network] if any(re.search(pattern, name) for name in missing) else []
    if not cures and (prefix := _prefix(source, missing)):
        cures.append(
            f"The names of this network are there with {prefix!r} before them: give {{name.removeprefix({prefix!r}): "
            f"tensor for name, tensor in weights.items() if name.startswith({prefix!r})}}."
        )
    cures += _other_depth(names)
    if names.spoken and not cures:
        cures.append(f"The source's names are those of {', '.join(names.spoken)}.")
    return cures


def _other_depth(names: CommonNames) -> list[str]:
    """That the source is the same network with more or fewer blocks, as names that count them say."""

    def counted(state: Iterable[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in state:
            if part := re.search(r"\.(\d+)\.", name):
                stem = name[: part.start()]
                found[stem] = max(found.get(stem, 0), int(part[1]) + 1)
        return found

    theirs, ours = counted(names.source), counted(names.target.values())
    differ = [stem for stem in ours if stem in theirs and theirs[stem] != ours[stem]]
    if not differ:
        return []
    source, network = (", ".join(str(counts[stem]) for stem in differ[:6]) for counts in (theirs, ours))
    stems = ", ".join(differ[:6])
    return [f"Another depth: {stems} of the source hold {source} blocks, and those of this network {network}."]


def _prefix(source: Mapping[str, Tensor], missing: Sequence[str]) -> str:
    """What stands before every missing name in the source, "" if they are not there."""
    found = (name.removesuffix(missing[0]) for name in source if missing and name.endswith(f".{missing[0]}"))
    return next((prefix for prefix in found if all(f"{prefix}{name}" in source for name in missing)), "")


def _convolution_sizes(state: Mapping[str, Tensor]) -> set[int]:
    """The dimensions of the images that the convolutions of a state dict are for, of kernels larger than 1."""
    return {
        tensor.ndim - 2
        for name, tensor in state.items()
        if name.endswith("weight") and tensor.ndim in (4, 5) and max(tensor.shape[2:]) > 1
    }


def _sizes(dimensions: set[int]) -> str:
    return " and ".join(f"{size}D" for size in sorted(dimensions))


def _both_sides(
    name: str, count: int, missing: list[str], unexpected: list[str], shapes: list[str], cures: list[str]
) -> str:
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
    known = "".join(f"\n{cure}" for cure in cures)
    return (
        f"These weights ({count} tensors) are not of this {name}; nothing was changed.{listed}{known}\nCreate the "
        "network that they were trained in, or give weights of this one."
    )


def _few(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names) - most} more)" if len(names) > most else "")
