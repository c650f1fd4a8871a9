"""LoRA: small trained matrices beside the frozen attention projections of a transformer (Hu et al. 2022), by PEFT."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from transfuse.errors import BlocksError, ExtraNotInstalled
from transfuse.models.architectures.parameter_names import PROJECTIONS
from transfuse.models.blocks import Blocks, check_blocks
from transfuse.models.draws import fresh_linear_
from transfuse.models.torchvision_operators import declare_operators
from transfuse.models.weightless import example_images, trace_modules

_ADAPTER = "default"  # PEFT's own name for the only adapter of a network
_THAW = "_frozen_for_lora"  # entry of the network's own dictionary: the parameters that were trainable before


def add_lora_(
    model: nn.Module,
    blocks: Blocks,
    *,
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] = PROJECTIONS,
    seed: int = 0,
) -> nn.Module:
    """Puts a low-rank adapter beside each attention projection in the blocks, and returns the model (Hu et al. 2022).

    A projection W x becomes W x + alpha/rank * B A x with A (rank, in) and B (out, rank). The network's parameters are
    frozen; A, B and the head are trained. B begins at zero, so the network computes what it computed before, to the
    bit; A is uniform within +-1/sqrt(in), a function of (seed, name of the projection). Modes are left alone, as is
    usual: dropout and drop path stay active in training, and a batch norm would move its statistics. `blocks` go on
    being the network's blocks, adapters included. After training, `merge_lora_` folds the adapters in.

    Args:
        model: the network, changed in place.
        blocks: its blocks.
        rank: of the adapters.
        alpha: their scale; default 2 * rank.
        targets: names (last parts of the path) of the `nn.Linear` modules to adapt; others of that name are left out.
        seed: of A.

    Raises BlocksError for a network without such layers (ConvNets), one that has adapters already, one whose attention
    goes round the module (Eva-02 and Swin v2 with biases of their own), or a rank below 1; ExtraNotInstalled without
    PEFT.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise BlocksError(f"rank is {rank!r}; expected a whole number above 0")
    if alpha is not None and not alpha > 0:
        raise BlocksError(f"alpha is {alpha}; expected a number above 0, or None for 2 * rank")
    check_blocks(model, blocks)
    if adapted_layers(model):
        raise BlocksError("The network has adapters already: fold them in with merge_lora_() first")
    paths = _projections(model, blocks, targets)
    if importlib.util.find_spec("peft") is None:
        raise ExtraNotInstalled("peft", needed_for="LoRA", extra="lora")
    declare_operators()
    from peft import LoraConfig, inject_adapter_in_model

    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    modes = {path: model.get_submodule(path).training for path in paths}
    scale: Any = 2 * rank if alpha is None else alpha  # PEFT says int, and divides it by the rank
    config = LoraConfig(
        r=rank,
        lora_alpha=scale,
        target_modules="|".join(re.escape(path) for path in paths),
    )
    with torch.random.fork_rng(devices=[]):  # PEFT draws first, from the global generator
        inject_adapter_in_model(config, model, _ADAPTER)
    for path, mode in modes.items():
        layer = model.get_submodule(path).train(mode)
        down = layer.get_parameter(f"lora_A.{_ADAPTER}.weight")
        with torch.no_grad():
            down.copy_(fresh_linear_(torch.empty(down.shape), down.shape[1], seed, f"{path}.lora_A"))
    parameters = dict(model.named_parameters())
    for name in trainable:
        if name in parameters and blocks.owner(name) == "head":
            parameters[name].requires_grad_(True)
    vars(model)[_THAW] = tuple(trainable)
    return model


def merge_lora_(model: nn.Module) -> nn.Module:
    """Folds the adapters into plain `nn.Linear` modules, W + alpha/rank * B A, and returns the model.

    State dict keys are those of the network before `add_lora_`, and what that froze is trainable again. The function is
    the same but for rounding. Raises BlocksError for a network without adapters.
    """
    adapted = adapted_layers(model)
    if not adapted:
        raise BlocksError("The network has no adapters to fold in: add_lora_() adds them")
    for path in adapted:
        layer: Any = model.get_submodule(path)
        with torch.no_grad():
            layer.merge()
        plain = layer.get_base_layer().train(layer.training)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, plain)
    for module in model.modules():
        for name in vars(module).pop(_THAW, ()):
            module.get_parameter(name).requires_grad_(True)
        vars(module).pop("peft_config", None)
    return model


def plain_name(key: str) -> str:
    """The name that a parameter has without adapters.

    >>> plain_name("blocks.0.attn.qkv.base_layer.weight"), plain_name("blocks.0.norm1.weight")
    ('blocks.0.attn.qkv.weight', 'blocks.0.norm1.weight')
    """
    return key.replace(".base_layer.", ".")


def adapted_layers(model: nn.Module) -> list[str]:
    """The paths of the layers that PEFT put in the place of projections; without PEFT there are none."""
    return [name for name, module in model.named_modules() if hasattr(module, "lora_A") and hasattr(module, "merge")]


def _projections(model: nn.Module, blocks: Blocks, targets: Sequence[str]) -> list[str]:
    linear = {
        name: module
        for name, module in model.named_modules()
        # a subclass may be read in its own way, such as the output projection of nn.MultiheadAttention
        if type(module) is nn.Linear and any(block.owns(name) for block in blocks)
    }
    found = [name for name in linear if name.rpartition(".")[2] in targets]
    if not found:
        names = list(dict.fromkeys(name.rpartition(".")[2] for name in linear))
        there = f"its linear layers there: {', '.join(names)}" if names else "it has no linear layers there"
        raise BlocksError(
            f"No block of this {type(model).__name__} holds an nn.Linear named {' or '.join(targets) or 'nothing'}; "
            f"{there}. LoRA here is for transformers, whose attention has such projections; a ConvNet is tuned with "
            "freeze_, tune_only_, layer_decay or l2_sp"
        )
    try:
        ran = trace_modules(model, example_images(model))
    except BlocksError:
        return found  # a network whose image size is not known cannot show what it calls
    if idle := [name for name in found if name not in ran]:
        raise BlocksError(
            f"An adapter of {idle[0]} ({len(idle)} of {len(found)} projections) would do nothing: this "
            f"{type(model).__name__} uses the weight without calling the module. Name others as targets: "
            f"{', '.join(sorted({name.rpartition('.')[2] for name in linear if name in ran}))}"
        )
    return found
