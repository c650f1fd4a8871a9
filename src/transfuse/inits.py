"""Every initialisation of the papers as one call: which blocks come from a source, and how the others are drawn."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.errors import TransferError, nearest
from transfuse.models.blocks import Blocks, check_blocks, is_under
from transfuse.models.draws import fresh_linear_, generator_of
from transfuse.models.matching import match_weights
from transfuse.models.transfer import TensorTransfer, Transfer
from transfuse.models.weights import find_weights, read_weights, rename

Scheme = Callable[[Tensor, Tensor | None, torch.Generator], Tensor]


def he_fan_out_(tensor: Tensor, source: Tensor | None, generator: torch.Generator) -> Tensor:
    """N(0, 2 / fan_out) with fan_out = out x kernel area: the default of ResNets in torchvision and timm (INIT-1)."""
    return nn.init.kaiming_normal_(tensor, mode="fan_out", nonlinearity="relu", generator=generator)


def glorot_normal_(tensor: Tensor, source: Tensor | None, generator: torch.Generator) -> Tensor:
    """N(0, 2 / (fan_in + fan_out)), as V quotes it (INIT-1; V, section 4; METHODS 2.1 item 6)."""
    return nn.init.xavier_normal_(tensor, generator=generator)


def trunc_normal_(tensor: Tensor, source: Tensor | None, generator: torch.Generator) -> Tensor:
    """N(0, 0.02^2) truncated at +-2: the default of vision transformers in timm (INIT-1; the code of M)."""
    return nn.init.trunc_normal_(tensor, std=0.02, generator=generator)


def mean_var_(tensor: Tensor, source: Tensor | None, generator: torch.Generator) -> Tensor:
    """Mean Var: each element iid from N(mean, var) of the source tensor (INIT-3; T appendix F, V 4.1, M appendix H).

    One mean and one unbiased variance a tensor, not a channel; a tensor of one element keeps its value.

    >>> generator = torch.Generator().manual_seed(0)
    >>> mean_var_(torch.empty(3), torch.full((3,), 2.0), generator)
    tensor([2., 2., 2.])
    """
    values = _given(source).double()
    deviation = float(values.std()) if values.numel() > 1 else 0.0
    return tensor.normal_(generator=generator).mul_(deviation).add_(float(values.mean()))


def sampled_(tensor: Tensor, source: Tensor | None, generator: torch.Generator) -> Tensor:
    """Sampling Init: each element drawn with replacement from the source tensor's elements (INIT-4; T appendix F.2)."""
    values = _given(source).flatten()
    return tensor.copy_(values[torch.randint(len(values), tensor.shape, generator=generator)])


def shuffled_(tensor: Tensor, source: Tensor | None, generator: torch.Generator) -> Tensor:
    """Shuffled Init: a random permutation of all elements of the source tensor (INIT-5; T appendix F.2)."""
    values = _given(source).flatten()
    return tensor.copy_(values[torch.randperm(len(values), generator=generator)].reshape(tensor.shape))


RANDOM: dict[str, Scheme | None] = {
    "default": None,  # depends on the kind of layer, see `_default_`
    "he_fan_out": he_fan_out_,
    "glorot_normal": glorot_normal_,
    "trunc_normal": trunc_normal_,
}
RESAMPLED: dict[str, Scheme] = {"mean_var": mean_var_, "sampled": sampled_, "shuffled": shuffled_}
REST = ("random", *RESAMPLED)
NORM = ("identity", "mean_var", "transfer")
HEAD = ("fresh", "source")
BIASES = ("rest", "random")
IDENTITY = {
    "weight": 1.0,
    "bias": 0.0,
    "running_mean": 0.0,
    "running_var": 1.0,
    "num_batches_tracked": 0.0,
}  # INIT-7
TREATMENTS = {"transfer": "transferred"}  # how the record names a scheme, where not by its own name


