"""One block forgotten at a time: what is put back, that all is restored, intervals against scipy, messages."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from transfuse.analysis.reinitialise import _interval, put_back, reinitialise, reinitialise_score
from transfuse.errors import AnalysisError, AnalysisWarning, SpecError
from transfuse.models import Block, Blocks, blocks_of, create_model


def pair(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network and the state that it had before all of its floating tensors moved."""
    model = create_model(name, classes=2)
    initial = copy.deepcopy(dict(model.state_dict()))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(torch.rand(tensor.shape, generator=generator).add_(0.5).to(tensor.dtype).clamp_(min=1))
    return model, initial


@pytest.mark.parametrize("name", ["cbr_demo", "test_resnet", "test_vit"])
@pytest.mark.parametrize("level", ["stage", "layer"])
def test_exactly_one_block_is_put_back_and_then_nothing(name: str, level: str) -> None:
    model, initial = pair(name)
    blocks, tuned = blocks_of(model, level), copy.deepcopy(dict(model.state_dict()))
    model.train()
    seen: list[set[str]] = []

    def score(net: nn.Module) -> float:
        assert net is model
        assert not any(module.training for module in net.modules())
        now = net.state_dict()
        back = {key for key in now if torch.equal(now[key], initial[key])}
        assert all(torch.equal(now[key], tuned[key]) for key in now if key not in back)
        seen.append(back)
        return float(len(seen))

    found = reinitialise_score(model, initial, blocks, score)
    names = (*blocks.names, "head")
    assert seen == [set(), *({key for key in tuned if blocks.owner(key) == block} for block in names)]
    assert all(back for back in seen[1:])
    assert tuple(item.block for item in found.blocks) == names
    assert [found[block].value for block in names] == [float(n) for n in range(2, len(names) + 2)]
    assert [found[block].drop for block in names] == [float(-n) for n in range(1, len(names) + 1)]
    assert {(item.low, item.high) for item in found.blocks} == {(None, None)}
    assert (found.whole, found.metric, found.patients) == (1.0, "score", None)
    assert all(torch.equal(tensor, tuned[key]) for key, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_names_are_compared_by_parts_of_the_path() -> None:
    class Ten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer3 = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
            self.mlp = nn.ModuleDict({"fc": nn.Linear(2, 2), "fc1": nn.Linear(2, 2)})
            self.fc = nn.Linear(2, 2)

    model = Ten()
    rest = tuple(f"layer3.{index}" for index in range(12) if index != 1)
    blocks = Blocks("x", (Block("one", ("layer3.1",), "layer3.1"), Block("rest", (*rest, "mlp"), "mlp")), ("fc",))
    initial = {key: torch.zeros_like(tensor) for key, tensor in model.state_dict().items()}
    for block, wanted in (("one", {"layer3.1.weight", "layer3.1.bias"}), ("head", {"fc.weight", "fc.bias"})):
        with put_back(model, initial, blocks, block):
            assert {key for key, tensor in model.state_dict().items() if not tensor.any()} == wanted


def test_everything_is_restored_after_an_exception() -> None:
    model, initial = pair("test_resnet")
    blocks, tuned = blocks_of(model), copy.deepcopy(dict(model.state_dict()))
    model.train()
    model.conv1.eval()
    modes = [module.training for module in model.modules()]
    needs = [parameter.requires_grad for parameter in model.parameters()]
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    calls = 0

    def predict(net: nn.Module) -> Tensor:
        nonlocal calls
        calls += 1
        net.train()(torch.randn(4, 3, 32, 32))  # statistics move, random numbers are drawn
        if calls == 3:
            raise KeyError("in the middle")
        return torch.rand(8)

    rng = torch.get_rng_state()
    with pytest.raises(KeyError, match="in the middle") as caught:
        reinitialise(model, initial, blocks, predict, [0, 1] * 4, replicates=0)
    assert caught.value.args  # the traceback is alive, and holds no half-changed network
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(tensor, tuned[key]) for key, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert needs == [parameter.requires_grad for parameter in model.parameters()]
    assert addresses == [parameter.data_ptr() for parameter in model.parameters()]
    assert torch.is_grad_enabled()


def table(rows: list[np.ndarray]) -> tuple[nn.Module, dict[str, Tensor], Blocks, object]:
    """A network whose predictions are rows[0], and rows[i] with block i put back (the head is the last)."""
    count = len(rows) - 1
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(count)))
    blocks = Blocks("x", tuple(Block(str(i), (str(i),), str(i)) for i in range(count - 1)), (str(count - 1),))
    initial = {key: torch.zeros_like(tensor) for key, tensor in model.state_dict().items()}
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(1.0)

    def predict(net: nn.Module) -> np.ndarray:
        back = [i for i, layer in enumerate(net) if not layer.weight.any()]
        return rows[back[0] + 1 if back else 0]

    return model, initial, blocks, predict


