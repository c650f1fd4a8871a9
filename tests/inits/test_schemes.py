from __future__ import annotations

import pytest
import torch

from transfuse.errors import TransferError
from transfuse.inits import RANDOM, described, mean_var_, sampled_, shuffled_
from transfuse.inits import schemes as table


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


def test_moments_are_those_of_double_precision_in_pieces() -> None:
    source = torch.randn(100_003, generator=generator()) * 0.01 + 5  # far from zero: float32 sums lose digits
    drawn = mean_var_(torch.empty(100_003), source, generator(1))
    standard = torch.empty(100_003).normal_(generator=generator(1))
    assert torch.equal(drawn, standard.mul_(float(source.double().std())).add_(float(source.double().mean())))
    in_double = mean_var_(torch.empty(3), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), generator())
    assert torch.equal(in_double, mean_var_(torch.empty(3), torch.tensor([1.0, 2.0, 3.0]), generator()))


def test_draws_are_those_of_plain_torch_and_may_be_made_in_place() -> None:
    source = torch.randn(30, 40, generator=generator())
    index = torch.randint(1200, (30, 40), generator=generator(2))
    assert torch.equal(sampled_(torch.empty(30, 40), source, generator(2)), source.flatten()[index])
    order = torch.randperm(1200, generator=generator(2))
    shuffled = source.flatten()[order].reshape(30, 40)
    assert torch.equal(shuffled_(torch.empty(30, 40), source, generator(2)), shuffled)
    assert torch.equal(shuffled_(torch.empty(40, 30).T, source, generator(2)), shuffled)
    assert torch.equal(shuffled_(source, source, generator(2)), shuffled)


def test_every_option_is_described_and_nothing_else() -> None:
    said = {(key, value) for key, value, _ in described()}
    valid = {
        "rest": table.REST,
        "random": tuple(RANDOM),
        "norm": table.NORM,
        "biases": table.BIASES,
        "embeddings": table.EMBEDDINGS,
        "head": table.HEAD,
        "gabor_scale": table.GABOR_SCALES,
        "overrides": ("transfer", "gabor", "..."),
    }
    assert said == {(key, value) for key, values in valid.items() for value in values}
