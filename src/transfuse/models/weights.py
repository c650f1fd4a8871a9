"""Weights from elsewhere: finding the file, and reading it without running its code, under the names it holds."""

from __future__ import annotations

import difflib
import hashlib
import os
import pickle
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from transfuse.errors import TransferError, nearest
from transfuse.models.create import import_timm

SAFE, PICKLED = (".safetensors",), (".pth", ".pt", ".th", ".bin", ".tar")

# Where a training script puts the weights among the other things that it saves; the first that is there is taken.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")

HUB_FILES = ("model.safetensors", "pytorch_model.bin")

RUN_WEIGHTS, RUN_RECORD = "best.safetensors", "record.json"  # in the folder of a run; the record is written last


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights.

    Args:
        name: the name that was asked for.
        path: where the file lies.
        sha256: of its content.
        licence: of the weights; None where it is not known.
        mean: by which the images were normalised that the weights were trained on, one value a channel, of images in
            [0, 1]; None where it is not known (local files).
        std: the standard deviations that belong to it.
    """

    name: str
    path: Path
    sha256: str
    licence: str | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Weights(Mapping[str, Tensor]):
    """Tensors by the names that their file holds, and where they come from; it cannot be changed.

    Args:
        file: where they come from.
        tensors: the tensors.

    >>> file = WeightsFile("mine", Path("mine.safetensors"), "0" * 64, None)
    >>> weights = Weights(file, {"fc.bias": torch.zeros(2)})
    >>> list(weights), weights.name, weights.licence
    (['fc.bias'], 'mine', None)
    """

    __slots__ = ("_file", "_tensors")

    def __init__(self, file: WeightsFile, tensors: Mapping[str, Tensor]) -> None:
        self._file = file
        self._tensors = MappingProxyType(dict(tensors))

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __reduce__(self) -> tuple[type[Weights], tuple[WeightsFile, dict[str, Tensor]]]:
        return Weights, (self._file, dict(self._tensors))  # for copies and pickles: a read-only view has neither

    def __repr__(self) -> str:
        return f"Weights({self.name!r}, {len(self)} tensors, {self.path})"

    @property
    def name(self) -> str:
        """The name that was asked for."""
        return self._file.name

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self._file.path

    @property
    def sha256(self) -> str:
        """Of the file's content, as hex digits."""
        return self._file.sha256

    @property
    def licence(self) -> str | None:
        """Of the weights; None where it is not known."""
        return self._file.licence

    @property
    def mean(self) -> tuple[float, ...] | None:
        """By which images in [0, 1] were normalised, one value a channel; None where it is not known."""
        return self._file.mean

    @property
    def std(self) -> tuple[float, ...] | None:
        """The standard deviations that belong to `mean`."""
        return self._file.std


def load_weights(source: str | Path, root: str | Path | None = None) -> Weights:
    """The weights that a source names, read without running any code: a timm tag, a file, or the folder of a run.

    Args:
        source: a timm tag ("resnet50.a1_in1k"), a `.safetensors`, `.pth`, `.pt` or `.th` file, or the folder of a run
            of this project (its weights at the best validation).
        root: where to look first; see `find_weights`.

    Raises TransferError as `find_weights` and `read_weights` do.
    """
    file = find_weights(str(source), root)
    return Weights(file, read_weights(file.path))


