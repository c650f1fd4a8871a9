"""The tables of names are right if the same numbers compute the same: torchvision's networks are the reference."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import TransferError
from transfuse.models import Block, Blocks, create_model
from transfuse.models.architectures.other_names import DIALECTS
from transfuse.models.create import import_timm
from transfuse.models.matching import Matched, match_weights
from transfuse.models.renaming import common_names


@pytest.fixture(autouse=True)
def _own_randomness() -> Iterator[None]:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


def torchvision_network(name: str, **arguments: Any) -> nn.Module:
    import_timm()
    return getattr(importlib.import_module("torchvision.models"), name)(weights=None, **arguments)


def narrow_swin() -> nn.Module:
    import_timm()
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([4, 4], 24, [2, 2, 2, 2], [1, 2, 4, 8], [7, 7], num_classes=7)


def narrow_vit() -> nn.Module:
    import_timm()
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(96, 16, 3, 4, 48, 192, num_classes=7)


def narrow_convnext() -> nn.Module:
    import_timm()
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    sizes = ((16, 32, 2), (32, 48, 1), (48, 64, 3), (64, None, 1))
    return ConvNeXt([CNBlockConfig(*size) for size in sizes], num_classes=7)


def timm_network(name: str, **arguments: Any) -> nn.Module:
    return import_timm().create_model(name, num_classes=7, **arguments)


def without_start(make: Callable[[], nn.Module]) -> nn.Module:
    """A large network whose own random start, which takes seconds, is left out; its values are arbitrary."""
    with torch.device("meta"):
        return make().to_empty(device="cpu")


def with_values(model: nn.Module) -> nn.Module:
    """Every parameter and statistic another random number, of a size that keeps activations in bounds."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim > 1 and name.endswith("weight"):
                limit = (6 / tensor[0].numel()) ** 0.5
                tensor.uniform_(-limit, limit)
            else:
                tensor.normal_(0, 0.2)
    return model.eval()


def as_one_block(model: nn.Module, head: str) -> Blocks:
    """Blocks by hand that leave out the head only."""
    paths = tuple(name for name, _ in model.named_parameters() if not name.startswith(f"{head}."))
    return Blocks("stage", (Block("body", paths, paths[0].rpartition(".")[0]),), (head,))


def load(model: nn.Module, source: dict[str, Tensor], head: str) -> Matched:
    state = model.state_dict()
    needed = [name for name in state if not name.endswith("relative_position_index")]
    matched = match_weights(model, as_one_block(model, head), source, needed)
    model.load_state_dict({**state, **matched.tensors}, strict=True)
    return matched


SWIN = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}
VIT = {"embed_dim": 48, "depth": 3, "num_heads": 4, "img_size": 96}
CONVNEXT = {"depths": (2, 1, 3, 1), "dims": (16, 32, 48, 64)}
SEVEN = {"num_classes": 7}

