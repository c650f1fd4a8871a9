from __future__ import annotations

import re
import textwrap
from collections import OrderedDict
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from transfuse.errors import BlocksError
from transfuse.models import Block, Blocks, blocks_of, check_blocks, create_model
from transfuse.models import blocks as blocks_module
from transfuse.models.architectures import FAMILIES, Each, Family, Rule
from transfuse.models.blocks import BY_HAND, family_of
from transfuse.models.torchvision_operators import declare_operators

# METHODS, section 6: parameters of the network up to and including a block.
RESNET50_CUTS = {
    "stem": 9_536, "layer1.0": 84_544, "layer1.1": 154_944, "layer1.2": 225_344, "layer2.0": 604_736,
    "layer2.1": 884_800, "layer2.2": 1_164_864, "layer2.3": 1_444_928, "layer3.0": 2_957_376, "layer3.1": 4_074_560,
    "layer3.2": 5_191_744, "layer3.3": 6_308_928, "layer3.4": 7_426_112, "layer3.5": 8_543_296, "layer4.0": 14_582_848,
    "layer4.1": 19_045_440, "layer4.2": 23_508_032,
}  # fmt: skip
DENSENET_CUTS = {
    "densenet121": {
        "stem": 9_536, "features.denseblock1": 344_576, "features.transition1": 377_856,
        "features.denseblock2": 1_297_536, "features.transition2": 1_429_632, "features.denseblock3": 4_267_392,
        "features.transition3": 4_793_728, "features.denseblock4": 6_951_808, "features.norm5": 6_953_856,
    },
    "densenet201": {
        "stem": 9_536, "features.denseblock1": 344_576, "features.transition1": 377_856,
        "features.denseblock2": 1_297_536, "features.transition2": 1_429_632, "features.denseblock3": 9_501_312,
        "features.transition3": 11_110_528, "features.denseblock4": 18_089_088, "features.norm5": 18_092_928,
    },
}  # fmt: skip


# Files that write out a network of this project.
OWN_NETWORKS = ("cbr", "resnet_tfslim", "resnet_cifar", "networks_3d", "unet")


def parameters_up_to(model: nn.Module, blocks: Blocks) -> dict[str, int]:
    sizes = [sum(p.numel() for name, p in model.named_parameters() if block.owns(name)) for block in blocks]
    return dict(zip(blocks.names, accumulate(sizes), strict=True))


def test_resnet50_has_the_published_counts_at_every_cut() -> None:
    model = create_model("resnet50", classes=2, device="meta")
    assert parameters_up_to(model, blocks_of(model, "block")) == RESNET50_CUTS


@pytest.mark.parametrize("name", DENSENET_CUTS)
def test_densenets_have_the_published_counts_at_every_cut(name: str) -> None:
    model = create_model(name, classes=2, device="meta")
    assert parameters_up_to(model, blocks_of(model, "block")) == DENSENET_CUTS[name]


def test_efficientnet_b0_has_the_published_counts_of_unpooled_cuts() -> None:
    # METHODS 2.3 item 4: 2-way heads on 112 x 14 x 14 after 11 blocks, on 320 x 7 x 7 after 16, without conv_head.
    model = create_model("efficientnet_b0", classes=2, device="meta")
    blocks = blocks_of(model, "block")
    counts = list(parameters_up_to(model, blocks).values())
    assert counts[11] + 112 * 14 * 14 * 2 + 2 == 895_714
    assert counts[16] + 320 * 7 * 7 * 2 + 2 == 3_626_750
    assert blocks.names[0] == "stem"
    assert len(blocks) == 1 + 16 + 1
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


def test_wt_st_modules_of_inception() -> None:
    blocks = blocks_of(create_model("inception_v3", classes=2, device="meta"), "wt-st")
    assert {block.name: [path for path in block.paths if "Pool" not in path] for block in blocks} == {
        "Conv2d_1": ["Conv2d_1a_3x3"],
        "Conv2d_2": ["Conv2d_2a_3x3", "Conv2d_2b_3x3"],
        "Conv2d_3": ["Conv2d_3b_1x1"],
        "Conv2d_4": ["Conv2d_4a_3x3"],
        "Mixed_5": ["Mixed_5b", "Mixed_5c", "Mixed_5d"],
        "Mixed_6": ["Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"],
        "Mixed_7": ["Mixed_7a", "Mixed_7b", "Mixed_7c"],
    }


