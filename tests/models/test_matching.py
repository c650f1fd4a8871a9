from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import TransferError
from transfuse.models import Block, Blocks, blocks_of, create_model
from transfuse.models.create import import_timm
from transfuse.models.matching import fit_channels, match_weights
from transfuse.models.weights import load_weights


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor + 0.25 for key, tensor in model.state_dict().items()}


@pytest.fixture
def model() -> nn.Module:
    return create_model("cbr_demo", classes=5)


def body(model: nn.Module) -> list[str]:
    return [key for key in model.state_dict() if not key.startswith("head.")]


def test_everything_is_matched_and_the_classifier_of_the_source_is_excused_by_name(model: nn.Module) -> None:
    source = trained(create_model("cbr_demo", classes=1000))
    matched = match_weights(model, blocks_of(model), source, body(model))
    assert list(matched.tensors) == body(model)
    assert matched.excused == (
        ("head.weight", "classifier of the source"),
        ("head.bias", "classifier of the source"),
    )
    assert matched.first_layer == ""


def test_another_architecture_lists_both_sides(model: nn.Module) -> None:
    source = trained(create_model("cbr_small", classes=5))
    source["extra.weight"] = torch.ones(1)
    del source["layer2.bn.bias"]
    with pytest.raises(TransferError) as caught:
        match_weights(model, blocks_of(model), source, body(model))
    message = str(caught.value)
    assert "These weights (26 tensors) are not of this Sequential; nothing was changed." in message
    assert "1 missing in the source:\n - layer2.bn.bias" in message
    assert "1 unexpected:\n + extra.weight" in message
    assert " ~ layer1.conv.weight: (32, 3, 7, 7) in the source, (16, 3, 5, 5) in the network" in message
    assert " ~ ... (" in message
    assert message.endswith("or give weights of this one.")


def test_a_longer_network_is_not_taken_for_a_shorter_one() -> None:
    shallow, deep = create_model("resnet18", classes=5, device="meta"), create_model("resnet34", classes=5)
    needed = [key for key in shallow.state_dict() if not key.startswith("fc.")]
    with pytest.raises(TransferError, match=r"unexpected:\n \+ layer1.2.conv1.weight"):
        match_weights(shallow, blocks_of(shallow), trained(deep), needed)


def test_what_is_not_needed_may_have_any_shape(model: nn.Module) -> None:
    source = trained(model)
    source["layer4.conv.weight"] = torch.ones(3)
    lower = [key for key in body(model) if not key.startswith("layer4.")]
    matched = match_weights(model, blocks_of(model), source, lower)
    assert ("layer4.conv.weight", "not asked for") in matched.excused
    with pytest.raises(TransferError, match=r"~ layer4.conv.weight: \(3,\) in the source"):
        match_weights(model, blocks_of(model), source, body(model))


def test_old_checkpoints_have_no_counter_of_batches(model: nn.Module) -> None:
    source = {key: tensor for key, tensor in trained(model).items() if "num_batches" not in key}
    matched = match_weights(model, blocks_of(model), source, body(model))
    assert matched.tensors["layer1.bn.num_batches_tracked"] == 0
    assert ("layer1.bn.num_batches_tracked", "not in the source, counts from 0") in matched.excused


def folded(source: dict[str, Tensor], layers: str = "", variance: float = 1.0) -> dict[str, Tensor]:
    """The source with the statistics of all layers, or those whose names begin so, as folding leaves them."""
    values = {"running_mean": 0.0, "running_var": variance}
    return {
        key: torch.full_like(tensor, values[key.rpartition(".")[2]])
        if key.endswith(tuple(values)) and key.startswith(layers)
        else tensor
        for key, tensor in source.items()
    }


