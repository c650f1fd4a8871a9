"""Activations are those of the modules asked for, all of them, and the network is left as it was."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from transfuse.analysis.activations import Activations, Taps, activations, images_of_batch
from transfuse.errors import AnalysisError
from transfuse.models import blocks_of, create_model


def images(count: int = 5, channels: int = 3, size: int = 16) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """An in-place activation that is used twice, dropout, a tuple and a mapping as outputs, an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.two = Two()
        self.named = Named()
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 2)
        self.never = nn.Linear(1, 1)
        self.number = Number()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        x, _ = self.two(x)
        x = self.act(self.named(x)["map"] - 0.5)
        self.number(x)
        return self.fc(self.drop(x).mean((2, 3)))


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x + 1, 7


class Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"map": x * 2}


class Number(nn.Module):
    def forward(self, x: Tensor) -> int:
        return 3


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def by_hand(model: Net, x: Tensor) -> dict[str, Tensor]:
    model = model.eval()
    with torch.no_grad():
        conv = model.conv(x)
        bn = model.bn(conv)
        act = torch.relu(bn)
        second = torch.relu((act + 1) * 2 - 0.5)
        return {"conv": conv, "bn": bn, "act": act, "two": act + 1, "named": (act + 1) * 2, "act:2": second}


def test_outputs_are_those_before_a_later_in_place_activation() -> None:
    model, x = net(), images()
    outputs = next(iter(activations(model, [x], ["conv", "bn", "act", "two", "named"])))
    expected = by_hand(model, x)
    assert list(outputs) == ["conv", "bn", "act", "act:2", "two", "named"]
    for name, output in outputs.items():
        torch.testing.assert_close(output, expected[name])
    assert (outputs["bn"] < 0).any()  # else the test of the in-place ReLU could not fail


def test_a_layer_that_is_called_twice_is_read_at_each_call() -> None:
    model, x = net(), images()
    outputs = activations(model, [x], ["act"])
    assert outputs.keys() == ("act", "act:2")
    expected = by_hand(model, x)
    torch.testing.assert_close(outputs["act"], expected["act"])
    torch.testing.assert_close(outputs["act:2"], expected["act:2"])


def test_a_number_of_calls_that_changes_is_an_error() -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.act(x)) if len(x) > 2 else self.act(x)

    with pytest.raises(AnalysisError, match=r"'act' ran 1 times in this batch and 2 times in the one before"):
        list(activations(Moody(), [torch.zeros(3, 2), torch.zeros(2, 2)], ["act"]))


def test_batches_of_any_size_give_the_same_rows() -> None:
    model, x = net(), images(7)
    whole = activations(model, [x], ["bn"])["bn"]
    parts = activations(model, [x[:4], x[4:6], x[6:]], ["bn"])["bn"]
    torch.testing.assert_close(parts, whole)
    assert dict(activations(model, [x], ["bn"]))["bn"].shape == (7, 4, 16, 16)


def test_what_a_data_loader_gives_is_taken() -> None:
    x = images()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.arange(5)), batch_size=2)
    assert activations(net(), loader, ["conv"])["conv"].shape[0] == 5


def test_a_mapping_is_passed_by_keywords() -> None:
    model, x = net(), images()
    torch.testing.assert_close(activations(model, [{"x": x}], ["bn"])["bn"], by_hand(model, x)["bn"])
    assert images_of_batch({"x": x, "label": 3}) is x


def test_images_take_the_type_of_the_network() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        assert activations(net().to(dtype), [images()], ["bn"])["bn"].dtype == dtype


@pytest.mark.parametrize("fails", [False, True])
def test_modes_hooks_gradients_and_random_numbers_are_put_back(fails: bool) -> None:
    model = net().train()
    model.bn.eval()
    before = [module.training for module in model.modules()]
    statistics = model.bn.running_mean.clone()
    state = torch.get_rng_state()
    batch = torch.full((2, 5, 16, 16), 1.0) if fails else images()  # five channels do not fit
    try:
        list(activations(model, [batch], ["bn", "drop"]))
    except RuntimeError:
        assert fails
    else:
        assert not fails
    assert [module.training for module in model.modules()] == before
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.bn.running_mean, statistics)
    assert torch.is_grad_enabled()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_dropout_and_batch_norm_work_as_at_test_time_and_nothing_has_a_gradient() -> None:
    model, x = net().train(), images()
    first, second = (next(iter(activations(model, [x], ["drop"])))["drop"] for _ in range(2))
    torch.testing.assert_close(first, second)
    assert not first.requires_grad


def test_random_numbers_inside_the_network_do_not_move_the_global_generator() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x + torch.rand_like(x))

    state = torch.get_rng_state()
    list(activations(Noisy(), [images()], ["layer"]))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_that_is_left_early_leaves_no_hooks_behind() -> None:
    model = net()
    next(iter(activations(model, [images(), images()], ["bn"])))
    assert not any(module._forward_hooks for module in model.modules())


