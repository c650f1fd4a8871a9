"""Cuts of U-Nets in a study: which blocks `every` names, and that no spelling of an arm becomes another network."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from transfuse.cli.show import show_blocks
from transfuse.errors import BlocksError
from transfuse.specs import DataSpec, InitSpec, ModelSpec, study_from
from transfuse.study.meaning import meaning
from transfuse.study.network import Images, build, skeleton, untrained
from transfuse.study.sources import block_names
from transfuse.study.sweeps import BlockNames, unfold

pytestmark = pytest.mark.skipif(
    find_spec("monai") is None or find_spec("segmentation_models_pytorch") is None, reason="needs both extras"
)

FLAT, SOLID = ModelSpec(name="unet_resnet18"), ModelSpec(name="unet3d")
ENCODER = {
    "unet_resnet18": ("encoder.stem", "encoder.layer1", "encoder.layer2", "encoder.layer3", "encoder.layer4"),
    "unet3d": ("conv_0", "down_1", "down_2", "down_3", "down_4"),
}


@cache
def names(spatial_dims: int) -> BlockNames:
    name = "fundus-vessels" if spatial_dims == 2 else "embolism-vessels"
    return block_names(DataSpec(name=name, size=32, count=12, channels=1))


def of(model: ModelSpec) -> tuple[BlockNames, Images]:
    dims = 3 if model is SOLID else 2
    return names(dims), Images(2, 1, 32, dims)


@pytest.mark.parametrize("model", [FLAT, SOLID], ids=lambda model: model.name)
def test_every_cuts_at_each_stage_of_the_encoder_at_every_level(model: ModelSpec) -> None:
    look, _ = of(model)
    expected = {
        ("unet_resnet18", "block"): ["encoder.stem", *(f"encoder.layer{stage}.1" for stage in (1, 2, 3, 4))],
        ("unet3d", "layer"): ["conv_0.conv_1", *(f"down_{stage}.convs.conv_1" for stage in (1, 2, 3, 4))],
    }
    for level in ("stage", "block", "layer"):
        study = study_from(
            {
                "name": "cuts",
                "data": {"name": "embolism-vessels", "size": 32},
                "models": {"net": {"name": model.name}},
                "arms": {"random": {}, "cut": {"truncate": "every", "level": level}},
                "train": {"steps": 1},
            }
        )
        found = [arm.partition("@")[2] for arm in unfold(study, look).arms["net"] if "@" in arm]
        if (model.name, level) in expected:
            assert found == expected[model.name, level]
        elif level != "layer":
            assert found == list(ENCODER[model.name])


@pytest.mark.parametrize("model", [FLAT, SOLID], ids=lambda model: model.name)
@pytest.mark.parametrize("depth", [0, 1, 2, 3, 4, "middle", "all"])
def test_an_arm_s_meaning_is_the_network_that_it_says(model: ModelSpec, depth: int | str) -> None:
    """Brute force: the network of each spelling against that of its meaning, by names and shapes."""
    look, images = of(model)
    truncate = ENCODER[model.name][depth] if isinstance(depth, int) else depth
    spellings: list[Any] = [truncate, *([depth + 1] if isinstance(depth, int) else [])]
    given = {spelling: InitSpec(truncate=spelling) for spelling in spellings}
    found = []
    for init in given.values():
        said, one = meaning(init, model, look), skeleton(model, init, images)
        shapes = {name: tuple(tensor.shape) for name, tensor in one.state_dict().items()}
        again = skeleton(model, said, images).state_dict()
        assert shapes == {name: tuple(tensor.shape) for name, tensor in again.items()}, init
        found.append((said, shapes))
    assert all(one == found[0] for one in found)  # of one cut all spellings are one run


@pytest.mark.parametrize("model", [FLAT, SOLID], ids=lambda model: model.name)
def test_what_is_frozen_of_a_cut_network_is_what_the_arm_says(model: ModelSpec) -> None:
    look, images = of(model)
    for kept in (1, 2, 3):
        for frozen in range(1, kept + 1):
            names = ENCODER[model.name]
            init = InitSpec(truncate=names[kept - 1], freeze=names[frozen - 1])
            trained = [
                {
                    name
                    for name, parameter in build(model, arm, images, source=None).model.named_parameters()
                    if parameter.requires_grad
                }
                for arm in (init, meaning(init, model, look))
            ]
            assert trained[0] == trained[1], init
            assert trained[0]


@pytest.mark.parametrize("model", [FLAT, SOLID], ids=lambda model: model.name)
def test_what_is_new_at_the_cut_is_not_said_to_be_transferred(model: ModelSpec) -> None:
    _, images = of(model)
    source = {name: tensor + 1 for name, tensor in untrained(model, images).state_dict().items()}
    init = InitSpec(depth="all", truncate=ENCODER[model.name][2])
    network = build(model, init, images, source=source, identity_statistics="accept")
    state = network.model.state_dict()
    assert {row.name for row in network.transfer.tensors} == set(state)
    below = {row.name: row.treatment for row in network.transfer.tensors if row.block != "head"}
    for name, treatment in below.items():
        assert (treatment == "transferred") == torch.equal(state[name], source[name]), name
    new = {name.rpartition(".")[0]: treatment for name, treatment in below.items() if treatment != "transferred"}
    entry = {"decoder.blocks.2.conv1.0": "random", "decoder.blocks.2.conv1.1": "identity"}
    assert new == (entry if model is FLAT else {"upcat_2.upsample.deconv": "random"})


def test_runs_of_before_keep_their_identity() -> None:
    look, _ = of(FLAT)
    for truncate in ("encoder.stem", "encoder.layer1", "encoder.layer2", "encoder.layer3", "middle", "all"):
        assert meaning(InitSpec(truncate=truncate), FLAT, look).truncate == truncate


def test_blocks_of_the_decoder_are_no_cut_and_pool_none_is_refused() -> None:
    for model, block in ((FLAT, "decoder.blocks.1"), (SOLID, "upcat_2")):
        look, images = of(model)
        init = meaning(InitSpec(truncate=block), model, look)
        with pytest.raises(BlocksError, match=f"'{block}' is a block of the decoder.*The cut points: "):
            build(model, init, images, source=None)
        with pytest.raises(BlocksError, match="pool is 'none', and a U-Net has no pooling before its head"):
            build(model, InitSpec(truncate="middle", pool="none"), images, source=None)


def test_the_table_of_blocks_says_where_a_u_net_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    show_blocks("unet3d", spatial_dims=3)
    said = capsys.readouterr().out
    assert "no cut" not in said
    for number in (1, 2, 3, 4):
        assert f"goes with down_{number}" in said
    assert "truncate cuts a U-Net after a block of its encoder" in " ".join(said.split())
    show_blocks("unet_resnet18", level="block")
    said = capsys.readouterr().out
    assert said.count("no cut here") == 4
