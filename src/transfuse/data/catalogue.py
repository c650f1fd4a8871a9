"""Data sets known by name: the sets of MedMNIST v2 (Yang et al., Scientific Data 2023), and how to get them."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from transfuse.data.cache import written
from transfuse.data.records import listed
from transfuse.errors import DataError, ExtraNotInstalled, nearest

TABLES = (".csv", ".tsv", ".parquet")
READABLE = (".npz", *TABLES)
_SIZES = (28, 64, 128, 224)
_SIZES_3D = (28, 64)
_ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left",
    "lung-right", "pancreas", "spleen",
)  # fmt: skip


class KnownSet(NamedTuple):
    """What is known of a public data set before its file is read."""

    task: str
    classes: tuple[str, ...]
    licence: str = "CC BY 4.0"


MEDMNIST: dict[str, KnownSet] = {
    "pathmnist": KnownSet(
        "multiclass",
        ("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
         "cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "chestmnist": KnownSet(
        "multilabel",
        ("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
         "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
    ),
    "dermamnist": KnownSet(
        "multiclass",
        ("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
         "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
        "CC BY-NC 4.0",
    ),
    "octmnist": KnownSet("multiclass", ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal")),
    "pneumoniamnist": KnownSet("binary", ("normal", "pneumonia")),
    "retinamnist": KnownSet("ordinal", ("0", "1", "2", "3", "4")),
    "breastmnist": KnownSet("binary", ("malignant", "normal, benign")),
    "bloodmnist": KnownSet(
        "multiclass",
        ("basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte",
         "monocyte", "neutrophil", "platelet"),
    ),
    "tissuemnist": KnownSet(
        "multiclass",
        ("collecting duct, connecting tubule", "distal convoluted tubule", "glomerular endothelial cells",
         "interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments",
         "thick ascending limb"),
    ),
    "organamnist": KnownSet("multiclass", _ORGANS),
    "organcmnist": KnownSet("multiclass", _ORGANS),
    "organsmnist": KnownSet("multiclass", _ORGANS),
    "organmnist3d": KnownSet(
        "multiclass",
        ("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder", "heart", "lung-right",
         "lung-left", "spleen", "pancreas"),
    ),
    "nodulemnist3d": KnownSet("binary", ("benign", "malignant")),
    "adrenalmnist3d": KnownSet("binary", ("normal", "hyperplasia")),
    "fracturemnist3d": KnownSet(
        "multiclass", ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture")
    ),
    "vesselmnist3d": KnownSet("binary", ("vessel", "aneurysm")),
    "synapsemnist3d": KnownSet("binary", ("inhibitory synapse", "excitatory synapse")),
}  # fmt: skip


def search_folders(root: str | Path | None) -> tuple[Path, ...]:
    """Where names and relative paths are looked for: `root`, $TRANSFUSE_DATA, the current folder."""
    folders = [root, os.environ.get("TRANSFUSE_DATA"), "."]
    return tuple(dict.fromkeys(Path(folder).expanduser() for folder in folders if folder))


def find_path(name: str, root: str | Path | None, known: Iterable[str]) -> Path:
    """The file or folder that a path means.

    Raises:
        DataError: nothing is there; the message names the places and the nearest name.
    """
    places = [folder / Path(name).expanduser() for folder in search_folders(root)]
    for place in places:
        if place.exists():
            return place
    parents = {place.parent for place in places if place.parent.is_dir()}
    beside = sorted({path.name for parent in parents for path in parent.iterdir() if _may_be_data(path)})
    looked = listed(list(dict.fromkeys(str(place.absolute()) for place in places)))
    if "/" in name or "." in name or "\\" in name:
        close = nearest(Path(name).name, beside, most=8) if beside else "that folder does not exist either"
        raise DataError(f"There is no data set at {name!r} (looked for {looked}); {close}")
    raise DataError(
        f"{name!r} is neither a known data set nor a path (looked for {looked}); "
        f"{_layout(name)}{nearest(name, dict.fromkeys([*known, *beside]), most=24)}"
    )


def _may_be_data(path: Path) -> bool:
    """Whether something in a folder may be named as data: a folder, or a file of a kind that is read."""
    return not path.name.startswith((".", "__")) and (path.suffix.lower() in READABLE or path.is_dir())


def _layout(name: str) -> str:
    """What the files of ImageNet must look like, for who takes it for a name of ours."""
    if "imagenet" not in name.lower():
        return ""
    return (
        "ImageNet is not shipped: give the path of a folder of class folders, FOLDER/n01440764/*.JPEG, or with parts, "
        "FOLDER/train/n01440764/*.JPEG and FOLDER/val/n01440764/*.JPEG; "
    )


def find_medmnist(name: str, root: str | Path | None, size: int) -> Path:
    """The .npz file of a MedMNIST set: the smallest of its sizes that is at least `size`, else the largest.

    Looked for as `<name>*.npz` and `<name>/<name>*.npz` below all search folders and ~/.medmnist (of files of one size,
    that of the first folder), else fetched.
    """
    home = Path.home() / ".medmnist"
    found: list[tuple[bool, int, int, bool, Path]] = []
    for place, folder in enumerate((*search_folders(root), home)):
        for file in (*folder.glob(f"{name}*.npz"), *(folder / name).glob(f"{name}*.npz")):
            stored = _stored_size(file)
            if file.is_file():
                found.append((stored < size, abs(stored - size), place, file.name != f"{name}.npz", file))
    if found:
        return min(found)[-1]
    sizes = _SIZES_3D if name.endswith("3d") else _SIZES
    return _fetch_medmnist(name, next((stored for stored in sizes if stored >= size), sizes[-1]), home)


def _stored_size(file: Path) -> int:
    ending = re.search(r"_(\d+)$", file.stem)
    return int(ending[1]) if ending else 28


def _fetch_medmnist(name: str, size: int, home: Path) -> Path:
    """Fetch a set from the address that the medmnist package knows, checked by its MD5 sum."""
    try:
        from medmnist.info import INFO
    except ImportError:
        raise ExtraNotInstalled(
            "medmnist",
            needed_for=f"fetching {name} (there is no {name}.npz under root:, TRANSFUSE_DATA or {home})",
            extra="medmnist",
        ) from None
    suffix = "" if size == 28 else f"_{size}"
    url, md5, path = INFO[name][f"url{suffix}"], INFO[name][f"MD5{suffix}"], home / f"{name}{suffix}.npz"
    # The package's own download goes through torchvision, which does not import beside every torch.
    digest = hashlib.md5(usedforsecurity=False)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=30) as answer, written(path) as file:
            while block := answer.read(1 << 20):
                digest.update(block)
                file.write(block)
            if digest.hexdigest() != md5:
                raise DataError(
                    f"{url} gave a file with the MD5 sum {digest.hexdigest()} instead of {md5}. Cure: try again later."
                )
    except (urllib.error.URLError, OSError) as error:
        raise DataError(
            f"{name!r} was not found on this machine and could not be fetched ({error}). "
            f"Cure: download {url} on a machine with a network and put it into one of {_folders_text(home)}."
        ) from None
    return path


def _folders_text(home: Path) -> str:
    folders: Sequence[Path] = (*search_folders(None), home)
    return ", ".join(str(folder.absolute()) for folder in folders)
