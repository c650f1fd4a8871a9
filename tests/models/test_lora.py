from __future__ import annotations

import copy
import importlib.util
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from transfuse.errors import BlocksError, ExtraNotInstalled
from transfuse.models import Block, Blocks, blocks_of, check_blocks, create_model
from transfuse.models.lora import add_lora_, merge_lora_, plain_name

PROJECTIONS = 12  # of test_vit: 6 blocks with qkv and proj
IMAGES = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))


def build(name: str = "test_vit") -> tuple[nn.Module, Blocks]:
    model = create_model(name, classes=2)
    return model, blocks_of(model)


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.5)
    for _ in range(2):  # B is zero at first, so that A moves in the second step only
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(IMAGES), torch.tensor([0, 1])).backward()
        optimizer.step()


def test_the_function_at_the_start_is_that_of_the_network_to_the_bit() -> None:
    model, blocks = build()
    plain = copy.deepcopy(model)
    assert add_lora_(model, blocks, rank=4) is model
    for mode in (True, False):
        assert torch.equal(model.train(mode)(IMAGES), plain.train(mode)(IMAGES))
    state = {plain_name(key): tensor for key, tensor in model.state_dict().items() if "lora_" not in key}
    torch.testing.assert_close(state, dict(plain.state_dict()), rtol=0, atol=0)


def test_adapters_and_the_head_are_trained_and_nothing_else() -> None:
    model, blocks = build()
    model.head.bias.requires_grad_(False)
    add_lora_(model, blocks, rank=4)
    adapters = {name for name in trained(model) if "lora_" in name}
    assert trained(model) - adapters == {"head.weight"}
    assert len(adapters) == 2 * PROJECTIONS
    sizes = {name: tuple(p.shape) for name, p in model.named_parameters() if name.startswith("blocks.0.attn.qkv.lora")}
    assert sizes == {
        "blocks.0.attn.qkv.lora_A.default.weight": (4, 64),
        "blocks.0.attn.qkv.lora_B.default.weight": (192, 4),
    }
    before = copy.deepcopy(model.state_dict())
    step(model)
    moved = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert moved == adapters | {"head.weight"}


def test_an_adapted_layer_is_the_formula_of_the_paper() -> None:
    model, blocks = build()
    add_lora_(model, blocks, rank=4, alpha=6)
    step(model)
    x = torch.randn(3, 64)
    layer = model.blocks[2].attn.proj
    a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
    torch.testing.assert_close(layer(x), layer.base_layer(x) + 6 / 4 * (x @ a.T @ b.T))
    assert b.abs().max() > 0


@pytest.mark.parametrize("alpha", [None, 3.0])
def test_merged_adapters_are_the_plain_network_again(alpha: float | None) -> None:
    model, blocks = build()
    model.norm.weight.requires_grad_(False)
    plain = copy.deepcopy(model)
    add_lora_(model, blocks, rank=2, alpha=alpha)
    step(model)
    model.eval()
    expected = model(IMAGES)
    assert not torch.allclose(expected, plain.eval()(IMAGES), atol=1e-3)
    assert merge_lora_(model) is model
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [(name, type(module)) for name, module in model.named_modules()] == [
        (name, type(module)) for name, module in plain.named_modules()
    ]
    assert set(vars(model)) == set(vars(plain))
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-5, atol=1e-5)
    assert trained(model) == trained(plain)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(IMAGES), model(IMAGES))
    delta = model.blocks[0].attn.qkv.weight - create_model("test_vit", classes=2).blocks[0].attn.qkv.weight
    assert torch.linalg.matrix_rank(delta.detach(), rtol=1e-3) == 2


def test_the_draw_is_a_function_of_seed_and_name() -> None:
    states = []
    for seed in (1, 1, 2):
        model, blocks = build()
        torch.rand(3)
        state = torch.get_rng_state()
        add_lora_(model, blocks, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        states.append({key: tensor for key, tensor in model.state_dict().items() if "lora_A" in key})
    assert len(states[0]) == PROJECTIONS
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert not any(torch.equal(tensor, states[2][key]) for key, tensor in states[0].items())
    fewer, blocks = build()
    add_lora_(fewer, blocks, targets=("proj",), seed=1)  # another order of draws
    key = "blocks.3.attn.proj.lora_A.default.weight"
    assert torch.equal(fewer.state_dict()[key], states[0][key])
    assert not any("qkv.lora" in name for name, _ in fewer.named_parameters())
    every = torch.cat([tensor.flatten() for tensor in states[0].values()])
    assert every.abs().max() <= 1 / 8  # 1 / sqrt(64)
    assert every.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.02)


