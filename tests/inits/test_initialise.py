from __future__ import annotations

import copy
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import TransferError
from transfuse.inits import RANDOM, RESAMPLED, generator_of, initialise_
from transfuse.models import Blocks, add_lora_, blocks_of, create_model, merge_lora_
from transfuse.models.draws import fresh_linear_
from transfuse.models.weights import Weights, WeightsFile

SOURCE = "weights/mobilenetv2_100/mobilenetv2_100_imagenet1k.safetensors"


def build(name: str = "cbr_demo", level: str = "stage", **arguments: object) -> tuple[nn.Module, Blocks]:
    model = create_model(name, classes=5, **arguments)  # type: ignore[arg-type]
    return model, blocks_of(model, level)


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor + 0.25 for key, tensor in model.state_dict().items()}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
        ("kaiming_uniform", (1 / (3 * 25 * 32)) ** 0.5),
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
        self.alpha = nn.Parameter(torch.ones(3))

    def forward(self, features: Tensor) -> Tensor:
        return features * self.alpha


def test_unknown_parameters_are_an_error_with_a_cure() -> None:
    model = nn.Sequential(Scaled(), nn.Linear(3, 2))
    blocks = blocks_of(model)
    with pytest.raises(TransferError, match=r"Nothing is known about how '0.alpha' of a Scaled starts at random"):
        initialise_(model, blocks)
    source = {**model.state_dict(), "0.alpha": torch.tensor([1.0, 2.0, 3.0])}
    transfer = initialise_(model, blocks, source=source, overrides={"0.alpha": "shuffled"})
    assert transfer.counts == {"shuffled": 1, "fresh": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rest": "meanvar"}, r"Unknown rest='meanvar': did you mean 'mean_var'"),
        ({"random": "he"}, r"Unknown random='he': .*he_fan_out"),
        ({"norm": "none"}, r"Unknown norm='none': .*identity"),
        ({"biases": "no"}, r"Unknown biases='no'"),
        ({"head": "new"}, r"Unknown head='new': .*fresh"),
        ({"embeddings": "keeep"}, r"Unknown embeddings='keeep': did you mean 'keep'"),
        ({"gabor_scale": "max"}, r"Unknown gabor_scale='max': .*max_abs"),
        ({"norm": "recalibrate"}, r"norm='recalibrate' measures .* there are none: give images="),
        ({"images": []}, r"images are for norm='recalibrate' and norm is 'identity': leave them out"),
        ({"seed": 1.0}, r"seed=1.0: expected a whole number"),
        ({"seed": None}, r"seed=None: expected a whole number"),
        ({"source": nn.Linear(1, 1), "depth": 1}, r"source is a Linear; expected a state dict"),
        ({"source": Path("nowhere.pth"), "depth": 1}, r"There is no file of weights 'nowhere.pth'"),
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


def test_torch_s_own_start_of_biased_layers() -> None:
    model = nn.Sequential(nn.Conv2d(4, 50, 3, groups=2), nn.Flatten(), nn.Linear(50, 40), nn.Linear(40, 2))
    blocks = blocks_of(model)
    initialise_(model, blocks, random="kaiming_uniform")
    for layer, fan_in in ((model[0], 18), (model[2], 50)):
        for tensor in (layer.weight, layer.bias):
            assert 0.85 / fan_in**0.5 < tensor.abs().max() <= 1 / fan_in**0.5
    initialise_(model, blocks, random="he_fan_out")
    assert not model[0].bias.any()


def test_statistics_are_measured_on_images_and_the_function_stays() -> None:
    model, blocks = build("test_resnet")
    source = {key: torch.rand(tensor.shape, generator=generator()) * 0.2 for key, tensor in model.state_dict().items()}
    for key in source:  # a folded batch norm
        if key.endswith(("running_mean", "num_batches_tracked")):
            source[key] = torch.zeros_like(model.state_dict()[key])
        if key.endswith("running_var"):
            source[key] = torch.ones_like(source[key])
    images = torch.rand(4, 3, 64, 64, generator=generator())
    plain, _ = build("test_resnet")
    initialise_(plain, blocks, source=source, depth="middle", identity_statistics="accept")
    transfer = initialise_(model, blocks, source=source, depth="middle", norm="recalibrate", images=[images])
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), plain.eval()(images), rtol=1e-3, atol=1e-4)
    treatments = {row.name: row.treatment for row in transfer.tensors}
    for name in ("bn1", "layer3.0.bn1"):  # transferred, and identity before it was measured
        assert model.get_submodule(name).running_mean.abs().max() > 1e-3
        leaves = ("weight", "bias", "running_mean", "running_var")
        assert {treatments[f"{name}.{leaf}"] for leaf in leaves} == {"recalibrated"}
    assert treatments["layer1.0.conv1.weight"] == "transferred"
    assert treatments["layer3.0.conv1.weight"] == "random"
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(TransferError, match=r"no images"):
        initialise_(model, blocks, seed=9, norm="recalibrate", images=[])
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_the_record_keeps_where_loaded_weights_come_from() -> None:
    model, blocks = build()
    file = WeightsFile("mine", Path("mine.safetensors"), "f" * 64, "apache-2.0")
    transfer = initialise_(model, blocks, source=Weights(file, trained(model)), depth="all")
    assert (transfer.source, transfer.sha256, transfer.licence) == ("mine", "f" * 64, "apache-2.0")
    assert initialise_(model, blocks, source=trained(model), depth="all").source == "state dict"


