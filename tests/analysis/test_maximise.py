"""Feature visualisation: closed forms of linear filters, the published procedure, and the network afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from transfuse.analysis.maximise import maximise
from transfuse.errors import AnalysisError
from transfuse.models import Block, Blocks, create_model

MEAN, STD = (0.5,), (0.25,)  # so that normalised pixels lie in [-2, 2]


def linear_filter(side: int, channels: int = 1, strength: float = 6.0) -> nn.Sequential:
    """Two filters as large as the image; of strength 6 about half of the optimum lies at the bounds, of 1 nothing."""
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 2, side, bias=False)
    with torch.no_grad():
        conv.weight.uniform_(-strength, strength).div_(channels * side**2)
    return nn.Sequential(conv, nn.ReLU(inplace=True))


@pytest.mark.parametrize(("frequency_prior", "strength"), [(False, 6.0), (True, 1.0)])
def test_the_closed_form_of_a_linear_filter(frequency_prior: bool, strength: float) -> None:
    """max |w.x| - mean(x^2) over [-2, 2]^n is at x = clip(n w / 2), of either sign."""
    model = linear_filter(8, channels=3, strength=strength)
    found = maximise(model, "0", [0, 1], size=8, mean=MEAN, std=STD, steps=250, frequency_prior=frequency_prior)
    weight = model[0].weight.detach()
    best = (3 * 64 * weight / 2).clamp(-2, 2)
    assert float((best.abs() == 2).float().mean()) == pytest.approx(1 / 3 if strength > 4 else 0, abs=0.1)
    for image, optimum, filter_ in zip(found.images, best, weight, strict=True):
        normalised = (image - 0.5) / 0.25
        sign = (filter_ * normalised).sum().sign()
        torch.testing.assert_close(sign * normalised, optimum, atol=0.01, rtol=0)
    torch.testing.assert_close(found.after, (weight * (found.images - 0.5) / 0.25).sum((1, 2, 3)).abs())
    torch.testing.assert_close(found.after, (weight * best).sum((1, 2, 3)), rtol=0.01, atol=0)
    assert (found.after > 3 * found.before).all()


def test_the_mean_has_one_sign() -> None:
    model = linear_filter(8)
    found = maximise(model, "0", 1, size=8, in_channels=1, mean=MEAN, std=STD, steps=150, objective="mean")
    best = (64 * model[0].weight[1].detach() / 2).clamp(-2, 2)
    torch.testing.assert_close((found.images[0] - 0.5) / 0.25, best, atol=0.02, rtol=0)


def test_an_image_of_a_filter_that_slides_looks_like_it() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 1, 7, bias=False)
    rows, columns = torch.meshgrid(torch.arange(7.0), torch.arange(7.0), indexing="ij")
    with torch.no_grad():
        conv.weight.copy_(torch.cos(0.9 * rows + 0.45 * columns)[None, None])
    found = maximise(nn.Sequential(conv), "0", 0, size=24, in_channels=1, mean=MEAN, std=STD, steps=100)
    patches = nn.functional.unfold(found.images - 0.5, 7)[0].T
    filters = conv.weight.detach().flatten()
    alike = torch.corrcoef(torch.cat([filters[None], patches]))[0, 1:]
    noise = nn.functional.unfold(torch.rand(1, 1, 24, 24) - 0.5, 7)[0].T
    assert alike.abs().max() > 0.9
    assert torch.corrcoef(torch.cat([filters[None], noise]))[0, 1:].abs().max() < 0.6


def test_the_ascent_of_the_published_code() -> None:
    """A new Adam at every step, as ShallowDeepNN's act_max_analysis.py makes it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    noise = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(3)) * 30 / 255 + 150 / 255
    x = (noise - mean) / std
    for _ in range(15):
        x = x.detach().requires_grad_()
        loss = -(model(x)[0, 2].norm() - torch.mean(x**2))
        loss.backward()
        torch.optim.Adam([x], lr=0.1).step()
        x = torch.minimum(torch.maximum(x.detach(), -mean / std), (1 - mean) / std)
    found = maximise(
        model,
        "2",
        2,
        size=12,
        mean=mean.flatten().tolist(),
        std=std.flatten().tolist(),
        steps=15,
        ascent="sign",
        seed=3,
    )
    torch.testing.assert_close(found.images, x * std + mean, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "block", "channels"),
    [("test_resnet", "layer2.0.conv2", [0, 5]), ("test_vit", "blocks.1", [4, 5]), ("cbr_demo", "layer3", [1, 2])],
)
@pytest.mark.parametrize("options", [{}, {"jitter": 3}, {"frequency_prior": True, "jitter": 2}, {"ascent": "sign"}])
def test_activations_rise_in_any_network(name: str, block: str, channels: list[int], options: dict) -> None:
    torch.manual_seed(0)
    model = create_model(name, classes=2)
    found = maximise(
        model, block, channels, size=32, mean=(0.45,), std=(0.22,), steps=60 if "jitter" in options else 25, **options
    )
    assert found.images.shape == (len(channels), 3, 32, 32)
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert (found.after > 1.5 * found.before).all()
    assert (found.block, found.channels) == (block, tuple(channels))


