"""Frozen means frozen: blocks keep their parameters, their statistics and their mode while others are trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError, nearest
from transfuse.models.blocks import Block, Blocks, check_blocks
from transfuse.models.modules import modules_of
from transfuse.models.partial_pass import outputs_until

NORM_STATISTICS = ("frozen", "updated")

# Entries of a module's own dictionary (which a copy and a pickle keep): the names of its direct tensors that lie in a
# frozen block, and of those parameters among them that were trainable before.
_HELD, _THAW = "_frozen_tensors", "_frozen_trainable"


def freeze_(model: nn.Module, blocks: Blocks, depth: int | str, norm_statistics: str = "frozen") -> nn.Module:
    """Freezes `blocks[:depth]`, thaws what an earlier call froze above, and returns the model.

    The parameters of frozen blocks get `requires_grad=False`. `requires_grad` alone would leave batch-norm statistics
    moving, so the frozen modules (dropout and drop path too) also go into `eval()` and stay there when `.train()` is
    called on the network or on anything round it: their own `train` is replaced by one that does not follow. State
    dict keys, `copy.deepcopy` and pickling are as before. With depth "all" nothing but the head is trained, which is
    linear probing (Alain and Bengio 2016): a norm on top of a transformer's blocks is a block too, and frozen.

    Args:
        model: the network, changed in place.
        blocks: its blocks.
        depth: how many blocks, or up to which (see `Blocks.depth`); 0 thaws everything that was frozen here.
        norm_statistics: "frozen" (default), or "updated": batch norms of frozen blocks follow `.train()`, normalise by
            the batch and move their statistics, as the published code of P does (METHODS FT-5).

    Raises BlocksError for an unknown depth or `norm_statistics`, and for tied weights (or one dropout of two places) of
    which a block that is frozen and one that is trained have a part each.
    """
    return _hold(model, blocks, blocks[: blocks.depth(depth)], norm_statistics)


def tune_only_(
    model: nn.Module, blocks: Blocks, names: str | Sequence[str], norm_statistics: str = "frozen"
) -> nn.Module:
    """Freezes every block but the named ones, and returns the model: surgical fine-tuning (Lee et al. 2023, ICLR).

    The named blocks and the head are trained; the others, below and above, are frozen in the sense of `freeze_`. What
    an earlier call of either function froze is thawed first.

    Args:
        model: the network, changed in place.
        blocks: its blocks.
        names: one block, or several that follow each other (in any order of writing).
        norm_statistics: as in `freeze_`.

    Raises BlocksError for an unknown block, no block, a gap between the blocks, or an unknown `norm_statistics`.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    >>> from transfuse.models import blocks_of
    >>> model = tune_only_(model, blocks_of(model), "0")
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['0.weight', '0.bias', '3.weight', '3.bias']
    """
    wanted = (names,) if isinstance(names, str) else tuple(names)
    if unknown := [name for name in wanted if name not in blocks.names]:
        raise BlocksError(
            f"Unknown block {unknown[0]!r} at level {blocks.level!r}: {nearest(unknown[0], blocks.names)}"
        )
    if not wanted:
        raise BlocksError("No block to tune: name one or more; for the head alone, freeze_(model, blocks, 'all')")
    places = [blocks.names.index(name) for name in wanted]
    tuned = blocks[min(places) : max(places) + 1]
    if gap := [block.name for block in tuned if block.name not in wanted]:
        raise BlocksError(
            f"The blocks to tune, {', '.join(wanted)}, leave a gap: {', '.join(gap)}. Surgical fine-tuning trains one "
            "block or several that follow each other; name those too, or fewer"
        )
    return _hold(model, blocks, tuple(block for block in blocks if block not in tuned), norm_statistics)


def _hold(model: nn.Module, blocks: Blocks, frozen: Sequence[Block], norm_statistics: str) -> nn.Module:
    if norm_statistics not in NORM_STATISTICS:
        raise BlocksError(f"Unknown norm_statistics {norm_statistics!r}: {nearest(norm_statistics, NORM_STATISTICS)}")
    check_blocks(model, blocks)
    _check_shared(model, blocks, frozen)
    _thaw(model)
    for path, module in model.named_modules():
        whole = bool(path) and _owned(frozen, path)
        # Tokens and positions are parameters of the network itself, whose other modules may go on.
        held = [name for name in _direct(module) if whole or _owned(frozen, f"{path}.{name}".lstrip("."))]
        follows = norm_statistics == "updated" and isinstance(module, nn.modules.batchnorm._NormBase)
        if held:
            parameters = dict(module.named_parameters(recurse=False))
            trainable = [name for name in held if name in parameters and parameters[name].requires_grad]
            for name in trainable:
                parameters[name].requires_grad_(False)
            vars(module)[_THAW] = tuple(trainable)
            vars(module)[_HELD] = tuple(name for name in held if name in parameters or not follows)
        if whole:
            # An entry of the instance's dictionary shadows the method; partial of a module-level function pickles.
            vars(module)["train"] = partial(_train if follows else _stay_in_eval, module)
            module.train(model.training)
    return model


def _check_shared(model: nn.Module, blocks: Blocks, frozen: Sequence[Block]) -> None:
    """Raises BlocksError for what would be frozen under one of its names and trained under another."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    drops = {name: m for name, m in modules_of(model).items() if isinstance(m, nn.modules.dropout._DropoutNd)}
    for what, cure, found in (
        ("one tensor (tied weights)", "choose a depth that has both or neither", tensors),
        ("one dropout", "give each place its own nn.Dropout", drops),
    ):
        sides: dict[int, dict[bool, str]] = {}
        for name, one in found.items():
            both = sides.setdefault(id(one), {})
            both.setdefault(_owned(frozen, name), name)
            if len(both) == 2:
                raise BlocksError(
                    f"{both[True]!r} and {both[False]!r} are {what}, which would be frozen as the first and trained as "
                    f"the second: {cure} (blocks: {', '.join(blocks.names)}, then the head)."
                )


