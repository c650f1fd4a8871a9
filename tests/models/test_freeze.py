from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from transfuse.errors import BlocksError
from transfuse.models import Blocks, blocks_of, create_model, freeze_, prefix_fingerprint
from transfuse.models.freeze import prefix_output

NETWORKS = ["cbr_demo", "test_resnet", "mobilenetv2_050"]


def build(name: str) -> tuple[nn.Module, Blocks]:
    model = create_model(name, classes=2)
    return model, blocks_of(model)


def step(model: nn.Module, seed: int = 0) -> None:
    """One step of training as every loop does it: `.train()` first."""
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 + 1
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.train()
    nn.functional.cross_entropy(model(images), torch.arange(8) % 2).backward()
    optimizer.step()


def moved(before: nn.Module, after: nn.Module) -> set[str]:
    old = before.state_dict()
    return {key for key, tensor in after.state_dict().items() if not torch.equal(tensor, old[key])}


@pytest.mark.parametrize("depth", [1, "middle", "all"])
@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_means_frozen(name: str, depth: int | str) -> None:
    model, blocks = build(name)
    before, fixed = copy.deepcopy(model), torch.randn(4, 3, 32, 32)
    assert freeze_(model, blocks, depth) is model
    frozen = {block.name for block in blocks[: blocks.depth(depth)]}
    start = prefix_fingerprint(model, blocks, depth, fixed)
    for seed in range(2):
        step(model, seed)
        assert prefix_fingerprint(model, blocks, depth, fixed) == start
    owners = {blocks.owner(key) for key in moved(before, model)}
    assert owners == {*blocks.names, "head"} - frozen
    assert {blocks.owner(key) for key, p in model.named_parameters() if not p.requires_grad} == frozen
    model.eval()
    assert prefix_fingerprint(model, blocks, depth, fixed) == start


@pytest.mark.parametrize("name", NETWORKS)
def test_updated_statistics_move_and_parameters_do_not(name: str) -> None:
    model, blocks = build(name)
    before = copy.deepcopy(model)
    freeze_(model, blocks, "middle", norm_statistics="updated")
    step(model)
    frozen = [key for key in moved(before, model) if blocks.owner(key) in blocks.names[: blocks.depth("middle")]]
    assert frozen
    assert {key.rpartition(".")[2] for key in frozen} == {"running_mean", "running_var", "num_batches_tracked"}
    model.eval()
    assert not any(module.training for module in model.modules())


def test_requires_grad_alone_would_be_noticed() -> None:
    model, blocks = build("test_resnet")
    fixed = torch.randn(4, 3, 32, 32)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(blocks.owner(name) == "head")
    model.eval()
    start = prefix_fingerprint(model, blocks, "all", fixed)
    step(model)
    assert prefix_fingerprint(model.eval(), blocks, "all", fixed) != start


def test_frozen_dropout_rests_and_a_wrapper_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    blocks = blocks_of(model)
    freeze_(model, blocks, 1)
    wrapper = nn.ModuleList([model]).train()
    assert [module.training for module in model] == [False, False, False, False, True]
    wrapper.eval()
    assert not model[4].training
    model.requires_grad_(False)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save"])
def test_copies_stay_frozen_and_are_independent(copied: str) -> None:
    model, blocks = build("test_resnet")
    keys = list(model.state_dict())
    freeze_(model, blocks, 2)
    if copied == "deepcopy":
        twin = copy.deepcopy(model)
    elif copied == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert list(twin.state_dict()) == keys
    before = copy.deepcopy(twin)
    mode = [module.training for module in model.modules()]
    step(twin)
    assert {blocks.owner(key) for key in moved(before, twin)} == {*blocks.names[2:], "head"}
    assert mode == [module.training for module in model.modules()]
    assert not moved(before, model)


def test_freezing_less_thaws_the_rest_and_leaves_the_user_s_own_choices() -> None:
    model, blocks = build("cbr_demo")
    model.head.bias.requires_grad_(False)
    before = copy.deepcopy(model)
    freeze_(model, blocks, "all")
    freeze_(model, blocks, 1)
    step(model)
    assert {blocks.owner(key) for key in moved(before, model)} == {*blocks.names[1:], "head"}
    assert not model.head.bias.requires_grad
    freeze_(model, blocks, 0)
    model.train()
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if name != "head.bias")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_prefix_is_the_network_s_own_activation_and_leaves_no_trace(name: str) -> None:
    model, blocks = build(name)
    fixed, kept = torch.randn(2, 3, 32, 32), []
    before = copy.deepcopy(model)
    for depth in range(1, len(blocks) + 1):
        prefix_output(model, blocks, depth, fixed)  # in training mode: statistics would move
    assert not moved(before, model)
    assert prefix_output(model, blocks, 0, fixed) is fixed
    model.eval()
    output = model.get_submodule(blocks[-1].output)
    handle = output.register_forward_hook(lambda module, inputs, out: kept.append(out.detach().clone()))
    model(fixed)
    handle.remove()
    assert torch.equal(prefix_output(model, blocks, "all", fixed), kept[0])
    assert not any(module._forward_hooks for module in model.modules())


def test_fingerprints_tell_one_bit_and_shapes() -> None:
    model, blocks = build("cbr_demo")
    fixed = torch.zeros(1, 3, 32, 32)
    changed = fixed.clone()
    changed[0, 0, 0, 0] = torch.finfo(torch.float32).tiny
    empty = prefix_fingerprint(model, blocks, 0, fixed)
    assert empty == prefix_fingerprint(model, blocks, 0, fixed.clone())
    assert empty != prefix_fingerprint(model, blocks, 0, changed)
    assert empty != prefix_fingerprint(model, blocks, 0, fixed.reshape(3, 1, 32, 32))


def test_errors() -> None:
    model, blocks = build("cbr_demo")
    with pytest.raises(BlocksError, match=r"Unknown norm_statistics 'freezed': .*frozen, updated"):
        freeze_(model, blocks, 1, norm_statistics="freezed")
    with pytest.raises(BlocksError, match=r"Unknown depth 'layer5'"):
        freeze_(model, blocks, "layer5")
    model.fc = nn.Linear(2, 2)
    with pytest.raises(BlocksError, match=r"have no owner: fc.weight, fc.bias"):
        freeze_(model, blocks, 1)