def test_the_poolings_of_inception_belong_to_the_block_below_and_the_feature_layers_are_before_them() -> None:
    model = create_model("inception_v3", classes=2, device="meta")
    outputs = {level: {b.name: (b.output, b.cut) for b in blocks_of(model, level)} for level in ("block", "layer")}
    assert len(outputs["block"]) == len(outputs["layer"]) == 16
    assert outputs["block"]["Conv2d_2b_3x3"] == ("Pool1", True)
    assert outputs["layer"]["Conv2d_2b_3x3"] == ("Conv2d_2b_3x3", False)
    assert {name for name, (_, cut) in outputs["layer"].items() if not cut} == {"Conv2d_2b_3x3", "Conv2d_4a_3x3"}


def test_wt_st_modules_of_deit() -> None:
    model = create_model("deit_tiny_distilled_patch16_224", classes=2, device="meta")
    blocks = blocks_of(model, "wt-st")
    assert blocks.names == ("patch_embed", *(f"blocks.{number}" for number in range(12)), "norm")
    for key in ("patch_embed.proj.weight", "cls_token", "dist_token", "pos_embed"):
        assert blocks.owner(key) == "patch_embed"
    assert [block.name for block in blocks if block.stays] == ["norm"]
    assert blocks.head == ("head", "head_dist")
    assert blocks_of(model, "stage").items == blocks_of(model, "block").items == blocks.items


def test_register_tokens_layer_scale_and_pooled_norms_have_their_owners() -> None:
    blocks = blocks_of(create_model("vit_small_patch14_reg4_dinov2", classes=2, device="meta"), "layer")
    assert blocks.owner("reg_token") == "patch_embed"
    assert [blocks.owner(f"blocks.3.{part}") for part in ("norm1.bias", "attn.qkv.weight", "ls1.gamma")] == [
        "blocks.3.attn"
    ] * 3
    assert [blocks.owner(f"blocks.3.{part}") for part in ("norm2.bias", "mlp.fc1.weight", "ls2.gamma")] == [
        "blocks.3.mlp"
    ] * 3
    pooled = blocks_of(create_model("vit_medium_patch16_reg4_gap_256", classes=2, device="meta"))
    assert pooled.names[-2:] == ("blocks.11", "fc_norm")
    assert pooled[-1].stays


def test_wt_st_modules_of_swin() -> None:
    blocks = blocks_of(create_model("swin_tiny_patch4_window7_224", classes=2, device="meta"), "wt-st")
    depths = (2, 2, 6, 2)
    names = [f"layers.{stage}.blocks.{number}" for stage, depth in enumerate(depths) for number in range(depth)]
    assert blocks.names == ("patch_embed", *names, "norm")
    for stage in (1, 2, 3):  # a patch merging is that of the first block of the next stage
        assert blocks.owner(f"layers.{stage}.downsample.reduction.weight") == f"layers.{stage}.blocks.0"