def initialise_(
    model: nn.Module,
    blocks: Blocks,
    *,
    source: Mapping[str, Tensor] | str | None = None,
    depth: int | str = 0,
    rest: str = "random",
    random: str = "default",
    norm: str = "identity",
    biases: str = "rest",
    head: str = "fresh",
    overrides: Mapping[str, str] | None = None,
    first_layer: str = "sum",
    identity_statistics: str = "refuse",
    seed: int = 0,
) -> Transfer:
    """Initialises a network in place: `blocks[:depth]` from a source, the others by `rest`; returns what it did.

    Every random number is a function of (seed, name of the tensor) and of nothing else: two depths differ in the blocks
    between them only (INIT-13), all arms of a seed share their fresh head, and random and transfusion arms share the
    random draw of the upper layers. Nothing is changed unless everything fits.

    Args:
        model: the network, on any device.
        blocks: its blocks.
        source: a state dict, a timm tag or a file of weights (see `find_weights`).
        depth: how many blocks are transferred, or up to which (see `Blocks.depth`); "all" is plain weight transfer.
        rest: layers above: "random", "mean_var", "sampled" or "shuffled" (INIT-1, 3, 4, 5).
        random: "default" (convolutions N(0, 2 / fan_out) with fan_out divided by the groups and bias 0, linear layers
            uniform +-1/sqrt(fan_in): the published defaults of ResNet, CBR, MobileNet and EfficientNet, except that
            timm also sets the last batch-norm scale of a residual block to 0), or "he_fan_out", "glorot_normal",
            "trunc_normal" (these with biases 0).
        norm: normalisation layers above: "identity" (scale 1, shift 0, mean 0, variance 1), "mean_var" (each of the
            four vectors resampled, variances at least the source's smallest) or "transfer" (INIT-7, 8, 9).
        biases: biases of convolutions and linear layers above: "rest" (as the weights: the code of M) or "random" (T
            and V resample weights only).
        head: "fresh" (torch's nn.Linear default) or "source".
        overrides: {block, module or parameter: scheme}, the longest path wins; schemes are those of `rest` and
            `random`, "transfer" and, for normalisation layers, "identity".
        first_layer: how a first convolution is fitted to other channels (see `fit_channels`).
        identity_statistics: "accept" takes weights whose batch norm is folded or untrained (see `match_weights`).
        seed: of every draw.

    Raises TransferError for an unknown option, a source that does not fit (listing both sides), is missing or unused.

    >>> from transfuse.models.blocks import blocks_of
    >>> from transfuse.models.create import create_model
    >>> model = create_model("cbr_demo", classes=5)
    >>> initialise_(model, blocks_of(model), seed=1).counts
    {'random': 4, 'identity': 20, 'fresh': 2}
    """
    choices = (("rest", rest, REST), ("random", random, tuple(RANDOM)), ("norm", norm, NORM))
    for option, value, valid in (*choices, ("biases", biases, BIASES), ("head", head, HEAD)):
        if value not in valid:
            raise TransferError(f"Unknown {option}={value!r}: {nearest(value, valid)}")
    count = check_blocks(model, blocks).depth(depth)
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise TransferError("A network on the meta device has no values to initialise: create it with device='cpu'.")
    paths = _overrides(model, blocks, overrides or {})
    prefix = set(blocks.names[:count])
    plan: dict[str, tuple[str, str]] = {}  # entry of the state dict: (its block, its scheme)
    for name in model.state_dict():
        owner = blocks.owner(name)
        module = model.get_submodule(name.rpartition(".")[0])
        override = next((path for path in paths if is_under(name, path) or path == owner), None)
        scheme = "transfer" if owner in prefix else random if rest == "random" else rest
        if owner == "head":
            scheme = "transfer" if head == "source" else "fresh"
        elif owner not in prefix and _is_norm(module):
            scheme = norm
        elif owner not in prefix and biases == "random" and name.endswith(".bias"):
            scheme = random
        if override and (not _is_norm(module) or paths[override] == "transfer" or _is_norm_path(model, override)):
            scheme = paths[override]
        plan[name] = (owner, scheme)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, (owner, scheme) in plan.items():
        if scheme != "transfer" and name not in parameters and not _is_norm(_module_of(model, name)):
            plan[name] = (owner, "kept")  # a table of indices or the like, not weights
    needed = [name for name, (_, scheme) in plan.items() if scheme == "transfer" or _draws(name, scheme)]
    state, origin = _read_source(source, needed)
    matched = match_weights(
        model, blocks, state, needed, first_layer=first_layer, identity_statistics=identity_statistics
    )
    drawn = {}
    for name, tensor in model.state_dict().items():
        module = _module_of(model, name)
        drawn[name] = _draw(module, name, tensor, plan[name][1], matched.tensors.get(name), seed)
    rows = []
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            owner, scheme = plan[name]
            tensor.copy_(drawn[name])
            treatment = "random" if scheme in RANDOM else TREATMENTS.get(scheme, scheme)
            rows.append(TensorTransfer(name, owner, treatment, tensor.numel(), name in parameters))
    return Transfer(tuple(rows), *origin, matched.first_layer, matched.excused, count, seed)


