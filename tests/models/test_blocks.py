from __future__ import annotations

from collections import OrderedDict
from itertools import accumulate

import pytest
import torch
from torch import nn

from transfuse.errors import BlocksError
from transfuse.models import Block, Blocks, blocks_of, check_blocks, create_model
from transfuse.models.torchvision_operators import declare_operators

# METHODS, section 6: parameters of the network up to and including a block.
RESNET50_CUTS = {
    "stem": 9_536, "layer1.0": 84_544, "layer1.1": 154_944, "layer1.2": 225_344, "layer2.0": 604_736,
    "layer2.1": 884_800, "layer2.2": 1_164_864, "layer2.3": 1_444_928, "layer3.0": 2_957_376, "layer3.1": 4_074_560,
    "layer3.2": 5_191_744, "layer3.3": 6_308_928, "layer3.4": 7_426_112, "layer3.5": 8_543_296, "layer4.0": 14_582_848,
    "layer4.1": 19_045_440, "layer4.2": 23_508_032,
}  # fmt: skip
DENSENET121_CUTS = {
    "features.norm0": 9_536, "features.denseblock1": 344_576, "features.transition1": 377_856,
    "features.denseblock2": 1_297_536, "features.transition2": 1_429_632, "features.denseblock3": 4_267_392,
    "features.transition3": 4_793_728, "features.denseblock4": 6_951_808, "features.norm5": 6_953_856,
}  # fmt: skip


def parameters_up_to(model: nn.Module, blocks: Blocks) -> dict[str, int]:
    sizes = [sum(p.numel() for name, p in model.named_parameters() if block.owns(name)) for block in blocks]
    return dict(zip(blocks.names, accumulate(sizes), strict=True))


def test_resnet50_has_the_published_counts_at_every_cut() -> None:
    model = create_model("resnet50", classes=2, device="meta")
    assert parameters_up_to(model, blocks_of(model, "block")) == RESNET50_CUTS


def test_densenet121_has_the_published_counts_at_every_cut_without_a_data_file() -> None:
    model = create_model("densenet121", classes=2, device="meta")
    found = parameters_up_to(model, blocks_of(model, "stage"))
    assert {name: found[name] for name in DENSENET121_CUTS} == DENSENET121_CUTS


def test_efficientnet_b0_has_the_published_counts_of_unpooled_cuts() -> None:
    # METHODS 2.3 item 4: 2-way heads on 112 x 14 x 14 after 11 blocks, on 320 x 7 x 7 after 16, without conv_head.
    model = create_model("efficientnet_b0", classes=2, device="meta")
    blocks = blocks_of(model, "block")
    counts = list(parameters_up_to(model, blocks).values())
    assert counts[11] + 112 * 14 * 14 * 2 + 2 == 895_714
    assert counts[16] + 320 * 7 * 7 * 2 + 2 == 3_626_750
    assert blocks.names[-1] == "conv_head"


@pytest.mark.parametrize(("name", "features"), [("resnet18", 9), ("resnet50", 17), ("resnet152", 51)])
def test_feature_layers_of_matsoukas(name: str, features: int) -> None:
    blocks = blocks_of(create_model(name, classes=2, device="meta"), "layer")
    assert len(blocks) == features
    assert blocks[0] == Block("conv1", ("conv1", "bn1"), "conv1", cut=False)
    assert all(block.cut for block in blocks[1:])


def test_wt_st_modules_of_matsoukas() -> None:
    blocks = blocks_of(create_model("resnet50", classes=2, device="meta"), "wt-st")
    assert blocks.names == ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    assert blocks.depth("layer2") == 4


def test_names_are_compared_by_path_parts() -> None:
    model = create_model("resnet101", classes=2, device="meta")
    blocks = blocks_of(model, "block")
    first = next(block for block in blocks if block.name == "layer3.1")
    assert [path for path, _ in model.named_modules() if first.owns(path) and path.startswith("layer3.10")] == []
    assert blocks.owner("layer3.10.conv1.weight") == "layer3.10"
    assert blocks.depth("layer3.10") == blocks.depth("layer3.1") + 9


def test_the_stem_of_three_convolutions_is_owned() -> None:
    blocks = blocks_of(create_model("resnet10t", classes=2, device="meta"))
    assert {blocks.owner(key) for key in ("conv1.0.weight", "conv1.4.running_var", "conv1.6.weight")} == {"stem"}


def test_torchvision_s_resnet_is_cut_like_timm_s() -> None:
    declare_operators()
    from torchvision.models import resnet18

    with torch.device("meta"):
        theirs = resnet18()
    for level in ("stage", "block", "layer", "wt-st"):
        assert blocks_of(theirs, level) == blocks_of(create_model("resnet18", classes=2, device="meta"), level)


