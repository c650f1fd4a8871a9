"""Networks of patches: which patches suit a network, and maps of whole volumes out of overlapping windows."""

from __future__ import annotations

from torch import Tensor, nn

from transfuse.data.dataset import Dataset
from transfuse.data.patches import Patches, check_patches
from transfuse.errors import BlocksError, ExtraNotInstalled, TrainingError
from transfuse.models.strides import nearest_sides, strides_of

OVERLAP = 0.5
"""Of neighbouring windows, as a share of their side."""
WINDOWS_AT_ONCE = 4


def check_windows(model: nn.Module, patches: Patches, dataset: Dataset) -> None:
    """Refuse patches that the data or the network do not allow, before the first step.

    Raises:
        DataError: as `check_patches`.
        TrainingError: sides that are no multiples of the network's strides, or that it cannot be run on.
        ExtraNotInstalled: MONAI is missing.
    """
    check_patches(patches, dataset)
    try:
        import monai.inferers  # noqa: F401
    except ModuleNotFoundError:
        raise ExtraNotInstalled("monai", needed_for="predicting volumes by windows", extra="3d") from None
    try:
        strides = strides_of(model)
        nearest = nearest_sides(model, patches.box, strides, dataset.size)
    except BlocksError:  # a network that says nothing without values; whether it passes is seen at the first step
        return
    if nearest == patches.box:
        return
    steps = " x ".join(map(str, strides))
    cure = "no patch of these volumes is: larger volumes (data.size), or no patch"
    if nearest is not None:
        cure = f"the nearest that is, is [{', '.join(map(str, nearest))}]"
    raise TrainingError(
        f"the patch of {patches} voxels does not suit the network: each side is to be a multiple of its total stride "
        f"({steps}), and its smallest map more than one voxel; {cure}"
    )


def maps_by_windows(model: nn.Module, volumes: Tensor, patches: Patches | None) -> Tensor:
    """What a network makes of volumes (n, C, D, H, W), of which it sees one window at a time: (n, classes, D, H, W).

    Windows have the size of the patches that it is trained on and overlap by half; where several see a voxel its logits
    are their mean, weighted by a Gaussian about the middle of each, an eighth of the side wide and at least 0.001
    (MONAI's `sliding_window_inference`, in the manner of nnU-Net: Isensee et al., Nature Methods 18, 2021). A window as
    large as the volume is the network's own output, to the bit.
    """
    if patches is None or all(own >= side for own, side in zip(patches.box, volumes.shape[2:], strict=True)):
        return model(volumes)
    from monai.inferers.utils import sliding_window_inference

    maps = sliding_window_inference(volumes, patches.box, WINDOWS_AT_ONCE, model, overlap=OVERLAP, mode="gaussian")
    assert isinstance(maps, Tensor)
    return maps