def test_blocks_are_those_of_the_network_with_and_without_adapters() -> None:
    for name, level in (("test_vit", "stage"), ("test_vit", "layer"), ("swin_tiny_patch4_window7_224", "block")):
        model = create_model(name, classes=2, device="meta")
        blocks = blocks_of(model, level)
        add_lora_(model, blocks)
        assert check_blocks(model, blocks) is blocks
        assert blocks_of(model, level) == blocks
        for key in model.state_dict():
            assert blocks.owner(key) == blocks.owner(plain_name(key))
        if name == "test_vit" and level == "stage":
            assert blocks.owner("blocks.0.attn.qkv.lora_A.default.weight") == "blocks.0"
        merge_lora_(model)
        assert blocks_of(model, level) == blocks


def test_modes_are_left_alone() -> None:
    model, blocks = build()
    model.eval()
    model.blocks[1].train()
    modes = {name: module.training for name, module in model.named_modules()}
    add_lora_(model, blocks)
    assert {name: model.get_submodule(name).training for name in modes} == modes
    merge_lora_(model)
    assert {name: module.training for name, module in model.named_modules()} == modes


@pytest.mark.parametrize("copied", ["deepcopy", "pickle"])
def test_copies_are_independent(copied: str) -> None:
    model, blocks = build()
    add_lora_(model, blocks)
    twin = copy.deepcopy(model) if copied == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert torch.equal(twin(IMAGES), model(IMAGES))
    before = copy.deepcopy(model.state_dict())
    step(twin)
    merge_lora_(twin)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert len(trained(twin)) == len(list(twin.parameters()))


def test_a_projection_in_the_head_or_of_another_kind_is_left_out() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.ModuleDict({"proj": nn.Conv2d(3, 8, 2)})
            self.block, self.head = nn.ModuleDict({"proj": nn.Linear(8, 8)}), nn.ModuleDict({"proj": nn.Linear(8, 2)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head["proj"](self.block["proj"](self.patch["proj"](x).mean((2, 3))))

    model = Mine()
    blocks = Blocks("stage", (Block("a", ("patch",), "patch.proj"), Block("b", ("block",), "block.proj")), ("head",))
    add_lora_(model, blocks)
    assert {name.rpartition(".lora")[0] for name in trained(model)} == {"", "block.proj"}


@pytest.mark.parametrize("name", ["resnet10t", "cbr_demo"])
def test_a_convnet_is_refused(name: str) -> None:
    model, blocks = build(name)
    message = r"holds an nn\.Linear named qkv or .*it has no linear layers there\. LoRA here is for transformers.*l2_sp"
    with pytest.raises(BlocksError, match=message):
        add_lora_(model, blocks)
    assert trained(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", ["swinv2_tiny_window8_256", "eva02_tiny_patch14_224"])
def test_attention_that_goes_round_the_module_is_refused(name: str) -> None:
    model = create_model(name, classes=2, device="meta")
    blocks = blocks_of(model)
    message = r"An adapter of .*0\.attn\.qkv \(12 of 24 projections\) would do nothing: .* targets: .*proj"
    with pytest.raises(BlocksError, match=message):
        add_lora_(model, blocks)
    add_lora_(model, blocks, targets=("proj",))
    assert sum("lora_A" in key for key in model.state_dict()) == 12


def test_what_cannot_be_meant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, blocks = build()
    for rank in (0, -1, 2.5, True):
        with pytest.raises(BlocksError, match=rf"rank is {rank}; expected a whole number above 0"):
            add_lora_(model, blocks, rank=rank)  # type: ignore[arg-type]
    with pytest.raises(BlocksError, match=r"alpha is -1; expected a number above 0, or None for 2 \* rank"):
        add_lora_(model, blocks, alpha=-1)
    with pytest.raises(BlocksError, match=r"named query or key; its linear layers there: qkv, proj, fc1, fc2"):
        add_lora_(model, blocks, targets=("query", "key"))
    with pytest.raises(BlocksError, match=r"has no adapters to fold in: add_lora_\(\) adds them"):
        merge_lora_(model)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ExtraNotInstalled, match=r"'peft' is needed for LoRA .* pip install 'transfuse\[lora\]'"):
            add_lora_(model, blocks)
    add_lora_(model, blocks)
    with pytest.raises(BlocksError, match=r"has adapters already: fold them in with merge_lora_\(\) first"):
        add_lora_(model, blocks)


def test_peft_is_not_imported_before_it_is_asked_for() -> None:
    code = "import sys, transfuse.models.lora, transfuse.training; sys.exit('peft' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
