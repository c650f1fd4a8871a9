from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from transfuse.analysis.cca_patches import cca_patches
from transfuse.analysis.chance import independent_level
from transfuse.errors import AnalysisError, AnalysisWarning


def images_of(count: int = 60, size: int = 12) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0, width: int = 16) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, stride=2, padding=1)
        )


def test_every_block_has_p_places_of_d_channels() -> None:
    found = cca_patches(network(0), network(1), images_of(), ["0", "2"], p=1440, d=8, repeats=3)
    assert list(found) == ["0", "2"]
    assert [(b.images, b.positions, b.channels) for b in found.values()] == [(10, 1440, 8), (40, 1440, 8)]
    for block in found.values():
        assert len(block.values) == 3
        assert block.value == float(block) == pytest.approx(np.mean(block.values))
        assert block.spread == pytest.approx(np.std(block.values, ddof=1))
        assert 0 < block.spread < 0.2
        assert block.independent == pytest.approx(independent_level(1440, 8, 8))


def test_n_is_rounded_and_p_is_what_was_used() -> None:
    found = cca_patches(network(), network(), images_of(), ["0", "2"], p=1000, d=8, repeats=1)
    assert [(b.images, b.positions) for b in found.values()] == [(7, 1008), (28, 1008)]
    assert found["0"].spread == 0


def test_a_network_and_itself_are_one_only_with_shared_channels() -> None:
    model = network()
    shared = cca_patches(model, model, images_of(), ["2"], p=2000, d=6)
    assert shared["2"].value == pytest.approx(1, abs=1e-6)
    apart = cca_patches(model, model, images_of(), ["2"], p=2000, d=6, share_channels=False)
    assert apart["2"].value < 0.99


def test_the_value_is_the_cca_of_the_drawn_places_and_channels() -> None:
    a, b, images = network(0), network(1), images_of()
    found = cca_patches(a, b, images, ["2"], p=36 * 60, d=16, repeats=1)
    from transfuse.analysis.cca import cca

    with torch.no_grad():
        x, y = (m.eval()(images).movedim(1, -1).reshape(-1, 16) for m in (a, b))
    assert found["2"].value == pytest.approx(cca(x, y).value, abs=1e-6)  # all images, all channels


def test_unrelated_features_come_out_at_their_level() -> None:
    class Noise(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.generator, self.out = torch.Generator().manual_seed(seed), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.randn(len(x), 24, 6, 6, generator=self.generator))

    found = cca_patches(Noise(0), Noise(1), images_of(), ["out"], p=1800, d=20, repeats=4)["out"]
    assert found.value == pytest.approx(found.independent, rel=0.1)


def test_a_seed_gives_the_same_draws_and_nothing_global_moves() -> None:
    given = (network(0), network(1), images_of(), ["0", "2"])
    state, legacy = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = cca_patches(*given, p=500, d=6)
    assert first == cca_patches(*given, p=500, d=6)
    assert first != cca_patches(*given, p=500, d=6, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (legacy == np.random.get_state()[1]).all()  # noqa: NPY002


def test_too_few_images_channels_or_places_are_told_with_the_block() -> None:
    given = (network(0), network(1), images_of(20), ["0", "2"])
    with pytest.warns(AnalysisWarning, match="20 images are too few for p = 1440 places in '2': all are used") as seen:
        found = cca_patches(*given, p=1440, d=8)
    assert (found["2"].images, found["2"].positions) == (20, 720)
    assert seen[0].filename == __file__
    with pytest.warns(AnalysisWarning, match=r"d = 64 is more than the channels of '0', '2': all are used there \(16"):
        assert cca_patches(*given, p=720, d=64)["0"].channels == 16
    with pytest.warns(AnalysisWarning, match="72 places of 8 channels in '2'"):
        cca_patches(*given, p=80, d=8)


def test_networks_of_different_width() -> None:
    given = (network(0), network(1, width=12), images_of(), ["0", "2"])
    with pytest.raises(AnalysisError, match=r"block '0' has 16 channels in one network and 12 in the other.*share_"):
        cca_patches(*given, p=720, d=8)
    found = cca_patches(*given, p=720, d=8, share_channels=False)
    assert found["2"].independent == pytest.approx(independent_level(720, 8, 8))


def test_what_cannot_be_meant_is_refused() -> None:
    model = network()
    for name, value in (("p", 0), ("d", -1), ("repeats", 2.5), ("repeats", True)):
        with pytest.raises(AnalysisError, match=f"{name} is {value!r}; expected a whole number"):
            cca_patches(model, model, images_of(), ["0"], **{name: value})
    with pytest.raises(AnalysisError, match=r"images has shape \(1, 3, 12, 12\); expected at least 2"):
        cca_patches(model, model, images_of(1), ["0"])
    dead = network()
    with torch.no_grad():
        dead[0].weight[:], dead[0].bias[:] = 0, 0
    with pytest.raises(AnalysisError, match="block '0': y is constant"):
        cca_patches(model, dead, images_of(), ["0"], p=720, d=8)
    with torch.no_grad():
        dead[0].bias[:] = torch.nan
    with pytest.raises(AnalysisError, match=r"'0' has .* activations that are NaN"):
        cca_patches(model, dead, images_of(), ["0"], p=720, d=8)
