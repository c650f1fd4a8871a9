"""Which scheme fills which entry of a state dict: the options of `initialise_`, made out for one network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from transfuse.errors import TransferError, nearest
from transfuse.inits.roles import Role, role_of
from transfuse.inits.schemes import (
    BIASES,
    EMBEDDINGS,
    GABOR_SCALES,
    HEAD,
    NORM,
    RANDOM,
    RESAMPLED,
    REST,
)
from transfuse.models.blocks import Blocks, family_of, is_under
from transfuse.models.matching import first_convolution
from transfuse.models.modules import modules_of, nearest_name

_FOR_NORMS = ("transfer", *RESAMPLED, "identity")
_FOR_OTHERS = ("transfer", *RANDOM, *RESAMPLED, "gabor")


class Options(NamedTuple):
    """The options of `initialise_` that decide schemes; see there."""

    rest: str
    random: str
    norm: str
    biases: str
    embeddings: str
    head: str
    gabor_scale: str


class Entry(NamedTuple):
    """One entry of the state dict.

    Fields:
        name: of the entry.
        module: that holds it.
        block: that owns it, or "head".
        role: see `role_of`.
        scheme: "transfer", "identity", "fresh", "kept", "gabor", or one of RANDOM and RESAMPLED.
    """

    name: str
    module: nn.Module
    block: str
    role: Role
    scheme: str

    @property
    def leaf(self) -> str:
        """The name inside of the module."""
        return self.name.rpartition(".")[2]

    @property
    def draws_on_source(self) -> bool:
        """Whether its values are made from the source's tensor of the same name."""
        return self.scheme == "transfer" or (self.scheme in RESAMPLED and self.leaf != "num_batches_tracked")

    @property
    def treatment(self) -> str:
        """How the record names the scheme."""
        return "random" if self.scheme in RANDOM else {"transfer": "transferred"}.get(self.scheme, self.scheme)


def check_options(options: Options) -> None:
    """Raises TransferError for a value that an option does not have."""
    for name, valid in (
        *(("rest", REST), ("random", tuple(RANDOM)), ("norm", NORM), ("biases", BIASES)),
        *(("embeddings", EMBEDDINGS), ("head", HEAD), ("gabor_scale", GABOR_SCALES)),
    ):
        if (value := getattr(options, name)) not in valid:
            raise TransferError(f"Unknown {name}={value!r}: {nearest(value, valid)}")


def default_random(model: nn.Module) -> str:
    """What the random start "default" is for a network: "trunc_normal" for transformers and ConvNeXt."""
    family = family_of(model)
    return family.random if family else "default"


def plan(
    model: nn.Module, blocks: Blocks, depth: int, options: Options, overrides: Mapping[str, str]
) -> tuple[Entry, ...]:
    """Every entry of the state dict with its scheme, in order; raises TransferError for overrides without a meaning.

    A wide override (a block, a module) says how weights and biases start; normalisation layers inside of it keep to
    `norm` and embeddings to `embeddings`, unless it is "transfer" or names just them.
    """
    paths = _sorted_overrides(model, blocks, overrides)
    prefix = set(blocks.names[:depth])
    modules = modules_of(model)
    default = default_random(model)
    norms = {path for path in paths if holds_only_norms(model, blocks, path)}
    entries = []
    for name in model.state_dict():
        module, owner = modules[name.rpartition(".")[0]], blocks.owner(name)
        role = role_of(module, name)
        scheme = _scheme(role, owner, owner in prefix, options)
        override = next((path for path in paths if is_under(name, path) or path == owner), None)
        if override is not None:
            wanted = paths[override]
            kept = role == "embedding" and wanted in RESAMPLED and options.embeddings == "keep" and override != name
            if role not in ("norm", "scale") or wanted == "transfer" or override in norms:
                scheme = "transfer" if kept else wanted
        if role == "buffer" and scheme != "transfer":
            scheme = "kept"  # a table of indices or the like, not weights
        entries.append(Entry(name, module, owner, role, default if scheme == "default" else scheme))
    return tuple(entries)


def _scheme(role: Role, owner: str, below: bool, options: Options) -> str:
    """The scheme of an entry that no override concerns."""
    if owner == "head":
        return "transfer" if options.head == "source" else "fresh"
    if below:
        return "transfer"
    if role in ("norm", "scale"):
        return "identity" if options.norm == "recalibrate" else options.norm
    if options.rest == "random" or (role == "bias" and options.biases == "random"):
        return options.random
    return "transfer" if role == "embedding" and options.embeddings == "keep" else options.rest


def _sorted_overrides(model: nn.Module, blocks: Blocks, overrides: Mapping[str, str]) -> dict[str, str]:
    """The overrides by path, the longest first, each of them checked; Gabor filters by the parameter's own name."""
    if not isinstance(overrides, Mapping):
        raise TransferError(
            f"overrides is {overrides!r}; expected {{block, module or parameter: scheme}}, such as "
            f"{{{blocks.names[0]!r}: 'mean_var'}}."
        )
    known = dict.fromkeys([*blocks.names, *modules_of(model), *model.state_dict()])
    checked: dict[str, str] = {}
    for path, scheme in overrides.items():
        if not path or path not in known:
            first = first_convolution(model) if scheme == "gabor" else ""
            cure = f"the first convolution of this network is {first!r}" if first else nearest_name(path, known)
            raise TransferError(f"overrides: the network has no block, module or parameter {path!r}, {cure}")
        valid = _FOR_NORMS if holds_only_norms(model, blocks, path) else _FOR_OTHERS
        if scheme not in valid:
            raise TransferError(f"overrides: {path!r} cannot be {scheme!r}, {nearest(scheme, valid)}")
        checked |= dict.fromkeys(_gabor_weights(model, blocks, path) if scheme == "gabor" else [path], scheme)
    return dict(sorted(checked.items(), key=lambda item: (-item[0].count("."), item[0] in blocks.names)))


def holds_only_norms(model: nn.Module, blocks: Blocks, path: str) -> bool:
    """Whether all that a block, module or parameter holds is treated as the option `norm` says."""
    modules = modules_of(model)
    owned = [
        name
        for name in model.state_dict()
        if (blocks.owner(name) == path if path in blocks.names else is_under(name, path))
    ]
    return bool(owned) and all(role_of(modules[name.rpartition(".")[0]], name) in ("norm", "scale") for name in owned)


def _gabor_weights(model: nn.Module, blocks: Blocks, path: str) -> list[str]:
    """The weight, by its names, that `{path: gabor}` means: the first convolution's, if it is the only layer there."""
    first = first_convolution(model)
    state = model.state_dict()
    modules = modules_of(model)
    there = [
        name
        for name in state
        if (is_under(name, path) or blocks.owner(name) == path)
        and role_of(modules[name.rpartition(".")[0]], name) == "weight"
    ]
    kernel = tuple(state[f"{first}.weight"].shape[2:]) if first else ()
    square = len(kernel) == 2 and kernel[0] == kernel[1] and isinstance(modules[first], nn.Conv2d)
    if not there or not square or any(modules[name.rpartition(".")[0]] is not modules[first] for name in there):
        what = f"that is {first!r} with a kernel of {' x '.join(map(str, kernel))}" if first else "it has none"
        cure = f"give overrides={{{first!r}: 'gabor'}}" if square else "leave 'gabor' out for this network"
        raise TransferError(
            f"overrides: {path!r} cannot be 'gabor': Gabor filters are for the network's first 2D convolution with a "
            f"square kernel alone ({what}): {cure}."
        )
    return there
