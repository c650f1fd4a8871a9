"""Studies of volumes: what is refused before anything is trained, and weights from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from transfuse.data import open_dataset
from transfuse.errors import SpecError
from transfuse.models import create_model
from transfuse.models.complexity import complexity
from transfuse.results.store import Store
from transfuse.specs import InitSpec, ModelSpec, StudySpec
from transfuse.study.conclude import _read_samples, write_samples
from transfuse.study.network import Images, build, skeleton
from transfuse.study.plan import check
from transfuse.study.problems import name_problems
from transfuse.study.sources import images_of, open_data, read_source, split_data

MakeStudy = Callable[..., StudySpec]
VOLUMES: dict[str, Any] = {"name": "embolism-phantom", "size": 24, "count": 60, "normalise": "half"}
NET: dict[str, Any] = {"net": {"name": "resnet10"}}
TRAIN: dict[str, Any] = {"steps": 2, "batch_size": 8}


@pytest.fixture
def tiny_volumes(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "small.npz",
        train_images=rng.integers(0, 256, (60, 12, 12, 12), dtype=np.uint8),
        train_labels=np.arange(60) % 2,
    )
    return str(tmp_path / "small.npz")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"models": {"net": {"name": "cbr_demo"}}},
            "models.net: There is no 'cbr_demo' for spatial_dims=3, for volumes: Choices: resnet10",
        ),
        (
            {"train": {**TRAIN, "augment": "fundus"}},
            "train.augment: The augmentation 'fundus' is for images, and these are volumes; choices: none, volume",
        ),
        ({"train": {**TRAIN, "test_crops": "ten"}}, "train.test_crops: ten crops are of images"),
        (
            {
                "models": {"net": {"name": "resnet10", "weights": "run:flat"}},
                "arms": {"random": {}, "pretrained": {"depth": "all"}},
                "sources": {"flat": {"data": {"name": "texture-source", "size": 32, "count": 60}, "train": TRAIN}},
            },
            "sources.flat: 'resnet10' is a network for volumes, and these are images",
        ),
        ({"arms": {"random": {"truncate": "layer9"}}}, "arms.random with models.net: "),
    ],
)
def test_what_does_not_go_with_volumes(make_study: MakeStudy, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        check(make_study(**{"data": VOLUMES, "models": NET, "train": TRAIN, **keys}))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"models": {"net": {"name": "resnext101"}}}, "'resnext101' is a network for volumes, and these are images"),
        (
            {"train": {**TRAIN, "augment": "volume"}},
            "train.augment: The augmentation 'volume' is for volumes, and these are images; choices: none, fundus",
        ),
    ],
)
def test_what_does_not_go_with_images(make_study: MakeStudy, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        check(make_study(**keys))
    assert expected in str(caught.value)


def test_volumes_below_the_stride_are_refused(make_study: MakeStudy, tiny_volumes: str) -> None:
    with pytest.raises(SpecError, match=r"Volumes of 12 voxels a side are too small for 'resnet10'.* takes 17 or more"):
        check(make_study(data={"name": tiny_volumes, "size": 12}, models=NET, train=TRAIN))
    checked = check(make_study(data={"name": tiny_volumes, "size": 17}, models=NET, train=TRAIN))
    assert "small, 60 volumes at 17 x 17 x 17 voxels" in checked.lines[0]


def test_a_name_of_volumes_is_no_mistake_where_the_data_are_not_known() -> None:
    assert name_problems({"a": ModelSpec(name="resnext101")}) == []
    assert len(name_problems({"a": ModelSpec(name="resnext11")})) == 1


def test_weights_of_a_file_start_a_network_and_those_of_images_are_refused(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    """In the wrapping of MedicalNet: a dictionary with `state_dict`, names after `module.`, no head."""
    theirs = create_model("resnet10", 4, 1, 3).state_dict()
    trunk = {f"module.{key}": value + 0.5 for key, value in theirs.items() if not key.startswith("fc.")}
    torch.save({"state_dict": trunk}, tmp_path / "medical.pth")
    torch.save(create_model("resnet18", 2, 1).state_dict(), tmp_path / "flat.pth")
    arms = {"random": {}, "pretrained": {"depth": "all"}}
    keys: dict[str, Any] = {"data": VOLUMES, "train": TRAIN, "arms": arms}
    spec = {"name": "resnet10", "weights": str(tmp_path / "medical.pth")}
    study = make_study(**keys, models={"net": spec})
    check(study)
    split = split_data(study.data, open_data(study.data))
    assert images_of(split) == Images(2, 1, 24, 3)
    source = read_source(spec["weights"], None)
    model = build(ModelSpec(**spec), InitSpec(depth="all"), images_of(split), source=source).model
    torch.testing.assert_close(model.state_dict()["layer2.0.conv1.weight"], theirs["layer2.0.conv1.weight"] + 0.5)
    flat = {"name": "resnet18", "weights": str(tmp_path / "flat.pth")}
    with pytest.raises(SpecError, match="source's convolutions are 2D and the network's are 3D"):
        check(make_study(**keys, models={"net": flat}))


def test_a_cut_network_costs_less_and_is_rebuilt_for_its_weights() -> None:
    images = Images(2, 1, 24, 3)
    init = InitSpec(truncate="layer1", pool="none")
    short = build(ModelSpec(name="resnet10"), init, images, source=None).model
    whole = skeleton(ModelSpec(name="resnet10"), InitSpec(), images)
    assert complexity(short, 24).macs < complexity(whole, 24).macs
    skeleton(ModelSpec(name="resnet10"), init, images).load_state_dict(short.state_dict())
    assert short(torch.zeros(2, 1, 24, 24, 24)).shape == (2, 2)


def test_samples_are_slices_and_projections(tmp_path: Path) -> None:
    import io

    from PIL import Image

    dataset = open_dataset("embolism-phantom", size=32, count=60)
    write_samples(Store(tmp_path), "s", dataset, per_class=2)
    samples = _read_samples(Store(tmp_path), "s")
    assert len(samples) == 8
    assert samples[0][0] == "no embolism (of each volume the middle slice, and the brightest values along its depth)"
    pictures = [np.asarray(Image.open(io.BytesIO(data)))[2::4, 2::4] for _, data in samples]
    first = dataset.pixels()[np.flatnonzero(dataset.targets == 0)[0], 0]
    np.testing.assert_array_equal(pictures[0], first[16])
    np.testing.assert_array_equal(pictures[1], first.max(0))
