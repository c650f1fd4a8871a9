"""Networks of other people, by `package.module:function`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from transfuse.errors import SpecError
from transfuse.models import blocks_of, create_model

SOURCE = """
from torch import nn

SEEN = {}
NUMBER = 3

def plain(classes, channels):
    SEEN.update(classes=classes, channels=channels)
    conv = nn.Conv2d(channels, 4, 3)
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

def knowing(classes, channels, image_size=17, spatial_dims=0, other=1):
    SEEN.update(image_size=image_size, spatial_dims=spatial_dims, other=other)
    return nn.Linear(channels, classes)

def demanding(classes, channels, width):
    return nn.Linear(channels, classes)

def silent(classes, channels):
    return None

def broken(classes, channels):
    raise ZeroDivisionError("my own mistake")

class Net(nn.Linear):
    def __init__(self, classes, channels):
        super().__init__(channels, classes)

class Shop:
    @staticmethod
    def net(classes, channels):
        return Net(classes, channels)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"networks_of_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_foreign_network_is_created_as_any_other(module: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second = (create_model(f"{module}:plain", 3, 2) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first.state_dict()[key], second.state_dict()[key]) for key in first.state_dict())
    assert first(torch.zeros(1, 2, 8, 8)).shape == (1, 3)
    assert len(blocks_of(first)) == 1
    light = create_model(f"{module}:plain", 3, 2, device="meta")
    assert all(parameter.is_meta for parameter in light.parameters())


def test_functions_are_told_what_they_ask_for(module: str) -> None:
    import importlib

    seen = importlib.import_module(module).SEEN
    create_model(f"{module}:plain", 3, 2, 3, image_size=64)
    assert seen == {"classes": 3, "channels": 2}
    create_model(f"{module}:knowing", 3, 2, 3, image_size=64)
    assert (seen["image_size"], seen["spatial_dims"], seen["other"]) == (64, 3, 1)
    create_model(f"{module}:knowing", 3, 2)
    assert (seen["image_size"], seen["spatial_dims"]) == (17, 2)


@pytest.mark.parametrize("function", ["Net", "Shop.net"])
def test_classes_and_methods_are_functions_too(module: str, function: str) -> None:
    assert create_model(f"{module}:{function}", 3, 2)(torch.zeros(1, 2)).shape == (1, 3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("plane", r"has no 'plane', did you mean 'plain'\? Choices: .*knowing"),
        ("Shop.nut", r"has no 'nut', did you mean 'net'"),
        ("NUMBER", r"is a int; expected a function that returns a network, def function\(classes, channels\)"),
        ("demanding", r"called with classes=3, channels=2 and takes \(classes, channels, width\) .*'width'.*defaults"),
        ("silent", r"returned a NoneType; expected a torch.nn.Module"),
        ("", r"named 'package.module:function'"),
        ("a:b", r"named 'package.module:function'"),
    ],
)
def test_errors_show_the_cure(module: str, function: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        create_model(f"{module}:{function}", 3, 2)


def test_a_missing_module_and_a_mistake_inside_are_told_apart(module: str) -> None:
    with pytest.raises(SpecError, match=r"cannot be imported \(No module named 'nowhere_at_all'\).*PYTHONPATH=\."):
        create_model("nowhere_at_all.models:net", 2)
    with pytest.raises(ZeroDivisionError, match="my own mistake"):
        create_model(f"{module}:broken", 2)


def test_padding_is_no_choice(module: str) -> None:
    with pytest.raises(SpecError, match=r"has no choice of padding"):
        create_model(f"{module}:plain", 2, padding="same")
