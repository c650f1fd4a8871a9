"""What every initialisation keeps, on every kind of network."""

from __future__ import annotations

import copy
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from transfuse.inits import RANDOM, Transfer, initialise_
from transfuse.models import blocks_of, create_model

NETWORKS = ["cbr_demo", "test_resnet", "mobilenetv2_050"]
LEVELS = {"cbr_demo": "stage", "test_resnet": "wt-st", "mobilenetv2_050": "stage"}
ARMS: dict[str, dict[str, object]] = {
    "random": {},
    **{f"random {name}": {"random": name} for name in RANDOM},
    "pretrained": {"depth": "all"},
    "mean_var": {"rest": "mean_var"},
    "mean_var, norm mean_var": {"rest": "mean_var", "norm": "mean_var"},
    "mean_var, norm transfer": {"rest": "mean_var", "norm": "transfer"},
    "sampled": {"rest": "sampled"},
    "shuffled": {"rest": "shuffled"},
    "transfusion": {"depth": "middle"},
    "transfusion on mean_var": {"depth": "middle", "rest": "mean_var"},
    "weights only": {"rest": "mean_var", "biases": "random"},
    "source's head": {"depth": "all", "head": "source"},
}
State = dict[str, Tensor]


@cache
def created(name: str) -> nn.Module:
    return create_model(name, classes=5)


@cache
def trained(name: str) -> State:
    """Weights that no initialisation gives: every tensor is random about its own mean, statistics too."""
    generator = torch.Generator().manual_seed(99)
    state = copy.deepcopy(created(name)).state_dict()
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            tensor.fill_(7)
        else:
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(0.5 + noise if key.endswith("running_var") else noise - 0.3)
    return state


def start(name: str, seed: int = 0, level: str | None = None, **arm: object) -> tuple[State, Transfer]:
    model = copy.deepcopy(created(name))
    if set(arm) - {"random"}:
        arm["source"] = trained(name)
    blocks = blocks_of(model, level or LEVELS[name])
    transfer = initialise_(model, blocks, seed=seed, **arm)  # type: ignore[arg-type]
    return model.state_dict(), transfer


def differing(a: State, b: State) -> set[str]:
    return {key for key in a if not torch.equal(a[key], b[key])}


