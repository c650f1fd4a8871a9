"""Heads of a truncated network as a study says them: trained, counted, exported, loaded again, refused elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import transfuse as tfu
from transfuse.cli import app
from transfuse.errors import BlocksError, SpecError
from transfuse.models import truncate
from transfuse.results.card import NORMALISATIONS
from transfuse.results.export import export
from transfuse.results.store import Store
from transfuse.specs import InitSpec, ModelSpec, load_study
from transfuse.specs.arm import NEW_HEADS
from transfuse.study.cut_sizes import size_of
from transfuse.study.network import Images, build, kind_of, skeleton, untrained
from transfuse.study.plan import read_plan
from transfuse.study.program import write_program
from transfuse.study.truncation import truncation_study

Study = Callable[..., Path]
NET, IMAGES = ModelSpec(name="cbr_demo", padding="same_pool"), Images(2, 1, 16)
ARMS = """{linear: {depth: all, truncate: layer2}, mlp: {depth: all, truncate: layer2, head: mlp},
 code: {depth: all, truncate: layer2, head: kaiming_normal, pool: none},
 both: {depth: all, truncate: layer2, head: mlp, pool: none}}"""


def arm(head: Any = "fresh", **settings: Any) -> InitSpec:
    return InitSpec(**{"truncate": "layer2", "head": head, **settings})


@pytest.mark.slow
def test_a_study_with_every_head_from_its_file_to_networks_that_load(
    tmp_path: Path, study_file: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    monkeypatch.chdir(tmp_path)
    file = study_file(arms=ARMS, baseline="linear", pairs="[[mlp, linear]]", seeds="1")
    assert app(["run", str(file), "--workers", "1"], result_action="return_value") in (0, None)
    store = Store(tmp_path / "transfuse-out")
    runs = store.tables(read_plan(store, "spots").rows).runs.set_index("arm")
    assert (runs["status"] == "finished").all()
    page = (store.study_folder("spots") / "report.html").read_text(encoding="utf-8")
    assert "pretrained weights cut after layer2, with an MLP head" in page

    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for name in ("linear", "mlp", "code", "both"):
        run_id = str(runs.loc[name, "run_id"])
        weights = load_file(store.run_folder(run_id) / "best.safetensors")
        heads = {key.removeprefix("head.") for key in weights if key.startswith("head.")}
        two = name in ("mlp", "both")
        assert heads == ({"0.weight", "0.bias", "2.weight", "2.bias"} if two else {"weight", "bias"})
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        trained = sum(tensor.numel() for key, tensor in weights.items() if not key.endswith(statistics))
        assert runs.loc[name, "parameters"] == trained  # the record has the new head's layers

        folder = tmp_path / name
        export(store.run_folder(run_id), folder)
        card = (folder / "README.md").read_text(encoding="utf-8")
        code = card.split("```python")[1].split("```")[0]
        path = next(folder.glob("*.safetensors"))
        space: dict[str, Any] = {}
        exec(code.replace(f'"{path.name}"', f'"{path}"'), space)
        write_program(store, run_id, folder)
        program = torch.export.load(folder / "network.pt2").module()
        spec = json.loads((store.run_folder(run_id) / "spec.json").read_text(encoding="utf-8"))
        normalise = spec["identity"]["data"]["normalise"]
        (mean,), (std,) = NORMALISATIONS[normalise, 1]
        with torch.no_grad():
            again = torch.softmax(space["model"]((images - mean) / std), dim=-1)
            assert torch.allclose(program(images), again, atol=1e-5), name


@pytest.mark.parametrize("pool", ["average", "none"])
@pytest.mark.parametrize("head", NEW_HEADS)
def test_the_arm_s_network_is_that_of_truncate(head: str, pool: str) -> None:
    init = arm(head, pool=pool)
    network = build(NET, init, IMAGES, source=None, seed=3)
    model = untrained(NET, IMAGES)
    expected = truncate(model, tfu.blocks_of(model), "layer2", 2, pool, head=head, image_size=16, seed=3).state_dict()
    found = network.model.state_dict()
    assert found.keys() == expected.keys()
    for name in (name for name in found if name.startswith("head")):
        assert torch.equal(found[name], expected[name])
    rows = {row.name: row for row in network.transfer.tensors}
    assert rows.keys() == found.keys()
    assert {rows[name].treatment for name in found if name.startswith("head")} == {"fresh"}
    assert network.transfer.parameters == sum(parameter.numel() for parameter in network.model.parameters())
    assert skeleton(NET, init, IMAGES).state_dict().keys() == found.keys()
    assert size_of(NET, init, IMAGES)[0] == network.transfer.parameters


def test_what_a_head_changes_and_what_it_does_not() -> None:
    line, mlp, code = (size_of(NET, arm(head), IMAGES) for head in ("fresh", "mlp", "kaiming_normal"))
    assert mlp > line
    assert code == line


def test_arms_that_differ_in_the_head_are_other_runs_and_the_plain_one_says_nothing_new(study_file: Study) -> None:
    from transfuse.specs import DataSpec, RunSpec, TrainSpec

    common: dict[str, Any] = {"seed": 0, "monitor": "auroc", "fingerprint": "f"}
    runs = [
        RunSpec(data=DataSpec(name="x"), model=NET, init=arm(head), train=TrainSpec(steps=1), **common)
        for head in ("fresh", *NEW_HEADS)
    ]
    assert len({run.run_id for run in runs}) == 3
    assert runs[0].identity()["init"]["head"] == "fresh"
    assert kind_of(runs[0], IMAGES) == kind_of(runs[2], IMAGES) != kind_of(runs[1], IMAGES)


def test_a_search_keeps_the_head_of_its_arm(study_file: Study) -> None:
    arms = "{whole: {depth: all, truncate: all, head: mlp}, cut: {depth: all, truncate: every, head: mlp}}"
    study = load_study(study_file(arms=arms, baseline="whole", pairs="[]"))
    assert {init.head for init in truncation_study(study, arm="whole").arms.values()} == {"mlp"}
    assert {init.head for init in truncation_study(study).arms.values()} == {"mlp"}


def test_errors(study_file: Study) -> None:
    with pytest.raises(SpecError, match=r"'mpl' is unknown; did you mean 'mlp'\? Choices: .*fresh.*source"):
        load_study(study_file(arms="{random: {truncate: layer2, head: mpl}}", pairs="[]"))
    with pytest.raises(
        SpecError, match=r"head is 'mlp', a head of truncated networks; give truncate too \(truncate: all"
    ):
        load_study(study_file(arms="{random: {head: mlp}}", pairs="[]"))
    with pytest.raises(BlocksError, match="head is 'mlp', and a U-Net ends in a convolution, not a classifier"):
        build(ModelSpec(name="unet_resnet18"), InitSpec(truncate=2, head="mlp"), Images(2, 1, 32), source=None)
