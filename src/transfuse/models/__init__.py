"""Networks by name, their blocks, weights from files, and freezing. timm is imported on first use only."""

from transfuse.models.blocks import LEVELS, Block, Blocks, blocks_of, check_blocks
from transfuse.models.create import create_model, list_models
from transfuse.models.freeze import freeze_, prefix_fingerprint
from transfuse.models.weights import WeightsFile, find_weights, read_weights

__all__ = [
    "LEVELS",
    "Block",
    "Blocks",
    "WeightsFile",
    "blocks_of",
    "check_blocks",
    "create_model",
    "find_weights",
    "freeze_",
    "list_models",
    "prefix_fingerprint",
    "read_weights",
]
