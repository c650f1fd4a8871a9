from __future__ import annotations

import copy
import os

import accelerate
import pytest
import torch
from accelerate import state
from torch import nn

from transfuse.errors import TrainingError
from transfuse.training.device import Runtime, choose_device, evaluation_mode, seed_step, training_mode

CPU = torch.device("cpu")
NO_GPU = not torch.cuda.is_available() and not torch.backends.mps.is_available()


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cdua", r"the device 'cdua' is unknown: did you mean 'cuda'\? Choices: auto, cpu, cuda, mps"),
        pytest.param(
            "cuda",
            "the device 'cuda' is not there: use 'auto'",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA"),
        ),
    ],
)
def test_a_device_that_is_not_there_is_refused(device: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        choose_device(device)


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_auto_is_the_cpu_without_a_gpu() -> None:
    assert choose_device("auto") == "cpu"


def test_half_precision_on_a_cpu_is_refused() -> None:
    with pytest.raises(TrainingError, match="precision 'fp16' needs a GPU: use 'bf16' or 'no' on a CPU"):
        Runtime("cpu", "fp16")


def test_runtimes_of_other_precision_live_side_by_side_and_leave_nothing() -> None:
    kinds = (state.PartialState, state.AcceleratorState, state.GradientState)
    before = [copy.copy(kind._shared_state) for kind in kinds]
    environment = dict(os.environ)
    plain, brain = Runtime("cpu", "no"), Runtime("cpu", "bf16")
    model = nn.Linear(64, 64)
    images = torch.randn(4, 64)
    exact = model(images)
    for _ in range(2):
        assert torch.equal(plain.forward(model, images), exact)
        rounded = brain.forward(model, images)
        assert rounded.dtype == torch.float32
        assert not torch.equal(rounded, exact)
        torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.05)
    assert [kind._shared_state for kind in kinds] == before
    assert dict(os.environ) == environment


def test_the_callers_own_accelerator_is_left_alone() -> None:
    for kind in (state.PartialState, state.AcceleratorState, state.GradientState):
        assert kind._shared_state == {}
    try:
        own = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
        Runtime("cpu", "no")
        assert own.mixed_precision == "bf16"
        assert accelerate.Accelerator().mixed_precision == "bf16"
    finally:
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


def test_clipping_is_that_of_pytorch() -> None:
    model, twin = nn.Linear(3, 1), nn.Linear(3, 1)
    twin.load_state_dict(model.state_dict())
    runtime, optimizer = Runtime("cpu"), torch.optim.SGD(model.parameters(), lr=1.0)
    runtime.backward(100 * model(torch.ones(1, 3)).sum())
    runtime.step(optimizer, 1.0)
    moved = [(a - b).square().sum() for a, b in zip(model.parameters(), twin.parameters(), strict=True)]
    assert sum(moved).item() == pytest.approx(1.0, abs=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_mode_is_restored_module_by_module() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    model[1].eval()
    modes = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    with torch.no_grad():
        with training_mode(model, CPU):
            assert all(module.training for module in model.modules())
            assert torch.is_grad_enabled()
            seed_step(CPU, 3)
            torch.rand(5)
        assert not torch.is_grad_enabled()
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        assert torch.is_inference_mode_enabled()
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)


def test_training_mode_is_restored_after_an_error() -> None:
    model, generator = nn.Dropout().eval(), torch.get_rng_state()

    def fail() -> None:
        with training_mode(model, CPU):
            torch.rand(1)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert not model.training
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_seed_gives_the_same_dropout() -> None:
    draws = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng(devices=[]):
            seed_step(CPU, seed)
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
