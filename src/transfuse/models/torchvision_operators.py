"""Makes `import torchvision` (and with it timm) work beside a torch that has no CUDA.

The torchvision wheel of PyPI is built for CUDA. With a CPU-only torch its C++ library cannot be loaded, the operators
`torchvision::nms` and `torchvision::qnms` stay unregistered, and the import stops at ``RuntimeError: operator
torchvision::nms does not exist``, because torchvision describes their output shapes while it is imported
(pytorch/vision#9085). Nothing here calls these two operators, so it is enough that they are *declared*: their two
schemas, as torchvision 0.28 writes them, without an implementation. Where the C++ library loads, nothing is done.

Call `declare_operators()` before the first import of torchvision or timm.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_DECLARED: list[torch.library.Library] = []  # a Library takes its operators along when it is collected


def declare_operators() -> bool:
    """Declares torchvision's two operators if its C++ library does not load; returns whether it did so.

    Safe to call any number of times and in any order with `import torchvision`.
    """
    if _DECLARED:
        return True
    if hasattr(torch.ops.torchvision, "nms"):
        return False
    found = importlib.util.find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        return False
    folder = Path(next(iter(found.submodule_search_locations)))
    for library in (folder / "_C.so", folder / "_C.pyd"):
        if library.exists():
            try:
                torch.ops.load_library(str(library))
            except OSError:
                break
            return False
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        fragment.define(schema)
    _DECLARED.append(fragment)
    return True
