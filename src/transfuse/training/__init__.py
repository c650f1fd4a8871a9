"""Training: `fit` is a generator loop, a `Recipe` says how, `predict` gives probabilities, of masks pixel counts."""

from transfuse.training.history import Diverged, Epoch
from transfuse.training.loop import fit
from transfuse.training.optimizers import Optimizer
from transfuse.training.prediction import predict, segment
from transfuse.training.recipe import RECIPES, Recipe, Stopping
from transfuse.training.schedules import Schedule
from transfuse.training.screen import Screen, ScreenedExit, screen

__all__ = [
    "RECIPES",
    "Diverged",
    "Epoch",
    "Optimizer",
    "Recipe",
    "Schedule",
    "Screen",
    "ScreenedExit",
    "Stopping",
    "fit",
    "predict",
    "screen",
    "segment",
]
