"""Blocks of DenseNets as timm and torchvision name them.

`block` are the candidate cuts of P: the stem with its pooling, each dense block, each transition, the last norm.
`stage` takes a dense block and the transition after it together. In `layer` each dense layer is a tap: its output are
the channels that it adds, so the network is not cut there. M defines no `wt-st` modules for this family.
"""

from __future__ import annotations

from dataclasses import replace

from transfuse.models.architectures.family import Family, Rule

# The 264d has three convolutions; only torchvision's ReLU is a module of its own.
_STEM = tuple(f"features.{part}" for part in ("conv0", "norm0", "relu0", "conv1", "norm1", "conv2", "norm2", "pool0"))
_DENSE = tuple(f"features.denseblock{number}" for number in (1, 2, 3, 4))
_TRANSITION = tuple(f"features.transition{number}" for number in (1, 2, 3))

DENSENET = Family(
    name="densenet",
    recognised_by=("features.conv0", "features.denseblock1", "features.norm5", "global_pool", "classifier"),
    head=("classifier",),
    levels={
        "stage": (
            Rule("stem", _STEM),
            *(Rule(f"stage{number}", pair) for number, pair in enumerate(zip(_DENSE[:3], _TRANSITION, strict=True), 1)),
            Rule("stage4", (_DENSE[3], "features.norm5")),
        ),
        "block": (
            Rule("stem", _STEM),
            *(Rule(path) for pair in zip(_DENSE[:3], _TRANSITION, strict=True) for path in pair),
            Rule(_DENSE[3]),
            Rule("features.norm5"),
        ),
        "layer": (
            Rule("features.conv0", _STEM, "features.conv0", cut=False),
            *(
                rule
                for dense, transition in zip(_DENSE[:3], _TRANSITION, strict=True)
                for rule in (Rule(f"{dense}.*", cut=False), Rule(transition))
            ),
            Rule(f"{_DENSE[3]}.*", cut=False),
            Rule("features.norm5"),
        ),
    },
    pool="global_pool",
)

# torchvision pools by a function.
TORCHVISION_DENSENET = replace(
    DENSENET, recognised_by=("features.conv0", "features.denseblock1", "features.norm5", "classifier"), pool=""
)
