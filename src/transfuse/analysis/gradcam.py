"""Grad-CAM by MONAI, for networks of 2D images, of volumes and of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.analysis.activations import device_and_type
from transfuse.analysis.gradients import constant
from transfuse.analysis.localisation import MassInside, mass_inside
from transfuse.analysis.maps import SpatialMap, output_path, spatial_map
from transfuse.analysis.views import finite
from transfuse.errors import AnalysisError, ExtraNotInstalled, nearest
from transfuse.models.blocks import Blocks
from transfuse.models.torchvision_operators import declare_operators
from transfuse.models.weightless import hooked

__all__ = ["MassInside", "gradcam", "gradcam_block", "mass_inside"]

SCALINGS = ("each", "raw")
_AXES: dict[type, int] = {nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5}
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def gradcam(
    model: nn.Module,
    images: Tensor,
    block: str | None = None,
    target: int | Sequence[int] | Tensor | None = None,
    *,
    blocks: Blocks | None = None,
    scaling: str = "each",
    batch_size: int = 16,
) -> Tensor:
    """Where in an image a class score comes from: relu(sum_c w_c A_c), w_c the mean over space of d score / d A_c.

    A is the map of a block, enlarged linearly to the image's size (Selvaraju et al. 2017, equations 1 and 2; METHODS
    AN-26: the last feature map). The map itself is MONAI's `GradCAM`, which is given one score an image, so that
    images of a batch with different classes do not mix, and a module of its own, so that hooks, modes, in-place ReLUs
    and gradients of the network are as they were. Tokens of a transformer are the map of their patches.

    Args:
        model: a network that gives class scores (N, classes), or one score (N, 1) of a binary task. Frozen ones, too.
        images: (N, C, H, W), or volumes (N, C, D, H, W), as the network takes them.
        block: a block's or a module's name; None takes the last one with a map that the score depends on (see
            `gradcam_block`).
        target: a class for all images, or one an image; None takes the class that is predicted. For a binary network
            of one score class 1 is the score and class 0 its negative.
        blocks: the blocks that `block` is one of, or among which the last is looked for.
        scaling: "each" divides a map by its maximum, so that it lies in [0, 1]; "raw" leaves it as it is, at least 0.
            A map without a positive value is 0 everywhere in both.
        batch_size: images a forward pass; the result does not depend on it.

    Returns:
        (N, H, W) or (N, D, H, W), float32, at least 0.

    Raises AnalysisError for a block without a map, one that runs more than once a pass or that no score depends on (a
    class token is read above it), for an unknown block, class or scaling, for NaN, and for a network that gives no
    class scores; ExtraNotInstalled without MONAI.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> gradcam(model, torch.randn(2, 1, 12, 12), block="1", target=1).shape
    torch.Size([2, 12, 12])
    """
    if scaling not in SCALINGS:
        raise AnalysisError(f"Unknown scaling {scaling!r}: {nearest(scaling, SCALINGS)}")
    if batch_size < 1:
        raise AnalysisError(f"batch_size={batch_size}: expected at least 1 image")
    grad_cam = _library()
    images = _checked(model, images)
    targets = _targets(target, len(images))
    block = gradcam_block(model, images, target=target, blocks=blocks) if block is None else block
    scores = _Scores(model, block, output_path(model, block, blocks))
    parts = []
    with constant(model):
        cam = grad_cam(scores, target_layers="map")
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            found = cam.compute_map(images[part], class_idx=0, targets=None if targets is None else targets[part])
            size = images.shape[2:]
            parts.append(nn.functional.interpolate(found.detach().float(), size=size, mode=_MODES[len(size)])[:, 0])
    if not scores.reached:
        raise AnalysisError(
            f"the class scores do not depend on the map of {block!r} for any image, so it has no Grad-CAM. Above the "
            "last block of many transformers only the class token is read: name the block before it, or none"
        )
    maps = torch.cat(parts)
    if scaling == "each":
        peaks = maps.flatten(1).amax(1)
        maps = maps / torch.where(peaks > 0, peaks, 1.0).view(-1, *[1] * (maps.ndim - 1))
    return maps


def gradcam_block(
    model: nn.Module,
    images: Tensor,
    *,
    target: int | Sequence[int] | Tensor | None = None,
    blocks: Blocks | None = None,
) -> str:
    """The name of the last block whose output is a map of more than one place on which the class score depends.

    Of a convolutional network it is the last feature map before it is pooled; of a transformer whose class token is
    read, the last block but one. Looked for with at most four images.

    Args:
        model: as in `gradcam`, like `images` and `target`.
        blocks: among which it is looked for; None takes the network's children and all elements of its sequences.

    Raises AnalysisError where there is none.

    >>> gradcam_block(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2)), torch.randn(1, 1, 4, 4))
    '0'
    """
    images = _checked(model, images)
    targets = _targets(target, len(images))
    images, targets = images[:4].requires_grad_(), None if targets is None else targets[:4]
    places = {block.name: block.output for block in blocks} if blocks else _in_sequence(model)
    outputs: list[tuple[str, nn.Module, Tensor]] = []
    pooled: list[Tensor] = []

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or not output.requires_grad:
                return
            if blocks is None and "Pool" in type(module).__name__:
                pooled.append(output)  # and a sequence that ends in it gives out the same tensor
            elif not any(output is other for other in pooled):
                outputs.append((name, module, output))

        return hook

    handles = (model.get_submodule(path).register_forward_hook(hook_of(name)) for name, path in places.items())
    with constant(model), hooked(*handles):
        score = _class_scores(model(images), targets).sum()
        tensors = [output for _, _, output in outputs]
        gradients = torch.autograd.grad(score, tensors, allow_unused=True) if score.requires_grad and tensors else ()
    for (name, module, _), gradient in reversed(list(zip(outputs, gradients, strict=False))):
        found = None if gradient is None else _map(model, module, gradient, images)
        if found is not None and bool(found.values.any()) and math.prod(found.values.shape[2:]) > 1:
            return name
    raise AnalysisError(
        f"{type(model).__name__} has no block with a map of more than one place that its class scores depend on; "
        f"looked at {', '.join(list(places)[:8])}. Larger images leave larger maps; or name a module as block"
    )


class _Scores(nn.Module):
    """What MONAI's Grad-CAM is shown instead of the network: a module of its own for the map, one score an image.

    MONAI leaves its hooks on the module that it is shown, makes ReLUs out of place, clears the network's gradients and
    calls `train()`, and sums the scores of all predicted classes over the batch; nothing here can be harmed so.
    """

    def __init__(self, model: nn.Module, block: str, path: str) -> None:
        super().__init__()
        self.map = nn.Identity()
        self.hidden = (model,)  # no submodule: it is out of MONAI's reach
        self.block, self.path = block, path
        self.reached = False

    def forward(self, images: Tensor, targets: Tensor | None) -> Tensor:
        model = self.hidden[0]
        calls: list[Tensor] = []

        def tap(module: nn.Module, _: Any, output: Any) -> Any:
            tensor = output[0] if isinstance(output, (tuple, list)) and output else output
            found = _map(model, module, tensor, images) if isinstance(tensor, Tensor) else None
            if found is None:
                shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(output).__name__
                raise AnalysisError(
                    f"block {self.block!r} gives out {shape}; Grad-CAM needs a map (N, C, H, W), or tokens that fill a "
                    "grid. Name an earlier block, or none for the last one with a map"
                )
            if calls:
                raise AnalysisError(
                    f"block {self.block!r} runs more than once in a pass, so it has more than one map: name a module "
                    "around one of the calls"
                )
            values = finite(self.block, found.values.detach()).contiguous().requires_grad_()
            calls.append(values)
            through = self.map(values).clone()  # a copy, since a ReLU above may overwrite it
            through.register_hook(self._note)
            changed = found.back(through)
            return type(output)((changed, *output[1:])) if isinstance(output, (tuple, list)) else changed

        with hooked(model.get_submodule(self.path).register_forward_hook(tap)):
            output = model(images)
        if not calls:
            raise AnalysisError(f"no forward pass reaches block {self.block!r}; name one that runs")
        scores = _class_scores(output, targets)
        return scores if scores.requires_grad else scores + 0 * calls[0].flatten(1).sum(1, keepdim=True)

    def _note(self, gradient: Tensor) -> Tensor:
        self.reached = self.reached or bool(gradient.any())
        return gradient.contiguous()


def _class_scores(output: Any, targets: Tensor | None) -> Tensor:
    """(N, 1): the score of each image's class, of the predicted one where no targets are given."""
    scores = output[0] if isinstance(output, (tuple, list)) and output else output
    scores = scores[:, None] if isinstance(scores, Tensor) and scores.ndim == 1 else scores
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(output).__name__
        raise AnalysisError(f"the network gives out {found}; Grad-CAM needs class scores (N, classes)")
    finite("class scores", scores.detach())
    classes = max(scores.shape[1], 2)
    if targets is None:
        targets = scores.detach().argmax(1) if scores.shape[1] > 1 else (scores.detach()[:, 0] > 0).long()
    targets = targets.to(scores.device)
    if int(targets.min()) < 0 or int(targets.max()) >= classes:
        wrong = int(targets.min()) if int(targets.min()) < 0 else int(targets.max())
        raise AnalysisError(f"target {wrong}: expected a class from 0 to {classes - 1}")
    if scores.shape[1] == 1:
        return torch.where(targets[:, None] == 1, scores, -scores)
    return scores.gather(1, targets[:, None])


