"""What creating and initialising a ResNet-50 costs, by scheme, against timm's own `create_model` and one pass.

The reference is `timm.create_model("resnet50")` and one in-place addition to each parameter. Each round times the
reference and every scheme once, one after the other, so that a ratio compares neighbours in time; the table has the
median over the rounds and its quartiles, in wall time and in CPU time of all threads (which other programs disturb
less). The source is a state dict in memory: reading a file is not part of it. `norm: recalibrate` is not in the table,
because it runs the network on images.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from machine import machine

RESULTS = Path(__file__).parent / "results" / "initialise.csv"
ROUNDS = 7
GOAL = 1.5
SCHEMES: dict[str, dict[str, Any]] = {
    "random: default": {},
    "random: he_fan_out": {"random": "he_fan_out"},
    "random: glorot_normal": {"random": "glorot_normal"},
    "random: trunc_normal": {"random": "trunc_normal"},
    "random: kaiming_uniform": {"random": "kaiming_uniform"},
    "gabor": {"overrides": {"conv1": "gabor"}},
    "depth: all": {"depth": "all"},
    "depth: middle": {"depth": "middle"},
    "rest: mean_var": {"rest": "mean_var"},
    "rest: mean_var, norm: mean_var": {"rest": "mean_var", "norm": "mean_var"},
    "rest: sampled": {"rest": "sampled"},
    "rest: shuffled": {"rest": "shuffled"},
}


class Seconds(NamedTuple):
    wall: float
    cpu: float


def seconds(work: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def measure(threads: int) -> list[dict[str, object]]:
    import torch

    from transfuse.inits import initialise_
    from transfuse.models import blocks_of, create_model
    from transfuse.models.create import import_timm

    torch.set_num_threads(threads)
    timm = import_timm()
    source = {key: tensor + 0.1 for key, tensor in create_model("resnet50", classes=1000).state_dict().items()}

    def reference() -> None:
        with torch.no_grad():
            for parameter in timm.create_model("resnet50").parameters():
                parameter.add_(0.0)

    def create() -> Any:
        return create_model("resnet50", classes=1000)

    def initialise(model: Any, arguments: dict[str, Any]) -> None:
        given = source if set(arguments) & {"depth", "rest"} else None
        initialise_(model, blocks_of(model), source=given, **arguments)

    references: list[Seconds] = []
    created: dict[str, list[Seconds]] = {name: [] for name in SCHEMES}
    both: dict[str, list[Seconds]] = {name: [] for name in SCHEMES}
    for turn in range(ROUNDS + 1):
        last = seconds(reference)
        if turn:  # the first warms up
            references.append(last)
        for name, arguments in SCHEMES.items():
            models: list[Any] = []
            first = seconds(lambda models=models: models.append(create()))
            second = seconds(lambda models=models, arguments=arguments: initialise(models[0], arguments))
            if turn:
                created[name].append(first)
                both[name].append(Seconds(first.wall + second.wall, first.cpu + second.cpu))
    rows = []
    for name in SCHEMES:
        row: dict[str, object] = {"scheme": name, "threads": threads}
        for clock in ("wall", "cpu"):
            pairs = zip(both[name], references, strict=True)
            ratios = [getattr(mine, clock) / getattr(theirs, clock) for mine, theirs in pairs]
            low, middle, high = statistics.quantiles(ratios, n=4)
            row |= {f"{clock}_ratio": round(middle, 2), f"{clock}_ratio_quartiles": f"{low:.2f} to {high:.2f}"}
            row[f"{clock}_ratio_under_{GOAL}"] = middle < GOAL
        for what, times in (("create", created[name]), ("both", both[name]), ("reference", references)):
            row[f"{what}_cpu_ms"] = round(1000 * statistics.median(value.cpu for value in times))
        rows.append(row)
    return rows


def main() -> None:
    rows = []
    for threads in (1, 2):
        command = [sys.executable, __file__, str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        load = round(os.getloadavg()[0], 1)
        measured = json.loads(answer.stdout)
        rows += [
            {**row, "rounds": ROUNDS, "date": date.today().isoformat(), "load_average": load, **machine()}
            for row in measured
        ]
    frame = pd.DataFrame(rows)
    frame.to_csv(RESULTS, index=False)
    print(frame.drop(columns=["machine", "versions"]).to_string(index=False))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        main()