def test_values_and_drops_are_the_metric_s() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 60)
    rows = [target + rng.normal(size=60) * noise for noise in (0.3, 1.0, 3.0)]
    model, initial, blocks, predict = table(rows)
    found = reinitialise(model, initial, blocks, predict, target, replicates=200)
    areas = [roc_auc_score(target, row) for row in rows]
    assert found.whole == pytest.approx(areas[0])
    assert found["0"].value == pytest.approx(areas[1])
    assert found["head"].drop == pytest.approx(areas[0] - areas[2])
    assert all(item.low < item.drop < item.high for item in found.blocks)
    assert (found.metric, found.patients, found.level) == ("auroc", 60, 0.95)
    frame = found.frame()
    assert list(frame.columns) == ["block", "value", "drop", "low", "high"]
    assert frame["block"].tolist() == ["0", "head"]
    with pytest.raises(AnalysisError, match=r"there is no block 'haed'; did you mean 'head'"):
        found["haed"]


def test_intervals_of_samples_are_scipy_s_percentile_bootstrap() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 150)
    rows = [np.where(rng.random(150) < share, target, 1 - target) * 0.8 + 0.1 for share in (0.9, 0.7)]
    model, initial, blocks, predict = table(rows)
    found = reinitialise(model, initial, blocks, predict, target, metric="accuracy", replicates=20_000)["head"]
    right = [(row > 0.5) == target for row in rows]
    difference = right[0].astype(float) - right[1]
    theirs = bootstrap((difference,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert (found.low, found.high) == (pytest.approx(theirs.low, abs=0.008), pytest.approx(theirs.high, abs=0.008))
    narrow = reinitialise(model, initial, blocks, predict, target, metric="accuracy", level=0.5)["head"]
    assert found.low < narrow.low < found.drop < narrow.high < found.high


def test_patients_are_drawn_whole() -> None:
    rng = np.random.default_rng(0)
    target = np.tile([0, 1], 30)
    rows = [target + rng.normal(size=60) * noise for noise in (0.5, 1.5)]
    alone = reinitialise(*table(rows)[:3], table(rows)[3], target)["head"]
    # Copies of a sample under one patient's name bring no information: the intervals stay.
    model, initial, blocks, predict = table([np.repeat(row, 4) for row in rows])
    patients = [f"p{i}" for i in np.repeat(np.arange(60), 4)]
    together = reinitialise(model, initial, blocks, predict, np.repeat(target, 4), patients=patients)
    naive = reinitialise(model, initial, blocks, predict, np.repeat(target, 4))["head"]
    assert together.patients == 60
    width = together["head"].high - together["head"].low
    assert width == pytest.approx(alone.high - alone.low, rel=0.1)
    assert naive.high - naive.low < 0.6 * width


def test_resamples_are_the_same_for_every_block() -> None:
    rng = np.random.default_rng(0)
    target = np.tile([0, 1, 2], 20)
    whole, worse = (np.eye(3)[target] + rng.random((60, 3)) * noise for noise in (1, 4))
    model, initial, blocks, predict = table([whole, worse, whole, worse])
    found = reinitialise(model, initial, blocks, predict, target, replicates=300)
    assert found["0"] == type(found["0"])("0", *list(vars(found["head"]).values())[1:])
    assert (found["1"].drop, found["1"].low, found["1"].high) == (0.0, 0.0, 0.0)
    again = reinitialise(model, initial, blocks, predict, target, replicates=300)
    assert again == found
    other = reinitialise(model, initial, blocks, predict, target, replicates=300, seed=1)
    assert other["0"].low != found["0"].low
    assert other["0"].drop == found["0"].drop


def test_multi_label_scores_with_missing_labels() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, (80, 3)).astype(float)
    scores = [target + rng.normal(size=target.shape) * noise for noise in (0.5, 2.0)]
    target[rng.random(target.shape) < 0.2] = np.nan
    model, initial, blocks, predict = table([torch.tensor(row) for row in scores])
    found = reinitialise(model, initial, blocks, predict, torch.tensor(target), replicates=200)["head"]
    assert found.low < found.drop < found.high


def test_a_metric_of_which_less_is_better_drops_upwards() -> None:
    target = np.tile([0, 1], 20)
    model, initial, blocks, predict = table([target * 0.8 + 0.1, np.full(40, 0.5)])
    found = reinitialise(model, initial, blocks, predict, target, metric="brier", replicates=100)["head"]
    assert found.drop == pytest.approx(found.value - 0.01)
    assert found.drop > 0.2
    assert found.low > 0.2


def test_no_interval_rather_than_a_wrong_one() -> None:
    rows = [np.r_[1.0, np.zeros(39)], np.r_[0.0, np.ones(39)]]
    target = np.r_[1, np.zeros(39, int)]
    model, initial, blocks, predict = table(rows)
    # With one positive, resamples without it have no area; those with it are most of them here.
    assert reinitialise(model, initial, blocks, predict, target)["head"].low == 1.0
    for options in ({"replicates": 0}, {"patients": ["one"] * 40}):
        found = reinitialise(model, initial, blocks, predict, target, **options)
        assert (found["head"].drop, found["head"].low, found["head"].high, found.patients) == (1.0, None, None, None)
    assert _interval(np.array([np.nan, np.nan, 1.0]), 0.95) == (None, None)
    assert _interval(np.array([np.nan, 2.0, 1.0]), 0.5) == (1.25, 1.75)
    with pytest.warns(AnalysisWarning, match=r"4 patients: intervals of a bootstrap over fewer than 10") as told:
        reinitialise(model, initial, blocks, predict, target, patients=np.arange(40) % 4)
    assert told[0].filename == __file__


def test_a_frozen_block_has_nothing_to_forget() -> None:
    model, initial = pair("cbr_demo")
    blocks, images = blocks_of(model), torch.randn(12, 3, 32, 32)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if blocks[0].owns(key):
                tensor.copy_(initial[key])
    found = reinitialise(model, initial, blocks, lambda net: net(images).detach(), [0, 1] * 6, replicates=50)
    first = found[blocks.names[0]]
    assert (first.value, first.drop, first.low, first.high) == (found.whole, 0.0, 0.0, 0.0)


def test_messages() -> None:
    model, initial = pair("cbr_demo")
    blocks, ran = blocks_of(model), []

    def score(net: nn.Module) -> float:
        ran.append(net)
        return float("nan") if len(ran) == 2 else 1.0

    with pytest.raises(AnalysisError, match=r"initial and the network share the memory of \d+ tensors"):
        reinitialise_score(model, model.state_dict(), blocks, score)
    with pytest.raises(AnalysisError, match=r"share the memory"):
        reinitialise_score(model, model, blocks, score)
    with pytest.raises(AnalysisError, match=r"initial and the network are not states .* other shape .* head.weight"):
        reinitialise_score(model, create_model("cbr_demo", classes=5), blocks, score)
    with pytest.raises(AnalysisError, match=r"1 missing in initial: head.bias"):
        reinitialise_score(model, {k: v for k, v in initial.items() if k != "head.bias"}, blocks, score)
    assert not ran
    with pytest.raises(AnalysisError, match=r"with 'layer1' put back: the score is nan"):
        reinitialise_score(model, initial, blocks, score)
    with (
        pytest.raises(AnalysisError, match=r"there is no block 'layer9'; did you mean 'layer"),
        put_back(model, initial, blocks, "layer9"),
    ):
        pass
    target = [0, 1] * 6

    def predict(net: nn.Module) -> np.ndarray:
        return np.full(12, np.nan) if torch.equal(net.head.bias, initial["head.bias"]) else np.arange(12.0)

    with pytest.raises(AnalysisError, match=r"with 'head' put back: auroc: 12 of 24 scores are NaN|12 of 12 scores"):
        reinitialise(model, initial, blocks, predict, target)
    with pytest.raises(AnalysisError, match=r"the whole network: auroc: target has shape \(3,\)"):
        reinitialise(model, initial, blocks, predict, target[:3])
    with pytest.raises(AnalysisError, match=r"11 patient ids, 1 of them missing, for 12 samples"):
        reinitialise(model, initial, blocks, predict, target, patients=["a"] * 10 + [None])
    with pytest.raises(AnalysisError, match=r"level is 95 and replicates 2000; expected a level in \(0, 1\)"):
        reinitialise(model, initial, blocks, predict, target, level=95)
    with pytest.raises(SpecError, match=r"unknown metric 'auc'"):
        reinitialise(model, initial, blocks, predict, target, metric="auc")
