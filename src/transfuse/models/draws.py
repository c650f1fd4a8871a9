"""Random numbers as a function of (seed, name of a tensor), never of the order in which they are drawn."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

CONVOLUTION = nn.Conv1d | nn.Conv2d | nn.Conv3d
TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
NORM = nn.modules.batchnorm._NormBase


def generator_of(seed: int, name: str) -> torch.Generator:
    """A generator on the CPU that is a function of the seed and the tensor's name (63 bits of their sha256)."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def fresh_linear_(tensor: Tensor, in_features: int, seed: int, name: str) -> Tensor:
    """torch's default of an `nn.Linear`, weight and bias: uniform +-1/sqrt(in_features), drawn by (seed, name)."""
    bound = 1 / math.sqrt(in_features)
    return tensor.uniform_(-bound, bound, generator=generator_of(seed, name))


def random_start_(tensor: Tensor, module: nn.Module, seed: int, name: str) -> Tensor:
    """How a parameter or buffer of a layer starts at random: `initialise_` with rest="random" draws the same.

    Args:
        tensor: what is filled, float32 on the CPU.
        module: the layer, of the sizes that it starts with.
        seed: of the draw.
        name: of the tensor in the network.
    """
    leaf = name.rpartition(".")[2]
    if isinstance(module, nn.Linear):
        return fresh_linear_(tensor, module.in_features, seed, name)
    if isinstance(module, CONVOLUTION | TRANSPOSED) and leaf == "weight":
        fan_out = math.prod(module.kernel_size) * module.out_channels / module.groups
        return tensor.normal_(generator=generator_of(seed, name)).mul_(math.sqrt(2 / fan_out))
    return tensor.fill_(1.0 if isinstance(module, NORM) and leaf in ("weight", "running_var") else 0.0)