def _map(model: nn.Module, module: nn.Module, output: Tensor, images: Tensor) -> SpatialMap | None:
    return spatial_map(model, module, output, tuple(images.shape[2:])) if output.ndim > 2 else None


def _in_sequence(model: nn.Module) -> dict[str, str]:
    """The network's children and what stands in a sequence, without what passes its input on."""
    modules = dict(model.named_modules())
    chained = {"": True} | {path: isinstance(m, (nn.Sequential, nn.ModuleList)) for path, m in modules.items() if path}
    passing = (nn.Identity, nn.modules.dropout._DropoutNd)
    inside = {path: path for path in modules if path and chained[path.rpartition(".")[0]]}
    return {path: path for path in inside if not isinstance(modules[path], passing)}


def _checked(model: nn.Module, images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or images.ndim not in (3, 4, 5) or not len(images):
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise AnalysisError(f"images are {found}; expected a tensor (N, C, H, W), or (N, C, D, H, W) of volumes")
    made = next((_AXES[type(module)] for module in model.modules() if type(module) in _AXES), images.ndim)
    if made != images.ndim:
        one = ". One image is a batch of one: images[None]" if made == images.ndim + 1 else ""
        raise AnalysisError(
            f"images are {tuple(images.shape)}; expected {made} axes, as {type(model).__name__} has convolutions of "
            f"{made - 2} of space: (N, C, {'D, H, W' if made == 5 else 'H, W' if made == 4 else 'L'}){one}"
        )
    if not images.is_floating_point():
        raise AnalysisError(f"images are {images.dtype}; expected floating ones, normalised as the network takes them")
    return images.detach().to(*device_and_type(model))


def _targets(target: int | Sequence[int] | Tensor | None, count: int) -> Tensor | None:
    if target is None:
        return None
    targets = torch.as_tensor(target).reshape(-1)
    targets = targets.expand(count) if targets.numel() == 1 else targets
    if len(targets) != count or targets.is_floating_point():
        raise AnalysisError(f"target={target!r} for {count} images: expected a class, or {count} of them")
    return targets.long()


def _library() -> Any:
    declare_operators()
    try:
        from monai.visualize.class_activation_maps import GradCAM
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise ExtraNotInstalled(missing, needed_for="Grad-CAM", extra="gradcam") from None
    return GradCAM
