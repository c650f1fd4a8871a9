from __future__ import annotations

import copy
import hashlib
import pickle
import posix
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from transfuse.errors import TransferError
from transfuse.models import find_weights, read_weights
from transfuse.models.weights import Weights, load_weights

TAG = "resnet10t.c3_in1k"


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {"conv1.weight": torch.arange(12.0).reshape(2, 3, 2, 1), "bn1.running_mean": torch.tensor([0.5, -0.5])}


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("TRANSFUSE_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def test_safetensors_and_checkpoints_give_the_same(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    ordered = dict(sorted(state.items()))
    assert same(dict(sorted(read_weights(tmp_path / "w.safetensors").items())), ordered)
    contents = (state, {"state_dict": state, "best_prec1": 92.0}, {"model": {"state_dict": state}, "epoch": 3})
    for index, content in enumerate(contents):
        for ending in (".pth", ".pt", ".th"):
            path = tmp_path / f"{index}{ending}"
            torch.save(content, path)
            assert same(read_weights(path), state)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("executed"),))  # type: ignore[return-value]


def test_a_pickle_that_needs_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Harmful()}, tmp_path / "evil.pth")
    with pytest.raises(
        TransferError, match=r"(?s)evil.pth is a pickle that would have to run code.*safetensors.torch.save_file"
    ):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


