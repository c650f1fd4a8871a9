from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError
from transfuse.inits import initialise_
from transfuse.models import Block, Blocks, blocks_of, create_model, freeze_
from transfuse.models.create import import_timm
from transfuse.models.heads import HEADS
from transfuse.models.truncate import truncate


def images(side: int = 64) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def cut(name: str, depth: int | str, pool: str = "average", level: str = "stage") -> nn.Module:
    model = create_model(name, classes=5).eval()
    return truncate(model, blocks_of(model, level), depth, 2, pool)


def test_the_head_is_the_fresh_head_of_initialise() -> None:
    model = create_model("test_resnet", classes=2)
    blocks = blocks_of(model)
    short = truncate(model, blocks, "all", 2, seed=3)
    initialise_(model, blocks, seed=3)
    assert torch.equal(short.fc.weight, model.fc.weight)
    assert torch.equal(short.fc.bias, model.fc.bias)
    other = truncate(model, blocks, "all", 2, seed=4)
    assert not torch.equal(other.fc.weight, model.fc.weight)
    assert torch.equal(truncate(model, blocks, "all", 2, seed=4).fc.weight, other.fc.weight)


def test_a_cut_network_is_initialised_as_any_other() -> None:
    model = create_model("test_resnet", classes=2)
    short = truncate(model, blocks_of(model), "layer2", 2, seed=1)
    head = short.fc.weight.clone()
    assert blocks_of(short).names == ("stem", "layer1", "layer2")
    initialise_(model, blocks_of(model), seed=1)
    initialise_(short, blocks_of(short), seed=1)
    assert torch.equal(short.fc.weight, head)
    assert torch.equal(short.layer2[0].conv1.weight, model.layer2[0].conv1.weight)


def test_the_given_network_is_as_before_and_shares_nothing() -> None:
    model = create_model("test_resnet", classes=5)
    before, text, state = copy.deepcopy(model.state_dict()), repr(model), torch.get_rng_state()
    short = truncate(model, blocks_of(model), "layer1", 2)
    assert repr(model) == text
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for tensor in short.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(module.training for module in (*model.modules(), *short.modules()))
    assert not any(m._forward_hooks or m._forward_pre_hooks for n in (model, short) for m in n.modules())


def test_what_is_gone_takes_no_memory() -> None:
    short = cut("test_resnet", "layer2")
    assert isinstance(short.layer3, nn.Identity)
    assert isinstance(short.layer4, nn.Identity)
    saved = io.BytesIO()
    torch.save(short, saved)
    assert saved.tell() < 1.5 * sum(4 * p.numel() for p in short.parameters()) + 100_000


@pytest.mark.parametrize("name", ["test_resnet", "cbr_demo", "convnext_atto"])
def test_copies_pickles_and_modes(name: str) -> None:
    short = cut(name, 2)
    expected = short(images())
    for twin in (copy.deepcopy(short), pickle.loads(pickle.dumps(short))):
        assert torch.equal(twin(images()), expected)
    short.train()
    nn.functional.cross_entropy(short(images()), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None for parameter in short.parameters())
    assert all(module.training for module in short.modules())
    again = cut(name, 2)
    again.load_state_dict(short.state_dict())
    assert not any(module.training for module in short.eval().modules())


def test_a_frozen_network_stays_frozen_when_cut() -> None:
    model = create_model("test_resnet", classes=5)
    freeze_(model, blocks_of(model), "layer1")
    short = truncate(model, blocks_of(model), "layer2", 2).train()
    trained = {name.partition(".")[0] for name, p in short.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "fc"}
    assert not short.layer1.training
    assert short.layer2.training


def test_device_and_type_are_those_of_the_old_head() -> None:
    light = create_model("resnet18", classes=5, device="meta")
    assert all(p.is_meta for p in truncate(light, blocks_of(light), 2, 2).parameters())
    double = create_model("test_resnet", classes=5).double()
    assert {p.dtype for p in truncate(double, blocks_of(double), 2, 2).parameters()} == {torch.float64}


def test_cut_twice_is_cut_once() -> None:
    model = create_model("test_resnet", classes=5).eval()
    blocks = blocks_of(model)
    once = truncate(model, blocks, "layer1", 2)
    half = truncate(model, blocks, "layer3", 2)
    twice = truncate(half, blocks_of(half), "layer1", 2)
    assert torch.equal(once(images()), twice(images()))
    wider = truncate(once, blocks_of(once), "all", 7)
    assert wider(images()).shape == (2, 7)


