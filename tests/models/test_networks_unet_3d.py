"""U-Nets of volumes: MONAI's, its blocks, the sizes they take, and how they start from a source."""

from __future__ import annotations

import pytest
import torch

from transfuse.errors import SpecError
from transfuse.inits import initialise_
from transfuse.models import blocks_of, create_model, freeze_, list_models

NAMES = ["unet3d", "unet3d_wide"]
LEVELS = ("conv_0", "down_1", "down_2", "down_3", "down_4", "upcat_4", "upcat_3", "upcat_2", "upcat_1")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sides", [(32, 32, 32), (33, 40, 47)])
def test_one_map_a_class_in_the_size_of_the_volumes(name: str, sides: tuple[int, ...]) -> None:
    model = create_model(name, 3, 1, 3, device="meta").eval()
    assert model(torch.zeros(2, 1, *sides, device="meta")).shape == (2, 3, *sides)


def test_it_is_monais_network() -> None:
    from monai.networks.nets.basic_unet import BasicUNet

    ours, theirs = create_model("unet3d_wide", 2, 1, 3, device="meta").state_dict(), BasicUNet(3, 1, 2).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: tensor.shape for n, tensor in theirs.items()}


def test_the_smallest_volumes_train_and_smaller_ones_are_refused() -> None:
    model = create_model("unet3d", 2, 1, 3, image_size=32).train()
    model(torch.rand(1, 1, 32, 32, 32)).sum().backward()
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        model(torch.rand(1, 1, 31, 31, 31))
    with pytest.raises(SpecError, match=r"Volumes of 31 voxels.*'unet3d', whose total stride is 16: .*takes 32 or"):
        create_model("unet3d", 2, 1, 3, image_size=31)
    with pytest.raises(SpecError, match=r"'unet3d' is a network for volumes, and these are images"):
        create_model("unet3d", 2, 1)
    assert "unet3d" in list_models("unet*", spatial_dims=3)


@pytest.mark.parametrize("level", ["stage", "block", "layer"])
def test_blocks_are_the_levels_of_encoder_and_decoder(level: str) -> None:
    model = create_model("unet3d", 3, 1, 3)
    blocks = blocks_of(model, level)  # complete, or it is an error
    if level != "layer":
        assert blocks.names == LEVELS
    else:
        assert len(blocks) == 5 * 2 + 4 * 3
        assert blocks.names[10] == "upcat_4.upsample"
    assert blocks.head == ("final_conv",)
    assert not any(block.cut for block in blocks)  # by `truncate`
    ran: list[str] = []
    modules = dict(model.named_modules())
    for block in blocks:
        modules[block.output].register_forward_hook(lambda *_, name=block.name: ran.append(name))
    with torch.no_grad():
        model(torch.rand(1, 1, 32, 32, 32))
    assert tuple(ran) == blocks.names  # in the order in which a forward pass ends them


def test_the_encoder_is_transferred_and_frozen_alone() -> None:
    source, model = (create_model("unet3d", 3, 1, 3) for _ in range(2))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
    blocks = blocks_of(model)
    initialise_(model, blocks, source=source.state_dict(), depth="down_4", seed=0)
    freeze_(model, blocks, "down_4")
    for name, parameter in model.named_parameters():
        encoder = name.startswith(("conv_0", "down_"))
        assert torch.equal(parameter, source.get_parameter(name)) == encoder, name
        assert parameter.requires_grad != encoder
    norm = model.get_parameter("upcat_2.convs.conv_0.adn.N.weight")
    assert norm.unique().tolist() == [1.0]