def test_filters_of_a_batch_are_independent_and_seeds_decide() -> None:
    model = linear_filter(8)
    both = maximise(model, "1", [0, 1], size=8, in_channels=1, steps=20)
    again = maximise(model, "1", [0, 1], size=8, in_channels=1, steps=20)
    assert torch.equal(both.images, again.images)
    assert not torch.equal(both.images, maximise(model, "1", [0, 1], size=8, in_channels=1, steps=20, seed=1).images)
    alone = maximise(model, "1", 0, size=8, in_channels=1, steps=20)
    torch.testing.assert_close(alone.images[0], both.images[0])
    assert both.before.tolist() == pytest.approx(
        maximise(model, "1", [0, 1], size=8, in_channels=1, steps=0).after.tolist()
    )


def test_without_steps_it_is_the_noise() -> None:
    found = maximise(linear_filter(8), "0", [0, 1], size=8, in_channels=1, mean=MEAN, std=STD, steps=0)
    assert found.images.min() >= 150 / 255 - 1e-6
    assert found.images.max() <= 180 / 255 + 1e-6
    assert not torch.equal(found.images[0], found.images[1])
    torch.testing.assert_close(found.before, found.after)


def test_the_frequency_prior_prefers_large_structure() -> None:
    model = linear_filter(32)  # white: no frequency is in it more than others

    def coarse(frequency_prior: bool) -> float:
        options = {"size": 32, "in_channels": 1, "mean": MEAN, "std": STD, "frequency_prior": frequency_prior}
        start, end = (maximise(model, "0", 0, steps=steps, rate=0.02, **options).images for steps in (0, 10))  # type: ignore[arg-type]
        power = torch.fft.fft2(end - start)[0, 0].abs().square()
        near = torch.fft.fftfreq(32).abs() < 0.13
        return float((power * near[:, None] * near).sum() / power.sum())

    assert coarse(True) > 2 * coarse(False)


def test_jitter_takes_away_what_holds_for_one_place_only() -> None:
    model = linear_filter(16)
    options = {"size": 16, "in_channels": 1, "mean": MEAN, "std": STD, "steps": 50}
    still = maximise(model, "0", [0, 1], **options)  # type: ignore[arg-type]
    moved = maximise(model, "0", [0, 1], jitter=7, **options)  # type: ignore[arg-type]
    assert (moved.after < 0.7 * still.after).all()


def test_volumes_vectors_tokens_and_named_blocks() -> None:
    volume = maximise(
        nn.Sequential(nn.Conv3d(1, 2, 3)), "0", 1, size=(5, 6, 7), in_channels=1, steps=3, frequency_prior=True
    )
    assert volume.images.shape == (1, 1, 5, 6, 7)
    head = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    found = maximise(head, "1", 2, size=4, in_channels=1, steps=150, objective="mean")
    wanted = (16 * head[1].weight[2].detach() / 2).clamp(0, 1)
    torch.testing.assert_close(found.images.flatten(), wanted, atol=0.02, rtol=0)
    blocks = Blocks("stage", (Block("bottom", ("0",), "0"),), ())
    named = maximise(linear_filter(8), "bottom", 0, size=8, in_channels=1, steps=5, blocks=blocks)
    torch.testing.assert_close(named.images, maximise(linear_filter(8), "0", 0, size=8, in_channels=1, steps=5).images)


