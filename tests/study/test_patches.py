"""A study of patches of volumes: a run from its lines, what is tested, and what is refused before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from transfuse.data.patches import Patches
from transfuse.errors import SpecError
from transfuse.metrics import mean_overlap
from transfuse.models import create_model
from transfuse.results.export import export
from transfuse.results.store import Store
from transfuse.specs import StudySpec, study_from
from transfuse.study.measure import patches_of
from transfuse.study.plan import check, plan, write_plan
from transfuse.study.run import do_run
from transfuse.study.sources import open_data, split_data
from transfuse.training import predict

DATA = {"name": "embolism-vessels", "size": 48, "count": 10, "normalise": "half"}


def study(train: dict[str, Any], **keys: Any) -> StudySpec:
    return study_from(
        {
            "name": "patched",
            "data": DATA,
            "models": {"unet": {"name": "unet3d"}},
            "arms": {"random": {}},
            "train": {"steps": 1, "batch_size": 2, "validate_every": 1, "augment": "volume", **train},
            "seeds": 1,
            **keys,
        }
    )


def test_patches_of_a_study_file() -> None:
    assert patches_of(study({"patch": 32}).train) == Patches((32, 32, 32), 0.5)
    assert patches_of(study({"patch": [16, 32, 48], "patch_foreground": 0}).train) == Patches((16, 32, 48), 0.0)
    assert patches_of(study({}).train) is None


@pytest.mark.slow
def test_a_run_is_tested_on_whole_volumes_by_windows(tmp_path: Path) -> None:
    store, spec = Store(tmp_path / "out"), study({"patch": [16, 32, 32]}, data={**DATA, "size": 32})
    check(spec)
    runs = plan(spec)
    write_plan(store, spec, runs)
    do_run(runs[0], lambda event: None, root=store.root, device="cpu")
    folder = store.run_folder(runs[0].run_id)
    network = create_model("unet3d", 3, 1, 3, image_size=32)
    network.load_state_dict(load_file(folder / "best.safetensors"))
    split = split_data(spec.data, open_data(spec.data))
    counts = predict(network, split.test, patches=Patches((16, 32, 32)))
    tables = store.tables([run.row() for run in runs])
    found = tables.predictions[tables.predictions["part"] == "test"]
    np.testing.assert_array_equal(np.stack(list(found["counts"])).reshape(counts.shape), counts)
    assert tables.runs["test_dice"].tolist() == [pytest.approx(mean_overlap(counts).value)]
    assert (counts[..., [0, 2]].sum((1, 2)) == 32**3).all()  # every voxel of the whole volume counts
    assert not np.array_equal(counts, predict(network, split.test))
    export(folder, tmp_path / "given")
    card = (tmp_path / "given" / "README.md").read_text(encoding="utf-8")
    assert "16 x 32 x 32 voxels, 50 % around a voxel of a class; whole volumes are predicted by windows" in card


@pytest.mark.parametrize(
    ("train", "keys", "message"),
    [
        ({"patch": 24}, {}, "patch of models.unet: the patch of 24 x 24 x 24 voxels does not suit the network"),
        ({"patch": [32, 40, 16]}, {}, r"the nearest that is, is [32, 48, 16]"),
        (
            {"patch": 64},
            {},
            "train.patch: A patch of 64 x 64 x 64 voxels is larger than the volumes of embolism-vessels",
        ),
        (
            {"patch": 24, "monitor": "auroc"},
            {"data": {**DATA, "name": "embolism-phantom"}, "models": {"net": {"name": "resnet10"}}, "metric": "auroc"},
            "train.patch: Patches are for masks, of which each patch has its part; a label of embolism-phantom",
        ),
        (
            {"patch": 16, "augment": "none"},
            {
                "data": {"name": "fundus-vessels", "size": 32, "count": 20},
                "models": {"unet": {"name": "unet_resnet18"}},
            },
            "train.patch: Patches are of volumes, and fundus-vessels holds images",
        ),
    ],
)
def test_patches_that_cannot_be_are_found_before_training(
    train: dict[str, Any], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        check(study(train, **keys))
    assert message in str(caught.value)