@pytest.mark.parametrize("rest", ["mean_var", "sampled", "shuffled"])
def test_a_network_may_be_its_own_source(rest: str) -> None:
    (model, blocks), (other, _) = build("test_efficientnet"), build("test_efficientnet")
    source = trained(model)
    for network in (model, other):
        network.load_state_dict(source)
    initialise_(other, blocks, source=source, depth=2, rest=rest)
    initialise_(model, blocks, source=model.state_dict(), depth=2, rest=rest)
    assert all(torch.equal(other.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


def test_tied_weights_are_drawn_once() -> None:
    model = nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 300), nn.Linear(300, 2))
    model[2].weight = model[0].weight
    initialise_(model, blocks_of(model), seed=1)
    expected = torch.empty(300, 300)
    fresh_linear_(expected, 300, 1, "2.weight")
    assert model[0].weight is model[2].weight
    assert torch.equal(model[0].weight, expected)


def test_tied_weights_cannot_have_two_treatments() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    source = trained(model)
    blocks = blocks_of(model)
    with pytest.raises(
        TransferError,
        match=r"'0.weight' and '2.weight' .* transferred in '0' and random in '2'.*2.weight': 'transfer'",
    ):
        initialise_(model, blocks, source=source, depth=1)
    assert initialise_(model, blocks, source=source, depth=1, overrides={"2.weight": "transfer"}).counts == {
        "transferred": 3,
        "random": 1,
        "fresh": 2,
    }
    initialise_(model, blocks, source=source, depth="all")
    model[3].weight = model[0].weight
    source = trained(model)
    with pytest.raises(TransferError, match=r"transferred in '0' and fresh in 'head'.*'3.weight': 'transfer'"):
        initialise_(model, blocks, source=source, depth="all")


def test_any_number_of_threads_any_layout_and_precision_draw_the_same() -> None:
    threads = torch.get_num_threads()
    source = trained(create_model("resnet18", classes=5))
    states = []
    for count, change in ((1, None), (3, None), (2, torch.channels_last), (2, torch.float64)):
        model, blocks = build("resnet18")
        if change is torch.channels_last:
            model.to(memory_format=change)
        elif change is not None:
            model.to(change)
        torch.set_num_threads(count)
        try:
            for rest in ("mean_var", "random", "shuffled"):
                initialise_(model, blocks, source=None if rest == "random" else source, rest=rest, seed=2)
                assert torch.get_num_threads() == count
                with ThreadPoolExecutor(1) as pool:
                    assert pool.submit(torch.get_num_threads).result() == count
                states.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
        finally:
            torch.set_num_threads(threads)
    for index, state in enumerate(states):
        assert all(torch.equal(states[index % 3][key].to(tensor.dtype), tensor) for key, tensor in state.items())


