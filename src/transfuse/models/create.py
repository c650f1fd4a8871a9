"""Networks by name: the CBR family and other networks of this project, timm's, MONAI's, and anybody's own."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn

from transfuse.errors import SpecError, nearest
from transfuse.models.architectures.efficientnet import PADDED
from transfuse.models.architectures.efficientnet import PADDINGS as TIMM_PADDINGS
from transfuse.models.architectures.family import SmallStem
from transfuse.models.architectures.resnet import SMALL_STEM, WITH_SMALL_STEM
from transfuse.models.cbr import CBR_NETWORKS, PADDINGS, cbr, smallest_image
from transfuse.models.deferred import DeferredDraws
from transfuse.models.foreign import foreign_network
from transfuse.models.networks_3d import NETWORKS_3D, network_3d
from transfuse.models.published import PUBLISHED_NETWORKS
from transfuse.models.resnet_cifar import RESIDUALS, CifarResNet
from transfuse.models.resnet_tfslim import TFSlimV2, tfslim_v1
from transfuse.models.torchvision_operators import declare_operators
from transfuse.models.unet import UNETS, unet

Builder = Callable[[], nn.Module]

OWN: dict[str, Callable[[int, int], nn.Module]] = {  # (classes, channels) to a network for images of any size
    "resnet50_tfslim_v1": tfslim_v1,
    "resnet50_tfslim_v2": TFSlimV2,
    **{name: partial(CifarResNet, residuals) for name, residuals in RESIDUALS.items()},
}


def create_model(
    name: str,
    classes: int,
    channels: int = 3,
    spatial_dims: int = 2,
    *,
    image_size: int | None = None,
    padding: str | None = None,
    device: str = "cpu",
) -> nn.Module:
    """A randomly initialised network; maps (N, channels, H, W) to logits (N, classes). Never downloads anything.

    Two calls give identical weights and leave torch's global generator as it was: every network starts from the same
    numbers, and `initialise_` is what makes runs differ. The head is one linear layer (a binary task has 2 classes);
    whether softmax or independent sigmoids follow is the loss's business.

    Args:
        name: one of

            - the CBR family of T (`cbr_large_t`, ..., METHODS MOD-1 to MOD-5);
            - timm's networks;
            - `resnet50_tfslim_v1` and `_v2`: TF-slim's ResNet-50, which T trained (MOD-6);
            - `resnet50_cifar` (and 18, 34, 101, 152): a first convolution of 3 x 3 and no pooling, for small images
              (V, MOD-9);
            - `resnet20`, 32, 44, 56, 110: the narrow ResNets of He et al. (2015) for CIFAR-10;
            - `unet_resnet34` (and 18, 50): U-Nets, which map to (N, classes, H, W) (MOD-15; extra `segmentation`);
            - with spatial_dims=3, for volumes (N, channels, D, H, W): `resnet10`, `resnet18`, `resnet34`,
              `resnet50`, `densenet121` and `resnext101` (MOD-15; extra `3d`); and `unet3d` and `unet3d_wide`, which map
              to (N, classes, D, H, W);
            - `package.module:function`: a function of your own that takes `classes` and `channels` (`spatial_dims` and
              `image_size` only if it has such arguments) and returns the network.

        classes: outputs of the head.
        channels: input channels.
        spatial_dims: 2 for images, 3 for volumes.
        image_size: side of the images in pixels; needed where the network is built for one size (transformers), and
            checked for the CBR family and for volumes; others complain in their first forward pass if it is too small.
        padding: "same", "valid" or "same_pool" for the CBR family (see `cbr`), "same" or "symmetric" for MobileNet and
            EfficientNet of timm (weights converted from TensorFlow want "same"); None is the family's own default.
        device: "cpu", or "meta" for a network without memory or values.

    Raises SpecError naming the nearest valid choice.

    >>> sum(parameter.numel() for parameter in create_model("cbr_large_t", classes=5).parameters())
    8539173
    """
    if not isinstance(name, str):
        raise SpecError(f"The name of a network is a {type(name).__name__}, {name!r}; expected one of list_models().")
    counts = (("classes", classes), ("channels", channels), ("image_size", 1 if image_size is None else image_size))
    for argument, value in counts:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SpecError(f"{argument}={value!r} of the network {name!r}: expected a whole number of at least 1.")
    if device not in ("cpu", "meta"):
        raise SpecError(f"Unknown device {device!r}: {nearest(device, ('cpu', 'meta'))} (move the network afterwards)")
    _check_spatial_dims(spatial_dims, f" of the network {name!r}")
    # Imports happen here and not on the meta device, where a module would keep what it computes once without values.
    build = _builder(name, classes, channels, spatial_dims, image_size, padding)
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(0)
    try:
        with torch.device(device):
            return build().to(device)  # a tensor that a network makes by itself may be elsewhere
    finally:
        torch.set_rng_state(state)


def list_models(pattern: str = "*", spatial_dims: int = 2) -> list[str]:
    """The names that `create_model` knows and that match a shell pattern, this project's own first.

    Raises SpecError for spatial_dims other than 2 and 3.

    >>> list_models("cbr_large*"), list_models("*net50", spatial_dims=3)
    (['cbr_large_t', 'cbr_large_w'], ['resnet50'])
    """
    _check_spatial_dims(spatial_dims, "")
    if spatial_dims == 3:
        return [name for name in NETWORKS_3D if fnmatchcase(name, pattern)]
    return [name for name in (*_own_names(), *_timm_names()) if fnmatchcase(name, pattern)]


def import_timm() -> Any:
    """The timm package, imported late (it takes seconds) and with torchvision's operators declared."""
    declare_operators()
    import timm

    return timm