def test_what_timm_s_networks_say_about_themselves() -> None:
    short = cut("test_resnet", "layer2")
    assert (short.num_classes, short.num_features) == (2, short.fc.in_features)
    assert short.get_classifier() is short.fc
    short.reset_classifier(4)
    assert short(images()).shape == (2, 4)


def test_a_distilled_deit_has_two_new_heads() -> None:
    short = cut("deit_tiny_distilled_patch16_224", "blocks.0")
    assert short.get_classifier() == (short.head, short.head_dist)
    assert not torch.equal(short.head.weight, short.head_dist.weight)
    tokens = short.forward_features(images(224))
    expected = (short.head(tokens[:, 0]) + short.head_dist(tokens[:, 1])) / 2
    assert torch.equal(short(images(224)), expected)


def test_a_norm_of_another_width_is_fresh_and_one_of_the_same_width_is_kept() -> None:
    model = create_model("convnext_atto", classes=5)
    nn.init.uniform_(model.head.norm.weight)
    blocks = blocks_of(model, "block")
    last = [block.name for block in blocks if not block.stays][-2]
    assert torch.equal(truncate(model, blocks, last, 2).head.norm.weight, model.head.norm.weight)
    short = truncate(model, blocks, "stem", 2)
    assert torch.equal(short.head.norm.weight, torch.ones(40))
    assert torch.equal(short.head.norm.bias, torch.zeros(40))
    assert short.head.fc.in_features == 40
    assert type(short.head.norm) is type(model.head.norm)


def test_unpooled_heads_are_as_wide_as_the_map() -> None:
    model = create_model("cbr_demo", classes=5)
    blocks = blocks_of(model)
    wide = truncate(model, blocks, "layer2", 2, pool="none", image_size=64)
    assert wide.head.in_features == 32 * 15 * 15
    assert wide(images()).shape == (2, 2)
    with pytest.raises(RuntimeError):
        wide(images(96))
    with pytest.raises(BlocksError, match=r"The pooling 'global_pool' .* is gone .*Truncate the whole network"):
        truncate(wide, blocks_of(wide), "layer1", 2, image_size=64)


def test_a_head_that_is_a_convolution() -> None:
    model = create_model("resnetv2_50", classes=5, device="meta")
    assert isinstance(model.head.fc, nn.Conv2d)
    for pool, width in (("average", 256), ("none", 256 * 56 * 56)):
        short = truncate(model, blocks_of(model), "stages.0", 2, pool)
        assert isinstance(short.head.fc, nn.Linear)
        assert short.head.fc.in_features == width


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def sequence() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), Residual(8), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 12), nn.Hardswish(), nn.Dropout(), nn.Linear(12, 5)),
    )


def test_somebody_s_own_sequence() -> None:
    """The pooling belongs to the last convolution's part there, and stays all the same."""
    model = sequence().eval()
    blocks = blocks_of(model)
    features = model[:2](images())
    short = truncate(model, blocks, 1, 2)
    assert torch.equal(short(images()), short[-1](features.mean((2, 3), keepdim=True).flatten(1)))
    wide = truncate(model, blocks, 1, 2, pool="none", image_size=64)
    assert torch.equal(wide(images()), wide[-1](features.flatten(1)))
    top = truncate(model, blocks, "all", 2)
    assert torch.equal(top(images()), top[-1](model[:-1](images())))
    assert len(short.state_dict()) == 4


class Own(nn.Module):
    """A network by hand; `functional` is what it does by itself before its head."""

    def __init__(self, functional: str = "mean") -> None:
        super().__init__()
        width = 8 * 224 * 224 if functional == "flatten" else 8
        self.stem, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.classify = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 5))
        self.functional = functional

    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x)
        x = self.body(first)
        if self.functional == "relu":
            x = x.relu()
        if self.functional == "skip":
            x = x + first
        return self.classify(x.flatten(1) if self.functional == "flatten" else x.mean((2, 3)))


OWN = Blocks("stage", (Block("stem", ("stem",), "stem"), Block("body", ("body",), "body")), ("classify",))


def test_a_network_by_hand_with_a_head_of_several_layers() -> None:
    model = Own().eval()
    short = truncate(model, OWN, "stem", 2)
    assert isinstance(short.classify, nn.Linear)
    assert torch.equal(short(images()), short.classify(model.stem(images()).mean((2, 3))))


@pytest.mark.parametrize(
    ("functional", "message"),
    [
        ("relu", r"Cut after 'stem', this Own would still apply relu before its head, by itself"),
        ("skip", r"would still apply add before its head"),
    ],
)
def test_what_a_network_does_by_itself_is_noticed(functional: str, message: str) -> None:
    with pytest.raises(BlocksError, match=message):
        truncate(Own(functional), OWN, "stem", 2)


