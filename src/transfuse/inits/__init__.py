"""Every initialisation of the papers as one call: which blocks come from a source, and how the others are drawn."""

from __future__ import annotations

from transfuse.inits.gabor import gabor_bank
from transfuse.inits.initialise import initialise_
from transfuse.inits.rerandomise import rerandomise_
from transfuse.inits.schemes import RANDOM, RESAMPLED, described, mean_var_, sampled_, shuffled_
from transfuse.models.draws import generator_of
from transfuse.models.transfer import TensorTransfer, Transfer

__all__ = [
    "RANDOM",
    "RESAMPLED",
    "TensorTransfer",
    "Transfer",
    "described",
    "gabor_bank",
    "generator_of",
    "initialise_",
    "mean_var_",
    "rerandomise_",
    "sampled_",
    "shuffled_",
]