def find_weights(source: str, root: str | Path | None = None) -> WeightsFile:
    """The file that a source names: a local file, the folder of a run, or a timm tag ("mobilenetv2_100.ra_in1k").

    Local files and folders are looked for at the path itself, under `root`, under $TRANSFUSE_DATA and under the current
    folder; a tag first as `<tag>.safetensors` in those folders (a machine without network), then in the Hugging Face
    cache, then, unless HF_HUB_OFFLINE is set, on the network.

    Raises TransferError that says where it was looked for and what to copy where, and for a run that has not finished.
    """
    folders = [Path(folder) for folder in (root, os.environ.get("TRANSFUSE_DATA"), Path.cwd()) if folder]
    candidates = [folder / Path(source).expanduser() for folder in folders]
    for path in candidates:
        if path.is_dir() and (path / RUN_WEIGHTS).is_file():
            return _of_run(source, path)
    named_as_file = source.lower().endswith((*SAFE, *PICKLED)) or "/" in source or os.sep in source
    if named_as_file or any(path.is_file() for path in candidates):
        for path in candidates:
            if path.is_file():
                return WeightsFile(source, path, sha256_of(path), None)
            if path.is_dir():
                raise TransferError(
                    f"The folder {path} holds no {RUN_WEIGHTS}: give the folder of a run (as in "
                    "transfuse-out/runs/3f2a...) that has reached its first validation, or a file of weights."
                )
        raise TransferError(
            f"There is no file of weights {source!r}. Looked at: {', '.join(str(path) for path in candidates)}. "
            f"{_beside(candidates)}Give an absolute path, or one below `root` or $TRANSFUSE_DATA."
        )
    config = _timm_tag(source)
    for path in (folder / f"{source}.safetensors" for folder in folders):
        if path.is_file():
            return _tagged(source, path, config)
    return _tagged(source, _from_hub(source, config.hf_hub_id, folders[0]), config)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file on the CPU under the names it holds, unwrapped from `{"state_dict": ...}`.

    Reads `.safetensors`, and `.pth .pt .th .bin .tar` with `weights_only=True`: nothing in the file is executed. Raises
    TransferError for a pickle that would need code, a damaged file, and a file that holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise TransferError(f"There is no file of weights at {path}.")
    ending = path.suffix.lower()
    if ending in SAFE:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path, device="cpu")
        except (SafetensorError, OSError) as error:
            raise TransferError(f"{path} is not a readable safetensors file ({error}): copy it again.") from error
        if not tensors:
            raise TransferError(f"{path} holds no tensors: save model.state_dict().")
        return tensors
    if ending not in PICKLED:
        raise TransferError(
            f"{path} has an unknown ending {path.suffix!r}: {nearest(path.suffix, (*SAFE, *PICKLED))}. If it is a "
            "checkpoint of PyTorch, rename it to .pth."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _is_none(path):
            raise TransferError(
                f"{path} is not a readable checkpoint ({_unreadable(path, error)}): copy it again."
            ) from error
        raise TransferError(
            f"{path} is a pickle that would have to run code to be read, or it is damaged, and is refused "
            f"({_refusal(error)}). Where you trust it, convert it once: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')."
        ) from error
    except Exception as error:  # a damaged pickle raises nearly anything: IndexError, KeyError, struct.error, ...
        raise TransferError(
            f"{path} is not a readable checkpoint ({_unreadable(path, error)}): copy it again."
        ) from error
    return _unwrap(content, path)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                return _unwrap(content[wrapper], path)
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return dict(content)
    held = (
        f"the entries {', '.join(map(str, list(content)[:8]))}"
        if isinstance(content, Mapping)
        else f"a {type(content).__name__}"
    )
    raise TransferError(
        f"{path} holds {held}, not a state dict, nor one under {', '.join(map(repr, WRAPPERS))}: "
        "save model.state_dict()."
    )


def _of_run(source: str, folder: Path) -> WeightsFile:
    if not (folder / RUN_RECORD).is_file():
        raise TransferError(
            f"The run in {folder} has not finished (it has no {RUN_RECORD}): start its study again, it goes on from "
            f"its last checkpoint; or give {folder / RUN_WEIGHTS} to take the best weights so far."
        )
    return WeightsFile(source, folder / RUN_WEIGHTS, sha256_of(folder / RUN_WEIGHTS), None)


def _tagged(source: str, path: Path, config: Any) -> WeightsFile:
    mean, std = (
        None if values is None else tuple(float(value) for value in values) for values in (config.mean, config.std)
    )
    return WeightsFile(source, path, sha256_of(path), config.license, mean, std)


def _timm_tag(source: str) -> Any:
    import_timm()
    from timm.models import get_pretrained_cfg, list_pretrained

    architecture, _, tag = source.partition(".")
    tags = list_pretrained(f"{architecture}.*")
    if source in tags:
        return get_pretrained_cfg(source)
    what = "names a network, not weights" if tags and not tag else "is neither a timm tag of weights nor a file"
    close = tags or difflib.get_close_matches(source, list_pretrained(), n=6, cutoff=0.5)
    choices = nearest(source, close) if close else "tags look like resnet50.a1_in1k"
    raise TransferError(
        f"The source {source!r} {what}: {choices}. A file is a path that ends in {', '.join((*SAFE, *PICKLED))}."
    )


def _beside(candidates: Sequence[Path]) -> str:
    """The files of weights where one was looked for in vain, the nearest name first."""
    folders = dict.fromkeys(path.parent for path in candidates if path.parent.is_dir())
    files = {path.name for folder in folders for path in folder.iterdir() if path.suffix.lower() in (*SAFE, *PICKLED)}
    return f"Beside it: {nearest(candidates[0].name, sorted(files), most=8)}. " if files else ""


def _from_hub(tag: str, repository: str, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    for file in HUB_FILES:
        if isinstance(cached := try_to_load_from_cache(repository, file), str):
            return Path(cached)
    reason = _no_network()
    if not reason:
        try:
            return Path(hf_hub_download(repository, HUB_FILES[0]))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = _first_line(error)
    raise TransferError(
        f"The weights {tag!r} are not in the Hugging Face cache and cannot be fetched ({reason}). On a connected "
        f"machine run `hf download {repository} {HUB_FILES[0]}`, then copy that file to "
        f"{folder / f'{tag}.safetensors'} here (or give the path of a .safetensors file as the source). They "
        f"fit the network {tag.partition('.')[0]}, and a U-Net whose encoder it is."
    )


def _refusal(error: Exception) -> str:
    """What torch says that the pickle wants, without its advice to read it all the same."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = ("WeightsUnpickler error", "Unsupported", "Trying to load")
    telling = next((line for line in lines if line.startswith(told)), "")
    said = telling.removeprefix("WeightsUnpickler error: ").partition(". Please use")[0].rstrip(".")[:160]
    return said or "torch does not say of what"


def _is_none(path: Path) -> bool:
    """Whether a file is surely no checkpoint: it begins like neither a zip archive nor a pickle of protocol 2 on."""
    with path.open("rb") as file:
        begin = file.read(2)
    return begin != b"PK" and begin[:1] != b"\x80"


def _unreadable(path: Path, error: Exception) -> str:
    """Why a file could not be read, where the error itself says no more than a number or its name."""
    if not path.stat().st_size:
        return "it is empty"
    if _is_none(path):
        return "it begins like neither a zip archive nor a pickle, of which checkpoints are made"
    return _first_line(error) if isinstance(error, OSError | RuntimeError) else f"{type(error).__name__}, it is damaged"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]  # an EOFError has no message


def _no_network() -> str:
    """Why the hub need not be asked ("" if it should be): asking it without a network takes half a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    if any(os.environ.get(name) for name in ("HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return ""
    try:
        socket.getaddrinfo("huggingface.co", 443)
    except OSError:
        return "there is no network"
    return ""