def test_torchvision_s_densenet_is_refused_because_of_its_relu() -> None:
    import_timm()
    from torchvision.models.densenet import DenseNet

    model = DenseNet(growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8, num_classes=5)
    with pytest.raises(BlocksError, match=r"would still apply relu_? before its head.*Networks of timm"):
        truncate(model, blocks_of(model), "stage2", 2)
    assert truncate(model, blocks_of(model), "all", 2)(images()).shape == (2, 2)


def test_errors() -> None:
    model = create_model("resnet18", classes=5, device="meta")
    blocks = blocks_of(model)
    with pytest.raises(BlocksError, match=r"Unknown pool 'avg'.*Choices: average, none"):
        truncate(model, blocks, 1, 2, pool="avg")
    with pytest.raises(BlocksError, match=r"classes=0 of truncate: expected a whole number"):
        truncate(model, blocks, 1, 0)
    with pytest.raises(BlocksError, match=r"image_size=-1 of truncate"):
        truncate(model, blocks, 1, 2, image_size=-1)
    with pytest.raises(BlocksError, match=r"Depth 0 keeps no block: the first cut point is 'stem'"):
        truncate(model, blocks, 0, 2)
    with pytest.raises(BlocksError, match=r"Unknown depth 'layer5'"):
        truncate(model, blocks, "layer5", 2)
    with pytest.raises(BlocksError, match=r"After 'conv1' .* cannot be cut.*The nearest cut points: 'layer1.0'"):
        truncate(model, blocks_of(model, "layer"), 1, 2)
    with pytest.raises(BlocksError, match=r"have no owner: .*fc.weight"):
        truncate(model, Blocks("stage", blocks.items, ()), 1, 2)
    deit = create_model("deit_tiny_patch16_224", classes=5, device="meta")
    with pytest.raises(BlocksError, match=r"pool='none': this VisionTransformer has no module that pools"):
        truncate(deit, blocks_of(deit), 3, 2, pool="none")
    with pytest.raises(BlocksError, match=r"A forward pass without data .* fails for images of 64 x 64 pixels"):
        truncate(deit, blocks_of(deit), 3, 2, image_size=64)
    layers = blocks_of(deit, "layer")
    with pytest.raises(BlocksError, match=r"After 'blocks.0.attn' .*transformer blocks.*none below 'all'"):
        truncate(deit, layers, "blocks.0.attn", 2)
    with torch.device("meta"):
        unpooled = Own("flatten")
    with pytest.raises(BlocksError, match=r"'classify' would get a whole map, .* of the last block's \(8, 224, 224\)"):
        truncate(unpooled, OWN, "stem", 2)
    assert truncate(unpooled, OWN, "all", 3).classify.in_features == 8 * 224 * 224


def test_a_network_that_pools_after_its_classifier() -> None:
    import_timm()
    from torchvision.models import squeezenet1_1

    model = squeezenet1_1(num_classes=5).eval()
    body = tuple(f"features.{index}" for index in (0, 3, 4, 6, 7, 9, 10, 11, 12))
    blocks = Blocks("block", tuple(Block(path, (path,), path) for path in body), ("classifier",))
    with pytest.raises(
        BlocksError, match=r"SqueezeNet pools its map \('classifier.3'\) after its classifier .*Use pool='none'"
    ):
        truncate(model, blocks, 4, 2)
    short = truncate(model, blocks, 4, 2, pool="none", image_size=64)
    with torch.no_grad():
        features = model.features[:7](images())
        assert torch.equal(short(images()), short.classifier[1](features))


def mlp(name: str, depth: int | str, hidden: int | None = None, **options: Any) -> tuple[Any, Any]:
    model = create_model(name, classes=5).eval()
    blocks = blocks_of(model)
    short = truncate(model, blocks, depth, 2, head="mlp", hidden=hidden, **options)
    return short, short.get_submodule(blocks.head[0])