def test_messages() -> None:
    model, x = net(), images()
    with pytest.raises(AnalysisError, match=r"no module 'con': did you mean 'conv'\? Choices: conv, bn"):
        activations(model, [x], ["con"])
    with pytest.raises(AnalysisError, match=r"blocks is the text 'conv'; expected Blocks or a list"):
        activations(model, [x], "conv")
    with pytest.raises(AnalysisError, match=r"blocks is empty; expected blocks_of\(model\)"):
        activations(model, [x], [])
    with pytest.raises(AnalysisError, match=r"no forward pass reaches 'never'; expected blocks that run"):
        list(activations(model, [x], ["conv", "never"]))
    with pytest.raises(AnalysisError, match=r"block 'number' gives out int without a tensor.*inside 'number'"):
        list(activations(model, [x], ["number"]))
    with pytest.raises(AnalysisError, match=r"no batches; expected at least one. An iterator that was used before"):
        list(activations(model, [], ["conv"]))
    with pytest.raises(AnalysisError, match=r"a batch is str; expected images"):
        list(activations(model, ["image"], ["conv"]))
    with pytest.raises(AnalysisError, match=r"a batch has shape \(0, 3, 8, 8\); expected at least one image"):
        list(activations(model, [torch.zeros(0, 3, 8, 8)], ["conv"]))
    with pytest.raises(AnalysisError, match=r"no activations of 'con': did you mean 'conv'"):
        activations(model, [x], ["conv"])["con"]


def test_outputs_whose_first_axis_is_not_the_images_are_refused() -> None:
    class SequenceFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.transpose(0, 1))

    with pytest.raises(
        AnalysisError, match=r"'layer' gives out shape \(7, 2, 4\) for 2 images; expected the images on"
    ):
        list(activations(SequenceFirst(), [torch.zeros(2, 7, 4)], ["layer"]))


def test_the_windows_of_a_swin_are_put_together_image_by_image() -> None:
    swin = create_model("swin_tiny_patch4_window7_224", classes=2, image_size=56)
    x = images(3, size=56)
    name = "layers.0.blocks.1.attn"  # 14 x 14 tokens in 4 windows of 49
    together = {}
    Taps(swin, [name], lambda key, output: together.update({key: output.clone()})).run(x)
    assert together[name].shape == (3, 196, 96)
    alone = {}
    Taps(swin, [name], lambda key, output: alone.update({key: output.clone()})).run(x[1:2])
    torch.testing.assert_close(together[name][1], alone[name][0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [56, 44])  # 14 x 14 tokens in whole windows of 7 x 7, 11 x 11 that are padded
@pytest.mark.parametrize("network", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
@pytest.mark.parametrize("block", [0, 1])  # the second one rolls the map before it cuts it
def test_the_tokens_of_windows_stand_in_the_order_of_the_image(network: str, size: int, block: int) -> None:
    swin = create_model(network, classes=2, image_size=size).eval()
    around, x = swin.get_submodule(f"layers.0.blocks.{block}"), images(2, size=size)
    inputs: list[Tensor] = []
    handle = around.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()))
    found = activations(swin, [x], [f"layers.0.blocks.{block}.attn"])[f"layers.0.blocks.{block}.attn"]
    handle.remove()
    with torch.no_grad():
        expected = around._attn(around.norm1(inputs[-1]) if network.startswith("swin_") else inputs[-1])
    torch.testing.assert_close(found, expected.flatten(1, 2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("network", "size", "level"),
    [
        ("cbr_tiny", 32, "stage"),
        ("resnet18", 64, "layer"),
        ("test_vit", 160, "block"),
        ("swin_tiny_patch4_window7_224", 64, "layer"),
    ],
)
def test_every_block_of_the_papers_networks_can_be_read(network: str, size: int, level: str) -> None:
    model = create_model(network, classes=2, image_size=size)
    blocks = blocks_of(model, level)
    shapes: OrderedDict[str, tuple[int, ...]] = OrderedDict()
    taps = Taps(model, blocks, lambda name, output: shapes.update({name: tuple(output.shape)}))
    assert taps.run(images(2, size=size)) == 2
    assert taps.names == blocks.names
    assert set(shapes) == set(blocks.names)
    for name, shape in shapes.items():
        assert len(shape) == 2 or shape[1] >= shape[-1] or len(shape) == 3, (name, shape)


def test_tokens_know_which_of_them_are_patches() -> None:
    model = create_model("test_vit", classes=2, image_size=32)
    seen = {}
    taps = Taps(
        model, ["patch_embed", "blocks.1"], lambda name, x: seen.update({name: taps.features(name, x, "pooled")})
    )
    taps.run(images(2, size=32))
    outputs = next(iter(activations(model, [images(2, size=32)], ["patch_embed", "blocks.1"])))
    torch.testing.assert_close(seen["patch_embed"], outputs["patch_embed"].flatten(1, -2).mean(1))
    torch.testing.assert_close(seen["blocks.1"], outputs["blocks.1"][:, 1:].mean(1))


def test_an_index_runs_the_network_once_for_all_blocks() -> None:
    once = iter([images()])
    found = activations(net(), once, ["conv", "bn"])
    assert isinstance(found, Activations)
    assert found["conv"].shape == found["bn"].shape
