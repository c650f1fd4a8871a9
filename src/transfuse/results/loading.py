"""A file of weights by its header, and how it is loaded, as Markdown of a model card: here, in timm, in plain torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfuse.errors import StoreError


@dataclass(frozen=True)
class WeightsFacts:
    """What is known of a file of weights without reading its numbers.

    Args:
        name: of the file.
        sha256: of its content.
        size: in bytes.
        shapes: of the tensors, by name.
    """

    name: str
    sha256: str
    size: int
    shapes: Mapping[str, tuple[int, ...]]


def read_facts(path: Path) -> WeightsFacts:
    """Hash a safetensors file and read the shapes in its header; no tensor is loaded.

    Raises:
        StoreError: the file cannot be read, or is none of that kind.
    """
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        raise StoreError(f"{path} cannot be read as safetensors ({error}); copy it again") from None
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return WeightsFacts(path.name, sha256, path.stat().st_size, shapes)


def loading(network: str, identity: Mapping[str, Any], data: Mapping[str, Any], weights: WeightsFacts) -> list[str]:
    """The lines of a card's section on loading.

    Args:
        network: its name for `create_model`.
        identity: what decided the run's numbers, as in its `spec.json`.
        data: the run's facts about its data.
        weights: the file.
    """
    file, shapes = weights.name, weights.shapes
    padding, init = identity["model"].get("padding"), identity["init"]
    classes, channels, size = len(data["classes"]), data["channels"], data["image_size"]
    output = "map" if data["task"] == "segmentation" else "output"
    solid = ", spatial_dims=3" if data.get("spatial_dims", 2) == 3 else ""
    lines = ["## How to load it", ""]
    created = f'model = tfu.create_model("{network}", classes={classes}, channels={channels}, image_size={size}{solid}'
    created += f', padding="{padding}")' if padding else ")"
    if init.get("truncate") is not None or init.get("slim") is not None:
        return [*lines, *_cut_alike(network, created, init, file, classes, size)]
    lines += [
        "To start another training from it, in a study file of transfuse:",
        "",
        "```yaml",
        "models:",
        f"  mine: {{name: {network}, weights: {file}{f', padding: {padding}' if padding else ''}}}",
        "```",
        "",
        f"As it is, in Python (one {output} a class, before the softmax or sigmoid):",
        "",
        "```python",
        "import transfuse as tfu",
        "from safetensors.torch import load_file",
        "",
        created,
        f'model.load_state_dict(load_file("{file}"))',
        "model.eval()",
        "```",
        "",
    ]
    if "layer1.conv.weight" in shapes and "head.weight" in shapes:
        return [*lines, *_plain_torch(weights, padding or "same")]
    if ":" in network:
        return [*lines, f"The network itself is the function `{network}`, which is not part of transfuse.", ""]
    if network in UNETS:
        return [*lines, *_of_smp(network, file, classes, channels)]
    if network in UNETS_3D:
        return [*lines, *_of_monai(network, file, classes, channels)]
    if solid:
        return [*lines, "The network itself is built of MONAI's parts.", ""]
    return [
        *lines,
        "Where timm has a network of this name, it is the same one:",
        "",
        "```python",
        "import timm",
        "",
        f'model = timm.create_model("{network}", num_classes={classes}, in_chans={channels}, checkpoint_path="{file}")',
        "```",
        "",
    ]


def _cut_alike(network: str, created: str, init: Mapping[str, Any], file: str, classes: int, size: int) -> list[str]:
    """How a network that was cut off or made narrower is built again."""
    blocks = f'tfu.blocks_of(model, "{init["level"]}")'
    if init.get("truncate") is not None:
        pool = f', pool="{init["pool"]}"' if init.get("pool", "average") != "average" else ""
        pool += f', head="{init["head"]}"' if init.get("head", "fresh") != "fresh" else ""
        function = "truncate_unet" if network in (*UNETS, *UNETS_3D) else "truncate"
        depth = json.dumps(init["truncate"])
        cut = f"tfu.{function}(model, {blocks}, {depth}, classes={classes}{pool}, image_size={size})"
    else:
        cut = f"tfu.slim(model, {blocks}, {json.dumps(init['slim'])})"
    return [
        "The network was changed after it was created, so its tensors fit only one that was changed alike (one output",
        "a class, before the softmax or sigmoid):",
        "",
        "```python",
        "import transfuse as tfu",
        "from safetensors.torch import load_file",
        "",
        created,
        f"model = {cut}",
        f'model.load_state_dict(load_file("{file}"))',
        "model.eval()",
        "```",
        "",
    ]


UNETS = {f"unet_{encoder}": encoder for encoder in ("resnet18", "resnet34", "resnet50")}
"""U-Nets of segmentation-models-pytorch by their name here, as in `models/unet.py`, which loads torch."""

UNETS_3D = {"unet3d": (16, 16, 32, 64, 128, 16), "unet3d_wide": (32, 32, 64, 128, 256, 32)}
"""U-Nets of MONAI by their name here with their channels, as in `models/networks_3d.py`."""


def _of_monai(network: str, file: str, classes: int, channels: int) -> list[str]:
    how = f"spatial_dims=3, in_channels={channels}, out_channels={classes}, features={UNETS_3D[network]}"
    return [
        "In MONAI, without transfuse:",
        "",
        "```python",
        "from monai.networks.nets import BasicUNet",
        "from safetensors.torch import load_file",
        "",
        f"model = BasicUNet({how})",
        f'model.load_state_dict(load_file("{file}"))',
        "model.eval()",
        "```",
        "",
    ]


def _of_smp(network: str, file: str, classes: int, channels: int) -> list[str]:
    return [
        "In segmentation-models-pytorch, without transfuse:",
        "",
        "```python",
        "import segmentation_models_pytorch as smp",
        "from safetensors.torch import load_file",
        "",
        f'model = smp.Unet("{UNETS[network]}", encoder_weights=None, in_channels={channels}, classes={classes})',
        f'model.load_state_dict(load_file("{file}"))',
        "model.eval()",
        "```",
        "",
    ]


def _plain_torch(weights: WeightsFacts, padding: str) -> list[str]:
    """A stack of convolution, batch norm, ReLU and pooling (the CBR family), from the shapes of its tensors alone."""
    file, shapes = weights.name, weights.shapes
    convolutions = [shapes[f"layer{n}.conv.weight"] for n in range(1, 9) if f"layer{n}.conv.weight" in shapes]
    classes, width = shapes["head.weight"]
    kernel = convolutions[0][2]
    border = 0 if padding == "valid" else kernel // 2
    return [
        "In plain torch, without transfuse:",
        "",
        "```python",
        "from collections import OrderedDict",
        "",
        "from safetensors.torch import load_file",
        "from torch import nn",
        "",
        f"parts, channels = OrderedDict(), {convolutions[0][1]}",
        f"for number, width in enumerate({[shape[0] for shape in convolutions]}, start=1):",
        "    layer = OrderedDict(",
        f"        conv=nn.Conv2d(channels, width, {kernel}, padding={border}, bias=False),",
        "        bn=nn.BatchNorm2d(width),",
        "        relu=nn.ReLU(),",
        "    )",
        "    if number <= 4:",
        f'        layer["pool"] = nn.MaxPool2d(3, stride=2, padding={int(padding == "same_pool")})',
        '    parts[f"layer{number}"], channels = nn.Sequential(layer), width',
        f"parts.update(global_pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), head=nn.Linear({width}, {classes}))",
        "model = nn.Sequential(parts)",
        f'model.load_state_dict(load_file("{file}"))',
        "model.eval()",
        "```",
        "",
    ]
