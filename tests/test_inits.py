from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import TransferError
from transfuse.inits import generator_of, initialise_, mean_var_, sampled_, shuffled_
from transfuse.models import Blocks, blocks_of, create_model

SOURCE = "weights/mobilenetv2_100/mobilenetv2_100_imagenet1k.safetensors"


def build(name: str = "cbr_demo", level: str = "stage", **arguments: object) -> tuple[nn.Module, Blocks]:
    model = create_model(name, classes=5, **arguments)  # type: ignore[arg-type]
    return model, blocks_of(model, level)


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor + 0.25 for key, tensor in model.state_dict().items()}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_schemes_against_their_definitions() -> None:
    source = torch.distributions.Gamma(2.0, 1.0).sample((40, 50)) - 1
    drawn = mean_var_(torch.empty(40, 50), source, generator())
    assert float(drawn.mean()) == pytest.approx(float(source.mean()), abs=5 * float(source.std()) / 2000**0.5)
    assert float(drawn.std()) == pytest.approx(float(source.std()), rel=5 / 4000**0.5)
    standard = torch.empty(40, 50).normal_(generator=generator())
    torch.testing.assert_close((drawn - source.mean()) / source.std(), standard)
    hit = sampled_(torch.empty(40, 50), source, generator()).unique().numel() / source.unique().numel()
    assert hit == pytest.approx(1 - 1 / 2.718281828, abs=0.03)  # with replacement
    shuffled = shuffled_(torch.empty(40, 50), source, generator())
    assert torch.equal(shuffled.flatten().sort().values, source.flatten().sort().values)
    assert not torch.equal(shuffled.sum(1), source.sum(1))  # over the whole tensor, not inside of its rows
    for scheme in (mean_var_, sampled_, shuffled_):
        with pytest.raises(TransferError, match=r"draws from source weights, and there are none"):
            scheme(torch.empty(2), None, generator())


def test_a_generator_is_a_function_of_seed_and_name() -> None:
    assert generator_of(0, "a").initial_seed() == int(hashlib.sha256(b"0/a").hexdigest()[:16], 16) >> 1
    seeds = {generator_of(seed, name).initial_seed() for seed in range(3) for name in ("a", "b", "1/a")}
    assert len(seeds) == 9


@pytest.mark.parametrize(
    ("random", "expected"),
    [
        ("default", (2 / (25 * 64)) ** 0.5),
        ("he_fan_out", (2 / (25 * 64)) ** 0.5),
        ("glorot_normal", (2 / (25 * 96)) ** 0.5),
        ("trunc_normal", 0.02),
    ],
)
def test_spread_of_random_convolutions(random: str, expected: float) -> None:
    model, blocks = build()  # the third layer is 5 x 5, from 32 to 64 channels
    initialise_(model, blocks, random=random)
    weight = model.get_submodule("layer3.conv").weight.detach()
    assert float(weight.std()) == pytest.approx(expected, rel=0.02)
    assert abs(float(weight.mean())) < 4 * expected / weight.numel() ** 0.5


def test_default_of_depthwise_and_biased_layers_is_timm_s() -> None:
    model, blocks = build("efficientnet_b0", "block")
    theirs = {key: float(tensor.std()) for key, tensor in model.state_dict().items() if tensor.numel() > 2000}
    transfer = initialise_(model, blocks)
    ours = model.state_dict()
    drawn = [row.name for row in transfer.tensors if row.treatment == "random" and row.name in theirs]
    assert len(drawn) > 40
    for name in drawn:
        assert float(ours[name].std()) == pytest.approx(theirs[name], rel=0.1), name
    biases = [row.name for row in transfer.tensors if row.treatment == "random" and row.name.endswith(".bias")]
    assert biases
    assert not any(ours[name].any() for name in biases)


def test_biases_follow_the_rest_or_are_random() -> None:
    model, blocks = build("efficientnet_b0", "block")
    source, name = trained(model), "blocks.1.0.se.conv_reduce.bias"
    source[name] = torch.randn(len(source[name]), generator=generator())
    initialise_(model, blocks, source=source, rest="shuffled")
    assert torch.equal(model.state_dict()[name].sort().values, source[name].sort().values)
    transfer = initialise_(model, blocks, source=source, rest="shuffled", biases="random")
    assert not model.state_dict()[name].any()
    assert {row.treatment for row in transfer.tensors if row.name == name} == {"random"}


