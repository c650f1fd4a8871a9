"""The CBR family: convolution, batch norm, ReLU, pooling, again and again (T, appendix A; METHODS MOD-1 to MOD-5)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from transfuse.errors import SpecError, nearest


@dataclass(frozen=True)
class CBRShape:
    """What tells one member of the family from another: kernel size, widths, how many layers end in a pooling."""

    kernel: int
    widths: tuple[int, ...]
    pooled: int


CBR_NETWORKS: dict[str, CBRShape] = {
    "cbr_large_t": CBRShape(7, (32, 64, 128, 256, 512), pooled=4),  # T: "LargeT(all)", none after the fifth
    "cbr_large_w": CBRShape(7, (64, 128, 256, 512), pooled=4),
    "cbr_small": CBRShape(7, (32, 64, 128, 256), pooled=4),
    "cbr_tiny": CBRShape(5, (64, 128, 256, 512), pooled=4),  # the text of T's appendix
    "cbr_tiny_table1": CBRShape(5, (32, 64, 128, 256), pooled=4),  # the only widths that fit T's Table 1
    "cbr_demo": CBRShape(5, (16, 32, 64, 128), pooled=4),  # not in the papers: half as wide again, for demos on a CPU
}

PADDINGS = ("same", "valid", "same_pool")


def cbr(name: str, *, classes: int, channels: int = 3, padding: str = "same") -> nn.Sequential:
    """A network of the CBR family; maps (N, channels, H, W) to logits (N, classes).

    Each layer is conv k x k of stride 1 without bias, batch norm, ReLU and, except for the fifth layer of
    `cbr_large_t`, a max pooling 3 x 3 of stride 2; then global average pooling and one linear layer. T states neither
    padding nor bias nor dropout: there is no bias and no dropout, and `padding` is an argument:

    - "same" (default): convolutions keep the size, poolings are unpadded (64 -> 31 -> 15 -> 7 -> 3);
    - "valid": nothing is padded, as the code of P does (`cbr_large_t` then needs images of 217 pixels);
    - "same_pool": poolings are padded too (64 -> 32 -> 16 -> 8 -> 4), for images under 31 pixels.

    Convolutions start as kaiming_normal (fan_out), the linear layer as torch's default; this uses the global generator
    (see `create_model`). Raises SpecError for an unknown name or padding.
    """
    if name not in CBR_NETWORKS:
        raise SpecError(f"Unknown CBR network {name!r}: {nearest(name, CBR_NETWORKS)}")
    if padding not in PADDINGS:
        raise SpecError(f"Unknown padding {padding!r} of {name!r}: {nearest(padding, PADDINGS)}")
    shape = CBR_NETWORKS[name]
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    width = channels
    for index, widened in enumerate(shape.widths):
        conv = nn.Conv2d(
            width, widened, shape.kernel, padding=0 if padding == "valid" else shape.kernel // 2, bias=False
        )
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        layer: OrderedDict[str, nn.Module] = OrderedDict(
            conv=conv, bn=nn.BatchNorm2d(widened), relu=nn.ReLU(inplace=True)
        )
        if index < shape.pooled:
            layer["pool"] = nn.MaxPool2d(3, stride=2, padding=1 if padding == "same_pool" else 0)
        parts[f"layer{index + 1}"] = nn.Sequential(layer)
        width = widened
    parts["global_pool"] = nn.AdaptiveAvgPool2d(1)
    parts["flatten"] = nn.Flatten()
    parts["head"] = nn.Linear(width, classes)
    return nn.Sequential(parts)


def smallest_image(name: str, padding: str = "same") -> int:
    """The smallest image side in pixels that passes through every layer of a CBR network.

    >>> smallest_image("cbr_large_t", "valid"), smallest_image("cbr_small"), smallest_image("cbr_small", "same_pool")
    (217, 31, 1)
    """
    shape = CBR_NETWORKS[name]
    side = 1
    for index in reversed(range(len(shape.widths))):
        if index < shape.pooled:
            side = max(1, 2 * side - 2) if padding == "same_pool" else 2 * (side - 1) + 3
        side += shape.kernel - 1 if padding == "valid" else 0
    return side
