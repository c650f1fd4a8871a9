"""Which one-training screen ranks truncated networks as fine-tuning each of them does?

    python benchmarks/screen_trunk.py mobilenet 0 alone      one design, one seed, each network by itself
    python benchmarks/screen_trunk.py mobilenet 0 screens    the three screens; both add rows to the results
    python benchmarks/screen_trunk.py summary                what the results say

Designs:

- mobilenet: MobileNetV2 with ImageNet weights (TRANSFUSE_DATA), seven of the nine cuts at level "stage", on 500
  training images of PneumoniaMNIST at 64 px, validated on every third of its validation images; 32 steps of 32
  images, a validation every 8.
- resnet, cbr: a small ResNet and a CBR network pretrained on natural phantoms for 200 steps, level "block", on 190
  fundus phantoms (five grades) at 64 px; 80 steps, a validation every 20.

Adam with a rate of 1e-3, constant, so that a screen of fewer steps is the beginning of one of more. `alone` is every
truncated network fine-tuned by itself: its validation AUROC at its best validation, and the test AUROC there. A screen
is good if its validation AUROC orders the cuts as the test AUROC of `alone` does, averaged over all seeds: Kendall's
tau-b, and the regret, by how much the network that it picks is worse than the best one. `macs` are those of the whole
training, an image counting three forward passes ("frozen": one, and two for the heads), without validation.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from machine import machine
from scipy.stats import kendalltau

from transfuse.data import Part, Split, open_dataset, split_by_patient
from transfuse.inits import initialise_
from transfuse.metrics import evaluate
from transfuse.models import Blocks, blocks_of, create_model, load_weights, truncate
from transfuse.models.complexity import complexity
from transfuse.models.exits import TRUNKS, exit_depths
from transfuse.training import Optimizer, Recipe, fit, predict, screen

WEIGHTS = "weights/mobilenetv2_100/mobilenetv2_100_imagenet1k.safetensors"
OUT = Path(__file__).parent / "results" / "screen_trunk.csv"
DESIGNS = {"mobilenet": (32, 8), "resnet": (80, 20), "cbr": (80, 20)}
DEPTHS = {"mobilenet": (1, 3, 4, 5, 6, 7, 9)}
NAMES = {"resnet": "test_resnet", "cbr": "cbr_demo"}


def recipe_of(design: str) -> Recipe:
    return Recipe(optimizer=Optimizer(learning_rate=1e-3), batch_size=32, validate_every=DESIGNS[design][1])


def opened(design: str, seed: int) -> tuple[torch.nn.Module, Blocks, Split]:
    """A network as initialised by seed, its blocks, and data that are the same for all seeds."""
    if design == "mobilenet":
        data = open_dataset("pneumoniamnist", size=64, channels=1, normalise="half")
        split = split_by_patient(data, train_fraction=0.1062, duplicates="drop")
        split = Split(split.train, Part(data, split.val.indices[::3]), split.test)
        model = create_model("mobilenetv2_100", 2, 1, padding="same")
        source, level = dict(load_weights(WEIGHTS)), "stage"
    else:
        split = split_by_patient(open_dataset("fundus-phantom", size=64, normalise="half"), train_fraction=0.15)
        model = create_model(NAMES[design], 5, 3)
        source, level = natural(NAMES[design]), "block"
    blocks = blocks_of(model, level)
    initialise_(model, blocks, source=source, depth="all", seed=seed)
    return model, blocks, split


def natural(name: str) -> dict[str, torch.Tensor]:
    split = split_by_patient(open_dataset("natural-phantom", size=64, normalise="half"))
    model = create_model(name, len(split.train.dataset.info.classes), 3)
    initialise_(model, blocks_of(model), seed=0)
    recipe = Recipe(optimizer=Optimizer(learning_rate=1e-3), batch_size=32, validate_every=100, monitor="accuracy")
    list(fit(model, split, recipe, steps=200, device="cpu"))
    return model.state_dict()


def rows_of(design: str, seed: int, what: str) -> Iterable[dict[str, object]]:
    model, blocks, split = opened(design, seed)
    steps, _ = DESIGNS[design]
    depths = DEPTHS.get(design, exit_depths(blocks))
    for depth in depths if what == "alone" else ():
        short = truncate(model, blocks, depth, len(split.train.dataset.info.classes), image_size=64, seed=seed)
        size = complexity(short, 64)
        epochs = list(fit(short, split, recipe_of(design), steps=steps, seed=seed, device="cpu"))
        curve = [epoch.validation["auroc"] for epoch in epochs]
        test = evaluate("auroc", split.test.targets, predict(short, split.test)).value
        row = {"how": "alone", "exit": blocks[depth - 1].name, "depth": depth, "parameters": size.parameters}
        yield row | {"macs": 3 * size.macs * seen(split, steps), "curve": told(curve), "test_auroc": round(test, 5)}
    for trunk in TRUNKS if what == "screens" else ():
        found = screen(
            model, blocks, split, recipe_of(design), steps=steps, depths=depths, trunk=trunk, seed=seed, device="cpu"
        )  # fmt: skip
        for one in found.exits:
            row = {"how": trunk, "exit": one.block, "depth": one.depth, "parameters": one.parameters}
            yield row | {"macs": found.training_macs, "curve": told(one.curve), "test_auroc": ""}


def seen(split: Split, steps: int) -> int:
    """Images in so many steps of 32."""
    count = len(split.train)
    epoch = -(-count // 32)
    epoch -= count % 32 == 1
    return steps // epoch * min(count, epoch * 32) + steps % epoch * 32


def told(curve: Iterable[float]) -> str:
    return " ".join(f"{value:.5f}" for value in curve)


def summary() -> None:
    """For each design and way to rank: Kendall's tau with the test AUROC of fine-tuning, regret, work."""
    table = pd.read_csv(OUT, keep_default_na=False)
    whole = table.groupby("design")["how"].nunique() == 1 + len(TRUNKS)
    table = table[table["design"].map(whole)]  # a design is told of once all of its trainings are there
    print("design      seeds  how          steps  tau-b (each seed)          regret (each seed)         work")
    for design, rows in table.groupby("design", sort=False):
        alone = rows[rows["how"] == "alone"]
        truth = alone.assign(test=alone["test_auroc"].astype(float)).groupby("depth")["test"].mean()
        work = alone.groupby("seed")["macs"].sum().mean()
        seeds = sorted(rows["seed"].unique())
        for how in ("alone", *TRUNKS):
            validations = len(rows["curve"].iloc[0].split())
            for count in [validations] if how == "alone" else sorted({validations, validations // 2}):
                taus, regrets = [], []
                for seed in seeds:
                    one = rows[(rows["how"] == how) & (rows["seed"] == seed)].sort_values("depth")
                    best = np.array([max(map(float, curve.split()[:count])) for curve in one["curve"]])
                    taus.append(kendalltau(best, truth).statistic)
                    regrets.append(truth.max() - truth.iloc[int(best.argmax())])
                macs = rows[rows["how"] == how].groupby("seed")["macs"]
                spent = (macs.sum() if how == "alone" else macs.first()).mean() * count / validations
                steps = DESIGNS[str(design)][0] * count // validations
                print(
                    f"{design:10s}  {len(seeds):5d}  {how:8s}  {steps:8d}  "
                    f"{np.mean(taus):5.2f} ({' '.join(f'{tau:5.2f}' for tau in taus)})  "
                    f"{np.mean(regrets):6.3f} ({' '.join(f'{regret:.3f}' for regret in regrets)})  1/{work / spent:.1f}"
                )
        print("            test AUROC by exit:", " ".join(f"{value:.3f}" for value in truth))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("design", choices=[*DESIGNS, "summary"])
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("what", choices=["alone", "screens"], nargs="?", default="alone")
    asked = parser.parse_args()
    if asked.design == "summary":
        return summary()
    torch.set_num_threads(1)
    first = {"design": asked.design, "seed": asked.seed}
    found = [first | row | machine() for row in rows_of(asked.design, asked.seed, asked.what)]
    new = not OUT.exists()
    with OUT.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(found)
    return None


if __name__ == "__main__":
    sys.exit(main())
