from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import TransferError
from transfuse.models import blocks_of, create_model
from transfuse.models.matching import match_weights
from transfuse.models.recalibrate import recalibrate_
from transfuse.models.weights import load_weights


def with_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics, scales and shifts that have nothing to do with the images."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.3, 2, generator=generator)
                module.weight.uniform_(-1.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
    return model


def pictures(count: int = 48, channels: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1)) * 1.5 + 0.4


def norm_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


def assert_same_function(before: nn.Module, after: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        expected, found = before.eval()(images), after.eval()(images)
    assert float(expected.std()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def inputs_of(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What every batch norm is given in eval mode, all images at once."""
    seen: dict[str, Tensor] = {}
    for name, layer in norm_layers(model).items():
        layer.register_forward_hook(lambda module, given, output, name=name: seen.update({name: given[0].clone()}))
    with torch.no_grad():
        model.eval()(images)
    return seen


@pytest.mark.parametrize("name", ["cbr_demo", "test_resnet", "mobilenetv2_050", "densenet121", "resnet18_cifar"])
def test_the_function_stays_and_the_statistics_are_those_of_the_images(name: str) -> None:
    model = with_statistics(create_model(name, classes=3))
    before = copy.deepcopy(model)
    images = pictures(size=32 if name != "densenet121" else 64)
    assert recalibrate_(model, images.split(11)) == tuple(norm_layers(model))
    assert_same_function(before, model, images)
    given = inputs_of(copy.deepcopy(model), images)
    for layer, module in norm_layers(model).items():
        flat = given[layer].double().transpose(0, 1).flatten(1)
        scale = float(flat.std(1).max())
        torch.testing.assert_close(module.running_mean.double(), flat.mean(1), rtol=1e-4, atol=1e-4 * scale)
        torch.testing.assert_close(
            module.running_var.double(), flat.var(1, correction=0), rtol=1e-3, atol=1e-5 * scale**2
        )
    # So training mode, which normalises by the batch at hand, computes the same as eval mode on all images.
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        expected = model.eval()(images)
        trained = copy.deepcopy(model).train()(images)
        stray = copy.deepcopy(before).train()(images)
    limit = 1e-2 * float(expected.std())
    torch.testing.assert_close(trained, expected, rtol=0, atol=limit)
    assert float((stray - expected).abs().max()) > 10 * limit


def test_batches_of_any_size_give_the_same() -> None:
    images, large = pictures(), pictures() * 1e-2 + 1e4  # a mean that squares would cancel
    for values in (images, large):
        found = []
        for size in (1, 7, 48):
            model = nn.Sequential(nn.BatchNorm2d(3))
            recalibrate_(model, values.split(size))
            found.append(model[0].running_var)
        exact = values.double().var((0, 2, 3), correction=0)
        for variance in found:
            torch.testing.assert_close(variance.double(), exact, rtol=1e-6, atol=0)


def test_channels_that_are_constant_stay_finite() -> None:
    model = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    with torch.no_grad():
        model[0].weight[0] = 0.0  # variance 0
        model[0].weight[1] *= 1e-6  # variance far below epsilon
    before = copy.deepcopy(model)
    recalibrate_(model, [pictures()])
    assert float(model[1].running_var[0]) < 1e-12
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert_same_function(before, model, pictures())


def test_mode_gradients_and_the_global_generator_stay() -> None:
    model = create_model("test_resnet", classes=3).train()
    model.layer1.eval()
    model.layer2.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    frozen = [parameter.requires_grad for parameter in model.parameters()]

    def shuffled() -> list[tuple[Tensor, Tensor]]:
        return [(batch[torch.randperm(len(batch))], torch.zeros(len(batch))) for batch in pictures().split(16)]

    state = torch.get_rng_state()
    recalibrate_(model, (pair for _ in range(1) for pair in shuffled()))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(TransferError, match=r"does not take images of shape \(1, 5, 8, 8\)"):
        recalibrate_(model, [torch.zeros(1, 5, 8, 8)])  # wrong number of channels: everything is put back too
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_networks_without_batch_norm_and_volumes() -> None:
    assert recalibrate_(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)), []) == ()
    volumes = torch.randn(4, 2, 5, 6, 7) + 3
    model = nn.Sequential(nn.BatchNorm3d(2))
    assert recalibrate_(model, [volumes]) == ("0",)
    torch.testing.assert_close(model[0].running_mean, volumes.mean((0, 2, 3, 4)))
    vectors = torch.randn(40, 6)
    model = nn.Sequential(nn.BatchNorm1d(6))
    recalibrate_(model, [vectors])
    torch.testing.assert_close(model[0].running_var, vectors.var(0, correction=0))


class WithUnusedBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.branch = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.used(images)


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (WithUnusedBranch(), [pictures()], r"No image reached 1 of 2 batch-norm layers .*: branch. Remove the branch"),
        (nn.Sequential(OrderedDict(n=nn.BatchNorm2d(3, affine=False))), [pictures()], r"n: batch norm without scale"),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), [pictures()], r"0: .*track_running_stats=False"),
        (nn.Sequential(nn.BatchNorm2d(3)), [], r"There are no images to measure .* at least one batch"),
        (
            nn.Sequential(nn.BatchNorm2d(3)),
            pictures(),
            r"images is a Tensor; expected batches: \[images\] or a DataLoad",
        ),
        (nn.Sequential(nn.BatchNorm2d(3)), 3, r"images is a int; expected batches"),
        (
            nn.Sequential(nn.BatchNorm2d(3)),
            [pictures().numpy()],
            r"a batch that is a ndarray, expected a tensor .*torch.from_numpy\(array\)",
        ),
        (nn.Sequential(nn.BatchNorm2d(3)), [("a", 1)], r"a batch that is a tuple of str, expected a tensor"),
        (
            nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)),
            [pictures()[:, :1]],
            r"does not take images of shape \(\d+, 1, \d+, \d+\) and type torch.float32 \(.*its number of channels",
        ),
        (nn.Sequential(nn.BatchNorm2d(3)), [pictures() / 0], r"inputs of 1 batch-norm layers are NaN .*first of '0'"),
    ],
)
def test_what_cannot_be_measured_is_an_error_and_changes_nothing(
    model: nn.Module, batches: list[Tensor], message: str
) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TransferError, match=message):
        recalibrate_(model, batches)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def fold(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with every batch norm moved into the convolution before it, as converters to int8 do it."""
    state = {key: tensor.clone().double() for key, tensor in model.state_dict().items()}
    for conv, norm in pairs_of(model):
        slope = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        state[f"{conv}.weight"] *= slope.reshape(-1, 1, 1, 1)
        state[f"{norm}.bias"] -= state[f"{norm}.running_mean"] * slope
        state[f"{norm}.weight"] = torch.full_like(slope, (1 + 1e-5) ** 0.5)
        state[f"{norm}.running_mean"] = torch.zeros_like(slope)
        state[f"{norm}.running_var"] = torch.ones_like(slope)
    return {key: state[key].to(tensor.dtype) for key, tensor in model.state_dict().items()}


def pairs_of(model: nn.Module) -> list[tuple[str, str]]:
    """In MobileNetV2 of timm, convolutions and batch norms follow each other in turn."""
    convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return list(zip(convs, norm_layers(model), strict=True))


def test_imagenet_mobilenet_with_folded_batch_norm_is_made_trainable_again(real_data: Path) -> None:
    weights = load_weights(real_data / "weights" / "mobilenetv2_100" / "mobilenetv2_100_imagenet1k.safetensors")
    model = create_model("mobilenetv2_100", classes=1000, padding="same")
    model.load_state_dict(dict(weights), strict=True)
    images = np.load(real_data / "pneumoniamnist" / "pneumoniamnist_rebuilt.npz")["train_images"][:160]
    grey = torch.from_numpy(images).float()[:, None] / 127.5 - 1
    inputs = nn.functional.interpolate(grey, size=64, mode="bilinear").expand(-1, 3, -1, -1)
    original = copy.deepcopy(model)
    state = fold(model)
    with pytest.raises(TransferError, match=r"All 52 batch-norm layers .* norm: recalibrate"):
        match_weights(model, blocks_of(model), state, list(state))
    matched = match_weights(model, blocks_of(model), state, list(state), identity_statistics="accept")
    model.load_state_dict(matched.tensors)
    assert_same_function(original, model, inputs)
    with torch.no_grad():
        astray = copy.deepcopy(model).train()(inputs)
    names = recalibrate_(model, inputs.split(40))
    assert len(names) == 52
    assert_same_function(original, model, inputs)
    match_weights(model, blocks_of(model), model.state_dict(), list(state))  # not taken for folded any more
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        expected, trained = model.eval()(inputs), copy.deepcopy(model).train()(inputs)
    spread = float(expected.std())
    assert float((trained - expected).abs().mean()) < 0.01 * spread
    assert float((astray - expected).abs().mean()) > 0.5 * spread
