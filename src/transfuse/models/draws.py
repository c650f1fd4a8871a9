"""Random numbers as a function of (seed, name of a tensor), never of the order in which they are drawn."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


def generator_of(seed: int, name: str) -> torch.Generator:
    """A generator on the CPU that is a function of the seed and the tensor's name (63 bits of their sha256)."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def fresh_linear_(tensor: Tensor, in_features: int, seed: int, name: str) -> Tensor:
    """torch's default of an `nn.Linear`, weight and bias: uniform +-1/sqrt(in_features), drawn by (seed, name)."""
    bound = 1 / math.sqrt(in_features)
    return tensor.uniform_(-bound, bound, generator=generator_of(seed, name))
