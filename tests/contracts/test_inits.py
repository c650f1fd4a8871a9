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

LEVELS = {  # the smallest member of each family that costs next to nothing, and the level at which it is tested
    "cbr_demo": "stage",
    "test_resnet": "wt-st",
    "mobilenetv2_050": "stage",
    "test_efficientnet": "block",
    "test_vit": "wt-st",
    "test_vit2": "wt-st",  # register tokens and layer scale
    "test_convnext": "stage",  # layer scale without a reset of its own
}
NETWORKS = list(LEVELS)
BIG = [  # the smallest members of families without a tiny one, and transformers with parts of their own
    *("densenet121", "inception_v3", "vgg11_bn", "swin_tiny_patch4_window7_224", "convnext_tiny"),
    *("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2"),
    *("vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "convnextv2_atto", "resnet50"),
]
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
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
    "embeddings resampled": {"rest": "mean_var", "embeddings": "resample"},
    "shuffled, all of it": {"rest": "shuffled", "norm": "mean_var", "embeddings": "resample"},
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
    blocks = blocks_of(model, level or LEVELS.get(name, "stage"))
    transfer = initialise_(model, blocks, seed=seed, **arm)  # type: ignore[arg-type]
    return model.state_dict(), transfer


def differing(a: State, b: State) -> set[str]:
    return {key for key in a if not torch.equal(a[key], b[key])}


def layers(name: str) -> list[str]:
    """Weights of convolutions and linear layers below the head."""
    model = create_model(name, classes=5, device="meta")
    blocks = blocks_of(model)
    names = [f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return [key for key in names if blocks.owner(key) != "head"]


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
    norms = [path for path, module in model.named_modules() if isinstance(module, NORMS)]
    assert norms
    for path in norms:
        scale = state[f"{path}.weight"]
        assert (scale == 1).all() == (norm == "identity")
        assert (state[f"{path}.bias"] == 0).all() == (norm == "identity")
        assert torch.equal(scale, trained(name)[f"{path}.weight"]) == (norm == "transfer")
        if f"{path}.running_mean" in state:
            assert (state[f"{path}.running_mean"] == 0).all() == (norm == "identity")
            assert state[f"{path}.num_batches_tracked"] == (7 if norm == "transfer" else 0)
    treated = {row.treatment for row in transfer.tensors if row.name.rpartition(".")[0] in norms}
    assert treated <= {{"transfer": "transferred"}.get(norm, norm), "identity"}


@pytest.mark.parametrize("norm", ["identity", "mean_var", "transfer"])
@pytest.mark.parametrize("name", ["test_vit2", "test_convnext"])
def test_layer_scales_follow_the_norm_layers(name: str, norm: str) -> None:
    state, transfer = start(name, rest="mean_var", norm=norm)
    scales = [key for key in state if key.rpartition(".")[2] == "gamma"]
    assert scales
    for key in scales:
        assert torch.equal(state[key], created(name).state_dict()[key]) == (norm == "identity")
        assert torch.equal(state[key], trained(name)[key]) == (norm == "transfer")
    treated = {row.treatment for row in transfer.tensors if row.name in scales}
    assert treated == {{"transfer": "transferred"}.get(norm, norm)}
    plain, _ = start(name)
    assert all(torch.equal(plain[key], created(name).state_dict()[key]) for key in scales)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_embeddings_are_kept_resampled_or_random(name: str) -> None:
    keys = [key for key in created(name).state_dict() if "." not in key]
    assert "pos_embed" in keys
    for rest in ("mean_var", "sampled", "shuffled"):
        state, transfer = start(name, rest=rest)
        assert not differing({key: state[key] for key in keys}, trained(name))
        assert {row.treatment for row in transfer.tensors if row.name in keys} == {"transferred"}
        state, transfer = start(name, rest=rest, embeddings="resample")
        assert differing({key: state[key] for key in keys}, trained(name)) == set(keys)
        assert {row.treatment for row in transfer.tensors if row.name in keys} == {rest}
    state, transfer = start(name)
    assert {row.treatment for row in transfer.tensors if row.name in keys} == {"random"}
    assert float(state["pos_embed"].std()) == pytest.approx(0.02, rel=0.1)
    for key in set(keys) - {"pos_embed"}:
        assert 0 < float(state[key].std()) < 2e-6


@pytest.mark.parametrize("name", [name for name in NETWORKS if LEVELS[name] == "wt-st"])
def test_wt_st_goes_from_nothing_to_everything(name: str) -> None:
    weights = layers(name)
    model = create_model(name, classes=5, device="meta")
    blocks = blocks_of(model, "wt-st")
    for depth in range(len(blocks) + 1):
        state, transfer = start(name, level="wt-st", depth=depth, rest="mean_var")
        pretrained = {key for key in weights if torch.equal(state[key], trained(name)[key])}
        assert pretrained == {key for key in weights if blocks.owner(key) in blocks.names[:depth]}
        assert {row.name for row in transfer.tensors if row.treatment == "transferred"} >= pretrained
    assert pretrained == set(weights)
    assert transfer.coverage == 1.0


WITH_WT_ST = ("test_resnet", "test_vit")


@pytest.mark.parametrize(
    ("name", "level"),
    [
        (name, level)
        for name in NETWORKS
        for level in ("stage", "block", "layer", *(("wt-st",) if name in WITH_WT_ST else ()))
    ],
)
def test_transfusion_at_every_depth_of_every_level(name: str, level: str) -> None:
    blocks = blocks_of(create_model(name, classes=5, device="meta"), level)
    plain, _ = start(name)
    for depth in range(1, len(blocks) + 1):
        state, transfer = start(name, level=level, depth=depth)
        below = {key for key in state if blocks.owner(key) in blocks.names[:depth]}
        assert not differing({key: state[key] for key in below}, trained(name))
        assert not differing({key: state[key] for key in set(state) - below}, plain)
        assert transfer.depth == depth
    assert transfer.coverage == 1.0


@pytest.mark.parametrize(("name", "expected"), [("test_vit", 0.02), ("test_convnext", 0.02), ("test_resnet", None)])
def test_the_default_random_start_is_the_family_s(name: str, expected: float | None) -> None:
    state, _ = start(name)
    truncated, _ = start(name, random="trunc_normal")
    assert (not differing(state, truncated)) == (expected is not None)
    for key in layers(name) if expected else []:
        assert float(state[key].std()) == pytest.approx(expected, rel=6 / state[key].numel() ** 0.5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", BIG)
def test_every_scheme_on_networks_as_they_are_used(name: str) -> None:
    blocks = blocks_of(created(name))
    above = {*blocks.names, "head"} - set(blocks.names[: blocks.depth("middle")])
    weights = layers(name)
    plain, _ = start(name)
    for arm, arguments in ARMS.items():
        state, transfer = start(name, level="stage", **arguments)
        assert [row.name for row in transfer.tensors] == list(state), arm
        for row in transfer.tensors:
            if row.treatment == "transferred":
                assert torch.equal(state[row.name], trained(name)[row.name]), (arm, row)
            elif row.treatment == "random" and "random" not in arguments:
                assert torch.equal(state[row.name], plain[row.name]), (arm, row)
            elif row.treatment == "shuffled":
                values = state[row.name].flatten().sort().values
                assert torch.equal(values, trained(name)[row.name].flatten().sort().values), (arm, row)
            assert torch.isfinite(state[row.name]).all(), (arm, row)
        pretrained = {key for key in weights if torch.equal(state[key], trained(name)[key])}
        if arguments.get("depth") == "all":
            assert pretrained == set(weights)
        elif "depth" not in arguments:
            assert not pretrained
        else:
            assert pretrained == {key for key in weights if blocks.owner(key) not in above}


@pytest.mark.parametrize("name", NETWORKS)
def test_shares_are_those_of_the_parameters(name: str) -> None:
    _, everything = start(name, depth="all")
    _, nothing = start(name, rest="mean_var", embeddings="resample")
    _, with_head = start(name, depth="all", head="source")
    assert everything.coverage == 1.0
    assert 0.5 < everything.transferred_share < 1.0
    assert nothing.coverage == nothing.transferred_share == 0.0
    assert with_head.transferred_share == 1.0
    count = sum(parameter.numel() for parameter in create_model(name, classes=5, device="meta").parameters())
    assert everything.parameters == count