def test_scales_of_a_trained_network_have_no_known_start() -> None:
    model, blocks = build("test_convnext")
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("gamma"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator()))
    with pytest.raises(TransferError, match=r"'stages.0.blocks.0.gamma' of a ConvNeXtBlock was trained already"):
        initialise_(model, blocks)
    initialise_(model, blocks, source=trained(model), depth="all")
    fresh, _ = build("test_convnext")
    start = fresh.state_dict()["stages.0.blocks.0.gamma"].clone()
    initialise_(fresh, blocks, source=trained(fresh), rest="mean_var", norm="mean_var")
    assert not torch.equal(fresh.state_dict()["stages.0.blocks.0.gamma"], start)
    again = copy.deepcopy(fresh)  # a network remembers how it was created
    initialise_(again, blocks)
    assert torch.equal(again.state_dict()["stages.0.blocks.0.gamma"], start)


def test_norm_layers_of_other_classes_start_as_they_were_created() -> None:
    (rms, rms_blocks), (grn, grn_blocks) = build("test_vit4"), build("convnextv2_atto")
    for model, blocks, part in ((rms, rms_blocks, "norm"), (grn, grn_blocks, ".grn.")):
        created = {key: tensor.clone() for key, tensor in model.state_dict().items() if part in key}
        assert created
        transfer = initialise_(model, blocks, source=trained(model), rest="shuffled", norm="mean_var")
        assert {row.treatment for row in transfer.tensors if row.name in created} == {"mean_var"}
        initialise_(model, blocks)
        assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in created.items())


@pytest.mark.parametrize("name", ["test_nfnet", "nf_resnet26"])
def test_gains_of_networks_without_norms_start_as_they_were_created(name: str) -> None:
    model, blocks = build(name)
    gains = {key: tensor.clone() for key, tensor in model.state_dict().items() if key.endswith("gain")}
    assert {float(tensor.max()) for tensor in gains.values()} == {0.0, 1.0}  # 0: the end of a residual branch
    for arguments in ({}, {"source": trained(model), "rest": "mean_var"}):
        transfer = initialise_(model, blocks, **arguments)  # type: ignore[arg-type]
        assert {row.treatment for row in transfer.tensors if row.name in gains} == {"identity"}
        assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in gains.items())
    initialise_(model, blocks, source=trained(model), rest="mean_var", norm="transfer")
    assert all(torch.equal(model.state_dict()[key], tensor + 0.25) for key, tensor in gains.items())


def test_a_poolformer_s_layer_scales_start_as_they_were_created() -> None:
    model, blocks = build("poolformer_s12")
    scales = {key: tensor.clone() for key, tensor in model.state_dict().items() if key.endswith(".scale")}
    assert len(scales) == 24
    transfer = initialise_(model, blocks)
    assert {row.treatment for row in transfer.tensors if row.name in scales} == {"identity"}
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in scales.items())