def _draw(module: nn.Module, name: str, present: Tensor, scheme: str, source: Tensor | None, seed: int) -> Tensor:
    """The new values of one entry of the state dict, on the CPU."""
    leaf = name.rpartition(".")[2]
    if scheme == "kept":
        return present
    if scheme == "transfer" and source is not None:
        return source
    generator = generator_of(seed, name)
    empty = torch.empty(present.shape, dtype=torch.float32)
    with torch.no_grad():
        if _is_norm(module) and leaf in IDENTITY:
            if scheme not in RESAMPLED or not present.is_floating_point():
                return torch.full_like(present, IDENTITY[leaf], device="cpu")
            values = RESAMPLED[scheme](empty, source, generator)
            return values.clamp_(min=float(_given(source).min())) if leaf == "running_var" else values
        if scheme in RESAMPLED:
            return RESAMPLED[scheme](empty, source, generator)
        return _random(module, name, empty, "default" if scheme == "fresh" else scheme, seed)


def _random(module: nn.Module, name: str, empty: Tensor, scheme: str, seed: int) -> Tensor:
    """A random tensor of a layer by one of the schemes of RANDOM (see `initialise_` for what "default" means)."""
    path, _, leaf = name.rpartition(".")
    generator, drawing = generator_of(seed, name), RANDOM[scheme]
    if isinstance(module, nn.Linear) and drawing is None:
        return fresh_linear_(empty, module.in_features, seed, name)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear) and leaf != "weight":
        return empty.zero_()
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear) and drawing is not None:
        return drawing(empty, None, generator)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        fan_out = math.prod(module.kernel_size) * module.out_channels / module.groups
        return empty.normal_(generator=generator).mul_(math.sqrt(2 / fan_out))
    if not callable(getattr(module, "reset_parameters", None)):
        raise TransferError(
            f"Nothing is known about how {name!r} of a {type(module).__name__} starts at random: transfer its block, "
            f"or say how with overrides={{{name!r}: 'mean_var'}}."
        )
    clone: Any = copy.deepcopy(module).to("cpu")
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(generator_of(seed, path).initial_seed())
    try:
        clone.reset_parameters()
    finally:
        torch.set_rng_state(state)
    return clone.state_dict()[leaf]


def _overrides(model: nn.Module, blocks: Blocks, overrides: Mapping[str, str]) -> dict[str, str]:
    """The overrides by path, the longest first, each of them checked."""
    known = {*blocks.names, *(name for name, _ in model.named_modules()), *model.state_dict()} - {""}
    for path, scheme in overrides.items():
        if path not in known:
            raise TransferError(
                f"overrides: the network has no block, module or parameter {path!r}, {nearest(path, known)}"
            )
        valid = (
            ("transfer", *RESAMPLED, "identity") if _is_norm_path(model, path) else ("transfer", *RANDOM, *RESAMPLED)
        )
        if scheme not in valid:
            raise TransferError(f"overrides: {path!r} cannot be {scheme!r}, {nearest(scheme, valid)}")
    return dict(sorted(overrides.items(), key=lambda item: (-item[0].count("."), item[0] in blocks.names)))


def _read_source(
    source: Mapping[str, Tensor] | str | None, needed: list[str]
) -> tuple[dict[str, Tensor], tuple[str | None, str | None, str | None]]:
    """The tensors of the source, and its name, sha256 and licence."""
    if source is None and needed:
        raise TransferError(
            f"{len(needed)} tensors want a source (the first is {needed[0]!r}), and there is none: give one."
        )
    if source is None:
        return {}, (None, None, None)
    if not needed:
        raise TransferError(
            "A source is given and nothing of it is used: give depth='all' (or the last block to transfer), or "
            f"rest={', '.join(map(repr, RESAMPLED))}, or leave the source out."
        )
    if isinstance(source, str):
        file = find_weights(source)
        return read_weights(file.path), (file.name, file.sha256, file.licence)
    if strange := [str(key) for key, value in source.items() if not isinstance(value, Tensor)]:
        raise TransferError(f"The source holds {strange[0]!r}, which is no tensor: give model.state_dict().")
    return rename(source), ("state dict", None, None)


def _module_of(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm)


def _is_norm_path(model: nn.Module, path: str) -> bool:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    parent = modules.get(path.rpartition(".")[0], model)
    return _is_norm(modules.get(path, parent))


def _draws(name: str, scheme: str) -> bool:
    """Whether a scheme draws this entry from the source's tensor of the same name."""
    return scheme in RESAMPLED and not name.endswith(".num_batches_tracked")


def _given(source: Tensor | None) -> Tensor:
    if source is None:
        raise TransferError("This scheme draws from source weights, and there are none: give a source.")
    return source
