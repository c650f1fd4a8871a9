"""What CKA of all pairs of layers costs on top of the two forward passes, against the packages on PyPI.

17 x 17 layers (the stem's pooling and the 16 block outputs) of two ResNet-50 on 512 images of 64 px in batches of 128.
The reference is the plain forward passes of both networks, as a user writes them: default memory layout, eval mode, no
gradients, nothing read. Each round times the reference and every method once, one after the other, so that a ratio
compares neighbours in time; the table has the median of the ratios over the rounds and their quartiles, in wall time
and in CPU time of all threads (which other programs disturb less). ckatorch is timed on one batch of each round and
counted four times: its time is linear in batches. Peak memory is that of a process of its own for each method, over
what the process holds once networks and images are loaded. The error is the largest difference from the textbook
formula in float64 on the float32 activations of the plain forward pass, over one batch.

The peers need matplotlib, seaborn and PyYAML; keep them out of your environment and never let pip change torch:

    pip install --target peers --no-deps torch_cka==0.21 ckatorch==1.0.3 \
        matplotlib seaborn contourpy cycler fonttools kiwisolver pyparsing
    PYTHONPATH=peers OMP_NUM_THREADS=2 python benchmarks/cka.py

A peer that is missing is a row with the reason. Run with TRANSFUSE_BENCHMARK_ROUNDS=1 for a quick look.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from machine import machine

RESULTS = Path(__file__).parent / "results" / "cka.csv"
ROUNDS = int(os.environ.get("TRANSFUSE_BENCHMARK_ROUNDS", "5"))
IMAGES, BATCH, PIXELS, THREADS = 512, 128, 64, 2
PEERS = {"torch_cka": "torch_cka", "torch_cka, no_grad": "torch_cka", "ckatorch": "ckatorch"}
METHODS = ("forward", "forward, channels_last", "transfuse", "transfuse, rbf", *PEERS)


class Seconds(NamedTuple):
    wall: float
    cpu: float


def seconds(work: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


class Setting:
    """The two networks, their blocks and the batches."""

    def __init__(self, batches: int) -> None:
        import torch

        from transfuse.models import create_model

        torch.set_num_threads(THREADS)
        torch.manual_seed(0)
        # other random weights, and statistics that fit the images, as those of trained networks do
        self.models = [create_model("resnet50", classes=1000) for _ in range(2)]
        images = torch.randn(IMAGES, 3, PIXELS, PIXELS)
        for model in self.models:
            model.train()
            with torch.no_grad():
                for module in model.modules():
                    if isinstance(module, torch.nn.BatchNorm2d):
                        module.momentum = 1.0
                        module.weight.uniform_(0.5, 1.5)
                model(images[:32])
            model.eval()
        self.batches = list(images.split(BATCH)[:batches])
        stages = [(stage, len(getattr(self.models[0], f"layer{stage}"))) for stage in range(1, 5)]
        self.blocks = ["maxpool", *(f"layer{stage}.{i}" for stage, count in stages for i in range(count))]


def run(method: str, setting: Setting) -> np.ndarray | None:
    import torch

    if method.startswith("forward"):
        with torch.no_grad():
            for batch in setting.batches:
                last = batch.contiguous(memory_format=torch.channels_last) if "channels_last" in method else batch
                for model in setting.models:
                    model(last)
        return None
    if method.startswith("transfuse"):
        from transfuse.analysis.cka_matrix import cka_matrix

        kernel = "rbf" if "rbf" in method else "linear"
        return cka_matrix(*setting.models, setting.batches, setting.blocks, kernel=kernel).values
    loader = torch.utils.data.DataLoader(torch.cat(setting.batches), batch_size=BATCH)
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if method.startswith("torch_cka"):
                from torch_cka import CKA

                context = torch.no_grad() if "no_grad" in method else contextlib.nullcontext()
                pairs = torch.utils.data.DataLoader(
                    torch.utils.data.TensorDataset(torch.cat(setting.batches)), batch_size=BATCH
                )
                peer = CKA(*setting.models, "a", "b", setting.blocks, setting.blocks)
                with context:
                    peer.compare(pairs)
                return peer.export()["CKA"].detach().numpy()
            return _ckatorch(setting, loader)
        finally:  # both leave their hooks behind
            for model in setting.models:
                for module in model.modules():
                    module._forward_hooks.clear()


def _ckatorch(setting: Setting, loader: Any) -> np.ndarray:
    """Its matrix of one batch; its own `hsic1` refuses maps, so they are flattened on the way, as its authors mean."""
    import ckatorch.cka as package

    class Flat(package.CKA):
        def _hook(self, model: str, name: str, module: Any, inputs: Any, output: Any) -> None:
            super()._hook(model, name, module, inputs, output.flatten(1)[None])

    peer = Flat(*setting.models, setting.blocks, first_name="a", second_name="b")
    return peer(loader, epochs=1, f_extract=lambda batch: {"x": batch}, f_args={}).numpy()


def reference(setting: Setting) -> np.ndarray:
    """The textbook formula in float64: U-centred Gram matrices of all activations, ratio of sums over the batches."""
    import torch

    def centred(x: Any) -> Any:
        x = x.double().flatten(1)
        gram = (x @ x.T).fill_diagonal_(0)
        n = len(gram)
        means = gram.sum(0) / (n - 2)
        means -= means.sum() / (2 * (n - 1))
        return (gram - means - means[:, None]).fill_diagonal_(0).flatten()

    sums = [0.0, 0.0, 0.0]
    for batch in setting.batches:
        grams: list[list[Any]] = []
        for model in setting.models:
            kept: list[Any] = []
            handles = [
                model.get_submodule(name).register_forward_hook(lambda _, __, y, kept=kept: kept.append(centred(y)))
                for name in setting.blocks
            ]
            with torch.no_grad():
                model(batch)
            for handle in handles:
                handle.remove()
            grams.append(torch.stack(kept))
        a, b = grams
        sums = [sums[0] + a @ b.T, sums[1] + (a * a).sum(1), sums[2] + (b * b).sum(1)]
    return (sums[0] / torch.outer(sums[1], sums[2]).sqrt()).numpy()


def missing(method: str) -> str:
    """Why a peer cannot be measured here, or nothing."""
    if method not in PEERS:
        return ""
    try:
        importlib.import_module(PEERS[method])
    except ImportError as error:
        return f"not measured: {error}; see the head of benchmarks/cka.py"
    return ""


def times() -> dict[str, list[Seconds]]:
    whole, part = Setting(IMAGES // BATCH), Setting(1)
    found: dict[str, list[Seconds]] = {method: [] for method in METHODS if not missing(method)}
    for turn in range(ROUNDS + 1):
        for method in found:
            if turn == 0:  # the first warms up
                run(method, part)
                continue
            setting = part if method == "ckatorch" else whole
            repeats = IMAGES // BATCH if method == "ckatorch" else 1
            once = seconds(lambda method=method, setting=setting: run(method, setting))
            found[method].append(Seconds(once.wall * repeats, once.cpu * repeats))
    return found


def errors() -> dict[str, float]:
    """The largest difference from float64 over one batch (ckatorch keeps only the last of several)."""
    setting = Setting(1)
    truth = reference(setting)
    compared = [method for method in ("transfuse", "torch_cka, no_grad", "ckatorch") if not missing(method)]
    return {method: float(np.abs(run(method, setting) - truth).max()) for method in compared}


def memory(method: str) -> float:
    """Peak memory of two batches in MB over what the process held before them; the peak so far is forgotten first."""
    setting = Setting(1 if method == "ckatorch" else 2)
    if not missing(method):
        importlib.import_module(PEERS.get(method, "transfuse.analysis.cka_matrix"))
    ctypes.CDLL(None).malloc_trim(0)  # what setting up has freed would hide a part of the peak
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak (VmHWM)
    before = _status("VmRSS")
    run(method, setting)
    return (_status("VmHWM") - before) / 1000


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}

    def answer(*arguments: str) -> Any:
        command = [sys.executable, __file__, *arguments]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        return json.loads(done.stdout.splitlines()[-1])

    found, wrong = answer("times"), answer("errors")
    load = round(os.getloadavg()[0], 1)
    peak = {method: answer("memory", method) for method in METHODS if not missing(method)}
    rows = []
    for method in METHODS:
        row: dict[str, object] = {"method": method, "version": "", "note": missing(method)}
        if method in PEERS and not row["note"]:
            row["version"] = version(PEERS[method])
        if method in found:
            for place, clock in enumerate(("wall", "cpu")):
                mine = [round_[place] for round_ in found[method]]
                row[f"{clock}_s"] = round(statistics.median(mine), 2)
                for name, other in (("forward", "forward"), ("transfuse", "transfuse")):
                    pairs = zip(mine, (round_[place] for round_ in found[other]), strict=True)
                    ratios = [one / two for one, two in pairs]
                    row[f"{clock}_ratio_to_{name}"] = round(statistics.median(ratios), 3)
                    if len(ratios) > 1:
                        low, _, high = statistics.quantiles(ratios, n=4)
                        row[f"{clock}_ratio_to_{name}_quartiles"] = f"{low:.3f} to {high:.3f}"
            row["peak_mb_over_networks_and_images"] = round(peak[method])
            row["peak_ratio_to_forward"] = round(peak[method] / peak["forward"], 2)
            row["largest_difference_from_float64"] = f"{wrong[method]:.1e}" if method in wrong else ""
        rows.append(row | {"images": IMAGES, "batch_images": BATCH, "image_px": PIXELS, "layers": "17 x 17"})
    tail = {"rounds": ROUNDS, "threads": THREADS, "date": date.today().isoformat(), "load_average": load, **machine()}
    frame = pd.DataFrame([row | tail for row in rows])
    frame.to_csv(RESULTS, index=False)
    print(frame.drop(columns=["machine", "versions"]).T.to_string())


if __name__ == "__main__":
    if sys.argv[1:] == ["times"]:
        print(json.dumps(times()))
    elif sys.argv[1:] == ["errors"]:
        print(json.dumps(errors()))
    elif sys.argv[1:2] == ["memory"]:
        print(json.dumps(memory(sys.argv[2])))
    else:
        main()