# (torchvision's network and its head, timm's network and its head, image size, names changed from torchvision to timm)
PAIRS: dict[str, tuple[Callable[[], nn.Module], str, Callable[[], nn.Module], str, int, int]] = {
    "vgg11_bn": (
        lambda: without_start(lambda: torchvision_network("vgg11_bn", **SEVEN)),
        "classifier.6",
        lambda: without_start(lambda: timm_network("vgg11_bn")),
        "head",
        64,
        6,
    ),
    "mobilenet_v2": (
        lambda: torchvision_network("mobilenet_v2", **SEVEN),
        "classifier",
        lambda: timm_network("mobilenetv2_100"),
        "classifier",
        96,
        314,
    ),
    "efficientnet_b0": (
        lambda: torchvision_network("efficientnet_b0", **SEVEN),
        "classifier",
        lambda: timm_network("efficientnet_b0"),
        "classifier",
        96,
        360,
    ),
    "swin_t": (
        narrow_swin,
        "head",
        lambda: timm_network("swin_tiny_patch4_window7_224", **SWIN),
        "head",
        224,
        119,
    ),
    "convnext_tiny": (
        narrow_convnext,
        "classifier.2",
        lambda: timm_network("convnext_tiny", **CONVNEXT),
        "head.fc",
        96,
        83,
    ),
    "vit_b_16": (
        narrow_vit,
        "heads",
        lambda: timm_network("vit_base_patch16_224", **VIT),
        "head",
        96,
        44,
    ),
    "densenet121": (
        lambda: torchvision_network("densenet121", **SEVEN),
        "classifier",
        lambda: timm_network("densenet121"),
        "classifier",
        64,
        0,
    ),
    "resnet18": (
        lambda: torchvision_network("resnet18", **SEVEN),
        "fc",
        lambda: timm_network("resnet18"),
        "fc",
        64,
        0,
    ),
    "inception_v3": (
        lambda: torchvision_network("inception_v3", aux_logits=False, init_weights=False, **SEVEN),
        "fc",
        lambda: timm_network("inception_v3"),
        "fc",
        96,
        0,
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "vgg" in name else name for name in PAIRS]
)
def test_the_same_numbers_compute_the_same_in_timm_and_in_torchvision(name: str) -> None:
    make_theirs, their_head, make_ours, our_head, size, changed = PAIRS[name]
    theirs, ours = with_values(make_theirs()), with_values(make_ours())
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = theirs(images)
        assert not torch.allclose(expected, ours(images), rtol=1e-4, atol=1e-4)
        matched = load(ours, theirs.state_dict(), our_head)
        assert sum(count for _, count in matched.renamed) == changed
        assert all("of torchvision to timm's" in rule for rule, _ in matched.renamed)
        found = ours(images)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert float(expected.std()) > 1e-2
        # And back: from timm's network, which has these weights now, into torchvision's with others.
        back = load(with_values(theirs), ours.state_dict(), their_head)
        assert sum(count for _, count in back.renamed) == changed + (8 if name == "swin_t" else 0)  # its index tables
        torch.testing.assert_close(theirs(images), expected, rtol=1e-4, atol=1e-4)


def renamed_back(state: dict[str, Tensor], pairs: list[tuple[str, str]]) -> dict[str, Tensor]:
    """timm's tensors under older names, for the filters of timm to read."""
    turned = {}
    for name, tensor in state.items():
        for ours, theirs in pairs:
            name = name.replace(ours, theirs)
        turned[name] = tensor
    return turned


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_swin_of_its_authors_as_timm_reads_it() -> None:
    ours = with_values(timm_network("swin_tiny_patch4_window7_224", **SWIN))
    from timm.models.swin_transformer import checkpoint_filter_fn

    state = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    theirs = renamed_back(state, [(f"layers.{i}.downsample", f"layers.{i - 1}.downsample") for i in (1, 2, 3)])
    theirs = renamed_back(theirs, [("head.fc.", "head.")])
    theirs["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    theirs["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    assert same(checkpoint_filter_fn(theirs, ours), state)  # the reference reads these names so
    with_values(ours)
    matched = load(ours, theirs, "head")
    assert same(ours.state_dict(), state)
    assert matched.renamed == (("the names of Swin of its authors to timm's", 11),)
    assert ("layers.0.blocks.1.attn_mask", "a table that the network computes itself") in matched.excused


def test_convnext_of_its_authors_as_timm_reads_it() -> None:
    ours = with_values(timm_network("convnext_tiny", **CONVNEXT))
    from timm.models.convnext import checkpoint_filter_fn

    state = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    pairs = [(f"stages.{i}.downsample.", f"downsample_layers.{i}.") for i in (1, 2, 3)]
    pairs += [("stem.", "downsample_layers.0."), (".blocks.", "."), ("conv_dw", "dwconv"), ("mlp.fc", "pwconv")]
    theirs = renamed_back(state, [*pairs, ("head.norm.", "norm."), ("head.fc.", "head.")])
    assert same(checkpoint_filter_fn(theirs, ours), state)
    with_values(ours)
    matched = load(ours, theirs, "head.fc")
    assert same(ours.state_dict(), state)
    assert matched.renamed == (("the names of ConvNeXt of its authors to timm's", len(state)),)


def test_dinov2_with_registers_as_timm_reads_it() -> None:
    small = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 42}
    ours = with_values(timm_network("vit_small_patch14_reg4_dinov2", **small))
    from timm.models.vision_transformer import checkpoint_filter_fn

    theirs = {key: tensor.clone() for key, tensor in ours.state_dict().items() if not key.startswith("head.")}
    theirs["register_tokens"] = theirs.pop("reg_token")
    theirs["pos_embed"] = torch.randn(1, 1 + 5 * 5, 24)  # with the class token, for images of 70 px
    theirs["mask_token"] = torch.zeros(1, 24)
    expected = checkpoint_filter_fn(dict(theirs), ours)
    needed = list(expected)
    matched = match_weights(ours, as_one_block(ours, "head"), theirs, needed)
    assert same(matched.tensors, expected)
    assert matched.renamed == (("the names of DINOv2 with register tokens of its authors to timm's", 1),)
    assert matched.fitted == (("pos_embed", "positions of 5 x 5 patches resized to 3 x 3"),)
    assert matched.excused == (("mask_token", "the token of masked patches, used in pretraining only"),)


