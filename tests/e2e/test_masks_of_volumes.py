"""A study of volumes with masks from its file to the report and the card, and what is refused of it before training."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from transfuse import search_truncation
from transfuse.cli import app
from transfuse.data import open_dataset, split_by_patient
from transfuse.errors import SpecError
from transfuse.metrics import mean_overlap
from transfuse.models import create_model
from transfuse.results.cut_search import read_search
from transfuse.results.export import export
from transfuse.results.store import Store
from transfuse.specs import load_study, study_from
from transfuse.study.conclude import drawn
from transfuse.study.plan import check, read_plan
from transfuse.training import Recipe, fit, predict, segment

STUDY = """
name: hippo
data: {name: TABLE, mask_column: truth, mask_classes: [background, anterior, posterior], size: 32, fit: pad}
models: {unet: {name: unet3d, weights: "run:vessels"}}
arms: {random: {}, encoder: {depth: down_4}}
seeds: 1
train: {steps: 2, batch_size: 2, validate_every: 2, augment: volume}
sources:
  vessels:
    data: {name: embolism-vessels, size: 32, count: 10, channels: 1}
    train: {steps: 1, batch_size: 2, validate_every: 1, augment: volume}
"""


def table(folder: Path, real_data: Path, count: int) -> Path:
    """A table of the first volumes of the hippocampus, two rows a patient."""
    rows = [("image", "truth", "patient")]
    for i, path in enumerate(sorted((real_data / "hippocampus_msd" / "images").glob("*.nii.gz"))[:count]):
        for kind in ("images", "labels"):
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / path.name).symlink_to(path.parent.parent / kind / path.name)
        rows.append((f"images/{path.name}", f"labels/{path.name}", f"p{i // 2}"))
    with (folder / "set.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "set.csv"


@pytest.mark.slow
def test_a_study_of_masked_volumes(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY.replace("TABLE", str(table(tmp_path, real_data, 12))))
    assert app(["run", "study.yaml", "--workers", "1"], result_action="return_value") in (0, None)
    store = Store(tmp_path / "transfuse-out")
    tables = store.tables(read_plan(store, "hippo").rows)
    runs = tables.runs.set_index("arm")
    assert (runs["status"] == "finished").all()
    assert runs.loc[["random", "encoder"], "monitor"].tolist() == ["dice", "dice"]
    test = tables.predictions[
        (tables.predictions["run_id"] == runs.loc["random", "run_id"]) & (tables.predictions["part"] == "test")
    ]
    counts = np.stack(list(test["counts"])).reshape(len(test), 3, 3)
    assert (counts[..., [0, 2]].sum((1, 2)) == 32**3).all()  # each voxel of a cube has one true class
    assert runs.loc["random", "test_dice"] == pytest.approx(mean_overlap(counts).value)
    start, source = (
        load_file(store.run_folder(runs.loc[arm, "run_id"]) / f"{kind}.safetensors")
        for arm, kind in (("encoder", "initial"), ("vessels", "best"))
    )
    for name, tensor in start.items():
        assert torch.equal(tensor, source[name]) == name.startswith(("conv_0", "down_")), name

    page = (store.study_folder("hippo") / "report.html").read_text(encoding="utf-8")
    for text in ("32 × 32 × 32 voxels", "one class a pixel (masks)", "test Dice", "anterior; posterior"):
        assert text in page
    assert "posterior, outlined (of each volume the slice with most of it)" in page
    export(store.run_folder(runs.loc["random", "run_id"]), tmp_path / "given")
    card = (tmp_path / "given" / "README.md").read_text(encoding="utf-8")
    code = card.split("In MONAI, without transfuse:")[1].split("```python")[1].split("```")[0]
    weights = next((tmp_path / "given").glob("*.safetensors"))
    space: dict[str, Any] = {}
    exec(code.replace(f'"{weights.name}"', f'"{weights}"'), space)
    assert space["model"](torch.zeros(1, 1, 32, 32, 32)).shape == (1, 3, 32, 32, 32)


CUT = """
name: cuts
data: {name: embolism-vessels, size: 32, count: 12, channels: 1}
models: {unet: {name: unet3d}}
arms: {whole: {truncate: all}, cut: {truncate: every}}
baseline: whole
search: {arm: cut, strategy: exhaustive}
margin: 0.1
seeds: 1
train: {steps: 3, batch_size: 2, validate_every: 1, optimizer: {learning_rate: 3e-3}}
"""


@pytest.mark.exhaustive
def test_the_smallest_u_net_is_searched_exported_and_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(CUT)
    assert app(["truncate", "study.yaml", "--workers", "1"], result_action="return_value") in (0, None)
    store = Store(tmp_path / "transfuse-out")
    (exhaustive,) = read_search(store.study_folder("cuts"))
    assert exhaustive.cuts == ("cut@conv_0", "cut@down_1", "cut@down_2", "cut@down_3", "whole")
    values = {one.arm: one.value for one in exhaustive.seen}
    assert exhaustive.best == max(values, key=lambda arm: values[arm])
    page = (store.study_folder("cuts") / "report.html").read_text(encoding="utf-8")
    assert "How small can the network be?" in page

    folder = store.study_folder("cuts") / "smallest" / "unet"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "tfu.truncate_unet(model, tfu.blocks_of(model" in card
    code = card.split("```python")[1].split("```")[0]
    weights = next(folder.glob("*.safetensors"))
    space: dict[str, Any] = {}
    exec(code.replace(f'"{weights.name}"', f'"{weights}"'), space)
    assert load_file(weights).keys() == space["model"].state_dict().keys()
    images = torch.rand(3, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    program = torch.export.load(folder / "network.pt2").module()
    with torch.no_grad():
        found = program(images)
    assert found.shape == (3, 3, 32, 32, 32)
    assert torch.allclose(found.sum(1), torch.ones(3, 32, 32, 32), atol=1e-5)

    # the other strategies choose among the same trainings, so that few are new
    for strategy in ("two_stage", "halving"):
        searched = load_study(tmp_path / "study.yaml", [f"search.strategy={strategy}"])
        (one,) = search_truncation(searched, out=store.root)
        assert one.search.best in exhaustive.cuts
        assert one.run_id is not None
        if strategy == "two_stage":  # every cut of this network ends a stage
            assert one.search.best == exhaustive.best


@pytest.mark.slow
def test_it_learns_where_vessels_are() -> None:
    """From a Dice of chance to one of vessels that are seen, in a few steps; masks are moved with their volumes."""
    split = split_by_patient(open_dataset("embolism-vessels", count=16, size=32, normalise="half"))
    model = create_model("unet3d", 3, 1, 3, image_size=32)
    recipe = Recipe(batch_size=2, validate_every=10, augment="volume", monitor="dice")
    before = mean_overlap(predict(model, split.test)).per_class[1]
    list(fit(model, split, recipe, steps=10, learning_rate=3e-3, device="cpu"))
    counts = predict(model, split.test)
    assert mean_overlap(counts).per_class[1] > max(0.3, 2 * before)
    masks = segment(model, split.test)
    truth = split.test.dataset.masks()[split.test.indices]
    assert masks.shape == truth.shape
    both = [[((mask == k) & (own == k)).sum() for k in range(3)] for mask, own in zip(masks, truth, strict=True)]
    np.testing.assert_array_equal(counts[:, :, 0], both)


def test_what_does_not_go_with_masks_of_volumes_is_found_before_training() -> None:
    data = {"name": "embolism-vessels", "size": 32, "count": 12}
    spec = study_from(
        {
            "name": "clots",
            "data": data,
            "models": {"net": {"name": "resnet10"}},
            "arms": {"random": {}},
            "metric": "auroc",
            "train": {"steps": 2, "augment": "fundus"},
            "analyses": ["gradcam"],
        }
    )
    with pytest.raises(SpecError) as caught:
        check(spec)
    message = str(caught.value)
    for part in (
        "metric: auroc cannot be measured on embolism-vessels, which has masks",
        "train.augment: The augmentation 'fundus' is for images, and these are volumes",
        "'resnet10' makes outputs of shape (2, 3) from 2 images; expected (2, 3, 32, 32, 32): the data have masks",
        "which take a network of maps, such as unet3d",
        "analyses.0 (gradcam): explains the class of an image",
    ):
        assert part in message


def test_the_slice_with_most_of_a_class_is_drawn() -> None:
    values, mask = np.full((1, 6, 5, 5), 9, np.uint8), np.zeros((6, 5, 5), np.uint8)
    values[0, 4] = 7
    mask[4, 1:4, 1:4] = 2
    mask[3, 2, 2] = 1
    assert drawn(values, mask, 0)[0].tolist() == np.full((5, 5), 7).tolist()
    outlined = drawn(values, mask, 2)
    assert outlined[:, 1, 1].tolist() == [255, 210, 0]
    assert outlined[:, 2, 2].tolist() == [7, 7, 7]
    assert drawn(values, mask, 1)[:, 2, 2].tolist() == [255, 210, 0]
    assert drawn(values, np.zeros_like(mask), 0)[0, 0, 0] == 9  # nothing anywhere: the middle slice
