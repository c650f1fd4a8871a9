"""From a plan to the numbers: everything is checked first, then every tensor is filled where it lies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transfuse.errors import TransferError
from transfuse.inits.gabor import gabor_
from transfuse.inits.plan import Entry
from transfuse.inits.roles import IDENTITY, LAYERS
from transfuse.inits.schemes import RANDOM, RESAMPLED, given
from transfuse.inits.starts import Starts
from transfuse.models.architectures.parameter_names import POSITIONS, TOKENS
from transfuse.models.draws import fresh_linear_, generator_of

LARGE = 50_000  # elements of a tensor that is worth a thread of its own


class Fill(NamedTuple):
    """How one tensor gets its values, once all is checked.

    Fields:
        tensor: to be filled.
        values: what fills it in place.
        drawn: whether `values` wants contiguous float32 memory on the CPU, as random numbers do.
    """

    tensor: Tensor
    values: Callable[[Tensor], object]
    drawn: bool = True


class GaborLike(NamedTuple):
    """What the magnitude of Gabor filters is, and whose it is where there is no source.

    Fields:
        scale: see `gabor_`.
        random: the random start whose filters they replace.
    """

    scale: str
    random: str


def fills(
    entries: Sequence[Entry], target: Mapping[str, Tensor], source: Mapping[str, Tensor], seed: int, gabor: GaborLike
) -> list[Fill]:
    """What fills each entry of the state dict `target`; entries that keep their values are left out.

    Args:
        entries: the plan.
        target: the network's state dict.
        source: a tensor for each entry that draws on the source, in the entry's shape.
        seed: of the draws.
        gabor: what Gabor filters are scaled to.

    Raises TransferError for tensors of which nobody knows how they start. Changes nothing.
    """
    source = _apart(entries, target, source)
    starts = Starts(entries, target, seed)
    return [
        _fill(entry, target[entry.name], source.get(entry.name), starts, seed, gabor)
        for entry in entries
        if entry.scheme != "kept"
    ]


def fill_(planned: Sequence[Fill]) -> None:
    """Fills all tensors, large ones side by side on as many threads as torch has; each is filled by one thread."""
    shared: dict[object, list[Fill]] = {}  # tied weights share their memory: the last entry wins, as in the plan
    for fill in planned:
        memory = fill.tensor.untyped_storage()
        shared.setdefault((memory.device, memory.data_ptr() or id(fill)), []).append(fill)
    groups = sorted(shared.values(), key=lambda group: -group[0].tensor.numel())
    threads = torch.get_num_threads()
    large = [group for group in groups if group[0].tensor.numel() > LARGE] if threads > 1 else []
    for group in groups[len(large) :]:
        _fill_all_(group)
    if not large:
        return
    try:
        # Threads within threads would wait for each other, so that an operation of a worker gets one alone.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(_fill_all_, large):
                pass
    finally:
        torch.set_num_threads(threads)  # of threads that start from now on; this one has kept its number


def _fill_all_(group: Sequence[Fill]) -> None:
    with torch.no_grad():
        for tensor, values, drawn in group:
            if drawn and not (tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()):
                numbers = torch.empty(tensor.shape, dtype=torch.float32)
                values(numbers)
                tensor.copy_(numbers)
            else:
                values(tensor)


def _fill(entry: Entry, tensor: Tensor, source: Tensor | None, starts: Starts, seed: int, gabor: GaborLike) -> Fill:
    scheme = entry.scheme
    if scheme == "transfer":
        return _copied(tensor, given(source))
    if scheme in RESAMPLED and entry.draws_on_source and tensor.is_floating_point():
        return Fill(tensor, lambda empty: _resample_(empty, entry, given(source), seed))
    if entry.role == "norm":
        return Fill(tensor, lambda empty: empty.fill_(IDENTITY[entry.leaf]), drawn=False)
    if entry.role == "scale":
        return _copied(tensor, starts.of_scale(entry, tensor))
    if scheme == "gabor":
        like = source if source is not None else _replaced(entry, tensor, gabor.random, seed)
        return Fill(tensor, lambda empty: gabor_(empty, like, gabor.scale))
    if entry.role == "embedding":
        return Fill(tensor, lambda empty: _embedding_(empty, entry, seed))
    if isinstance(entry.module, LAYERS) and entry.role != "other":
        return Fill(tensor, lambda empty: _layer_(empty, entry, scheme, seed))
    reset = starts.by_reset(entry)
    if reset is None:
        raise TransferError(
            f"Nothing is known about how {entry.name!r} of a {type(entry.module).__name__} starts at random: transfer "
            f"its block, or say how with overrides={{{entry.name!r}: 'mean_var'}}. A parametrised layer (weight_norm) "
            "is initialised before it is parametrised."
        )
    return _copied(tensor, reset)


def _copied(tensor: Tensor, values: Tensor) -> Fill:
    return Fill(tensor, lambda empty: empty.copy_(values), drawn=False)


def _resample_(empty: Tensor, entry: Entry, source: Tensor, seed: int) -> None:
    RESAMPLED[entry.scheme](empty, source, generator_of(seed, entry.name))
    if entry.role == "norm" and entry.leaf == "running_var":
        empty.clamp_(min=float(source.min()))


def _layer_(empty: Tensor, entry: Entry, scheme: str, seed: int) -> None:
    """A convolution's or linear layer's weight or bias by a scheme of RANDOM, or "fresh" for a classifier."""
    module: Any = entry.module
    drawing = RANDOM.get(scheme)
    if isinstance(module, nn.Linear) and drawing is None:
        fresh_linear_(empty, module.in_features, seed, entry.name)
    elif entry.leaf != "weight":
        bound = 1 / math.sqrt(module.weight[0].numel()) if scheme == "kaiming_uniform" else 0.0
        empty.uniform_(-bound, bound, generator=generator_of(seed, entry.name)) if bound else empty.zero_()
    elif drawing is not None:
        drawing(empty, None, generator_of(seed, entry.name))
    else:
        fan_out = math.prod(module.kernel_size) * module.out_channels / module.groups
        empty.normal_(generator=generator_of(seed, entry.name)).mul_(math.sqrt(2 / fan_out))


def _embedding_(empty: Tensor, entry: Entry, seed: int) -> None:
    generator = generator_of(seed, entry.name)
    if entry.leaf in TOKENS:
        empty.normal_(std=TOKENS[entry.leaf], generator=generator)
    else:
        nn.init.trunc_normal_(empty, std=POSITIONS[entry.leaf], generator=generator)


def _replaced(entry: Entry, present: Tensor, random: str, seed: int) -> Tensor:
    """The random filters that Gabor filters stand for."""
    filters = torch.empty(present.shape)
    _layer_(filters, entry, random, seed)
    return filters


def _apart(entries: Sequence[Entry], target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The source without tensors that lie where the network's do (it may be its own state dict) and would be lost."""
    memory = {tensor.untyped_storage().data_ptr() for tensor in target.values()} - {0}
    kept = {entry.name for entry in entries if entry.scheme == "transfer"}
    apart = {}
    for name, tensor in source.items():
        in_place = name in kept and tensor.data_ptr() == target[name].data_ptr()
        shared = tensor.untyped_storage().data_ptr() in memory and not in_place
        apart[name] = tensor.clone() if shared else tensor
    return apart
