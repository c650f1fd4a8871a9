from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from transfuse.errors import BlocksError
from transfuse.models import Block, Blocks, blocks_of, create_model, freeze_, prefix_fingerprint
from transfuse.models.freeze import frozen_fingerprint, prefix_output, tune_only_

NETWORKS = ["cbr_demo", "test_resnet", "mobilenetv2_050"]
LEVELS = ["stage", "block", "layer"]


def build(name: str) -> tuple[nn.Module, Blocks]:
    model = create_model(name, classes=2)
    return model, blocks_of(model)


def step(model: nn.Module, seed: int = 0, size: int = 32) -> None:
    """One step of training as every loop does it: `.train()` first."""
    images = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 + 1
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


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cbr_demo", 32),
        ("test_resnet", 32),
        ("test_efficientnet", 32),
        ("test_convnext", 32),
        ("test_vit", 160),
        pytest.param("densenet121", 32, marks=pytest.mark.exhaustive),
        pytest.param("vgg11", 32, marks=pytest.mark.exhaustive),
        pytest.param("inception_v3", 96, marks=pytest.mark.exhaustive),
        pytest.param("resnetv2_18", 32, marks=pytest.mark.exhaustive),
        pytest.param("swin_tiny_patch4_window7_224", 224, marks=pytest.mark.exhaustive),
        pytest.param("deit_tiny_distilled_patch16_224", 224, marks=pytest.mark.exhaustive),
        pytest.param("eva02_tiny_patch14_224", 224, marks=pytest.mark.exhaustive),
    ],
)
def test_linear_probing_trains_the_head_and_nothing_else(name: str, size: int, level: str) -> None:
    model = create_model(name, classes=2)
    blocks = blocks_of(model, level)
    before, fixed = copy.deepcopy(model), torch.randn(2, 3, size, size)
    freeze_(model, blocks, "all")
    assert {blocks.owner(key) for key, p in model.named_parameters() if p.requires_grad} == {"head"}
    start = prefix_fingerprint(model, blocks, "all", fixed), frozen_fingerprint(model)
    step(model, size=size)
    assert (prefix_fingerprint(model, blocks, "all", fixed), frozen_fingerprint(model)) == start
    assert {blocks.owner(key) for key in moved(before, model)} == {"head"}
    freeze_(model, blocks, 0)  # tokens and positions too, which belong to the network itself
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_blocks_by_hand_are_frozen_as_any() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.norm, self.drop, self.fc = nn.BatchNorm2d(3), nn.Dropout(), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.drop(self.norm(x * self.scale)).mean((2, 3)))

    model = Mine()
    blocks = Blocks("stage", (Block("norm", ("scale", "norm", "drop"), "drop"),), ("fc",))
    before = copy.deepcopy(model)
    freeze_(model, blocks, "all")
    step(model)
    assert moved(before, model) == {"fc.weight", "fc.bias"}
    assert not model.drop.training
    freeze_(model, blocks, 0)
    step(model, 1)
    assert {"norm.weight", "norm.running_mean"} <= moved(before, model)  # a norm takes the gradient of a scale away
    assert model.scale.requires_grad
    assert model.drop.training


@pytest.mark.parametrize("tuned", [1, slice(0, 2), slice(2, 4)])
@pytest.mark.parametrize("name", NETWORKS)
def test_surgical_fine_tuning_moves_the_named_blocks_and_the_head(name: str, tuned: int | slice) -> None:
    model, blocks = build(name)
    names = blocks.names[tuned]
    before = copy.deepcopy(model)
    assert tune_only_(model, blocks, names) is model
    wanted = {names, "head"} if isinstance(names, str) else {*names, "head"}
    assert {blocks.owner(key) for key, p in model.named_parameters() if p.requires_grad} == wanted
    start = frozen_fingerprint(model)
    step(model)
    assert {blocks.owner(key) for key in moved(before, model)} == wanted
    assert {blocks.owner(key) for key, module in before.named_modules() if model.get_submodule(key).training and any(
        block.owns(key) for block in blocks
    )} == wanted - {"head"}  # fmt: skip
    assert frozen_fingerprint(model) == start
    assert frozen_fingerprint(model.eval()) == start


def test_surgery_and_freezing_thaw_each_other() -> None:
    model, blocks = build("test_resnet")
    untouched = copy.deepcopy(model)
    tune_only_(model, blocks, blocks.names[-1])
    freeze_(model, blocks, 1)
    before = copy.deepcopy(model)
    step(model)
    assert {blocks.owner(key) for key in moved(before, model)} == {*blocks.names[1:], "head"}
    tune_only_(model, blocks, blocks.names[::-1])  # all of them, in any order
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert frozen_fingerprint(model) == frozen_fingerprint(untouched)  # of nothing


