"""What networks call parameters that are neither weight nor bias of a layer: scales, tokens, positions.

A family whose parameters have names of their own adds them here.
"""

from __future__ import annotations

# A learned scale of one number a channel: of a residual branch, and of the weights of a convolution without a norm
# (timm's NFNets).
LAYER_SCALES = ("gamma", "gamma_1", "gamma_2", "layer_scale", "scale", "gain", "skipinit_gain")

# Learned inputs and offsets of attention, and the standard deviation with which timm's ViT, DeiT and Swin start them:
# tokens from N(0, 1e-6^2), the others from a truncated normal distribution.
TOKENS = {"cls_token": 1e-6, "reg_token": 1e-6, "mask_token": 1e-6}
POSITIONS = {"dist_token": 0.02, "pos_embed": 0.02, "relative_position_bias_table": 0.02, "latent": 0.02}

# Positions that are resized for images of another size: one a token, and one a difference of places in a window.
ABSOLUTE_POSITIONS = ("pos_embed", "pos_embedding")
RELATIVE_POSITIONS = ("relative_position_bias_table",)

# The projections of an attention in timm's transformers, in one piece or in three, and the one after it.
PROJECTIONS = ("qkv", "q_proj", "k_proj", "v_proj", "proj")