def test_overrides_the_longest_path_wins() -> None:
    model, blocks = build("test_resnet", "stage")
    source = trained(model)
    overrides = {"layer2": "transfer", "layer2.0.conv1": "shuffled", "conv1": "trunc_normal", "bn1": "mean_var"}
    transfer = initialise_(model, blocks, source=source, overrides=overrides)
    treatments = {row.name: row.treatment for row in transfer.tensors}
    state = model.state_dict()
    assert treatments["layer2.0.conv2.weight"] == treatments["layer2.0.bn1.running_mean"] == "transferred"
    assert treatments["layer2.0.conv1.weight"] == "shuffled"
    assert torch.equal(state["layer2.0.conv2.weight"], source["layer2.0.conv2.weight"])
    assert state["conv1.0.weight"].abs().max() < 0.1
    assert treatments["bn1.running_var"] == "mean_var"
    assert treatments["conv1.1.weight"] == "identity"  # the norm layers inside of conv1 keep to `norm`
    assert treatments["layer3.0.conv1.weight"] == "random"


def test_a_pruned_top_may_differ_from_its_source() -> None:
    model, blocks = build()
    source = trained(create_model("cbr_demo", classes=7))
    source["layer4.conv.weight"] = source["layer4.conv.weight"][:64]
    before = model.state_dict()["layer4.conv.weight"].clone()
    with pytest.raises(TransferError, match=r"~ layer4.conv.weight"):
        initialise_(model, blocks, source=source, depth="all")
    assert torch.equal(model.state_dict()["layer4.conv.weight"], before)
    assert initialise_(model, blocks, source=source, depth="layer3").coverage > 0.2


def test_nothing_changes_unless_everything_fits() -> None:
    model, blocks = build("test_resnet")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for wrong in (trained(create_model("cbr_demo", classes=5)), {**trained(model), "layer9.weight": torch.ones(1)}):
        with pytest.raises(TransferError, match=r"nothing was changed"):
            initialise_(model, blocks, source=wrong, depth="all")
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_grey_images_from_a_colour_source() -> None:
    grey, blocks = build(channels=1)
    source = trained(create_model("cbr_demo", classes=5))
    transfer = initialise_(grey, blocks, source=source, depth="all")
    assert transfer.first_layer == "sum: 3 to 1 channels"
    torch.testing.assert_close(
        grey.state_dict()["layer1.conv.weight"], source["layer1.conv.weight"].sum(1, keepdim=True)
    )
    assert initialise_(grey, blocks, source=source, depth="all", first_layer="first").first_layer.startswith("first")


def test_foreign_layers_use_their_own_reset_without_touching_the_global_generator() -> None:
    model = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(3, 2))
    blocks = blocks_of(model)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    initialise_(model, blocks, seed=4)
    first = model[0].weight.detach().clone()
    torch.manual_seed(1)
    initialise_(model, blocks, seed=4)
    assert torch.equal(first, model[0].weight)
    torch.manual_seed(0)
    initialise_(model, blocks, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, model[0].weight)


