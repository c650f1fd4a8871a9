"""What makes a training this training and no other: the settings that a checkpoint must agree with."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from transfuse.data.splits import Part, Split
from transfuse.models.blocks import Blocks
from transfuse.training.checkpoint import TOTAL_STEPS
from transfuse.training.recipe import Recipe

# Settings that came later: where they are not used, a checkpoint from before them is still of the same training.
_LATER = ("optimizer.layer_decay", "optimizer.l2_sp", "augmentation_bank", "patches")


def settings_of(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    *,
    head: Sequence[str],
    total_steps: int,
    seed: int,
    processes: int,
    blocks: Blocks | None = None,
    drawn_back: Sequence[str] = (),
) -> dict[str, str]:
    """One readable line a setting; networks and data by a digest of what matters of them, never by a path.

    The initial weights are not among them: a training that goes on has left them (see `digest_of_weights`). `blocks`
    and `drawn_back` (the names of parameters) count where the recipe has a use for them.
    """
    settings: dict[str, object] = {}
    for name, value in dataclasses.asdict(recipe).items():
        if isinstance(value, dict):
            settings |= {f"{name}.{key}": entry for key, entry in value.items()}
        elif callable(value):
            settings[name] = f"{value.__module__}:{getattr(value, '__qualname__', type(value).__qualname__)}"
        else:
            settings[name] = value
    settings |= {
        TOTAL_STEPS: total_steps,
        "seed": seed,
        "head": tuple(head),
        "processes": processes,
        "network": _network(model),
        "training part": _part(split.train),
        "validation part": _part(split.val),
    }
    if recipe.optimizer.layer_decay is not None and blocks is not None:
        settings["blocks"] = f"{len(blocks)} at level {blocks.level}, {_digest(repr(blocks).encode())}"
    if recipe.optimizer.l2_sp is not None:
        settings["drawn back"] = f"{len(drawn_back)} parameters, {_digest(repr(sorted(drawn_back)).encode())}"
    return {name: str(value) for name, value in settings.items() if name not in _LATER or value is not None}


def digest_of_weights(state: Mapping[str, Tensor]) -> str:
    """The sha256 of a state dict: names, types, shapes and every bit, wherever and however it lies in memory."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(repr((name, str(values.dtype), tuple(values.shape))).encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _network(model: nn.Module) -> str:
    tensors = [
        (name, tuple(tensor.shape), tensor.requires_grad) for name, tensor in model.state_dict(keep_vars=True).items()
    ]
    return f"{len(tensors)} tensors, {_digest(repr(tensors).encode())}"


def _part(part: Part) -> str:
    content = part.dataset.info.fingerprint.encode() + part.indices.astype("<i8").tobytes()
    return f"{len(part)} images, {_digest(content)}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