def test_taps_of_attention_and_mlp_are_before_the_sum() -> None:
    model = create_model("test_vit2", classes=2).eval()
    outputs: dict[str, torch.Tensor] = {}
    blocks = blocks_of(model, "layer")
    for block in blocks:
        model.get_submodule(block.output).register_forward_hook(
            lambda module, inputs, output, name=block.name: outputs.__setitem__(name, output)
        )
    streams: list[torch.Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: streams.append(inputs[0]))
    model.blocks[1].register_forward_pre_hook(lambda module, inputs: streams.append(inputs[0]))
    with torch.no_grad():
        model(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    scaled = model.blocks[0].ls1(outputs["blocks.0.attn"]) + model.blocks[0].ls2(outputs["blocks.0.mlp"])
    assert torch.allclose(streams[0] + scaled, streams[1], atol=1e-6)
    assert outputs["patch_embed"].shape[1] < streams[0].shape[1]  # no tokens yet


def test_the_patchifier_ends_where_the_blocks_begin() -> None:
    model = create_model("test_vit2", classes=2).eval()
    seen: list[torch.Tensor] = []
    model.get_submodule(blocks_of(model)[0].output).register_forward_hook(lambda m, inputs, output: seen.append(output))
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(seen[0], seen[1])


def test_convolutions_of_vgg_and_what_is_left_of_its_classifier() -> None:
    model = create_model("vgg19", classes=2, device="meta")
    stages = blocks_of(model)
    assert stages.names == ("stage1", "stage2", "stage3", "stage4", "stage5", "pre_logits")
    assert [key for key in model.state_dict() if stages.owner(key) == "head"] == ["head.fc.weight", "head.fc.bias"]
    layers = blocks_of(model, "layer")
    assert len(layers) == 16 + 1
    convolutions = [sum(isinstance(model.get_submodule(p), nn.Conv2d) for p in b.paths) for b in layers[:-1]]
    assert convolutions == [1] * 16
    poolings = [b.output for b in layers if isinstance(model.get_submodule(b.output), nn.MaxPool2d)]
    assert poolings == [stage.output for stage in stages[:5]]


@pytest.mark.parametrize(
    ("name", "level", "family"),
    [
        ("densenet121", "wt-st", "densenet"),
        ("vgg11_bn", "wt-st", "vgg"),
        ("convnext_atto", "wt-st", "convnext"),
        ("efficientnet_b0", "wt-st", "efficientnet"),
    ],
)
def test_levels_that_matsoukas_does_not_define_say_what_to_do(name: str, level: str, family: str) -> None:
    with pytest.raises(BlocksError, match=rf"'{level}' is not defined for the {family} family.*rest='mean_var'"):
        blocks_of(create_model(name, classes=2, device="meta"), level)


@pytest.mark.parametrize(
    ("name", "pool", "random"),
    [
        ("cbr_tiny", "global_pool", "default"),
        ("resnet18", "global_pool", "default"),
        ("mobilenetv2_100", "global_pool", "default"),
        ("inception_v3", "global_pool", "default"),
        ("densenet121", "global_pool", "default"),
        ("resnetv2_18", "head.global_pool", "default"),
        ("vgg11", "head.global_pool", "default"),
        ("swin_tiny_patch4_window7_224", "head.global_pool", "trunc_normal"),
        ("convnext_atto", "head.global_pool", "trunc_normal"),
        ("deit_tiny_patch16_224", "", "trunc_normal"),
        ("deit_tiny_distilled_patch16_224", "", "trunc_normal"),
        ("vit_small_patch16_dinov3", "", "trunc_normal"),
    ],
)
def test_families_know_their_pooling_and_their_random_start(name: str, pool: str, random: str) -> None:
    model = create_model(name, classes=2, device="meta")
    family = family_of(model)
    assert family is not None
    assert (family.pool, family.random) == (pool, random)
    assert not pool or not model.get_submodule(pool).state_dict()


def beit() -> Family:
    """The one table entry that a family of timm costs that is not shipped."""
    tokens = Rule("patch_embed", ("patch_embed", "cls_token", "pos_embed", "pos_drop"))
    top = (Rule("norm", stays=True), Rule("fc_norm", stays=True))
    parts = (
        Rule("{}.attn", ("{}.norm1", "{}.attn", "{}.gamma_1"), "{}.attn", cut=False),
        Rule("{}.mlp", ("{}.norm2", "{}.mlp", "{}.gamma_2"), "{}.mlp", cut=False),
    )
    return Family(
        "beit",
        recognised_by=("patch_embed", "pos_drop", "blocks", "fc_norm", "head"),
        head=("head",),
        levels={"block": (tokens, Rule("blocks.*"), *top), "layer": (tokens, Each("blocks.*", parts), *top)},
    )


def test_a_new_family_of_timm_costs_one_table_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("beit_base_patch16_224", classes=2, device="meta")
    with pytest.raises(BlocksError, match="cannot be cut"):
        blocks_of(model, "block")
    monkeypatch.setattr("transfuse.models.blocks.FAMILIES", (*FAMILIES, beit()))
    assert blocks_of(model, "block").names == ("patch_embed", *(f"blocks.{number}" for number in range(12)), "fc_norm")
    layers = blocks_of(model, "layer")
    assert len(layers) == 1 + 24 + 1
    assert layers.owner("blocks.11.attn.relative_position_bias_table") == layers.owner("blocks.11.gamma_1")
    with pytest.raises(BlocksError, match="'wt-st' is not defined for the beit family"):
        blocks_of(model, "wt-st")


def test_no_table_of_names_is_kept_outside_of_the_architectures() -> None:
    source = Path(blocks_module.__file__).parents[1]
    names = ("patch_embed", "cls_token", "pos_embed", "num_prefix_tokens", "window_size", "maxpool", "gamma_1", "qkv")
    strings = re.compile("|".join(rf"""["']{name}["']|\.{name}\b""" for name in names))
    for folder in ("models", "inits"):
        for file in sorted((source / folder).rglob("*.py")):
            if "architectures" not in file.parts and file.stem not in OWN_NETWORKS:
                code = re.sub(r'(?s)""".*?"""|#[^\n]*|from [^\n]* import ', "", file.read_text(encoding="utf-8"))
                assert not strings.findall(code), file


def test_what_a_table_entry_forgets_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = replace(beit(), levels={"block": (Rule("patch_embed"), Rule("blocks.*"), Rule("fc_norm"))})
    monkeypatch.setattr("transfuse.models.blocks.FAMILIES", (*FAMILIES, forgetful))
    with pytest.raises(BlocksError, match=r"1 of .* entries have no owner: cls_token"):
        blocks_of(create_model("beit_base_patch16_224", classes=2, device="meta"), "block")


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


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {}),
        ("inception_v3", {"aux_logits": False, "init_weights": False}),
        ("densenet121", {}),
        ("vgg11_bn", {}),
    ],
)
def test_torchvision_s_networks_are_cut_like_timm_s(name: str, arguments: dict[str, bool]) -> None:
    declare_operators()
    from torchvision.models import get_model

    timm_s = create_model(name, classes=1000, device="meta")
    with torch.device("meta"):
        theirs = get_model(name, **arguments)
    for level in family_of(timm_s).levels:  # type: ignore[union-attr]
        ours, found = blocks_of(timm_s, level), blocks_of(theirs, level)
        assert [(b.name, b.cut, b.stays) for b in found] == [(b.name, b.cut, b.stays) for b in ours]
        assert list(parameters_up_to(theirs, found).values()) == list(parameters_up_to(timm_s, ours).values())