def _timm_names() -> list[str]:
    import_timm()
    from timm.models import list_models as timm_models

    return list(timm_models())


def _own_names() -> tuple[str, ...]:
    return (*CBR_NETWORKS, *WITH_SMALL_STEM, *OWN, *UNETS)


def _like(name: str) -> str:
    """The networks that may be meant: those whose name begins so (of the papers first), that look alike, our own."""
    every = [*_own_names(), *_timm_names()]
    typed = name.casefold().replace("-", "_").replace(" ", "_")
    starts = [
        known for start in (typed, typed.partition(".")[0]) if start for known in every if known.startswith(start)
    ]
    published = {known for networks in PUBLISHED_NETWORKS for known in networks.names}
    starts = sorted(dict.fromkeys(starts), key=lambda known: (known not in published, len(known)))
    close = difflib.get_close_matches(typed, every, n=6, cutoff=0.5)
    choices = list(dict.fromkeys([*starts[:6], *close, *CBR_NETWORKS, *OWN, *UNETS]))[:24]
    return f"did you mean {starts[0]!r}? Choices: {', '.join(choices)}" if starts else nearest(name, choices)


def _check_spatial_dims(spatial_dims: int, where: str) -> None:
    if not isinstance(spatial_dims, int) or spatial_dims not in (2, 3):
        raise SpecError(
            f"spatial_dims={spatial_dims!r}{where}: expected 2 for images (the networks of list_models()) or 3 for "
            f"volumes ({', '.join(NETWORKS_3D)})."
        )


def _builder(
    name: str, classes: int, channels: int, spatial_dims: int, image_size: int | None, padding: str | None
) -> Builder:
    """What builds the network, once everything is checked and imported."""
    if spatial_dims == 2 and name in CBR_NETWORKS:
        return partial(_cbr, name, classes, channels, image_size, padding or "same")
    if spatial_dims == 2 and name not in (*OWN, *UNETS) and ":" not in name:
        return _timm(name, classes, channels, image_size, padding)
    if padding is not None:
        raise SpecError(f"padding={padding!r}: {name!r} has no choice of padding, leave it out.")
    if ":" in name:
        return foreign_network(
            name, classes=classes, channels=channels, spatial_dims=spatial_dims, image_size=image_size
        )
    if spatial_dims == 3:
        return network_3d(name, classes=classes, channels=channels, image_size=image_size)
    if name in UNETS:
        return unet(name, classes=classes, channels=channels)
    if name.startswith("resnet50_tfslim"):
        import_timm()  # of which they are built
    return partial(OWN[name], classes, channels)


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


def _timm(name: str, classes: int, channels: int, image_size: int | None, padding: str | None) -> Builder:
    import_timm()
    from timm.models import create_model as timm_model
    from timm.models import get_pretrained_cfg, is_model, is_model_in_modules

    known = WITH_SMALL_STEM.get(name, name)
    architecture, _, tag = known.partition(".")
    if not is_model(architecture):
        if name in NETWORKS_3D:
            raise SpecError(
                f"{name!r} is a network for volumes, and these are images: in Python give "
                "create_model(..., spatial_dims=3), on the command line --spatial-dims 3; in a study, data of volumes."
            )
        raise SpecError(
            f"Unknown network {name!r}: {_like(name)}, one of timm's (`transfuse show models` lists those of the "
            "papers) or a function of your own as 'package.module:function'."
        )
    if tag:
        raise SpecError(
            f"{name!r} names weights, not a network: create {architecture!r} and give {name!r} as the source of "
            f"`initialise_` (in a study: `model: {{name: {architecture}}}`, `init: {{source: {name}}}`)."
        )
    arguments: dict[str, Any] = {}
    if padding is not None:
        if not is_model_in_modules(architecture, list(PADDED)):
            raise SpecError(f"padding={padding!r}: {name!r} has no choice of padding, leave it out.")
        if padding not in TIMM_PADDINGS:
            raise SpecError(f"Unknown padding {padding!r} of {name!r}: {nearest(padding, TIMM_PADDINGS)}")
        arguments["pad_type"] = TIMM_PADDINGS[padding]
    config = get_pretrained_cfg(architecture)
    if image_size is not None and config is not None and config.fixed_input_size:
        arguments["img_size"] = image_size
    arguments |= {"pretrained": False, "num_classes": classes, "in_chans": channels}
    return partial(
        _build_timm,
        partial(timm_model, architecture, **arguments),
        stem=SMALL_STEM if name in WITH_SMALL_STEM else None,
    )


def _build_timm(build: Builder, *, stem: SmallStem | None) -> nn.Module:
    """A network of timm, with another stem where one is given."""
    with DeferredDraws():  # timm draws most weights twice
        model = build()
        if stem is not None:
            old: Any = model.get_submodule(stem.convolution)
            first = nn.Conv2d(old.in_channels, stem.width, stem.kernel, padding=stem.kernel // 2, bias=False)
            nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
            model.set_submodule(stem.convolution, first)
            model.set_submodule(stem.pooling, nn.Identity())
    return model