def layers(name: str) -> list[str]:
    """Weights of convolutions below the head."""
    model = create_model(name, classes=5, device="meta")
    return [f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_is_accounted_for_and_a_function_of_the_seed(name: str, arm: str) -> None:
    torch.manual_seed(1)
    state, transfer = start(name, **ARMS[arm])
    before = torch.get_rng_state()
    again, transfer_again = start(name, **ARMS[arm])
    assert torch.equal(torch.get_rng_state(), before)
    assert not differing(state, again)
    assert transfer == transfer_again
    assert [row["name"] for row in transfer.rows()] == list(state)
    assert sum(transfer.counts.values()) == len(state)
    assert sum(row.elements for row in transfer.tensors) == sum(tensor.numel() for tensor in state.values())
    for row in transfer.tensors:
        if row.treatment == "transferred":
            assert torch.equal(state[row.name], trained(name)[row.name])
        elif row.treatment in ("random", "fresh", "mean_var", "sampled"):
            assert row.elements == 1 or not torch.equal(state[row.name], trained(name)[row.name]), row
    other, _ = start(name, seed=1, **ARMS[arm])
    if arm == "source's head":
        assert not differing(state, other)
    else:
        drawn = {r.name for r in transfer.tensors if r.treatment not in ("transferred", "identity")}
        assert {f"{key}" for key in differing(state, other)} == {
            key for key in drawn if state[key].unique().numel() > 1
        }


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "source's head"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_fresh_head_is_the_same_for_all_arms_of_a_seed(name: str, arm: str) -> None:
    state, transfer = start(name, **ARMS[arm])
    plain, _ = start(name)
    head = [row.name for row in transfer.tensors if row.block == "head"]
    assert head
    assert not differing({key: state[key] for key in head}, plain)
    bound = 1 / state[head[0]].shape[1] ** 0.5
    assert all(state[key].abs().max() <= bound for key in head)
    assert state[head[0]].abs().max() > 0.9 * bound


@pytest.mark.parametrize("rest", ["random", "mean_var", "sampled", "shuffled"])
@pytest.mark.parametrize("name", NETWORKS)
def test_neighbouring_depths_differ_in_one_block_only(name: str, rest: str) -> None:
    model = create_model(name, classes=5, device="meta")
    blocks = blocks_of(model, LEVELS[name])
    states = [start(name, depth=depth, rest=rest)[0] for depth in range(1, len(blocks) + 1)]
    for index, (lower, upper) in enumerate(pairwise(states), start=1):
        changed = {blocks.owner(key) for key in differing(lower, upper)}
        assert changed == {blocks.names[index]}


@pytest.mark.parametrize("name", NETWORKS)
def test_draws_do_not_depend_on_what_else_is_drawn(name: str) -> None:
    state, transfer = start(name)
    one, _ = start(name, depth="middle")
    upper = [row.name for row in transfer.tensors if torch.equal(one[row.name], state[row.name])]
    owners = {row.name: row.block for row in transfer.tensors}
    blocks = blocks_of(create_model(name, classes=5, device="meta"), LEVELS[name])
    above = {*blocks.names[blocks.depth("middle") :], "head"}
    assert {owners[key] for key in upper} == above
    assert all(key in upper for key in state if owners[key] in above)
    by_blocks, _ = start(name, level="block")
    assert not differing(state, by_blocks)


@pytest.mark.parametrize("name", NETWORKS)
def test_mean_var_keeps_mean_and_variance_within_sampling_error(name: str) -> None:
    state, _ = start(name, rest="mean_var", norm="mean_var")
    for key in layers(name):
        source, drawn, count = trained(name)[key], state[key], state[key].numel()
        assert abs(drawn.mean() - source.mean()) < 5 * source.std() / count**0.5
        assert abs(drawn.std() / source.std() - 1) < 5 / (2 * count) ** 0.5
    for key in (key for key in state if key.endswith("running_var")):
        assert state[key].min() >= trained(name)[key].min() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_sampling_takes_values_of_the_source_and_shuffling_all_of_them(name: str) -> None:
    (sampled, _), (shuffled, _) = start(name, rest="sampled"), start(name, rest="shuffled")
    for key in layers(name):
        source = trained(name)[key].flatten()
        assert torch.isin(sampled[key], source).all()
        assert sampled[key].unique().numel() < 0.8 * source.unique().numel()  # with replacement: about 63 % are hit
        assert torch.equal(shuffled[key].flatten().sort().values, source.sort().values)
        assert not torch.equal(shuffled[key].flatten(), source)


@pytest.mark.parametrize("norm", ["identity", "mean_var", "transfer"])
@pytest.mark.parametrize("name", NETWORKS)
def test_norm_layers_have_their_own_treatment(name: str, norm: str) -> None:
    state, transfer = start(name, rest="mean_var", norm=norm)
    model = create_model(name, classes=5, device="meta")
    norms = [path for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    for path in norms:
        scale, mean = state[f"{path}.weight"], state[f"{path}.running_mean"]
        source = trained(name)[f"{path}.weight"]
        assert (scale == 1).all() == (norm == "identity")
        assert (mean == 0).all() == (norm == "identity")
        assert torch.equal(scale, source) == (norm == "transfer")
        assert state[f"{path}.num_batches_tracked"] == (7 if norm == "transfer" else 0)
    treated = {row.treatment for row in transfer.tensors if row.name.rpartition(".")[0] in norms}
    assert treated <= {{"transfer": "transferred"}.get(norm, norm), "identity"}


@pytest.mark.parametrize("name", NETWORKS)
def test_shares_are_those_of_the_parameters(name: str) -> None:
    _, everything = start(name, depth="all")
    _, nothing = start(name, rest="mean_var")
    _, with_head = start(name, depth="all", head="source")
    assert everything.coverage == 1.0
    assert 0.5 < everything.transferred_share < 1.0
    assert nothing.coverage == nothing.transferred_share == 0.0
    assert with_head.transferred_share == 1.0
    count = sum(parameter.numel() for parameter in create_model(name, classes=5, device="meta").parameters())
    assert everything.parameters == count
