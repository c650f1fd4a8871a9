"""Frozen means frozen: the first blocks of a network keep their parameters, their statistics and their mode."""

from __future__ import annotations

import hashlib
from functools import partial

import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError, nearest
from transfuse.models.blocks import Blocks, check_blocks

NORM_STATISTICS = ("frozen", "updated")


def freeze_(model: nn.Module, blocks: Blocks, depth: int | str, norm_statistics: str = "frozen") -> nn.Module:
    """Freezes `blocks[:depth]`, thaws what an earlier call froze above, and returns the model.

    The parameters of frozen blocks get `requires_grad=False`. `requires_grad` alone would leave batch-norm statistics
    moving, so the frozen modules (dropout and drop path too) also go into `eval()` and stay there when `.train()` is
    called on the network or on anything round it: their own `train` is replaced by one that does not follow. State
    dict keys, `copy.deepcopy` and pickling are as before.

    Args:
        model: the network, changed in place.
        blocks: its blocks.
        depth: how many blocks, or up to which (see `Blocks.depth`); 0 thaws everything that this function froze.
        norm_statistics: "frozen" (default), or "updated": batch norms of frozen blocks follow `.train()`, normalise by
            the batch and move their statistics, as the published code of P does (METHODS FT-5).

    Raises BlocksError for an unknown depth or `norm_statistics`.
    """
    if norm_statistics not in NORM_STATISTICS:
        raise BlocksError(f"Unknown norm_statistics {norm_statistics!r}: {nearest(norm_statistics, NORM_STATISTICS)}")
    check_blocks(model, blocks)
    frozen = blocks[: blocks.depth(depth)]
    for module in model.modules():
        if "train" in vars(module):
            del module.train
            module.train(model.training)
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if any(block.owns(name) for block in frozen):
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if name and any(block.owns(name) for block in frozen):
            follows = norm_statistics == "updated" and isinstance(module, nn.modules.batchnorm._NormBase)
            # An entry of the instance's dictionary shadows the method; partial of a module-level function pickles.
            vars(module)["train"] = partial(_train if follows else _stay_in_eval, module)
            module.train(model.training)
    return model


def prefix_output(model: nn.Module, blocks: Blocks, depth: int | str, batch: Tensor) -> Tensor:
    """The output of `blocks[:depth]` on a batch (N, C, H, W), in the model's present mode; nothing above is run.

    Buffers that the pass moves (batch-norm statistics of a network in training mode) are put back.
    """
    count = blocks.depth(depth)
    if count == 0:
        return batch
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        kept.append(output.detach().clone())  # a later in-place ReLU would overwrite it
        raise _Reached

    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    handle = model.get_submodule(blocks[count - 1].output).register_forward_hook(keep)
    try:
        with torch.no_grad():
            model(batch)
    except _Reached:
        pass
    finally:
        handle.remove()
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    if not kept:
        raise BlocksError(f"The output {blocks[count - 1].output!r} of block {blocks[count - 1].name!r} was never run.")
    return kept[0]


def prefix_fingerprint(model: nn.Module, blocks: Blocks, depth: int | str, batch: Tensor) -> str:
    """The sha256 of the bits that the frozen prefix makes of a fixed batch (N, C, H, W), in the model's present mode.

    Equal before and after training exactly if frozen was frozen. The bits also depend on the device, the number of
    threads and the batch, so compare within one run only.
    """
    output = prefix_output(model, blocks, depth, batch).to("cpu").contiguous()
    digest = hashlib.sha256(f"{output.dtype} {tuple(output.shape)} ".encode())
    digest.update(output.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _Reached(Exception):
    """The prefix has run: no error, it ends the forward pass."""


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    module.training = False
    for child in module.children():
        child.train(mode)
    return module


def _train(module: nn.Module, mode: bool = True) -> nn.Module:
    return type(module).train(module, mode)
