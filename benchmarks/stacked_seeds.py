"""Does stacking the seeds of an arm with `torch.func.vmap` pay? Gradients of 5 networks, one by one and stacked.

    python benchmarks/stacked_seeds.py [--seeds 5] [--repeats 15] [--device cpu]

Each network has its own weights and its own batch of 32 images (or of features, for a head alone). One by one: a
forward and a backward pass for each, channels last where the library trains so. Stacked: one `vmap` of `grad` over
weights, without running statistics, which a stacked training would have to keep besides. The ratio is the median over
rounds in which the two take turns of (one by one / stacked): above 1 stacking is faster.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import machine, write_rows
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, stack_module_state, vmap
from torch.nn import functional as F

from transfuse.models import create_model

OUT = Path(__file__).parent / "results" / "stacked_seeds.csv"
BATCH = 32


def linear() -> nn.Module:
    return nn.Linear(1280, 2)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear head on 1280 features": (linear, (1280,)),
    "cbr_demo at 32 px": (lambda: create_model("cbr_demo", classes=2), (3, 32, 32)),
    "cbr_demo at 64 px": (lambda: create_model("cbr_demo", classes=2), (3, 64, 64)),
    "resnet18 at 64 px": (lambda: create_model("resnet18", classes=2), (3, 64, 64)),
}


def measure(name: str, seeds: int, repeats: int, device: str) -> dict[str, object]:
    make, shape = CASES[name]
    models = [replace_all_batch_norm_modules_(make().to(device)).train() for _ in range(seeds)]
    images = torch.randn(seeds, BATCH, *shape, device=device)
    labels = torch.arange(BATCH, device=device) % 2
    parameters, buffers = stack_module_state(models)
    skeleton = models[0]
    alone = [model.to(memory_format=torch.channels_last) for model in models] if len(shape) == 3 else models

    def loss(own: dict[str, Tensor], kept: dict[str, Tensor], batch: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(skeleton, (own, kept), (batch,)), labels)

    together = vmap(grad(loss))

    def one_by_one() -> list[Tensor]:
        found = []
        for model, batch in zip(alone, images, strict=True):
            ordered = batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch
            found.append(torch.autograd.grad(F.cross_entropy(model(ordered), labels), list(model.parameters()))[0])
        return found

    def stacked() -> Tensor:
        return next(iter(together(parameters, buffers, images).values()))

    ours, theirs = stacked(), torch.stack(one_by_one())
    if (ours - theirs).norm() > 0.01 * theirs.norm():
        raise SystemExit(f"{name}: the two ways give other gradients")
    rounds = np.array([[seconds(one_by_one, device), seconds(stacked, device)] for _ in range(repeats)])
    ratios = rounds[:, 0] / rounds[:, 1]
    low, high = np.quantile(ratios, [0.25, 0.75])
    return {
        "network": name,
        "seeds": seeds,
        "batch_images": BATCH,
        "device": device,
        "one_by_one_ms": round(float(np.median(rounds[:, 0])) * 1e3, 2),
        "stacked_ms": round(float(np.median(rounds[:, 1])) * 1e3, 2),
        "ratio": round(float(np.median(ratios)), 2),
        "ratio_quartiles": f"{low:.2f} to {high:.2f}",
    }


def seconds(work: Callable[[], object], device: str) -> float:
    def wait() -> None:
        if device != "cpu":
            torch.get_device_module(device).synchronize()

    wait()
    began = time.perf_counter() if device != "cpu" else time.process_time()
    work()
    wait()
    return (time.perf_counter() if device != "cpu" else time.process_time()) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = []
    for name in CASES:
        rows.append(measure(name, asked.seeds, asked.repeats, asked.device) | machine())
        print(rows[-1], flush=True)
    write_rows(OUT, rows)


if __name__ == "__main__":
    main()
