"""Devices, precision and several processes: Hugging Face accelerate's work, behind one small class.

Accelerate keeps its state in class attributes that the first `Accelerator` fixes for the whole program. Each `Runtime`
here has a state of its own, so that trainings with other settings, and the caller's own `Accelerator`, can follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import accelerate
import numpy as np
import torch
from accelerate import state as accelerate_state
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from transfuse.errors import TrainingError, nearest

DEVICES = ("auto", "cpu", "cuda", "mps")


_T = TypeVar("_T")


class Runtime:
    """Where a training runs.

    Args:
        device: `cpu`, `cuda`, `mps`, or `auto`: CUDA, then MPS, where the machine has it, otherwise the CPU.
        precision: `no` (float32), `bf16` or `fp16` (with loss scaling; not on a CPU).

    Attributes:
        device: the torch device.
        is_main: whether this process is the one that validates and writes.
        process, processes: number of this process, and how many train together.

    Raises:
        TrainingError: an unknown device, one that is not there, or a precision that it does not have.
    """

    def __init__(self, device: str = "auto", precision: str = "no") -> None:
        chosen = choose_device(device)
        if chosen == "cpu" and precision == "fp16":
            raise TrainingError("precision 'fp16' needs a GPU: use 'bf16' or 'no' on a CPU")
        self._shared: dict[type, dict] = {kind: {} for kind in _BORGS}
        with self._own_state():
            self._accelerator = accelerate.Accelerator(cpu=chosen == "cpu", mixed_precision=precision)
            self.device: torch.device = self._accelerator.device
            self.is_main: bool = self._accelerator.is_main_process
            self.process: int = self._accelerator.process_index
            self.processes: int = self._accelerator.num_processes

    @contextmanager
    def _own_state(self) -> Iterator[None]:
        before = {kind: vars(kind)["_shared_state"] for kind in _BORGS}
        for kind in _BORGS:
            kind._shared_state = self._shared[kind]
        try:
            yield
        finally:
            for kind, shared in before.items():
                kind._shared_state = shared

    def wrap(self, model: nn.Module, *, channels_last: bool) -> nn.Module:
        """The module to call in a training step: `model`, on the device, or its data-parallel wrapper."""
        model.to(self.device)
        if channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        if self.processes == 1:
            return model
        device_ids = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=device_ids)

    def to_device(self, tensor: Tensor) -> Tensor:
        """`tensor` on the device; from pinned memory and without waiting where that is CUDA."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def share(self, positions: np.ndarray) -> np.ndarray:
        """This process's part of a batch."""
        return positions[self.process :: self.processes]

    def broadcast(self, value: _T) -> _T:
        """The main process's `value`, in every process."""
        if self.processes == 1:
            return value
        with self._own_state():
            return broadcast_object_list([value])[0]

    def mean(self, value: Tensor) -> float:
        """The mean of a number over the processes."""
        if self.processes == 1:
            return float(value)
        with self._own_state():
            return float(self._accelerator.reduce(value, reduction="mean"))

    def forward(self, module: nn.Module, images: Tensor) -> Tensor:
        """Logits in float32 of a forward pass at the training precision."""
        with self._own_state(), self._accelerator.autocast():
            return module(images).float()

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`, scaled where the precision needs it."""
        self._accelerator.backward(loss)

    def step(self, optimizer: torch.optim.Optimizer, clip_norm: float | None) -> None:
        """One optimiser step, with clipped gradients; skipped where fp16 gradients overflowed."""
        scaler = self._accelerator.scaler
        if clip_norm is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The loss scale of fp16; empty otherwise."""
        return {} if self._accelerator.scaler is None else self._accelerator.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the loss scale of a checkpoint."""
        if self._accelerator.scaler is not None and state:
            self._accelerator.scaler.load_state_dict(state)


def choose_device(name: str) -> str:
    """`cpu`, `cuda` or `mps` for a name that may be `auto`; raises TrainingError where it is not there."""
    if name not in DEVICES:
        raise TrainingError(f"the device {name!r} is unknown: {nearest(name, DEVICES)}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, is_there in there.items() if is_there)
    if not there[name]:
        raise TrainingError(f"the device {name!r} is not there: use 'auto', or install a PyTorch built for it")
    return name


@contextmanager
def training_mode(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Train mode, gradients on, and global random generators that the caller gets back as they were.

    Dropout and DropPath know only the global generators; `seed_step` seeds them for each step.
    """
    modes = {module: module.training for module in model.modules()}
    generators = [torch.random, *([torch.get_device_module(device)] if device.type != "cpu" else [])]
    states = [generator.get_rng_state() for generator in generators]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        model.train()
        try:
            yield
        finally:
            restore_modes(modes)
            for generator, state in zip(generators, states, strict=True):
                generator.set_rng_state(state)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; every module gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        restore_modes(modes)


def restore_modes(modes: dict[nn.Module, bool]) -> None:
    """Set each module's own mode; `model.train()` would give all of them the same."""
    for module, mode in modes.items():
        module.training = mode


def seed_step(device: torch.device, seed: int) -> None:
    """Seed the global generators that dropout uses, on the CPU and on `device`."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


_BORGS = (accelerate_state.PartialState, accelerate_state.AcceleratorState, accelerate_state.GradientState)
