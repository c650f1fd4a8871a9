"""Which channels of a network belong together: found by following them through one forward pass without values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError
from transfuse.models.weightless import Watch, run_weightless, weightless_tensors

KEEPING = {  # operations that leave dimension 1 alone; every pointwise one does, too
    *("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"),
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"),
    *("adaptive_max_pool2d", "adaptive_max_pool3d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d"),
    *("mean", "amax", "constant_pad_nd", "clone", "detach", "alias", "lift_fresh"),
}
NORMS = {"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit_no_training"}
RESHAPES = {"view", "_unsafe_view", "squeeze", "unsqueeze", "reshape"}


class Run(NamedTuple):
    """Neighbouring channels of one group; each stands for `times` numbers in a row (after a flattening)."""

    group: int
    times: int = 1


Runs = tuple[Run, ...]


@dataclass
class Channels:
    """The groups of channels of a network that can only change their number together.

    Attributes:
        sizes: how many channels each group has.
        producers: the weights that make the channels of each group, by the name of the tensor.
        dims: the runs of channels along each dimension of each tensor of the state dict that has some.
        grouped: for the weights of grouped convolutions, in how many groups.
    """

    sizes: list[int] = field(default_factory=list)
    producers: list[set[str]] = field(default_factory=list)
    dims: dict[tuple[str, int], Runs] = field(default_factory=dict)
    grouped: dict[str, int] = field(default_factory=dict)
    parents: list[int] = field(default_factory=list)

    def new(self, size: int, producer: str) -> Runs:
        """A new group of channels."""
        self.sizes.append(size)
        self.producers.append({producer})
        self.parents.append(len(self.parents))
        return (Run(len(self.parents) - 1),)

    def root(self, group: int) -> int:
        """The one group that stands for all that were tied to this one."""
        while self.parents[group] != group:
            group = self.parents[group]
        return group

    def tie(self, first: Runs, second: Runs) -> None:
        """Ties two lists of channels one to one; raises BlocksError if their borders differ."""
        if [(self.sizes[run.group], run.times) for run in first] != [(self.sizes[r.group], r.times) for r in second]:
            raise BlocksError("Concatenated channels are added to channels with other borders: not followed.")
        for one, other in zip(first, second, strict=True):
            root, joined = self.root(one.group), self.root(other.group)
            if root != joined:
                self.parents[joined] = root
                self.producers[root] |= self.producers[joined]

    def count(self, runs: Runs, divided: dict[int, int] | None = None) -> int:
        """How many numbers a list of channels has, with other sizes for some groups."""
        sizes = divided or {}
        return sum(sizes.get(self.root(run.group), self.sizes[run.group]) * run.times for run in runs)


INPUT = "the image"


def channels_of(model: nn.Module, images: Tensor) -> Channels:
    """The groups of channels of a convolutional network that takes `images` (N, C, *side).

    Every operation of torch in a forward pass without values is followed: convolutions and linear layers make new
    channels, concatenations put them side by side, sums, products, depthwise convolutions and batch norms tie them.
    Raises BlocksError at the first operation whose channels are not known (attention, layer norms, shuffles, splits).

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
    >>> channels = channels_of(model, torch.zeros(2, 3, 8, 8, device="meta"))
    >>> channels.sizes, [channels.producers[run.group] for run in channels.dims["2.weight", 1]]
    ([3, 8, 4], [{'0.weight'}])
    """
    tensors = weightless_tensors(model)
    follower = _Follower(Channels(), tensors)
    follower.mark(images, follower.channels.new(images.shape[1], INPUT))
    with Watch(follower.follow):
        run_weightless(model, images, tensors)
    return follower.channels


class _Follower:
    """Marks the tensors of a forward pass with their channels."""

    def __init__(self, channels: Channels, tensors: dict[str, Tensor]) -> None:
        self.channels = channels
        self.names = {id(tensor): name for name, tensor in reversed(tensors.items())}  # the first name of tied ones
        self.marks: dict[int, Runs] = {}
        self.transposed: dict[int, str] = {}
        self.alive: list[Tensor] = list(tensors.values())  # an id is a name only while its tensor lives

    def mark(self, tensor: Tensor, runs: Runs) -> None:
        self.alive.append(tensor)
        self.marks[id(tensor)] = runs

    def note(self, name: str, dim: int, runs: Runs) -> None:
        """The channels along a dimension of a tensor of the state dict, which may be used several times."""
        known = self.channels.dims.setdefault((name, dim), runs)
        self.channels.tie(known, runs)

    def follow(self, operation: Any, inputs: tuple[Any, ...], output: Any) -> None:
        name = operation.overloadpacket._qualified_op_name.removeprefix("aten::")
        first = output[0] if isinstance(output, tuple | list) and output else output
        given = [value for value in _flat(inputs) if isinstance(value, Tensor)]
        marked = [tensor for tensor in given if id(tensor) in self.marks]
        if name == "t" and id(inputs[0]) in self.names:
            self.alive.append(output)
            self.transposed[id(output)] = self.names[id(inputs[0])]
        elif not marked:
            return
        elif name in ("convolution", "_convolution"):
            self.mark(first, self._convolution(*inputs[:3], groups=inputs[8], result=first))
        elif name in ("addmm", "mm") and id(inputs[-1]) in self.transposed:
            bias = inputs[0] if name == "addmm" else None
            self.mark(first, self._linear(inputs[-2], self.transposed[id(inputs[-1])], bias, first))
        elif name in NORMS:
            for tensor in inputs[1:5]:
                if isinstance(tensor, Tensor):
                    self.note(self._name(tensor), 0, self.marks[id(inputs[0])])
            self.mark(first, self.marks[id(inputs[0])])
        elif name == "cat" and (inputs[1:] or (0,))[0] in (1, 1 - first.ndim) and len(marked) == len(given):
            self.mark(first, tuple(run for tensor in given for run in self.marks[id(tensor)]))
        elif name in RESHAPES:
            self.mark(first, self._reshaped(inputs[0], first, name))
        elif name in ("mean", "amax") and {1, 1 - inputs[0].ndim, None} & set((inputs[1:] or ((None,),))[0] or (None,)):
            raise BlocksError(f"the channels are not followed through a {name!r} over all of them")
        elif name in KEEPING or torch.Tag.pointwise in operation.tags:
            self.mark(first, self._kept(name, given, first))
        else:
            raise BlocksError(f"the channels are not followed through {name!r}")

    def _name(self, tensor: Tensor) -> str:
        if id(tensor) not in self.names:
            raise BlocksError("a layer computes its weights before it uses them")
        return self.names[id(tensor)]

    def _convolution(self, given: Tensor, weight: Tensor, bias: Tensor | None, *, groups: int, result: Tensor) -> Runs:
        name, runs = self._name(weight), self.marks[id(given)]
        if groups == given.shape[1] == result.shape[1] and groups > 1:  # depthwise
            made = runs
            for run in runs:
                self.channels.producers[self.channels.root(run.group)].add(name)
        else:
            made = self.channels.dims.get((name, 0)) or self.channels.new(result.shape[1], name)
            self.note(name, 1, runs)
        if groups > 1:
            self.channels.grouped[name] = groups
        self.note(name, 0, made)
        if bias is not None:
            self.note(self._name(bias), 0, made)
        return made

    def _linear(self, given: Tensor, name: str, bias: Tensor | None, result: Tensor) -> Runs:
        made = self.channels.dims.get((name, 0)) or self.channels.new(result.shape[1], name)
        self.note(name, 0, made)
        self.note(name, 1, self.marks[id(given)])
        if bias is not None:
            self.note(self._name(bias), 0, made)
        return made

    def _reshaped(self, given: Tensor, result: Tensor, name: str) -> Runs:
        runs = self.marks[id(given)]
        if result.ndim >= 2 and result.shape[:2] == given.shape[:2]:
            return runs
        spread = math.prod(given.shape[2:])
        if result.ndim == 2 and result.shape == (given.shape[0], given.shape[1] * spread):
            return tuple(Run(run.group, run.times * spread) for run in runs)
        raise BlocksError(f"the channels are not followed through {name!r} of {tuple(given.shape)}")

    def _kept(self, name: str, given: Sequence[Tensor], result: Tensor) -> Runs:
        runs: Runs | None = None
        for tensor in given:
            if tensor.ndim < 2 and tensor.numel() == 1:
                continue
            mine = self.marks.get(id(tensor))
            if mine is None or tensor.ndim < 2 or result.ndim < 2 or tensor.shape[1] != result.shape[1]:
                raise BlocksError(f"the channels are not followed through {name!r} with {tuple(tensor.shape)}")
            if runs is not None:
                self.channels.tie(runs, mine)
            runs = mine
        return runs or ()


def _flat(values: Any) -> list[Any]:
    if isinstance(values, tuple | list):
        return [inner for value in values for inner in _flat(value)]
    return [values]