def sequence() -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    parts = OrderedDict(stem=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), relu=nn.ReLU(), drop=nn.Dropout(), body=body)
    return nn.Sequential(OrderedDict(**parts, pool=nn.AdaptiveAvgPool2d(1), classifier=classifier))


def test_a_sequence_works_as_it_is() -> None:
    model = sequence()
    stage, block = blocks_of(model), blocks_of(model, "block")
    assert stage.names == ("stem", "norm", "body", "classifier.1")
    assert stage[1] == Block("norm", ("norm", "relu", "drop"), "drop")
    assert stage[2].output == "pool"
    assert block.names == ("stem", "norm", "body.0", "body.2", "classifier.1")
    assert stage.head == block.head == ("classifier.3",)


def test_a_sequence_without_a_classifier_and_a_foreign_network_say_how_to_go_on() -> None:
    with pytest.raises(
        BlocksError, match=r"(?s)not the nn.Linear that a classifier would be.*Blocks\(\"stage\", items="
    ):
        blocks_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    with pytest.raises(BlocksError, match=r"nothing but its classifier has parameters"):
        blocks_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(BlocksError, match=r"(?s)Transformer cannot be cut.*neither a family.*head=\(\"fc\",\)"):
        blocks_of(nn.Transformer(8, 2, 1, 1, 8, batch_first=True))


def test_parameters_outside_of_every_step_are_never_given_to_the_head() -> None:
    with pytest.raises(BlocksError, match=r"belong to no single step of it: cls_token, pos_embed"):
        blocks_of(create_model("vit_tiny_patch16_224", classes=2, device="meta"))


class Backwards(nn.Module):
    """Registers its parts in another order than it runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.late, self.early, self.fc = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.late(self.early(images)).mean((2, 3)))


class Twice(Backwards):
    """Runs a part twice."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.early(images + self.late(self.early(images)).sum()).mean((2, 3)))


def test_a_network_whose_parts_run_in_another_order_is_refused() -> None:
    for wrong in (Backwards, Twice):
        with pytest.raises(BlocksError, match=r"do not run once each in the order.*'early' runs where 'late' stands"):
            blocks_of(wrong())


def test_the_proof_of_the_order_uses_the_network_s_own_channels_and_size() -> None:
    model = create_model("swin_tiny_patch4_window7_224", classes=2, channels=1, image_size=64, device="meta")
    assert blocks_of(model).names == ("patch_embed", "layers.0", "layers.1", "layers.2", "layers.3", "norm")


def test_the_proof_of_the_order_leaves_no_trace() -> None:
    model = create_model("vgg11_bn", classes=2)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    blocks_of(model)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())


def test_blocks_by_hand() -> None:
    items = (Block("early", ("early",), "early"), Block("late", ("late",), "late"))
    assert check_blocks(Backwards(), Blocks("stage", items, ("fc",))).names == ("early", "late")


@pytest.mark.parametrize(
    ("items", "head", "message"),
    [
        ((Block("a", ("early",), "early"),), ("fc",), r"2 of 6 entries have no owner: late.weight, late.bias"),
        ((Block("a", ("early", "late"), "late"), Block("b", ("late",), "late")), ("fc",), r"more than one owner: late"),
        ((Block("a", ("early",), "x"), Block("a", ("late",), "late")), ("fc",), r"names used twice: a"),
        ((Block("a", ("erly", "late"), "late"),), ("fc",), r"no module or parameter 'erly', did you mean 'early'"),
        ((Block("a", ("early", "late"), "lat"),), ("fc",), r"its output 'lat' is no module, did you mean 'late'"),
        ((Block("a", ("early", "late"), "late"),), ("classifier",), r"the network has no head 'classifier'"),
    ],
)
def test_blocks_by_hand_are_checked(items: tuple[Block, ...], head: tuple[str, ...], message: str) -> None:
    with pytest.raises(BlocksError, match=message):
        check_blocks(Backwards(), Blocks("stage", items, head))


def test_unknown_level_depth_and_owner() -> None:
    model = create_model("cbr_small", classes=2, device="meta")
    with pytest.raises(BlocksError, match=r"Unknown level 'stages': did you mean 'stage'"):
        blocks_of(model, "stages")
    with pytest.raises(BlocksError, match=r"'wt-st' is not defined for the cbr family.*rest='mean_var'"):
        blocks_of(model, "wt-st")
    with pytest.raises(BlocksError, match=r"Unknown depth 'layr2' at level 'stage'.*did you mean 'layer2'"):
        blocks_of(model).depth("layr2")
    with pytest.raises(BlocksError, match=r"Depth 5 of 4 blocks at level 'stage': expected 0 to 4"):
        blocks_of(model).depth(5)
    with pytest.raises(BlocksError, match=r"No block and no head owns 'layer9.conv.weight'"):
        blocks_of(model).owner("layer9.conv.weight")
