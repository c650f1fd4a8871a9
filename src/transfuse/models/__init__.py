"""Networks by name, their blocks, weights from files, freezing and surgery. timm is imported on first use only."""

from transfuse.models.blocks import LEVELS, Block, Blocks, blocks_of, check_blocks
from transfuse.models.create import create_model, list_models
from transfuse.models.exits import Exits, exit_depths, exits
from transfuse.models.freeze import freeze_, frozen_fingerprint, prefix_fingerprint, tune_only_
from transfuse.models.lora import add_lora_, merge_lora_
from transfuse.models.mask_exits import MaskExits, mask_exits
from transfuse.models.published import PUBLISHED_NETWORKS
from transfuse.models.recalibrate import recalibrate_
from transfuse.models.slim import slim
from transfuse.models.truncate import truncate
from transfuse.models.truncate_unet import truncate_unet
from transfuse.models.weights import Weights, WeightsFile, find_weights, load_weights, read_weights

__all__ = [
    "LEVELS",
    "PUBLISHED_NETWORKS",
    "Block",
    "Blocks",
    "Exits",
    "MaskExits",
    "Weights",
    "WeightsFile",
    "add_lora_",
    "blocks_of",
    "check_blocks",
    "create_model",
    "exit_depths",
    "exits",
    "find_weights",
    "freeze_",
    "frozen_fingerprint",
    "list_models",
    "load_weights",
    "mask_exits",
    "merge_lora_",
    "prefix_fingerprint",
    "read_weights",
    "recalibrate_",
    "slim",
    "truncate",
    "truncate_unet",
    "tune_only_",
]
