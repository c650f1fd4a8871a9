"""What makes a training this training and no other: the settings that a checkpoint must agree with."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from transfuse.data.splits import Part, Split
from transfuse.training.recipe import Recipe


def settings_of(
    model: nn.Module, split: Split, recipe: Recipe, *, head: Sequence[str], total_steps: int, seed: int, processes: int
) -> dict[str, str]:
    """One readable line a setting; networks and data by a digest of what matters of them, never by a path.

    The initial weights are not among them: a training that goes on has left them (see `digest_of_weights`).
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
        "total steps": total_steps,
        "seed": seed,
        "head": tuple(head),
        "processes": processes,
        "network": _network(model),
        "training part": _part(split.train),
        "validation part": _part(split.val),
    }
    return {name: str(value) for name, value in settings.items()}


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