def test_folded_batch_norm_is_refused_and_named_unless_accepted(model: nn.Module) -> None:
    source = trained(model)
    with pytest.raises(
        TransferError,
        match=r"All 4 batch-norm layers .* mean 0 and variance 1 \(layer1.bn, layer2.bn, layer3.bn, layer4.bn\).* "
        r"folded .*real statistics, .*norm: recalibrate, .*identity_statistics='accept'",
    ):
        match_weights(model, blocks_of(model), folded(source), body(model))
    match_weights(model, blocks_of(model), folded(source), body(model), identity_statistics="accept")
    some = folded(source, "layer3.")
    with pytest.raises(TransferError, match=r"1 of 4 batch-norm layers .* variance 1 \(layer3.bn\)"):
        match_weights(model, blocks_of(model), some, body(model))
    lower = [key for key in body(model) if key.startswith(("layer1.", "layer2."))]
    match_weights(model, blocks_of(model), some, lower)  # the folded layer is not asked for
    some["layer3.bn.running_mean"][0] = 0.1
    match_weights(model, blocks_of(model), some, body(model))
    with pytest.raises(TransferError, match=r"Unknown identity_statistics 'acept': did you mean 'accept'"):
        match_weights(model, blocks_of(model), source, body(model), identity_statistics="acept")


def test_a_folded_variance_may_leave_room_for_epsilon(model: nn.Module) -> None:
    for epsilon in (1e-5, 1e-3):
        with pytest.raises(TransferError, match=r"All 4 batch-norm layers"):
            match_weights(model, blocks_of(model), folded(trained(model), variance=1 - epsilon), body(model))
    match_weights(model, blocks_of(model), folded(trained(model), variance=0.99), body(model))


def test_values_that_are_no_numbers(model: nn.Module) -> None:
    source = trained(model)
    source["layer2.conv.weight"][0] = float("nan")
    with pytest.raises(TransferError, match=r"NaN or infinite values: layer2.conv.weight. Use an earlier checkpoint"):
        match_weights(model, blocks_of(model), source, body(model))


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda tensor: tensor.to(torch.int8), r"layer2.conv.weight are int8; .*before they were quantised"),
        (lambda tensor: tensor.to(torch.complex64), r"layer2.conv.weight are complex64; .*convert them"),
        (lambda tensor: tensor.to_sparse(), r"layer2.conv.weight are sparse_coo; .*to_dense\(\)"),
        (lambda tensor: tensor.to("meta"), r"layer2.conv.weight are on the meta device; .*device='cpu'"),
    ],
)
def test_what_holds_no_plain_numbers_is_refused(
    model: nn.Module, convert: Callable[[Tensor], Tensor], message: str
) -> None:
    source = trained(model)
    source["layer2.conv.weight"] = convert(source["layer2.conv.weight"])
    with pytest.raises(TransferError, match=message):
        match_weights(model, blocks_of(model), source, body(model))


def test_a_prefix_that_nobody_knows_is_named(model: nn.Module) -> None:
    source = {f"net.encoder_q.{key}": tensor for key, tensor in trained(model).items()}
    source["net.queue"] = torch.zeros(1)
    with pytest.raises(TransferError, match=r"there with 'net.encoder_q.' before them: give \{name.removeprefix\('net"):
        match_weights(model, blocks_of(model), source, body(model))


def test_half_precision_is_converted(model: nn.Module) -> None:
    source = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in trained(model).items()}
    matched = match_weights(model, blocks_of(model), source, body(model))
    assert all(
        matched.tensors[key].dtype == tensor.dtype
        for key, tensor in model.state_dict().items()
        if key in matched.tensors
    )


def test_summed_first_layer_gives_on_grey_what_colour_gave() -> None:
    weight = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    grey = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    expected = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    torch.testing.assert_close(nn.functional.conv2d(grey, fit_channels(weight, 1)), expected)
    for channels in (2, 5):
        for how in ("sum",):
            fitted = fit_channels(weight, channels, how)
            torch.testing.assert_close(nn.functional.conv2d(grey.expand(-1, channels, -1, -1), fitted), expected)
    six = fit_channels(weight, 6, "repeat")
    torch.testing.assert_close(nn.functional.conv2d(grey.expand(-1, 6, -1, -1), six), expected)
    assert torch.equal(fit_channels(weight, 2, "first"), weight[:, :2])
    with pytest.raises(TransferError, match=r"first_layer='first' wants 4 channels and the source has 3: use 'sum'"):
        fit_channels(weight, 4, "first")
    with pytest.raises(TransferError, match=r"Unknown first_layer 'summ': did you mean 'sum'"):
        fit_channels(weight, 1, "summ")