def test_dead_filters_stay_without_a_nan() -> None:
    model = linear_filter(8)
    with torch.no_grad():
        model[0].weight.zero_()
    found = maximise(model, "1", 0, size=8, in_channels=1, steps=5)
    assert found.after.item() == 0
    assert torch.isfinite(found.images).all()


class Never(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("what lies above the block must not run")


@pytest.mark.parametrize("frozen", [False, True])
def test_the_network_is_left_as_it_was(frozen: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), Never())
    model.train()
    model[1].eval()
    model.requires_grad_(not frozen)
    model[0].bias.requires_grad_(False)  # type: ignore[union-attr,operator]
    tensors, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    needs = [(p.requires_grad, p.grad) for p in model.parameters()]
    with torch.no_grad():
        found = maximise(model, "3", 0, size=8, steps=3, jitter=1)
    with pytest.raises(AnalysisError, match="NaN"):
        maximise(nn.Sequential(model, nn.ReLU()), "0.0", 0, size=8, mean=(torch.nan,))
    assert [module.training for module in model] == [True, False, True, True, True]
    assert [(p.requires_grad, p.grad) for p in model.parameters()] == needs
    assert all(torch.equal(tensors[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(random, torch.get_rng_state())
    assert not found.images.requires_grad
    assert not found.after.requires_grad


def test_errors() -> None:
    model = linear_filter(8)
    with pytest.raises(AnalysisError, match=r"Unknown objective 'norms': did you mean 'norm'\? Choices: norm, mean"):
        maximise(model, "0", 0, objective="norms")
    with pytest.raises(AnalysisError, match=r"Unknown ascent 'sgd': .*adam, sign"):
        maximise(model, "0", 0, ascent="sgd")
    with pytest.raises(AnalysisError, match=r"channels=\(\): expected one number from 0, or several"):
        maximise(model, "0", [])
    with pytest.raises(AnalysisError, match=r"size=\(0, 0\): expected pixels"):
        maximise(model, "0", 0, size=0)
    with pytest.raises(AnalysisError, match=r"jitter=8: .* a jitter from 0 to below 8 pixels"):
        maximise(model, "0", 0, size=8, jitter=8)
    with pytest.raises(AnalysisError, match=r"rate=0, jitter=0: .*a rate above 0"):
        maximise(model, "0", 0, rate=0)
    with pytest.raises(AnalysisError, match=r"mean or std is \(0.5, 0.5\): expected one number, or one for each of 3"):
        maximise(model, "0", 0, mean=(0.5, 0.5))
    with pytest.raises(AnalysisError, match=r"std=\(0,\): expected numbers above 0"):
        maximise(model, "0", 0, std=(0,))
    with pytest.raises(AnalysisError, match=r"has no block and no module '7'"):
        maximise(model, "7", 0)
    with pytest.raises(AnalysisError, match=r"channel 2 of block '0': expected 0 to 1"):
        maximise(model, "0", [1, 2], size=8, in_channels=1)
    with pytest.raises(AnalysisError, match=r"block '0' gives out \(8, 8\); expected \(N, C\), maps"):
        maximise(nn.Sequential(Rows()), "0", 0, size=8, in_channels=1)
    with pytest.raises(AnalysisError, match=r"block '0' gives out dict; expected \(N, C\), maps"):
        maximise(nn.Sequential(Named()), "0", 0, size=8)
    model.spare = nn.ReLU()
    with pytest.raises(AnalysisError, match=r"no forward pass reaches block 'other.0'; name one that runs"):
        maximise(Unused(), "other.0", 0, size=8)


class Rows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(0, 2)


class Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 2, 1), nn.ModuleList([nn.ReLU()])

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