def test_an_auxiliary_classifier_is_nobody_s() -> None:
    declare_operators()
    from torchvision.models import inception_v3

    with torch.device("meta"):
        model = inception_v3(init_weights=False)
    with pytest.raises(BlocksError, match=r"entries have no owner: AuxLogits.conv0"):
        blocks_of(model)


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
    with pytest.raises(BlocksError, match=r"(?s)not the nn.Linear that a classifier would be.*return Blocks\(level, "):
        blocks_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    with pytest.raises(BlocksError, match=r"nothing but its classifier has parameters"):
        blocks_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(BlocksError, match=r"(?s)Transformer cannot be cut.*neither a family.*head=\(\"fc\",\)"):
        blocks_of(nn.Transformer(8, 2, 1, 1, 8, batch_first=True))


def test_parameters_outside_of_every_step_are_never_given_to_the_head() -> None:
    with pytest.raises(BlocksError, match=r"belong to no single step of it: cls_token, pos_embed"):
        blocks_of(create_model("cait_xxs24_224", classes=2, device="meta"))


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
    model = create_model("swinv2_cr_tiny_224", classes=2, channels=1, image_size=64, device="meta")
    assert blocks_of(model).names == ("patch_embed", "stages.0", "stages.1", "stages.2", "stages.3")


def test_the_proof_of_the_order_leaves_no_trace() -> None:
    model = create_model("regnety_002", classes=2)
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


class Own(Backwards):
    """Says by itself how it is cut."""

    def transfuse_blocks(self, level: str) -> Blocks:
        if level == "wt-st":
            raise BlocksError("Own has no modules of M")
        items = (Block("early", ("early",), "early"), Block("late", ("late",), "late"))
        return Blocks("stage" if level == "layer" else level, items[: 1 if level == "block" else 2], ("fc",))


def test_a_network_of_one_s_own_says_how_it_is_cut() -> None:
    assert blocks_of(Own()).names == ("early", "late")
    with pytest.raises(BlocksError, match=r"2 of 6 entries have no owner: late.weight, late.bias"):
        blocks_of(Own(), "block")
    with pytest.raises(BlocksError, match=r"transfuse_blocks\('layer'\) of Own returned Blocks of level 'stage'"):
        blocks_of(Own(), "layer")
    with pytest.raises(BlocksError, match="Own has no modules of M"):
        blocks_of(Own(), "wt-st")
    short = Own()
    short.late = nn.Identity()  # type: ignore[assignment]
    assert blocks_of(short).names == ("early",)
    wrong = Own()
    wrong.transfuse_blocks = lambda level: ("early", "late")  # type: ignore[assignment,return-value]
    with pytest.raises(BlocksError, match=r"returned a tuple, expected Blocks of level 'stage'"):
        blocks_of(wrong)


def test_the_way_that_the_error_shows_works() -> None:
    lines = BY_HAND.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("  from transfuse.models"))
    shown: dict[str, Any] = {}
    exec(textwrap.dedent("\n".join(lines[start : start + 3])), shown)

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.body, self.fc = nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

        transfuse_blocks = shown["transfuse_blocks"]

    for level in ("stage", "layer"):
        assert blocks_of(Mine(), level).names == ("stem", "body")


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


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")  # torch's own, in torch.compile
def test_a_wrapper_is_no_network() -> None:
    model = create_model("test_resnet", classes=2)
    for wrapper, inside in ((nn.DataParallel(model), "module"), (torch.compile(model), "_orig_mod")):
        with pytest.raises(BlocksError, match=rf"stands round one, .*give the network inside, model.{inside}\."):
            blocks_of(wrapper)