class HalfReset(nn.Module):
    """A module whose reset forgets one of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.full((3,), 7.0)), nn.Parameter(torch.full((3,), 7.0))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.alpha)

    def forward(self, features: Tensor) -> Tensor:
        return features * self.alpha + self.beta


def test_a_reset_that_leaves_a_parameter_alone_does_not_pass_it_on() -> None:
    model = nn.Sequential(HalfReset(), nn.Linear(3, 2))
    with pytest.raises(TransferError, match=r"Nothing is known about how '0.beta' of a HalfReset starts"):
        initialise_(model, blocks_of(model))
    source = trained(model)
    initialise_(model, blocks_of(model), source=source, overrides={"0.beta": "transfer"})
    assert torch.equal(model[0].alpha, torch.ones(3))
    assert torch.equal(model[0].beta, source["0.beta"])


def test_old_weight_norm_has_no_known_start() -> None:
    with pytest.warns(FutureWarning):
        first = nn.utils.weight_norm(nn.Linear(3, 3))
    model = nn.Sequential(first, nn.Linear(3, 2))
    with pytest.raises(TransferError, match=r"Nothing is known about how '0.weight_g' of a Linear starts"):
        initialise_(model, blocks_of(model))


def test_torch_s_own_attention_resets_itself() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 2))
    blocks = blocks_of(model)
    for seed in (1, 2, 1):
        assert initialise_(model, blocks, seed=seed).counts == {"random": 8, "identity": 4, "fresh": 2}
        projection = model.state_dict()["0.self_attn.in_proj_weight"]
        assert 0.1 < projection.abs().max() <= (6 / 32) ** 0.5
        assert not model.state_dict()["0.self_attn.in_proj_bias"].any()


@pytest.mark.parametrize(("name", "level", "norm"), [("resnet18", "wt-st", "bn1"), ("test_vit", "block", "norm")])
def test_a_block_that_is_a_norm_is_overridden_as_a_norm(name: str, level: str, norm: str) -> None:
    model, blocks = build(name, level)
    source = trained(model)
    for scheme in ("identity", "mean_var"):
        transfer = initialise_(model, blocks, source=source, depth="all", overrides={norm: scheme})
        assert {row.treatment for row in transfer.tensors if row.block == norm} == {scheme}
    with pytest.raises(TransferError, match=rf"'{norm}' cannot be 'he_fan_out', .*Choices: transfer.*identity"):
        initialise_(model, blocks, source=source, depth="all", overrides={norm: "he_fan_out"})


def test_a_network_with_adapters_is_not_initialised() -> None:
    pytest.importorskip("peft")
    model, blocks = build("test_vit", "block")
    add_lora_(model, blocks, rank=2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TransferError, match=r"has adapters \(blocks.0.attn.qkv and others\).*merge_lora_"):
        initialise_(model, blocks)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    merge_lora_(model)
    initialise_(model, blocks)


@pytest.mark.parametrize(
    ("overrides", "pos_embed", "block"),
    [
        ({"patch_embed": "shuffled"}, "transferred", "random"),
        ({"patch_embed": "shuffled", "pos_embed": "shuffled"}, "shuffled", "random"),
        ({"patch_embed": "kaiming_uniform"}, "random", "random"),
        ({"blocks.0": "transfer"}, "random", "transferred"),
    ],
)
def test_wide_overrides_leave_embeddings_to_their_option(overrides: dict[str, str], pos_embed: str, block: str) -> None:
    model, blocks = build("test_vit", "block")
    source = None if "random" == pos_embed == block else trained(model)
    transfer = initialise_(model, blocks, source=source, overrides=overrides)
    treatments = {row.name: row.treatment for row in transfer.tensors}
    assert treatments["pos_embed"] == pos_embed
    assert treatments["blocks.0.mlp.fc1.weight"] == block


def test_volumes_and_masks() -> None:
    for arguments in ({"name": "resnet18", "spatial_dims": 3, "channels": 1}, {"name": "unet_resnet18"}):
        model, blocks = build(**arguments)  # type: ignore[arg-type]
        source = trained(model)
        for random in RANDOM:
            assert initialise_(model, blocks, random=random).counts["random"] > 15
        for rest in RESAMPLED:
            assert initialise_(model, blocks, source=source, rest=rest, norm="mean_var").counts[rest] > 15
        assert initialise_(model, blocks, source=source, depth="all").coverage == 1
