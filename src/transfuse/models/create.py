"""Networks by name: the CBR family of this project, and every network of timm."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from transfuse.errors import SpecError, nearest
from transfuse.models.cbr import CBR_NETWORKS, PADDINGS, cbr, smallest_image
from transfuse.models.torchvision_operators import declare_operators

# V, appendix A: a ResNet whose 7 x 7 convolution and pooling are replaced by one 3 x 3 convolution of stride 1.
CIFAR_RESNETS = {f"resnet{layers}_cifar": f"resnet{layers}" for layers in (18, 34, 50, 101, 152)}

TIMM_PADDINGS = {"same": "same", "symmetric": ""}  # of the networks of timm.models.efficientnet


def create_model(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    image_size: int | None = None,
    padding: str | None = None,
    device: str = "cpu",
) -> nn.Module:
    """A randomly initialised network; maps (N, channels, H, W) to logits (N, classes). Never downloads anything.

    Two calls give identical weights and leave torch's global generator as it was: every network starts from the same
    numbers, and `initialise_` is what makes runs differ. The head is one linear layer (a binary task has 2 classes);
    whether softmax or independent sigmoids follow is the loss's business.

    Args:
        name: a network of the CBR family, `resnet18_cifar` (and 34, 50, 101, 152: METHODS MOD-9), or one of timm's.
        classes: outputs of the head.
        channels: input channels.
        image_size: side of the images in pixels; needed where the network is built for one size (transformers), and
            checked where it is too small for the network.
        padding: "same", "valid" or "same_pool" for the CBR family (see `cbr`), "same" or "symmetric" for MobileNet and
            EfficientNet of timm (weights converted from TensorFlow want "same"); None is the family's own default.
        device: "cpu", or "meta" for a network without memory or values.

    Raises SpecError naming the nearest valid choice.

    >>> sum(parameter.numel() for parameter in create_model("cbr_large_t", classes=5).parameters())
    8539173
    """
    for argument, value in (("classes", classes), ("channels", channels), ("image_size", image_size or 1)):
        if not isinstance(value, int) or value < 1:
            raise SpecError(f"{argument}={value!r} of the network {name!r}: expected a whole number of at least 1.")
    if device not in ("cpu", "meta"):
        raise SpecError(f"Unknown device {device!r}: {nearest(device, ('cpu', 'meta'))} (move the network afterwards)")
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(0)
    try:
        with torch.device(device):
            if name in CBR_NETWORKS:
                return _cbr(name, classes, channels, image_size, padding or "same")
            return _timm(name, classes, channels, image_size, padding)
    finally:
        torch.set_rng_state(state)


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` knows and that match a shell pattern, this project's own first.

    >>> list_models("cbr_large*")
    ['cbr_large_t', 'cbr_large_w']
    """
    own = [name for name in (*CBR_NETWORKS, *CIFAR_RESNETS) if fnmatchcase(name, pattern)]
    return [*own, *(name for name in _timm_names() if fnmatchcase(name, pattern))]


def import_timm() -> Any:
    """The timm package, imported late (it takes seconds) and with torchvision's operators declared."""
    declare_operators()
    import timm

    return timm


def _timm_names() -> list[str]:
    import_timm()
    from timm.models import list_models as timm_models

    return list(timm_models())


def _cbr(name: str, classes: int, channels: int, image_size: int | None, padding: str) -> nn.Module:
    model = cbr(name, classes=classes, channels=channels, padding=padding)
    smallest = smallest_image(name, padding)
    if image_size is not None and image_size < smallest:
        fitting = [f"padding={choice!r}" for choice in PADDINGS if smallest_image(name, choice) <= image_size]
        raise SpecError(
            f"image_size={image_size} is too small for {name!r} with padding={padding!r}, which needs {smallest} "
            f"pixels. Use larger images or {' or '.join(fitting)}."
        )
    return model


def _timm(name: str, classes: int, channels: int, image_size: int | None, padding: str | None) -> nn.Module:
    import_timm()
    from timm.models import create_model as timm_model
    from timm.models import get_pretrained_cfg, is_model, is_model_in_modules

    known = CIFAR_RESNETS.get(name, name)
    architecture, _, tag = known.partition(".")
    if not is_model(architecture):
        choices = [*CBR_NETWORKS, *CIFAR_RESNETS, *_timm_names()]
        close = difflib.get_close_matches(name, choices, n=6, cutoff=0.5)
        raise SpecError(f"Unknown network {name!r}: {nearest(name, [*close, *CBR_NETWORKS][:12])} or one of timm's.")
    if tag:
        raise SpecError(
            f"{name!r} names weights, not a network: create {architecture!r} and give {name!r} as the source of "
            f"`initialise_` (in a study: `model: {{name: {architecture}}}`, `init: {{source: {name}}}`)."
        )
    arguments: dict[str, Any] = {}
    if padding is not None:
        if not is_model_in_modules(architecture, ["efficientnet"]):
            raise SpecError(f"padding={padding!r}: {name!r} has no choice of padding, leave it out.")
        if padding not in TIMM_PADDINGS:
            raise SpecError(f"Unknown padding {padding!r} of {name!r}: {nearest(padding, TIMM_PADDINGS)}")
        arguments["pad_type"] = TIMM_PADDINGS[padding]
    config = get_pretrained_cfg(architecture)
    if image_size is not None and config is not None and config.fixed_input_size:
        arguments["img_size"] = image_size
    model = timm_model(architecture, pretrained=False, num_classes=classes, in_chans=channels, **arguments)
    if name in CIFAR_RESNETS:
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model
