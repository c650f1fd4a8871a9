"""One call for every initialisation: which blocks come from a source, how the others start, and what was done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from transfuse.errors import TransferError
from transfuse.inits.draw import GaborLike, fill_, fills
from transfuse.inits.plan import Entry, Options, check_options, default_random, plan
from transfuse.inits.schemes import RESAMPLED
from transfuse.models.blocks import Blocks, check_blocks
from transfuse.models.lora import adapted_layers
from transfuse.models.matching import match_weights
from transfuse.models.recalibrate import recalibrate_
from transfuse.models.transfer import TensorTransfer, Transfer
from transfuse.models.weights import Weights, load_weights

Images = Iterable[Tensor | Sequence[Tensor]]


def initialise_(
    model: nn.Module,
    blocks: Blocks,
    *,
    source: Mapping[str, Tensor] | str | Path | None = None,
    depth: int | str = 0,
    rest: str = "random",
    random: str = "default",
    norm: str = "identity",
    biases: str = "rest",
    embeddings: str = "keep",
    head: str = "fresh",
    overrides: Mapping[str, str] | None = None,
    gabor_scale: str = "std",
    first_layer: str = "sum",
    identity_statistics: str = "refuse",
    images: Images | None = None,
    seed: int = 0,
) -> Transfer:
    """Initialises a network in place: `blocks[:depth]` from a source, the others by `rest`; returns what it did.

    Every random number is a function of (seed, name of the tensor) and of nothing else: two depths differ in the blocks
    between them only (INIT-13), all arms of a seed share their fresh head, and random and transfusion arms share the
    random draw of the upper layers. Nothing is changed unless everything fits.

    Args:
        model: the network, on any device.
        blocks: its blocks.
        source: a state dict, a timm tag, a file of weights, or what `load_weights` returns.
        depth: how many blocks are transferred, or up to which (see `Blocks.depth`); "all" is plain weight transfer.
        rest: layers above: "random", "mean_var", "sampled" or "shuffled" (INIT-1, 3, 4, 5).
        random: "default": for ViT, DeiT, Swin and ConvNeXt "trunc_normal"; for others convolutions N(0, 2 / fan_out)
            with fan_out divided by the groups and bias 0, linear layers uniform +-1/sqrt(fan_in) (the published
            defaults of ResNet, CBR, MobileNet and EfficientNet, except that timm also sets the last batch-norm scale of
            a residual block to 0). Or "he_fan_out", "glorot_normal", "trunc_normal" (these with biases 0), or
            "kaiming_uniform", torch's own start of convolutions and linear layers with their biases (INIT-15). Tokens
            start at random from N(0, 1e-6^2), positions and relative-position biases as trunc_normal, as in timm's ViT
            and Swin. Other modules of torch reset themselves.
        norm: normalisation layers above: "identity" (scale 1, shift 0, mean 0, variance 1), "mean_var" (each of the
            four vectors resampled, variances at least the source's smallest), "transfer" (INIT-7, 8, 9), or
            "recalibrate": identity, then the statistics of all batch norms, the transferred ones too, measured on
            `images` with the network's function unchanged. Layer scales (and the gains of NFNets) follow; their
            identity is the value that the network was created with.
        biases: biases of convolutions and linear layers above: "rest" (as the weights: the code of M) or "random" (T
            and V resample weights only).
        embeddings: tokens, positions and relative-position biases above, where `rest` draws on the source: "keep" the
            source's (the code of M), or "resample" them like the weights (its text; METHODS 2.2.5).
        head: "fresh" (torch's nn.Linear default) or "source".
        overrides: {block, module or parameter: scheme}, the longest path wins; schemes are those of `rest` and
            `random`, "transfer", for normalisation layers "identity", and for the first convolution "gabor" (INIT-6),
            which fills its weight alone.
        gabor_scale: what Gabor filters share with the filters of the source, or of the default random start without
            one: "std", "max_abs" or "l2" (see `gabor_`).
        first_layer: how a first convolution is fitted to other channels (see `fit_channels`).
        identity_statistics: "accept" takes weights whose batch norm is folded or untrained (see `match_weights`).
        images: for norm="recalibrate": training images (N, C, H, W) as the network gets them, or (images, ...) pairs.
        seed: of every draw, a whole number.

    Raises TransferError for an unknown option, a seed that is no whole number, a source that does not fit (listing both
    sides), is missing or unused, tied weights that would have two treatments or two values, and a network with
    adapters. Raises BlocksError for blocks that are none of this network's.

    >>> from transfuse.models.blocks import blocks_of
    >>> from transfuse.models.create import create_model
    >>> model = create_model("cbr_demo", classes=5)
    >>> initialise_(model, blocks_of(model), seed=1).counts
    {'random': 4, 'identity': 20, 'fresh': 2}
    """
    options = Options(rest, random, norm, biases, embeddings, head, gabor_scale)
    check_options(options)
    _check_images(norm, images)
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TransferError(f"seed={seed!r}: expected a whole number.")
    count = check_blocks(model, blocks).depth(depth)
    target = model.state_dict()
    if any(tensor.is_meta for tensor in target.values()):
        raise TransferError("A network on the meta device has no values to initialise: create it with device='cpu'.")
    if adapted := adapted_layers(model):
        raise TransferError(
            f"The network has adapters ({adapted[0]} and others), which begin as add_lora_() drew them: initialise the "
            "network first and add adapters then, or fold them in with merge_lora_()."
        )
    entries = plan(model, blocks, count, options, overrides or {})
    _check_tied(entries, target)
    state = load_weights(source) if isinstance(source, str | Path) else source
    if not (state is None or isinstance(state, Mapping)):
        raise TransferError(
            f"source is a {type(state).__name__}; expected a state dict (model.state_dict()), a timm tag, a file of "
            "weights or what load_weights() returns."
        )
    needed = _needed(state, entries)
    matched = match_weights(
        model,
        blocks,
        state or {},
        needed,
        first_layer=first_layer,
        identity_statistics="accept" if norm == "recalibrate" else identity_statistics,
    )
    _check_tied_source(entries, target, matched.tensors)
    planned = fills(entries, target, matched.tensors, seed, GaborLike(gabor_scale, default_random(model)))
    before = {name: tensor.clone() for name, tensor in target.items()} if images is not None else {}
    fill_(planned)
    measured: set[nn.Module] = set()
    if images is not None:
        try:
            measured = {model.get_submodule(path) for path in recalibrate_(model, images)}
        except BaseException:
            model.load_state_dict(before)
            raise
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    rows = tuple(
        TensorTransfer(
            entry.name,
            entry.block,
            "recalibrated" if entry.module in measured and entry.leaf != "num_batches_tracked" else entry.treatment,
            target[entry.name].numel(),
            entry.name in parameters,
        )
        for entry in entries
    )
    name, sha256, licence = _origin(state)
    return Transfer(
        rows,
        name,
        sha256,
        licence,
        matched.first_layer,
        matched.excused,
        count,
        seed,
        matched.renamed,
        matched.fitted,
    )


def _check_images(norm: str, images: Images | None) -> None:
    if norm == "recalibrate" and images is None:
        raise TransferError(
            "norm='recalibrate' measures batch-norm statistics on training images, and there are none: give images= "
            "(batches of shape (N, C, H, W), normalised as the network gets them)."
        )
    if norm != "recalibrate" and images is not None:
        raise TransferError(f"images are for norm='recalibrate' and norm is {norm!r}: leave them out.")


def _check_tied(entries: Sequence[Entry], target: Mapping[str, Tensor]) -> None:
    """Raises TransferError for one tensor of two names that would be filled twice, by different schemes."""
    seen: dict[tuple[int, torch.Size], Entry] = {}
    for entry in entries:
        tensor = target[entry.name]
        if entry.scheme == "kept" or not tensor.numel():
            continue
        first = seen.setdefault((tensor.data_ptr(), tensor.shape), entry)
        if first.scheme != entry.scheme:
            leader, other = (entry, first) if first.scheme == "fresh" else (first, entry)
            raise TransferError(
                f"{first.name!r} and {entry.name!r} are one tensor (tied weights), which would be "
                f"{first.treatment} in {first.block!r} and {entry.treatment} in {entry.block!r}. Take another depth, "
                f"or give both the same treatment with overrides={{{other.name!r}: {leader.scheme!r}}}."
            )


def _check_tied_source(entries: Sequence[Entry], target: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raises TransferError for one tensor of two names, for which the source has two values."""
    seen: dict[tuple[int, torch.Size], str] = {}
    for entry in entries:
        name, tensor = entry.name, target[entry.name]
        if not entry.draws_on_source or not tensor.numel():
            continue
        first = seen.setdefault((tensor.data_ptr(), tensor.shape), name)
        if first != name and not torch.equal(tensors[first], tensors[name]):
            raise TransferError(
                f"{first!r} and {name!r} are one tensor in this network (tied weights) and two that differ in the "
                "source, of which one would be lost. Give the source of a network that is tied alike, or untie this "
                "one."
            )


def _needed(source: Mapping[str, Tensor] | None, entries: Sequence[Entry]) -> list[str]:
    """The entries that want a tensor of the source; raises TransferError if it is missing, unused or no state dict."""
    needed = [entry.name for entry in entries if entry.draws_on_source]
    if source is None and needed:
        raise TransferError(
            f"{len(needed)} tensors want a source (the first is {needed[0]!r}), and there is none: give one."
        )
    if source is None:
        return []
    needed = [entry.name for entry in entries if entry.draws_on_source or entry.scheme == "gabor"]
    if not needed:
        raise TransferError(
            "A source is given and nothing of it is used: give depth='all' (or the last block to transfer), or "
            f"rest={', '.join(map(repr, RESAMPLED))}, or leave the source out."
        )
    if strange := [str(key) for key, value in source.items() if not isinstance(value, Tensor)]:
        raise TransferError(f"The source holds {strange[0]!r}, which is no tensor: give model.state_dict().")
    return needed


def _origin(source: Mapping[str, Tensor] | None) -> tuple[str | None, str | None, str | None]:
    """The name, sha256 and licence of a source."""
    if isinstance(source, Weights):
        return source.name, source.sha256, source.licence
    return (None if source is None else "state dict"), None, None