def test_only_the_first_convolution_may_have_other_channels() -> None:
    grey, colour = (create_model("test_resnet", classes=2, channels=channels) for channels in (1, 3))
    matched = match_weights(grey, blocks_of(grey), trained(colour), [k for k in grey.state_dict() if k[:2] != "fc"])
    assert matched.first_layer == "sum: 3 to 1 channels"
    assert matched.tensors["conv1.0.weight"].shape[1] == 1


@pytest.mark.parametrize(
    ("name", "first", "size"),
    [
        ("inception_v3", "Conv2d_1a_3x3.conv.weight", 96),
        ("deit_tiny_patch16_224", "patch_embed.proj.weight", 224),
        ("swin_tiny_patch4_window7_224", "patch_embed.proj.weight", 224),
        ("convnext_atto", "stem.0.weight", 64),
        ("densenet121", "features.conv0.weight", 64),
    ],
)
def test_first_layers_of_every_kind_are_fitted(name: str, first: str, size: int) -> None:
    timm = import_timm()
    colour = timm.create_model(name, num_classes=3).eval()
    for channels, how in ((1, "sum"), (1, "first"), (4, "repeat")):
        model = timm.create_model(name, num_classes=3, in_chans=channels)
        blocks = Blocks("stage", (Block("body", tuple(dict(model.named_children())), first.rpartition(".")[0]),), ())
        source = trained(colour)
        matched = match_weights(model, blocks, source, list(model.state_dict()), first_layer=how)
        assert matched.first_layer == f"{how}: 3 to {channels} channels"
        assert torch.equal(matched.tensors[first], fit_channels(source[first], channels, how))
        assert matched.tensors[first].shape[1] == channels
        assert matched.fitted == ()


def in_three_dimensions(channels: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(conv=nn.Conv3d(channels, 4, 3), bn=nn.BatchNorm3d(4), flatten=nn.Flatten(), fc=nn.Linear(4, 2))
    )


def test_volumes() -> None:
    grey, colour = in_three_dimensions(1), trained(in_three_dimensions(3))
    needed = ["conv.weight", "conv.bias", *(key for key in colour if key.startswith("bn."))]
    matched = match_weights(grey, blocks_of(grey), colour, needed, first_layer="first")
    assert torch.equal(matched.tensors["conv.weight"], colour["conv.weight"][:, :1])
    flat = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 4, 3), bn=nn.BatchNorm2d(4), fc=nn.Linear(4, 2)))
    with pytest.raises(
        TransferError,
        match=r"(?s)~ conv.weight.*convolutions are 2D and the network's are 3D; weights are not inflated",
    ):
        match_weights(grey, blocks_of(grey), trained(flat), needed)


def test_cifar_resnets_of_others_give_their_classifier_too(real_data: Path) -> None:
    weights = load_weights(real_data / "weights" / "resnet_cifar10" / "resnet20-12fca82f.th")
    model = create_model("resnet20", classes=10)
    state = model.state_dict()
    matched = match_weights(model, blocks_of(model), weights, list(state))
    model.load_state_dict(matched.tensors, strict=True)
    assert torch.equal(model.state_dict()["fc.weight"], weights["module.linear.weight"])
    assert [count for _, count in matched.renamed] == [len(weights), 2]
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722


def test_weights_of_a_deeper_network_are_named_as_such() -> None:
    deeper = create_model("resnet32", classes=2, channels=3).state_dict()
    model = create_model("resnet20", classes=2, channels=3)
    needed = [name for name in model.state_dict() if not name.startswith("fc.")]
    with pytest.raises(TransferError, match=r"layer1, layer2, layer3 of the source hold 5, 5, 5 blocks, .* 3, 3, 3\."):
        match_weights(model, blocks_of(model), deeper, needed)
