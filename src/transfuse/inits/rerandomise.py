"""Starting one block of a trained network anew, to see how much depends on it (INIT-15)."""

from __future__ import annotations

from torch import nn

from transfuse.errors import TransferError, nearest
from transfuse.inits.initialise import initialise_
from transfuse.inits.plan import holds_only_norms
from transfuse.models.blocks import Blocks
from transfuse.models.transfer import Transfer

SCHEMES = ("kaiming_uniform", "mean_var")


def rerandomise_(
    model: nn.Module, blocks: Blocks, block: str, *, scheme: str = "kaiming_uniform", seed: int = 0
) -> Transfer:
    """Draws the weights and biases of one block of a trained network anew, in place; all else stays as it is.

    It is the point of `initialise_` whose source is the network itself: depth "all", its own head, and an override for
    the block. The block's normalisation layers keep their trained values and statistics.

    Args:
        model: the network.
        blocks: its blocks.
        block: the name of one of them.
        scheme: "kaiming_uniform" (torch's own start) or "mean_var" (from the trained tensor's mean and variance).
        seed: of the draws.

    Raises TransferError for an unknown block or scheme, and for a block of normalisation layers only.

    >>> from transfuse.models.blocks import blocks_of
    >>> from transfuse.models.create import create_model
    >>> model = create_model("cbr_demo", classes=5)
    >>> rerandomise_(model, blocks_of(model), "layer2").counts
    {'transferred': 25, 'random': 1}
    """
    for what, value, valid in (("block", block, blocks.names), ("scheme", scheme, SCHEMES)):
        if value not in valid:
            raise TransferError(f"Unknown {what} {value!r}: {nearest(value, valid)}")
    if holds_only_norms(model, blocks, block):
        others = [name for name in blocks.names if not holds_only_norms(model, blocks, name)]
        raise TransferError(
            f"Block {block!r} holds normalisation layers only, which keep what they were trained to, so nothing would "
            f"be drawn. Choices: {', '.join(others)}"
        )
    return initialise_(
        model,
        blocks,
        source=model.state_dict(),
        depth="all",
        head="source",
        overrides={block: scheme},
        identity_statistics="accept",
        seed=seed,
    )