@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_positions_for_another_image_size_are_those_of_timm(name: str, size: int) -> None:
    small = {"embed_dim": 24, "depth": 1, "num_heads": 2}
    source = with_values(timm_network(name, **small)).state_dict()
    ours = with_values(timm_network(name, img_size=size, **small))
    from timm.models.vision_transformer import checkpoint_filter_fn

    matched = load(ours, source, "head")
    assert same(ours.state_dict(), checkpoint_filter_fn(dict(source), ours))
    patches = size // 16
    assert matched.fitted == (("pos_embed", f"positions of 14 x 14 patches resized to {patches} x {patches}"),)
    assert matched.renamed == ()


@pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple")  # in timm's function
def test_windows_of_another_size_are_those_of_timm() -> None:
    source = with_values(timm_network("swin_tiny_patch4_window7_224", **SWIN)).state_dict()
    ours = with_values(timm_network("swin_tiny_patch4_window7_224", img_size=64, **SWIN))
    from timm.models.swin_transformer import checkpoint_filter_fn

    matched = load(ours, source, "head")
    for name, tensor in checkpoint_filter_fn(dict(source), ours).items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=0, atol=1e-5)
    table = "attn.relative_position_bias_table"
    assert (f"layers.2.blocks.0.{table}", "relative positions of 7 x 7 windows resized to 4 x 4") in matched.fitted
    assert (f"layers.3.blocks.0.{table}", "relative positions of 7 x 7 windows resized to 2 x 2") in matched.fitted
    assert not any(name.startswith(("layers.0.", "layers.1.")) for name, _ in matched.fitted)


def test_positions_of_torchvision_are_resized_too() -> None:
    theirs, ours = (
        with_values(narrow_vit()),
        with_values(timm_network("vit_base_patch16_224", **{**VIT, "img_size": 64})),
    )
    matched = load(ours, theirs.state_dict(), "head")
    assert matched.fitted == (("pos_embed", "positions of 6 x 6 patches resized to 4 x 4"),)
    assert load(theirs, ours.state_dict(), "heads").fitted == (
        ("encoder.pos_embedding", "positions of 4 x 4 patches resized to 6 x 6"),
    )


def test_distilled_and_plain_deit_are_told_apart() -> None:
    small = {"embed_dim": 24, "depth": 1, "num_heads": 2}
    plain = timm_network("deit_tiny_patch16_224", **small)
    distilled = timm_network("deit_tiny_distilled_patch16_224", **small)
    with pytest.raises(
        TransferError, match=r"(?s)1 unexpected:\n \+ dist_token.*weights of a distilled DeiT: create the d"
    ):
        load(plain, distilled.state_dict(), "head")
    with pytest.raises(
        TransferError, match=r"(?s)- dist_token.*The network is a distilled DeiT, these are weights of a p"
    ):
        load(distilled, plain.state_dict(), "head")
    body = [key for key in distilled.state_dict() if not key.startswith("head")]
    blocks = as_one_block(distilled, "head")
    matched = match_weights(distilled, blocks, with_values(distilled).state_dict(), body)
    assert ("head_dist.weight", "classifier of the source") in matched.excused


