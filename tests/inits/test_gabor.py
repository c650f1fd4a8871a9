from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from transfuse.errors import TransferError
from transfuse.inits import gabor_bank, initialise_
from transfuse.models import Blocks, blocks_of, create_model

FREQUENCIES = (0.08, 0.16, 0.25, 0.32)


def published(kernel: int = 7, angles: int = 16) -> NDArray[np.float64]:
    """The generator as the paper prints it, on the library that it uses."""
    filters, transform = pytest.importorskip("skimage.filters"), pytest.importorskip("skimage.transform")
    bank = []
    for frequency in FREQUENCIES:
        for index in range(angles):
            wave = np.real(filters.gabor_kernel(frequency, theta=index / angles * np.pi, sigma_x=2, sigma_y=2))
            assert wave.shape[0] > 10
            wave = transform.resize(wave, (10, 10), order=1, mode="reflect", anti_aliasing=True)
            rest = wave.shape[0] - kernel
            cut = slice(rest // 2, -(rest - rest // 2))
            bank.append(wave[cut, cut])
    return np.array(bank)


def test_the_bank_is_the_published_one() -> None:
    np.testing.assert_allclose(gabor_bank(), published(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(gabor_bank(64, 5), published(kernel=5), rtol=0, atol=1e-6)
    np.testing.assert_allclose(gabor_bank(32, 5), published(kernel=5, angles=8), rtol=0, atol=1e-6)


def test_other_counts_and_sizes() -> None:
    assert np.array_equal(gabor_bank(32), gabor_bank(64)[::2])
    odd = gabor_bank(30)
    assert np.array_equal(odd, gabor_bank(32)[:30])
    assert gabor_bank(1, 3).shape == (1, 3, 3)
    large = gabor_bank(8, 16)
    assert large.shape == (8, 16, 16)
    assert np.isfinite(large).all()
    for wrong in ((0, 7), (64, 0)):
        with pytest.raises(TransferError, match=r"gabor_bank\(filters=.*expected positive numbers"):
            gabor_bank(*wrong)


def test_every_filter_is_a_wave_along_its_angle() -> None:
    bank = gabor_bank(64, 7).reshape(4, 16, 7, 7)
    heights = np.linalg.svd(bank[:, 0], compute_uv=False)
    assert (heights[:, 1] < 1e-6 * heights[:, 0]).all()  # angle 0: the same wave in every row, fainter off the middle
    np.testing.assert_allclose(bank[:, 8], bank[:, 0].transpose(0, 2, 1), atol=1e-12)  # a quarter turn


def build(name: str = "resnet18", channels: int = 3) -> tuple[nn.Module, Blocks]:
    model = create_model(name, classes=2, channels=channels)
    return model, blocks_of(model)


def trained(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        key: tensor + 0.1 + 0.01 * torch.rand(tensor.shape, generator=generator) if tensor.ndim else tensor
        for key, tensor in model.state_dict().items()
    }


def measure(tensor: Tensor, scale: str) -> float:
    return {"std": tensor.std(), "max_abs": tensor.abs().max(), "l2": tensor.norm()}[scale].item()


@pytest.mark.parametrize("scale", ["std", "max_abs", "l2"])
def test_one_scalar_matches_the_filters_that_are_replaced(scale: str) -> None:
    model, blocks = build()
    initialise_(model, blocks)
    plain = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    transfer = initialise_(model, blocks, overrides={"conv1": "gabor"}, gabor_scale=scale)
    weight = model.state_dict()["conv1.weight"]
    assert measure(weight, scale) == pytest.approx(measure(plain["conv1.weight"], scale), rel=1e-5)
    bank = torch.from_numpy(gabor_bank()).float()
    ratio = weight / bank.unsqueeze(1)
    assert ratio.std() < 1e-3 * ratio.mean()
    assert all(torch.equal(plain[key], tensor) for key, tensor in model.state_dict().items() if key != "conv1.weight")
    assert transfer.counts["gabor"] == 1
    source = trained(model)
    initialise_(model, blocks, source=source, overrides={"conv1": "gabor"}, gabor_scale=scale)
    assert measure(weight, scale) == pytest.approx(measure(source["conv1.weight"], scale), rel=1e-5)


@pytest.mark.parametrize("path", ["conv1", "conv1.weight", "stem"])
def test_the_norm_and_the_other_blocks_follow_the_rest(path: str) -> None:
    model, blocks = build(channels=1)
    source = trained(model)
    transfer = initialise_(model, blocks, source=source, rest="mean_var", overrides={path: "gabor"})
    treatments = {row.name: row.treatment for row in transfer.tensors}
    assert treatments["conv1.weight"] == "gabor"
    assert treatments["bn1.weight"] == "identity"
    assert treatments["layer1.0.conv1.weight"] == "mean_var"
    grey = model.state_dict()["conv1.weight"].clone()
    colour, blocks = build()
    initialise_(
        colour,
        blocks,
        source={**trained(colour), "conv1.weight": source["conv1.weight"].repeat(1, 3, 1, 1)},
        overrides={path: "gabor"},
    )
    torch.testing.assert_close(colour.state_dict()["conv1.weight"], grey.repeat(1, 3, 1, 1), rtol=1e-3, atol=0)


def test_filters_of_the_cbr_family() -> None:
    model, blocks = build("cbr_large_t")  # 32 filters of 7 x 7
    initialise_(model, blocks, overrides={"layer1": "gabor"})
    weight = model.state_dict()["layer1.conv.weight"]
    bank = torch.from_numpy(gabor_bank(32)).float().unsqueeze(1)
    assert torch.allclose(
        weight / weight.std(), (bank / bank.expand(weight.shape).std()).expand(weight.shape), atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("resnet18", "layer1.0.conv1", r"'layer1.0.conv1' cannot be 'gabor': .*first 2D .*give overrides=\{'conv1': "),
        ("resnet18", "layer1", r"'layer1' cannot be 'gabor'"),
        ("test_resnet", "conv1", r"'conv1' cannot be 'gabor'.*'conv1.0' with a kernel of 3 x 3"),
        ("resnet18", "bn1", r"'bn1' cannot be 'gabor', .*identity"),
        ("resnet18", "fc", r"'fc' cannot be 'gabor': Gabor filters are for"),
    ],
)
def test_anything_but_a_first_convolution_is_refused(name: str, path: str, message: str) -> None:
    model, blocks = build(name)
    with pytest.raises(TransferError, match=message):
        initialise_(model, blocks, overrides={path: "gabor"})


@pytest.mark.parametrize("first", [nn.Conv3d(1, 4, 3), nn.Conv2d(1, 4, (3, 5)), nn.Conv1d(1, 4, 3)])
def test_first_convolutions_that_no_bank_fits(first: nn.Module) -> None:
    model = nn.Sequential(first, nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(TransferError, match=r"'0' cannot be 'gabor'.*leave 'gabor' out for this network"):
        initialise_(model, blocks_of(model), overrides={"0": "gabor"})
    nothing = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(TransferError, match=r"'0' cannot be 'gabor'.*it has none"):
        initialise_(nothing, blocks_of(nothing), overrides={"0": "gabor"})
