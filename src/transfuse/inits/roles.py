"""What a tensor is to its network: a weight, a bias, part of a normalisation, a layer scale, an embedding."""

from __future__ import annotations

from typing import Literal

from torch import nn

from transfuse.models.architectures.parameter_names import LAYER_SCALES, POSITIONS, TOKENS

Role = Literal["weight", "bias", "norm", "scale", "embedding", "other", "buffer"]

LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    nn.Linear,
)
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

# Identity of a normalisation layer (INIT-7).
IDENTITY = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}


def role_of(module: nn.Module, name: str) -> Role:
    """The role of an entry of the state dict; `module` is the one that holds it.

    A norm is one of torch's layers, with the usual identity. A scale follows the norm layers too, but its identity is
    the value that the network gives it: a layer scale, and norm layers of other classes (timm's `RmsNorm`, `GRN`).

    >>> role_of(nn.Linear(2, 2), "fc.weight"), role_of(nn.BatchNorm2d(2), "bn1.running_var")
    ('weight', 'norm')
    """
    leaf = name.rpartition(".")[2]
    parameter = module._parameters.get(leaf)
    if isinstance(module, NORMS) and leaf in IDENTITY:
        return "norm"
    if parameter is None:
        return "buffer"
    if leaf in TOKENS or leaf in POSITIONS:
        return "embedding"
    layer_scale = leaf in LAYER_SCALES and parameter.numel() == max(parameter.shape, default=1)
    if layer_scale or "Norm" in type(module).__name__:
        return "scale"
    if leaf == "bias" or leaf.endswith("_bias"):
        return "bias"
    return "weight" if isinstance(module, LAYERS) and leaf == "weight" else "other"