class Scaled(nn.Module):
    """A parameter that says nothing about how it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(3))

    def forward(self, features: Tensor) -> Tensor:
        return features * self.gamma


def test_unknown_parameters_are_an_error_with_a_cure() -> None:
    model = nn.Sequential(Scaled(), nn.Linear(3, 2))
    blocks = blocks_of(model)
    with pytest.raises(TransferError, match=r"Nothing is known about how '0.gamma' of a Scaled starts at random"):
        initialise_(model, blocks)
    source = {**model.state_dict(), "0.gamma": torch.tensor([1.0, 2.0, 3.0])}
    transfer = initialise_(model, blocks, source=source, overrides={"0.gamma": "shuffled"})
    assert transfer.counts == {"shuffled": 1, "fresh": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rest": "meanvar"}, r"Unknown rest='meanvar': did you mean 'mean_var'"),
        ({"random": "he"}, r"Unknown random='he': .*he_fan_out"),
        ({"norm": "none"}, r"Unknown norm='none': .*identity"),
        ({"biases": "no"}, r"Unknown biases='no'"),
        ({"head": "new"}, r"Unknown head='new': .*fresh"),
        ({"rest": "mean_var"}, r"tensors want a source \(the first is 'layer1.conv.weight'\), and there is none"),
        ({"depth": 1}, r"tensors want a source"),
        ({"source": {"a": torch.ones(1)}}, r"A source is given and nothing of it is used: give depth='all'"),
        ({"source": {"epoch": 3}, "depth": 1}, r"The source holds 'epoch', which is no tensor"),
        ({"overrides": {"layer7": "mean_var"}}, r"no block, module or parameter 'layer7', did you mean 'layer"),
        ({"overrides": {"layer1": "gaussian"}}, r"overrides: 'layer1' cannot be 'gaussian'"),
        ({"overrides": {"layer1.conv": "identity"}}, r"'layer1.conv' cannot be 'identity'"),
        ({"overrides": {"layer1.bn": "he_fan_out"}}, r"'layer1.bn' cannot be 'he_fan_out', .*Choices: transfer"),
    ],
)
def test_options_that_cannot_be_meant(arguments: dict[str, object], message: str) -> None:
    model, blocks = build()
    with pytest.raises(TransferError, match=message):
        initialise_(model, blocks, **arguments)  # type: ignore[arg-type]


def test_untrained_or_folded_statistics_are_refused_only_where_they_would_be_used() -> None:
    model, blocks = build()
    source = create_model("cbr_demo", classes=5).state_dict()
    for arguments in ({"depth": "all"}, {"rest": "mean_var", "norm": "transfer"}):
        with pytest.raises(TransferError, match=r"mean 0 and variance 1"):
            initialise_(model, blocks, source=source, **arguments)  # type: ignore[arg-type]
    initialise_(model, blocks, source=source, rest="mean_var")
    assert initialise_(model, blocks, source=source, depth="all", identity_statistics="accept").coverage == 1


def test_a_network_without_values_cannot_be_initialised() -> None:
    model, blocks = build(device="meta")
    with pytest.raises(TransferError, match=r"meta device has no values to initialise"):
        initialise_(model, blocks)


def test_imagenet_weights_cover_the_backbone_and_still_classify(real_data: Path) -> None:
    path = real_data / SOURCE
    strict = create_model("mobilenetv2_100", classes=1000, padding="same")
    blocks = blocks_of(strict)
    transfer = initialise_(strict, blocks, source=str(path), depth="all", head="source")
    assert transfer.transferred_share == 1.0
    assert transfer.parameters == 3_504_872
    assert transfer.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert transfer.source == str(path)
    from safetensors.torch import load_file

    reference = create_model("mobilenetv2_100", classes=1000, padding="same")
    reference.load_state_dict(load_file(path), strict=True)
    images = torch.rand(2, 3, 96, 96, generator=generator()) * 2 - 1
    with torch.no_grad():
        assert torch.equal(strict.eval()(images), reference.eval()(images))


def test_imagenet_weights_go_to_two_classes_and_grey_images(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFUSE_DATA", str(real_data))
    model = create_model("mobilenetv2_100", classes=2, channels=1, padding="same")
    transfer = initialise_(model, blocks_of(model), source=SOURCE, depth="all")
    assert transfer.coverage == 1.0
    assert transfer.counts == {"transferred": 312, "fresh": 2}
    assert transfer.excused == (
        ("classifier.bias", "classifier of the source"),
        ("classifier.weight", "classifier of the source"),
    )
    assert transfer.first_layer == "sum: 3 to 1 channels"
    partly = initialise_(model, blocks_of(model), source=SOURCE, depth="middle", rest="mean_var")
    assert 0 < partly.coverage < 0.5


@pytest.mark.parametrize("file", ["weights/resnet_cifar10/resnet20-12fca82f.th", SOURCE])
def test_real_weights_of_another_architecture_are_refused(real_data: Path, file: str) -> None:
    model, blocks = build("resnet18")
    with pytest.raises(
        TransferError, match=r"(?s)missing in the source:.* - .*unexpected:.* \+ |missing.* - .*other shape:.* ~ "
    ):
        initialise_(model, blocks, source=str(real_data / file), depth="all")
