"""The order in memory in which a network gets its images: channels last where it can take them, which is faster."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_TAKES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def channels_last(images: Tensor) -> Tensor:
    """Images (N, C, H, W) with the channels last in memory, in which convolutions are faster; others as they are."""
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


def takes_channels_last(model: nn.Module, images: Tensor) -> bool:
    """Whether a network can compute with images in channels-last order: one that calls `.view` on a map cannot.

    It is tried once a network, on one image in eval mode; modes and random generators are left as they were. Any
    other failure is not its business: the network will fail again where it is used.

    Args:
        model: maps images to anything.
        images: (N, C, H, W) as the network takes them, on its device; of other dimensions there is only one order.

    >>> takes_channels_last(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
    True
    """
    if images.ndim != 4:
        return False
    if model not in _TAKES:
        _TAKES[model] = _tried(model, images[:1])
    return _TAKES[model]


def _tried(model: nn.Module, image: Tensor) -> bool:
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False  # not .eval(): a frozen module answers it in its own way
        devices = [image.device] if image.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            model(channels_last(image))
    except Exception as error:
        return "view size is not compatible" not in str(error)
    finally:
        for module, mode in modes:
            module.training = mode
    return True