def test_what_the_user_froze_in_a_block_stays_frozen() -> None:
    model, blocks = build("test_vit")
    model.cls_token.requires_grad_(False)
    freeze_(model, blocks, "all")
    freeze_(model, blocks, 0)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["cls_token"]


def test_the_fingerprint_of_frozen_tensors_sees_each_of_them_and_no_other() -> None:
    model, blocks = build("test_vit")
    tuned = blocks.names[2]
    tune_only_(model, blocks, tuned)
    start = frozen_fingerprint(model)
    assert frozen_fingerprint(pickle.loads(pickle.dumps(model))) == start
    for name, tensor in model.state_dict().items():
        value = tensor.view(-1)[0].item()
        tensor.view(-1)[0] += 1
        assert (frozen_fingerprint(model) == start) == (blocks.owner(name) in (tuned, "head")), name
        tensor.view(-1)[0] = value
    assert frozen_fingerprint(model) == start


def test_statistics_that_are_told_to_move_are_not_fingerprinted() -> None:
    model, blocks = build("test_resnet")
    before = copy.deepcopy(model)
    tune_only_(model, blocks, blocks.names[0], norm_statistics="updated")
    start = frozen_fingerprint(model)
    step(model)
    assert any("running_mean" in key and blocks.owner(key) == blocks.names[1] for key in moved(before, model))
    assert frozen_fingerprint(model) == start
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if blocks.owner(name) == blocks.names[1]).add_(1)
    assert frozen_fingerprint(model) != start


@pytest.mark.parametrize(("name", "size"), [("test_vit", 160), ("densenet121", 32), ("inception_v3", 96)])
def test_a_prefix_that_ends_in_a_tap_is_checked_to_its_last_tensor(name: str, size: int) -> None:
    model = create_model(name, classes=2)
    blocks = blocks_of(model, "layer")
    depth, tap = next((number, block) for number, block in enumerate(blocks, start=1) if not block.cut)
    fixed = torch.randn(1, 3, size, size)
    freeze_(model, blocks, depth)
    start = prefix_fingerprint(model, blocks, depth, fixed)
    assert prefix_fingerprint(model, blocks, depth, fixed) == start
    for key, tensor in model.state_dict().items():
        if tap.owns(key) and tensor.is_floating_point():
            kept = tensor.clone()
            tensor.mul_(1.5).add_(0.1)
            assert prefix_fingerprint(model, blocks, depth, fixed) != start, key
            tensor.copy_(kept)
    assert prefix_fingerprint(model, blocks, depth, fixed) == start


def test_a_block_that_gives_several_tensors_has_a_fingerprint_but_no_one_output() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
            return self.conv(x), [x]

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.fc = Twice(), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.twice(x)[0].mean((2, 3)))

    model, fixed = Mine(), torch.randn(1, 3, 4, 4)
    blocks = Blocks("stage", (Block("twice", ("twice",), "twice"),), ("fc",))
    start = prefix_fingerprint(model, blocks, 1, fixed)
    with torch.no_grad():
        model.twice.conv.weight.add_(1)
    assert prefix_fingerprint(model, blocks, 1, fixed) != start
    with pytest.raises(BlocksError, match=r"The output 'twice' of block 'twice' is 2 tensors, not one"):
        prefix_output(model, blocks, 1, fixed)


def test_errors_of_surgery() -> None:
    model, blocks = build("cbr_demo")
    with pytest.raises(BlocksError, match=r"Unknown block 'layer9' at level 'stage': did you mean 'layer\d'\? Choices"):
        tune_only_(model, blocks, ("layer1", "layer9"))
    with pytest.raises(BlocksError, match=r"layer1, layer3, leave a gap: layer2\. Surgical .* that follow each other"):
        tune_only_(model, blocks, ("layer1", "layer3"))
    with pytest.raises(BlocksError, match=r"No block to tune: .* freeze_\(model, blocks, 'all'\)"):
        tune_only_(model, blocks, ())
    with pytest.raises(BlocksError, match=r"Unknown norm_statistics 'freezed'"):
        tune_only_(model, blocks, "layer1", norm_statistics="freezed")
    assert all(parameter.requires_grad for parameter in model.parameters())
