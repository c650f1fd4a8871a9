"""A study of masks, whole: a U-Net whose encoder a classifier has trained, Dice by patients, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from transfuse.errors import SpecError
from transfuse.metrics import mean_overlap
from transfuse.results.export import export
from transfuse.results.store import Store
from transfuse.specs import StudySpec, study_from
from transfuse.statistics.counts import compare_counts
from transfuse.study.conclude import Conclusion, conclude, outlined, write_samples
from transfuse.study.plan import check, plan, write_plan
from transfuse.study.run import do_run
from transfuse.study.sources import open_data

DATA = {"name": "fundus-vessels", "size": 32, "count": 24, "normalise": "half"}
NATURAL = {"name": "natural-phantom", "size": 32, "count": 100, "normalise": "half"}


def study(**keys: Any) -> StudySpec:
    return study_from(
        {
            "name": "vessels",
            "data": DATA,
            "models": {"unet": {"name": "unet_resnet18", "weights": "run:natural"}},
            "arms": {"random": {}, "encoder": {"depth": "encoder.layer4"}},
            "train": {"steps": 2, "batch_size": 6, "validate_every": 2, "augment": "fundus"},
            "sources": {
                "natural": {
                    "data": NATURAL,
                    "model": {"name": "resnet18"},
                    "train": {"steps": 1, "batch_size": 8, "validate_every": 1},
                }
            },
            "seeds": 1,
            **keys,
        }
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Conclusion]:
    store, spec = Store(tmp_path_factory.mktemp("out")), study()
    runs = plan(spec)
    made = write_plan(store, spec, runs)
    for run in runs:
        do_run(run, lambda event: None, root=store.root, device="cpu")
    write_samples(store, spec.name, open_data(spec.data))
    return store, conclude(store, made)


def counts_of(predictions: pd.DataFrame, run_id: str) -> np.ndarray:
    rows = predictions[(predictions["run_id"] == run_id) & (predictions["part"] == "test")].sort_values("sample_id")
    return np.stack(list(rows["counts"])).reshape(len(rows), -1, 3)


@pytest.mark.slow
def test_masks_are_compared_by_dice_of_patients(done: tuple[Store, Conclusion]) -> None:
    _, found = done
    assert found.study["metric"] == "dice"
    assert found.failures == []
    runs = found.tables.runs
    arms = runs[runs["role"] == "arm"]
    assert arms["task"].unique().tolist() == ["segmentation"]
    assert (arms["monitor"] == "dice").all()
    counts = {}
    for row in arms.to_dict("records"):
        counts[row["arm"], 0] = own = counts_of(found.tables.predictions, row["run_id"])
        for metric in ("dice", "jaccard"):
            assert row[f"test_{metric}"] == pytest.approx(mean_overlap(own, metric).value)
    test = found.tables.predictions[found.tables.predictions["run_id"] == arms["run_id"].iloc[0]]
    test = test[test["part"] == "test"].sort_values("sample_id")
    [comparison] = found.comparisons
    by_hand = compare_counts(
        *(counts[arm, 0][None, :, 1:] for arm in ("encoder", "random")),
        test["patient_id"].to_numpy(),
        margin=0.02,
    )
    assert comparison.comparison.difference == pytest.approx(by_hand.difference)
    assert comparison.comparison.patients == by_hand.patients == len(set(test["patient_id"]))
    assert comparison.comparison.metric == "dice"
    assert {round(one.estimate.value, 9) for one in found.estimates if one.estimate} == {
        round(mean_overlap(counts[arm, 0]).value, 9) for arm in ("encoder", "random")
    }


@pytest.mark.slow
def test_the_encoder_comes_from_the_classifier(done: tuple[Store, Conclusion]) -> None:
    from safetensors.torch import load_file

    store, found = done
    runs = found.tables.runs.set_index(["role", "arm", "seed"])["run_id"]
    source = load_file(store.run_folder(runs["source", "natural", 0]) / "best.safetensors")
    start = load_file(store.run_folder(runs["arm", "encoder", 0]) / "initial.safetensors")
    random = load_file(store.run_folder(runs["arm", "random", 0]) / "initial.safetensors")
    for name, tensor in start.items():
        if name.startswith("encoder."):
            assert (tensor == source[name.removeprefix("encoder.")]).all(), name
        else:
            assert (tensor == random[name]).all(), name
    share = found.tables.runs.set_index("run_id")["transferred_share"][runs["arm", "encoder", 0]]
    assert share == pytest.approx(0.78, abs=0.01)


@pytest.mark.slow
def test_the_page_says_dice_and_shows_masks(done: tuple[Store, Conclusion]) -> None:
    from transfuse.report.html import Contents, write_report

    store, found = done
    given = {**found._asdict(), **found.tables._asdict()}
    contents = Contents(**{name: given[name] for name in Contents.__dataclass_fields__})
    text = write_report(contents, store.root / "page.html", interactive=False).read_text(encoding="utf-8")
    assert "test Dice" in text
    assert "Test Jaccard" in text
    assert "one class a pixel (masks)" in text
    assert [caption for caption, _ in found.samples] == ["images"] * 3 + ["vessel, outlined"] * 3
    plain, drawn = (np.asarray(Image.open(io.BytesIO(found.samples[i][1]))) for i in (0, 3))
    assert plain.shape == drawn.shape
    assert (drawn == (255, 210, 0)).all(-1).sum() > (plain == (255, 210, 0)).all(-1).sum()


@pytest.mark.slow
def test_the_card_of_a_segmentation(done: tuple[Store, Conclusion], tmp_path: Path) -> None:
    import torch

    store, found = done
    run = found.tables.runs.query("role == 'arm' and arm == 'encoder'").iloc[0]
    export(store.run_folder(run["run_id"]), tmp_path, licence=None)
    card = next(tmp_path.glob("*.md")).read_text(encoding="utf-8")
    assert "pipeline_tag: image-segmentation" in card
    assert f"| Dice, mean of images | {run['test_dice']:.3f} |" in card
    assert "| loss | dice_ce |" in card
    code = card.split("without transfuse:")[1].split("```python")[1].split("```")[0]
    space: dict[str, Any] = {}
    weights = next(tmp_path.glob("*.safetensors"))
    exec(code.replace(f'"{weights.name}"', f'"{weights}"'), space)
    assert space["model"](torch.zeros(1, 3, 32, 32)).shape == (1, 2, 32, 32)


def test_what_does_not_go_with_masks_is_found_before_training() -> None:
    with pytest.raises(SpecError) as caught:
        check(
            study(
                models={"net": {"name": "resnet18", "weights": "run:natural"}},
                metric="auroc",
                arms={"random": {}, "all": {"depth": "all"}},
                train={
                    "steps": 2, "augment": "cxr", "augmentation_bank": 2, "test_crops": "ten", "loss": "sigmoid",
                },
                analyses=["knn", "gradcam", "reinitialise", "cka", "cut_screen"],
                sources={
                    "natural": {
                        "data": NATURAL,
                        "model": {"name": "unet_resnet18"},
                        "train": {"steps": 1, "loss": "dice_ce", "monitor": "dice"},
                    }
                },
            )
        )  # fmt: skip
    message = str(caught.value)
    for part in (
        "metric: auroc cannot be measured on fundus-vessels, which has masks; choices: dice, jaccard",
        "train.loss: the loss 'sigmoid' is for labels of images, and the data are masks",
        "train.augmentation_bank: keeps views of images and none of masks",
        "train.test_crops: ten crops average outputs of images",
        "sources.natural.train.monitor: dice cannot be measured on natural-phantom, which has labels of images",
        "sources.natural.train.loss: the loss 'dice_ce' needs masks, and the task of the data is 'multiclass'",
        "models.net: 'resnet18' makes outputs of shape (2, 2) from 2 images; expected (2, 2, 32, 32): the data have",
        "sources.natural: 'unet_resnet18' makes outputs of shape (2, 24, 32, 32) from 2 images; expected (2, 24): the",
        "analyses.0 (knn): votes on the class of an image",
        "analyses.1 (gradcam): explains the class of an image",
        "analyses.2 (reinitialise): measures probabilities",
        "analyses.4 (cut_screen) with models.net: of masks it trains a head at every cut of a U-Net that truncate_unet",
    ):
        assert part in message
    assert "analyses.3" not in message


def test_weights_of_a_classifier_fit_the_encoder_alone() -> None:
    with pytest.raises(SpecError, match=r"the source has no decoder: take its encoder alone \(depth: encoder.layer4\)"):
        check(study(arms={"random": {}, "all": {"depth": "all"}}))


def test_a_study_of_masks_means_dice_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert study().metric == "dice"
    assert study(metric="jaccard").metric == "jaccard"
    assert study(data={"name": "set.csv", "mask_column": "truth"}).metric == "dice"
    assert study(data=NATURAL).metric == "auroc"


def test_names_of_data_with_masks_are_those_of_the_catalogue(real_data: Path) -> None:
    from transfuse.data import dataset_names, open_dataset
    from transfuse.specs.data import SEGMENTATIONS

    assert set(SEGMENTATIONS) <= set(dataset_names())
    for name in SEGMENTATIONS:
        options = {"count": 10} if name.endswith("-vessels") else {}
        assert open_dataset(name, root=real_data, size=32, **options).info.task == "segmentation"


def test_an_outline_is_drawn_on_a_copy() -> None:
    image, mask = np.full((1, 5, 5), 9, np.uint8), np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True
    shown = outlined(image, mask)
    assert shown.shape == (3, 5, 5)
    assert shown[:, 2, 2].tolist() == [9, 9, 9]
    assert (shown[0] == 255).sum() == 8
    assert image.max() == 9