@pytest.mark.parametrize("name", ["test_resnet", "cbr_demo", "convnext_atto", "test_vit2"])
def test_a_head_of_two_layers_is_the_head(name: str) -> None:
    plain = cut(name, 2)
    short, head = mlp(name, 2)
    blocks = blocks_of(short)
    assert blocks == blocks_of(plain)
    first, relu, last = head
    assert first.out_features == min(first.in_features, 512)
    assert isinstance(relu, nn.ReLU)
    assert (last.in_features, last.out_features) == (first.out_features, 2)
    names = [key for key in short.state_dict() if blocks.owner(key) == "head"]
    path = blocks.head[0]
    assert names == [f"{path}.{key}" for key in ("0.weight", "0.bias", "2.weight", "2.bias")]
    kept = {key: tensor for key, tensor in plain.state_dict().items() if blocks.owner(key) != "head"}
    assert all(torch.equal(tensor, short.state_dict()[key]) for key, tensor in kept.items())
    assert short(images()).shape == (2, 2)
    before = {key: tensor.clone() for key, tensor in short.state_dict().items() if key in names}
    initialise_(short, blocks, seed=0)  # draws the same head
    assert all(torch.equal(tensor, short.state_dict()[key]) for key, tensor in before.items())
    initialise_(short, blocks, seed=1)
    assert not any(torch.equal(tensor, short.state_dict()[key]) for key, tensor in before.items())
    freeze_(short, blocks, "all")
    assert {key for key, parameter in short.named_parameters() if parameter.requires_grad} == set(names)
    again = truncate(short, blocks, "all", 3)
    assert again(images()).shape == (2, 3)
    assert isinstance(again.get_submodule(path), nn.Linear)


def test_the_width_of_a_head_of_two_layers() -> None:
    short, head = mlp("cbr_demo", "layer2", 7, pool="none", image_size=64)
    assert (head[0].in_features, head[0].out_features) == (32 * 15 * 15, 7)
    assert short(images()).shape == (2, 2)
    assert mlp("cbr_demo", "layer2", pool="none", image_size=64)[1][0].out_features == 512
    assert [module.training for module in head.modules()] == [False] * 4


def test_a_sequence_with_a_head_of_two_layers_is_a_sequence_of_the_same_blocks() -> None:
    model = sequence().eval()
    short = truncate(model, blocks_of(model), 1, 2, head="mlp", hidden=3)
    assert blocks_of(short).names == blocks_of(model).names[:1]
    assert len(blocks_of(short).head) == 1
    assert short(images()).shape == (2, 2)


def test_a_head_that_is_a_convolution_becomes_two_layers() -> None:
    model = create_model("resnetv2_18", classes=5).eval()
    short = truncate(model, blocks_of(model), "stages.0", 2, head="mlp")
    assert short(images()).shape == (2, 2)
    assert len(blocks_of(short)) == 2


def test_a_kaiming_normal_head_is_torch_s() -> None:
    model = create_model("cbr_demo", classes=5).eval()
    blocks = blocks_of(model)
    plain, drawn = (truncate(model, blocks, "layer2", 200, "none", head=h, image_size=64) for h in HEADS[:2])
    assert torch.equal(plain.head.bias, drawn.head.bias)
    weight = drawn.head.weight.detach()
    reference = nn.init.kaiming_normal_(torch.empty_like(weight), generator=torch.Generator().manual_seed(0))
    assert weight.std().item() == pytest.approx(reference.std().item(), rel=0.005)
    assert weight.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert weight.abs().max() > 4 * reference.std()  # normal, not uniform
    again = truncate(model, blocks, "layer2", 200, "none", head="kaiming_normal", image_size=64)
    assert torch.equal(again.head.weight, weight)


def test_errors_about_heads() -> None:
    model = create_model("cbr_demo", classes=5, device="meta")
    blocks = blocks_of(model)
    with pytest.raises(BlocksError, match=r"Unknown head 'mpl': did you mean 'mlp'"):
        truncate(model, blocks, 1, 2, head="mpl")
    with pytest.raises(BlocksError, match=r"hidden=0 of truncate: expected a whole number"):
        truncate(model, blocks, 1, 2, head="mlp", hidden=0)
    with pytest.raises(BlocksError, match=r"hidden=8: a head 'linear' is one layer .*use head='mlp'"):
        truncate(model, blocks, 1, 2, hidden=8)


def test_a_depth_that_is_no_cut_lists_all_cuts() -> None:
    model = create_model("resnet18", classes=5, device="meta")
    points = ", ".join(f"layer{stage}.{number}" for stage in (1, 2, 3, 4) for number in (0, 1))
    with pytest.raises(BlocksError, match=rf"All of them: {points}, all\.$"):
        truncate(model, blocks_of(model, "layer"), "conv1", 2)


def test_volumes_of_three_different_sides() -> None:
    pytest.importorskip("monai")
    model = create_model("resnet18", 2, 1, 3, device="meta")
    short = truncate(model, blocks_of(model), "layer1", 2, "none", image_size=(16, 32, 48))
    assert short.fc.in_features == 64 * 4 * 8 * 12
    assert short(torch.zeros(1, 1, 16, 32, 48, device="meta")).shape == (1, 2)
    with pytest.raises(BlocksError, match=r"Images of size \(16, 32\) .*expected one side or \(D, H, W\)"):
        truncate(model, blocks_of(model), "layer1", 2, image_size=(16, 32))
