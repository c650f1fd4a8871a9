from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import TransferError
from transfuse.inits import rerandomise_
from transfuse.models import Blocks, blocks_of, create_model


def build(name: str = "test_efficientnet") -> tuple[nn.Module, Blocks, dict[str, Tensor]]:
    model = create_model(name, classes=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model, blocks_of(model), {key: tensor.clone() for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize("scheme", ["kaiming_uniform", "mean_var"])
@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_only_the_block_changes(name: str, scheme: str) -> None:
    model, blocks, before = build(name)
    for block in blocks.names[:3]:
        transfer = rerandomise_(model, blocks, block, scheme=scheme, seed=1)
        changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
        drawn = {row.name for row in transfer.tensors if row.treatment != "transferred"}
        assert {blocks.owner(key) for key in changed} == {block}
        assert changed == drawn
        again = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        model.load_state_dict(before)
        rerandomise_(model, blocks, block, scheme=scheme, seed=1)
        assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())
        model.load_state_dict(before)


def test_draws_are_those_of_the_scheme() -> None:
    model, blocks, before = build("cbr_demo")
    rerandomise_(model, blocks, "layer3")
    weight = model.state_dict()["layer3.conv.weight"]
    assert weight.abs().max() <= 1 / (25 * 32) ** 0.5
    model.load_state_dict(before)
    rerandomise_(model, blocks, "layer3", scheme="mean_var")
    assert weight.mean() == pytest.approx(before["layer3.conv.weight"].mean().item(), abs=0.01)


def test_unknown_blocks_and_schemes() -> None:
    model, blocks, _ = build("cbr_demo")
    with pytest.raises(TransferError, match=r"Unknown block 'layer9': did you mean 'layer"):
        rerandomise_(model, blocks, "layer9")
    with pytest.raises(TransferError, match=r"Unknown scheme 'uniform': .*kaiming_uniform"):
        rerandomise_(model, blocks, "layer1", scheme="uniform")


@pytest.mark.parametrize("scheme", ["kaiming_uniform", "mean_var"])
def test_a_block_of_norms_has_nothing_to_draw(scheme: str) -> None:
    model, blocks, before = build("test_vit")
    with pytest.raises(TransferError, match=r"Block 'norm' holds normalisation layers only.*Choices: patch_embed, blo"):
        rerandomise_(model, blocks, "norm", scheme=scheme)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