def _thaw(model: nn.Module) -> None:
    for module in model.modules():
        for name in vars(module).pop(_THAW, ()):
            module.get_parameter(name).requires_grad_(True)
        vars(module).pop(_HELD, None)
        if "train" in vars(module):
            del module.train
            module.train(model.training)


def forget_frozen(module: nn.Module, name: str) -> None:
    """Takes a direct tensor of a module, which is about to go, out of what is known to be frozen."""
    for mark in (_HELD, _THAW):
        if mark in vars(module):
            vars(module)[mark] = tuple(held for held in vars(module)[mark] if held != name)


def _owned(blocks: Iterable[Block], key: str) -> bool:
    return any(block.owns(key) for block in blocks)


def _direct(module: nn.Module) -> list[str]:
    return [name for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))]


def frozen_fingerprint(model: nn.Module) -> str:
    """The sha256 of all that `freeze_` or `tune_only_` froze: names, types, shapes and bits of parameters and buffers.

    Equal before and after training exactly if no frozen tensor moved, wherever in the network it lies, so it is the
    check for surgical fine-tuning; it needs no batch and does not depend on device or threads. It sees tensors only:
    that a frozen prefix also computes the same (no dropout, no batch's own statistics) is what `prefix_fingerprint`
    checks. Batch-norm statistics that were told to be "updated" are left out; where nothing is frozen, it is the digest
    of nothing.
    """
    digest = hashlib.sha256()
    for path, module in model.named_modules():
        for name in vars(module).get(_HELD, ()):
            digest.update(f"{path}.{name} ".encode())
            _digest(digest, getattr(module, name))
    return digest.hexdigest()


def prefix_output(model: nn.Module, blocks: Blocks, depth: int | str, batch: Tensor) -> Tensor:
    """The output of `blocks[:depth]` on a batch (N, C, H, W), in the model's present mode; nothing above is run.

    Buffers that the pass moves (batch-norm statistics of a network in training mode) are put back. Raises BlocksError
    where the block's output is never run or is no single tensor.
    """
    outputs = _prefix_outputs(model, blocks, depth, batch)
    if len(outputs) != 1:
        block = blocks[blocks.depth(depth) - 1]
        raise BlocksError(f"The output {block.output!r} of block {block.name!r} is {len(outputs)} tensors, not one.")
    return outputs[0]


def _prefix_outputs(model: nn.Module, blocks: Blocks, depth: int | str, batch: Tensor) -> list[Tensor]:
    count = blocks.depth(depth)
    if count == 0:
        return [batch]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    path = blocks[count - 1].output
    try:
        with torch.no_grad():
            kept = outputs_until(model, [path], batch)
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    if path not in kept:
        raise BlocksError(f"The output {path!r} of block {blocks[count - 1].name!r} was never run.")
    return list(_tensors(kept[path]))


def prefix_fingerprint(model: nn.Module, blocks: Blocks, depth: int | str, batch: Tensor) -> str:
    """The sha256 of the bits that the frozen prefix makes of a fixed batch (N, C, H, W), in the model's present mode.

    Equal before and after training exactly if frozen was frozen: parameters, statistics and modes. Where the last block
    is no cut (an attention or MLP branch, a convolution before its norm), a part of it runs after that output or beside
    it, so the tensors of the prefix are digested too. The bits also depend on the device, the number of threads and the
    batch, so compare within one run only. For blocks that are not a prefix: `frozen_fingerprint`.
    """
    digest = hashlib.sha256()
    for output in _prefix_outputs(model, blocks, depth, batch):
        _digest(digest, output)
    prefix = blocks[: blocks.depth(depth)]
    if prefix and not prefix[-1].cut:
        for key, tensor in model.state_dict().items():
            if _owned(prefix, key):
                _digest(digest, tensor)
    return digest.hexdigest()


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from _tensors(part)


def _digest(digest: hashlib._Hash, tensor: Tensor) -> None:
    values = tensor.detach().to("cpu").contiguous()
    digest.update(f"{values.dtype} {tuple(values.shape)} ".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().data)


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    module.training = False
    for child in module.children():
        child.train(mode)
    return module


def _train(module: nn.Module, mode: bool = True) -> nn.Module:
    return type(module).train(module, mode)