def test_encoders_of_unets_take_weights_of_networks_and_give_them() -> None:
    import_timm()
    import segmentation_models_pytorch as smp

    for encoder, timm_name, size in (("resnet34", "resnet34", 64), ("mobilenet_v2", "mobilenetv2_100", 64)):
        unet = with_values(smp.Unet(encoder, encoder_weights=None, in_channels=1, classes=2))
        network = with_values(timm_network(timm_name))
        needed = [key for key in unet.state_dict() if key.startswith("encoder.")]
        blocks = as_one_block(unet, "segmentation_head")
        matched = match_weights(unet, blocks, network.state_dict(), needed)
        assert list(matched.tensors) == needed
        assert matched.first_layer == "sum: 3 to 1 channels"
        assert matched.renamed[0][0] == "timm's names to the names of U-Net of segmentation-models-pytorch"
        unet.load_state_dict({**unet.state_dict(), **matched.tensors})
        unet, network = unet.double(), network.double()
        grey = torch.randn(2, 1, size, size, dtype=torch.float64)
        with torch.no_grad():
            deepest = unet.encoder(grey)[-1]
            features = network.forward_features(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(deepest, features, rtol=0, atol=1e-4)  # conv1 is summed in float32
        body = [key for key in network.state_dict() if not key.startswith(("fc.", "classifier."))]
        colour = with_values(smp.Unet(encoder, encoder_weights=None, in_channels=3, classes=2))
        back = match_weights(
            network, as_one_block(network, "fc" if "resnet" in encoder else "classifier"), colour.state_dict(), body
        )
        assert ("segmentation_head.0.weight", "decoder of the source") in back.excused
        assert torch.equal(next(iter(back.tensors.values())), colour.encoder.state_dict()[needed[0][8:]])


def test_an_auxiliary_classifier_is_excused_by_name() -> None:
    theirs = torchvision_network("inception_v3", aux_logits=True, init_weights=False, **SEVEN)
    ours = timm_network("inception_v3")
    matched = load(ours, with_values(theirs).state_dict(), "fc")
    excused = [name for name, reason in matched.excused if reason == "auxiliary classifier of the source"]
    assert len(excused) == 14
    assert all(name.startswith("AuxLogits.") for name in excused)
    with pytest.raises(TransferError, match=r"12 missing in the source:\n - AuxLogits"):
        load(theirs, ours.state_dict(), "fc")


def test_prefixes_and_old_names() -> None:
    ours = timm_network("densenet121")
    state = with_values(ours).state_dict()
    inner = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])")
    old = {f"module.{inner.sub(lambda found: '.'.join(found.groups()), key)}": value for key, value in state.items()}
    assert "module.features.denseblock1.denselayer2.norm.1.weight" in old
    matched = load(ours, old, "classifier")
    assert matched.renamed == (
        ("prefix of DataParallel, DistributedDataParallel or torch.compile removed", 727),
        ("the names of DenseNet of torchvision before 0.3 to timm's", 58 * 12),
    )
    for prefix in ("model.", "backbone.", "_orig_mod.module.", "model._orig_mod.", "module.model.module."):
        load(ours, {f"{prefix}{key}": value for key, value in state.items()}, "classifier")
    compiled = nn.Sequential()
    compiled.add_module("module", ours)
    blocks = as_one_block(compiled, "module.classifier")
    names = list(compiled.state_dict())
    assert match_weights(compiled, blocks, state, names).renamed == (
        ("prefix of DataParallel, DistributedDataParallel or torch.compile added", 727),
    )
    assert match_weights(compiled, blocks, compiled.state_dict(), names).renamed == ()


def test_two_names_that_become_one_are_an_error() -> None:
    state = {"fc.weight": torch.ones(1), "module.fc.weight": torch.ones(1)}
    with pytest.raises(TransferError, match=r"'fc.weight' and 'module.fc.weight', would both be named 'fc.weight'"):
        common_names(["fc.weight"], state, None)


def test_names_of_other_families_are_left_alone_and_named() -> None:
    theirs = torchvision_network("mobilenet_v2", **SEVEN).state_dict()
    resnet = create_model("resnet18", classes=7)
    with pytest.raises(
        TransferError, match=r"(?s)\+ features.0.0.weight.*names are those of MobileNetV2 of torchvision"
    ):
        load(resnet, theirs, "fc")
    assert common_names(resnet.state_dict(), theirs, "resnet").renamed == ()


def test_every_dialect_is_told_apart_from_timm_and_from_every_other() -> None:
    spoken = {"resnet18", "densenet121", "efficientnet_b0", "mobilenetv2_100", "convnext_tiny", "vgg11", "inception_v3"}
    spoken |= {"swin_tiny_patch4_window7_224", "vit_base_patch16_224", "deit_tiny_distilled_patch16_224"}
    for name in spoken:
        with torch.device("meta"):
            network = timm_network(name)
        assert common_names([], network.state_dict(), None).spoken == (), name
    assert len({(dialect.network, dialect.program) for dialect in DIALECTS}) == len(DIALECTS)


def test_the_table_in_the_docs_is_complete() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| network | names of | what differs |") + 2
    rows = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in takewhile(str.strip, lines[start:])]
    assert sorted(rows) == sorted((dialect.network or "any", dialect.program) for dialect in DIALECTS)
