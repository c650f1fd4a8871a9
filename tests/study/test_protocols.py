"""Every published protocol is a line of a study file: each of them is read, planned and built here."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from transfuse.models import add_lora_, blocks_of, create_model
from transfuse.specs import ModelSpec, StudySpec, read_yaml, study_from
from transfuse.study.expand import expand
from transfuse.study.network import Images, build
from transfuse.study.protocols import PROTOCOLS, Protocol
from transfuse.study.sweeps import BlockName, unfold

DOCS = Path(__file__).parents[2] / "docs" / "protocols.md"
TRANSFORMERS = ("trimmed DeiT (DeiT-S-5b)", "LoRA (transformers)")


def study_of(protocol: Protocol) -> StudySpec:
    content = read_yaml(protocol.lines)
    network = "test_vit" if protocol.name in TRANSFORMERS else "resnet18"
    return study_from(
        {
            "name": "protocol",
            "data": {"name": "fundus-phantom"},
            "models": {"net": {"name": network, "weights": "file.safetensors"}},
            **content,
            "arms": {"random": {}, **content["arms"]},
            "train": {"steps": 10, **content.get("train", {})},
        }
    )


@cache
def created(name: str) -> nn.Module:
    return create_model(name, 5, 3, image_size=160 if name == "test_vit" else 32)


def names_of(model: ModelSpec, level: str) -> tuple[BlockName, ...]:
    return tuple(BlockName(block.name, block.cut) for block in blocks_of(created(model.name), level))


def weights_of(name: str) -> dict[str, Tensor]:
    state = {key: tensor.clone() for key, tensor in created(name).state_dict().items()}
    for key, tensor in state.items():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=torch.Generator().manual_seed(len(key))))
    return state


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=[protocol.name for protocol in PROTOCOLS])
def test_its_lines_are_a_study_whose_networks_can_be_built(protocol: Protocol) -> None:
    study = study_of(protocol)
    unfolded = unfold(study, names_of)
    runs = expand(unfolded, lambda data: data.name, lambda name, root: name, lambda model, data: None)
    arms = [run for run in runs if run.role == "arm" and run.spec.seed == 0]
    assert len({run.run_id for run in arms}) == len(arms)
    network = study.models["net"].name
    size = 160 if network == "test_vit" else 32
    last = {run.arm.partition("@")[0]: run for run in arms}
    for run in last.values():
        init = run.spec.init
        built = build(run.spec.model, init, Images(5, 3, size), source=weights_of(network), seed=0)
        if init.lora is not None:
            add_lora_(built.model, built.blocks, rank=init.lora)
        images = torch.rand((2, 3, size, size), generator=torch.Generator().manual_seed(0))
        assert copy.deepcopy(built.model).eval()(images).shape == (2, 5)
        assert bool(built.transferred) == (init.depth != 0 or init.norm == "transfer")
        assert any(parameter.requires_grad for parameter in built.model.parameters())


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=[protocol.name for protocol in PROTOCOLS])
def test_the_docs_hold_it(protocol: Protocol) -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert f"**{protocol.name}**" in text
    assert protocol.source in text
    assert f"```yaml\n{protocol.lines}\n```" in text
