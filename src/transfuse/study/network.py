"""The network of a run before its first step: built, initialised, cut or slimmed, and frozen as its arm says."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from transfuse.errors import BlocksError
from transfuse.specs import InitSpec, ModelSpec, RunSpec
from transfuse.specs.arm import NEW_HEADS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from transfuse.models import Blocks
    from transfuse.models.transfer import Transfer


class Images(NamedTuple):
    """What a network must fit: the number of classes and channels, the side of the images in pixels, their axes."""

    classes: int
    channels: int
    size: int
    spatial_dims: int = 2


class Network(NamedTuple):
    """A network ready to be trained.

    Attributes:
        model: the network, without the adapters of `lora`, which are added after this.
        blocks: its blocks at the level of its arm.
        transfer: what its initialisation did to each entry of its state dict.
    """

    model: nn.Module
    blocks: Blocks
    transfer: Transfer

    @property
    def transferred(self) -> frozenset[str]:
        """The names of the entries that come from the source."""
        return frozenset(row.name for row in self.transfer.tensors if row.treatment == "transferred")

    @property
    def drawn_back(self) -> frozenset[str]:
        """The transferred entries that are trained, which is what L2-SP may draw back."""
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return self.transferred & trained


def untrained(spec: ModelSpec, images: Images) -> nn.Module:
    """A network as its own library starts it, for images of a kind."""
    from transfuse.models import create_model

    classes, channels, size, spatial_dims = images
    return create_model(spec.name, classes, channels, spatial_dims, image_size=size, padding=spec.padding)


def kind_of(spec: RunSpec, images: Images) -> Hashable:
    """What decides the modules of a run's network and the shapes of its tensors, whatever its weights are."""
    init = spec.init
    network = (replace(spec.model, weights=None), spec.network_sha256, images)
    return (*network, init.level, init.truncate, init.pool, init.slim, init.head == "mlp")


def build(
    spec: ModelSpec,
    init: InitSpec,
    images: Images,
    *,
    source: Mapping[str, Tensor] | None,
    identity_statistics: str | None = None,
    seed: int = 0,
    batches: Iterable[Tensor] | None = None,
    model: nn.Module | None = None,
) -> Network:
    """Build a network and start it as an arm says.

    Args:
        spec: which network.
        init: the arm, without `every`.
        images: what it must fit.
        source: the weights that it draws on.
        identity_statistics: instead of the network's own setting.
        seed: of every draw.
        batches: training images, for `norm: recalibrate`.
        model: the network of the spec, to be overwritten instead of built: for looking whether an arm fits.

    Raises:
        TransfuseError: whatever does not fit.
    """
    from transfuse.inits import initialise_
    from transfuse.models import blocks_of, freeze_, slim, tune_only_

    if model is None:
        model = untrained(spec, images)
    blocks = blocks_of(model, init.level)
    if init.slim is not None:
        model = slim(model, blocks, init.slim, seed=seed)
    transfer = initialise_(
        model,
        blocks,
        source=source if init.uses_weights else None,
        depth=init.depth,
        rest=init.rest,
        random=init.random,
        norm=init.norm,
        biases=init.biases,
        embeddings=init.embeddings,
        head="source" if init.head == "source" else "fresh",
        overrides=init.overrides,
        gabor_scale=init.gabor_scale,
        first_layer=spec.first_layer,
        identity_statistics=identity_statistics or spec.identity_statistics,
        images=batches if init.norm == "recalibrate" else None,
        seed=seed,
    )
    if init.truncate is not None:
        whole, model = model, _truncated(model, blocks, init, images, seed)
        blocks = blocks_of(model, init.level)
        transfer = _of_what_is_left(transfer, model, whole)
    if init.freeze:
        freeze_(model, blocks, init.freeze, norm_statistics=init.norm_statistics)
    if init.tune:
        tune_only_(model, blocks, init.tune, norm_statistics=init.norm_statistics)
    return Network(model, blocks, transfer)


def skeleton(spec: ModelSpec, init: InitSpec, images: Images) -> nn.Module:
    """The network of an arm as it is trained, slim or cut, with weights that mean nothing: for weights of a run."""
    from transfuse.models import blocks_of, slim

    model = untrained(spec, images)
    blocks = blocks_of(model, init.level)
    if init.slim is not None:
        model = slim(model, blocks, init.slim)
    if init.truncate is not None:
        model = _truncated(model, blocks, init, images)
    return model


def _truncated(model: nn.Module, blocks: Blocks, init: InitSpec, images: Images, seed: int = 0) -> nn.Module:
    """The network cut as an arm says: a U-Net encoder and decoder together."""
    from transfuse.models import truncate, truncate_unet
    from transfuse.models.truncate_unet import is_unet

    assert init.truncate is not None
    classes, size = images.classes, images.size
    if not is_unet(model):
        head = head_kind(init)
        return truncate(model, blocks, init.truncate, classes, init.pool, head=head, image_size=size, seed=seed)
    if init.head in NEW_HEADS:
        raise BlocksError(f"head is {init.head!r}, and a U-Net ends in a convolution, not a classifier; leave head out")
    if init.pool != "average":
        raise BlocksError(f"pool is {init.pool!r}, and a U-Net has no pooling before its head; leave pool out")
    return truncate_unet(model, blocks, init.truncate, classes, image_size=size, seed=seed)


def head_kind(init: InitSpec) -> str:
    """The head that an arm puts on a truncated network, as `truncate` calls it.

    >>> head_kind(InitSpec()), head_kind(InitSpec(truncate="all", head="mlp"))
    ('linear', 'mlp')
    """
    return init.head if init.head in NEW_HEADS else "linear"


def _of_what_is_left(transfer: Transfer, model: nn.Module, whole: nn.Module) -> Transfer:
    """The record of an initialisation without what was cut off afterwards, and with what is new at the cut.

    New are a norm of another width, an identity; what the decoder of a U-Net reads the encoder with; and the layers of
    a head that has more of them than the network's own.
    """
    from torch import equal

    from transfuse.inits.roles import role_of
    from transfuse.models.transfer import TensorTransfer

    state, before = model.state_dict(), whole.state_dict()
    known = {row.name: row for row in transfer.tensors}
    rows = []
    for name, tensor in state.items():
        row = known.get(name, TensorTransfer(name, "head", "fresh", tensor.numel(), parameter=True))
        treatment = row.treatment
        if row.block != "head" and not equal(tensor, before[name]):
            module = model.get_submodule(name.rpartition(".")[0])
            treatment = "identity" if role_of(module, name) in ("norm", "scale") else "random"
        rows.append(row._replace(treatment=treatment, elements=tensor.numel()))
    return replace(transfer, tensors=tuple(rows))