def test_damaged_and_foreign_files(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-5])
    torch.save(state, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:300])
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(TransferError, match=r"cut.safetensors is not a readable safetensors file .*copy it again"):
        read_weights(tmp_path / "cut.safetensors")
    for name in ("cut.pth", "empty.pt", "text.pth"):
        with pytest.raises(TransferError, match=rf"{name} is"):
            read_weights(tmp_path / name)
    for content in (b".", b"\x80\x02G", b"\x80\x02h\x07."):  # IndexError, struct.error, KeyError in torch.load
        (tmp_path / "broken.pth").write_bytes(content)
        with pytest.raises(TransferError, match=r"broken.pth is not a readable checkpoint .*copy it again"):
            read_weights(tmp_path / "broken.pth")
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "log.pth")
    with pytest.raises(
        TransferError, match=r"log.pth holds the entries epoch, loss, not a state dict.*model.state_dict"
    ):
        read_weights(tmp_path / "log.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(TransferError, match=r"list.pth holds a list, not a state dict"):
        read_weights(tmp_path / "list.pth")
    save_file({}, tmp_path / "none.safetensors")
    with pytest.raises(TransferError, match=r"none.safetensors holds no tensors: save model.state_dict"):
        read_weights(tmp_path / "none.safetensors")
    (tmp_path / "w.h5").touch()
    with pytest.raises(TransferError, match=r"unknown ending '.h5': .*Choices: .safetensors"):
        read_weights(tmp_path / "w.h5")
    with pytest.raises(TransferError, match=r"no file of weights at .*nowhere.pth"):
        read_weights(tmp_path / "nowhere.pth")


def test_local_files_are_found_under_root_data_folder_and_here(
    tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("root", "data", "here"):
        (tmp_path / folder / "weights").mkdir(parents=True)
        save_file({"a": torch.full((1,), float(len(folder)))}, tmp_path / folder / "weights" / f"{folder}.safetensors")
    monkeypatch.setenv("TRANSFUSE_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path / "here")
    for folder in ("root", "data", "here"):
        found = find_weights(f"weights/{folder}.safetensors", tmp_path / "root")
        path = tmp_path / folder / "weights" / f"{folder}.safetensors"
        assert found.path.resolve() == path.resolve()
        assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert found.licence is None
        assert find_weights(str(path)).path == path
    with pytest.raises(
        TransferError, match=r"no file of weights 'weights/x.pth'. Looked at: .*root.*data.*here.*absolute"
    ):
        find_weights("weights/x.pth", tmp_path / "root")


@pytest.mark.usefixtures("offline")
def test_a_tag_that_is_not_cached_says_what_to_copy_where(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(
        TransferError,
        match=rf"(?s)weights '{TAG}' are not in the Hugging Face cache.*HF_HUB_OFFLINE is set.*hf download timm/{TAG} "
        rf"model.safetensors.*copy that file to .*root/{TAG}.safetensors.*"
        rf"fit the network {TAG.partition('.')[0]}, and a U-Net whose encoder it is",
    ):
        find_weights(TAG, tmp_path / "root")
    (tmp_path / "root").mkdir()
    save_file(state, tmp_path / "root" / f"{TAG}.safetensors")  # the cure of the message
    found = find_weights(TAG, tmp_path / "root")
    assert (found.name, found.licence) == (TAG, "apache-2.0")
    assert same(dict(sorted(read_weights(found.path).items())), dict(sorted(state.items())))


@pytest.mark.usefixtures("offline")
def test_a_cached_tag_is_found_without_network(tmp_path: Path, state: dict[str, Tensor]) -> None:
    folder = tmp_path / "hub" / f"models--timm--{TAG}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    save_file(state, folder / "snapshots" / "abc" / "model.safetensors")
    found = find_weights(TAG)
    assert found.path == folder / "snapshots" / "abc" / "model.safetensors"
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.usefixtures("offline")
def test_the_normalisation_belongs_to_the_tag(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "vit_base_patch16_224.augreg_in21k.safetensors")
    tagged = find_weights("vit_base_patch16_224.augreg_in21k", tmp_path)
    assert (tagged.mean, tagged.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    local = find_weights(str(tagged.path))
    assert (local.mean, local.std) == (None, None)


@pytest.mark.usefixtures("offline")
def test_no_network_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise socket.gaierror("Name or service not known")

    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(TransferError, match=r"cannot be fetched \(there is no network\)"):
        find_weights(TAG)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("resnet10t", r"'resnet10t' names a network, not weights: .*resnet10t.c3_in1k"),
        ("resnet10t.c3_in1", r"neither a timm tag of weights nor a file: did you mean 'resnet10t.c3_in1k'"),
        ("no_such_network.x", r"'no_such_network.x' is neither a timm tag of weights nor a file: tags look like"),
    ],
)
def test_names_that_are_no_tags(source: str, message: str) -> None:
    with pytest.raises(TransferError, match=message):
        find_weights(source)


def test_weights_are_tensors_with_their_origin_and_cannot_be_changed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(state, path)
    weights = load_weights("mine.safetensors", tmp_path)
    assert (weights.name, weights.path, weights.licence) == ("mine.safetensors", path, None)
    assert (weights.mean, weights.std) == (None, None)
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert same(dict(sorted(weights.items())), dict(sorted(state.items())))
    assert len(weights) == 2
    assert "conv1.weight" in weights
    assert repr(weights) == f"Weights('mine.safetensors', 2 tensors, {path})"
    assert same(dict(load_weights(path)), dict(weights))
    with pytest.raises(AttributeError):
        weights.name = "another"  # type: ignore[misc]
    with pytest.raises(TypeError):
        weights["conv1.weight"] = torch.zeros(1)  # type: ignore[index]


@pytest.mark.parametrize("copied", ["copy", "pickle"])
def test_weights_are_copied_and_pickled(tmp_path: Path, state: dict[str, Tensor], copied: str) -> None:
    save_file(state, tmp_path / "mine.safetensors")
    weights = load_weights(tmp_path / "mine.safetensors")
    other = copy.deepcopy(weights) if copied == "copy" else pickle.loads(pickle.dumps(weights))
    assert (other.path, other.sha256) == (weights.path, weights.sha256)
    assert same(dict(other), dict(weights))
    assert other["conv1.weight"].data_ptr() != weights["conv1.weight"].data_ptr()


@pytest.mark.usefixtures("offline")
def test_a_file_is_a_file_whatever_its_ending(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "upper.PTH")
    assert same(dict(load_weights("upper.PTH")), state)
    torch.save(state, tmp_path / "last.ckpt")
    with pytest.raises(TransferError, match=r"last.ckpt has an unknown ending '.ckpt'.*PyTorch, rename it to .pth"):
        load_weights("last.ckpt")


def test_the_refusal_says_what_the_pickle_wants(tmp_path: Path) -> None:
    torch.save({"state_dict": Harmful()}, tmp_path / "evil.pth")
    with pytest.raises(TransferError) as caught:
        read_weights(tmp_path / "evil.pth")
    assert "GLOBAL" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "two options" not in str(caught.value)


class Blocked:
    """What torch refuses by the module that it comes from, in other words than other functions."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return posix.system, ("true",)


def test_the_refusal_names_a_function_of_a_blocked_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": Blocked()}, tmp_path / "evil.pth")
    with pytest.raises(
        TransferError,
        match=r"is refused \(Trying to load unsupported GLOBAL posix.system whose module posix is blocked\)",
    ):
        read_weights(tmp_path / "evil.pth")
    message = "Weights only load failed. In PyTorch 2.6, we changed the default value of `weights_only`.\nRe-run it."

    def refuse(*arguments: object, **named: object) -> None:
        raise pickle.UnpicklingError(message)

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(TransferError, match=r"is refused \(torch does not say of what\)"):
        read_weights(tmp_path / "evil.pth")


@pytest.mark.usefixtures("offline")
def test_weights_of_a_tag_know_licence_and_normalisation(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / f"{TAG}.safetensors")
    weights = load_weights(TAG)
    assert isinstance(weights, Weights)
    assert (weights.name, weights.licence, weights.mean) == (TAG, "apache-2.0", (0.485, 0.456, 0.406))


def test_the_folder_of_a_run_is_a_source(tmp_path: Path, state: dict[str, Tensor]) -> None:
    run = tmp_path / "runs" / "cdecf63c3055"
    run.mkdir(parents=True)
    with pytest.raises(
        TransferError, match=r"folder .*cdecf63c3055 holds no best.safetensors: give the folder of a run"
    ):
        load_weights("runs/cdecf63c3055", tmp_path)
    save_file(state, run / "best.safetensors")
    with pytest.raises(TransferError, match=r"has not finished \(it has no record.json\).*or give .*best.safetensors"):
        load_weights("runs/cdecf63c3055", tmp_path)
    (run / "record.json").write_text("{}")
    for source, root in (("runs/cdecf63c3055", tmp_path), (str(run), None), ("cdecf63c3055", run.parent)):
        weights = load_weights(source, root)
        assert (weights.name, weights.path) == (source, run / "best.safetensors")
        assert set(weights) == set(state)


def test_real_checkpoints_of_others(real_data: Path) -> None:
    for name, count in (("resnet20-12fca82f.th", 269_722), ("resnet56-4bfd9763.th", 853_018)):
        state = read_weights(real_data / "weights" / "resnet_cifar10" / name)
        assert all(key.startswith("module.") for key in state)  # as the file has it; matching makes the names fit
        assert sum(tensor.numel() for key, tensor in state.items() if "running_" not in key) == count


def test_what_is_no_checkpoint_at_all_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("lorem ipsum")
    with pytest.raises(TransferError, match=r"text.pth is not .* \(it begins like neither a zip archive nor a pickle"):
        read_weights(tmp_path / "text.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(TransferError, match=r"empty.pth is not .* \(it is empty\)"):
        read_weights(tmp_path / "empty.pth")


def test_the_nearest_file_and_no_unrelated_tags_are_offered(tmp_path: Path) -> None:
    (tmp_path / "resnet20-12fca82f.th").touch()
    with pytest.raises(TransferError, match=r"did you mean 'resnet20-12fca82f.th'\?"):
        find_weights("resnet20-12fca82.th", tmp_path)
    with pytest.raises(TransferError, match=r"'nothing-like-it' is neither .*: tags look like resnet50.a1_in1k"):
        find_weights("nothing-like-it", tmp_path)
