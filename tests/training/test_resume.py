"""An interrupted training and an uninterrupted one are the same training."""

from __future__ import annotations

import copy
import dataclasses
import errno
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from transfuse.data import Part, Split
from transfuse.errors import StoreError, TrainingError
from transfuse.models import Block, Blocks, blocks_of, create_model
from transfuse.models.lora import add_lora_
from transfuse.training import Epoch, Optimizer, Recipe, Schedule, Stopping, fit
from transfuse.training.checkpoint import BEST, LAST

Network = Callable[..., nn.Module]

# dropout, augmentation, momentum, a warm-up and a plateau: everything that has a state of its own
RECIPE = Recipe(
    optimizer=Optimizer(name="sgd", learning_rate=0.05, weight_decay=1e-4, clip_norm=1.0),
    schedule=Schedule(name="plateau", patience=1, factor=0.5, warmup=3, warmup_start=1e-4),
    stopping=Stopping(patience=8),
    batch_size=24,
    augment="fundus",
    monitor="accuracy",
    validate_every=2,
)


def told(epochs: list[Epoch]) -> list[Epoch]:
    """The epochs without what a clock says."""
    return [dataclasses.replace(epoch, seconds=0.0, images_per_second=0.0) for epoch in epochs]


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def run(model: nn.Module, split: Split, folder: Path | None, most: int = 99, recipe: Recipe = RECIPE) -> list[Epoch]:
    """Train until `most` epochs have been seen."""
    epochs = []
    for epoch in fit(model, split, recipe, epochs=7, seed=4, checkpoint_dir=folder):
        epochs.append(epoch)
        if len(epochs) == most:
            break
    return epochs


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_training_is_bit_identical_wherever_it_broke_off(
    network: Network, split: Split, tmp_path: Path, optimizer: str
) -> None:
    recipe = dataclasses.replace(RECIPE, optimizer=Optimizer(name=optimizer, learning_rate=0.05, weight_decay=1e-4))
    whole = network()
    expected = run(whole, split, None, recipe=recipe)
    assert len({epoch.learning_rate for epoch in expected}) > 3
    assert [epoch.is_best for epoch in expected].count(False) > 3
    for most in (1, 2, 5, len(expected) - 1, len(expected)):
        folder = tmp_path / f"{optimizer}{most}"
        run(network(), split, folder, most, recipe=recipe)
        resumed = network()
        assert told(run(resumed, split, folder, recipe=recipe)) == told(expected)
        torch.testing.assert_close(state_of(resumed), state_of(whole), rtol=0, atol=0)


def test_a_training_interrupted_at_every_epoch(network: Network, split: Split, tmp_path: Path) -> None:
    whole, pieces = network(), network()
    expected = run(whole, split, None)
    for most in range(1, len(expected) + 1):
        seen = run(pieces, split, tmp_path, most)
    assert told(seen) == told(expected)
    assert [epoch.repeated for epoch in seen] == [True] * (len(seen) - 1) + [False]
    torch.testing.assert_close(state_of(pieces), state_of(whole), rtol=0, atol=0)
    seconds = [epoch.seconds for epoch in seen]
    assert seconds == sorted(seconds)


def test_an_error_in_the_callers_loop_loses_nothing(network: Network, split: Split, tmp_path: Path) -> None:
    expected = run(network(), split, None)

    def train() -> None:
        for epoch in fit(network(), split, RECIPE, epochs=7, seed=4, checkpoint_dir=tmp_path):
            if epoch.step == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert told(run(network(), split, tmp_path)) == told(expected)


def test_a_finished_training_is_told_again_and_not_repeated(
    network: Network, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = network(), network()
    epochs = run(first, split, tmp_path)
    monkeypatch.setattr(Part, "tensors", None)  # an image would be an error
    assert run(second, split, tmp_path) == epochs
    torch.testing.assert_close(state_of(second), state_of(first), rtol=0, atol=0)


def test_killed_between_the_two_files(network: Network, split: Split, tmp_path: Path) -> None:
    whole = network()
    expected = run(whole, split, None)
    second = [number for number, epoch in enumerate(expected, start=1) if epoch.is_best][1]
    run(network(), split, tmp_path, second - 1)
    before = (tmp_path / BEST).read_bytes()
    run(network(), split, tmp_path, second)
    after = (tmp_path / BEST).read_bytes()
    assert before != after
    (tmp_path / BEST).write_bytes(before)  # last.ckpt has the new best, best.safetensors not yet
    resumed = network()
    epochs = fit(resumed, split, RECIPE, epochs=7, seed=4, checkpoint_dir=tmp_path)
    assert next(epochs).repeated
    epochs.close()  # type: ignore[attr-defined]
    assert (tmp_path / BEST).read_bytes() == after
    assert told(run(resumed, split, tmp_path)) == told(expected)
    torch.testing.assert_close(state_of(resumed), state_of(whole), rtol=0, atol=0)


def test_killed_with_sigkill(network: Network, split: Split, tmp_path: Path) -> None:
    whole = network()
    expected = run(whole, split, None)
    script = textwrap.dedent("""
        import sys, time
        import torch
        from transfuse.training import fit
        torch.set_num_threads(1)
        model, split, recipe = torch.load(sys.argv[1], weights_only=False)
        for epoch in fit(model, split, recipe, epochs=7, seed=4, checkpoint_dir=sys.argv[2]):
            time.sleep(0.05)
    """)
    arguments, folder = tmp_path / "arguments.pkl", tmp_path / "checkpoints"
    torch.save((network(), split, RECIPE), arguments)
    child = subprocess.Popen([sys.executable, "-c", script, str(arguments), str(folder)], stderr=subprocess.PIPE)
    waited = time.monotonic() + 60
    while not (folder / LAST).exists() and child.poll() is None and time.monotonic() < waited:
        time.sleep(0.01)
    time.sleep(0.12)
    child.send_signal(signal.SIGKILL)
    _, stderr = child.communicate()
    assert child.returncode == -signal.SIGKILL, stderr.decode()
    resumed = network()
    assert told(run(resumed, split, folder)) == told(expected)
    torch.testing.assert_close(state_of(resumed), state_of(whole), rtol=0, atol=0)


def test_a_full_disk_stops_clearly_and_the_training_goes_on_later(
    network: Network, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = network()
    expected = run(whole, split, None)
    run(network(), split, tmp_path, 3)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device; free some space and start again"):
            run(network(), split, tmp_path)
    resumed = network()
    assert told(run(resumed, split, tmp_path)) == told(expected)
    torch.testing.assert_close(state_of(resumed), state_of(whole), rtol=0, atol=0)


def test_a_checkpoint_of_another_training_is_refused(network: Network, split: Split, tmp_path: Path) -> None:
    run(network(), split, tmp_path, 2)
    content = (tmp_path / LAST).read_bytes()
    other = dataclasses.replace(RECIPE, optimizer=dataclasses.replace(RECIPE.optimizer, learning_rate=0.1))
    with pytest.raises(
        TrainingError, match=r"another training: optimizer\.learning_rate was 0\.05 and is now 0\.1\. Use"
    ):
        run(network(), split, tmp_path, recipe=other)
    with pytest.raises(TrainingError, match=r"network was 8 tensors, \w+ and is now 4 tensors, \w+"):
        run(network(norm=False), split, tmp_path)
    fewer = Split(Part(split.train.dataset, split.train.indices[:-1]), split.val, split.test)
    with pytest.raises(TrainingError, match=r"training part was 64 images, .* and is now 63 images"):
        run(network(), fewer, tmp_path)
    assert (tmp_path / LAST).read_bytes() == content


def test_a_network_that_began_with_other_weights_is_refused(network: Network, split: Split, tmp_path: Path) -> None:
    expected = run(network(), split, None)
    run(network(), split, tmp_path, 2)
    content = (tmp_path / LAST).read_bytes()
    other = network()
    with torch.no_grad():
        next(other.parameters()).add_(1e-7)
    before = copy.deepcopy(state_of(other))
    message = r"last\.ckpt is of a network that began with other weights.*first weights, or name another checkpoint_dir"
    with pytest.raises(TrainingError, match=message):
        run(other, split, tmp_path)
    torch.testing.assert_close(state_of(other), before, rtol=0, atol=0)
    assert (tmp_path / LAST).read_bytes() == content
    last, best = network(), network()  # the weights of the checkpoint are those of the same training
    last.load_state_dict(torch.load(io.BytesIO(content.split(b"\n", 2)[2]), weights_only=True)["model"])
    assert told(run(last, split, tmp_path, 3)) == told(expected[:3])
    best.load_state_dict(load_file(tmp_path / BEST))
    assert told(run(best, split, tmp_path)) == told(expected)


def test_a_damaged_checkpoint_is_refused(network: Network, split: Split, tmp_path: Path) -> None:
    run(network(), split, tmp_path, 2)
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:-100])
    with pytest.raises(TrainingError, match=r"last\.ckpt is damaged .* delete it and start this training again"):
        run(network(), split, tmp_path)
    (tmp_path / LAST).unlink()
    assert told(run(network(), split, tmp_path)) == told(run(network(), split, None))


BLOCKS = Blocks("stage", (Block("conv", ("0",), "0"), Block("norm", ("1",), "1")), ("6",))
TUNED = dataclasses.replace(
    RECIPE,
    optimizer=Optimizer(name="adam", learning_rate=0.02, weight_decay=1e-3, clip_norm=1.0, layer_decay=0.7, l2_sp=0.5),
)
PLAIN = dataclasses.replace(TUNED, optimizer=dataclasses.replace(TUNED.optimizer, layer_decay=None, l2_sp=None))


def tune(
    model: nn.Module, split: Split, folder: Path | None, most: int = 99, anchored: tuple[str, ...] = ("0.weight",)
) -> list[Epoch]:
    epochs = []
    for epoch in fit(model, split, TUNED, epochs=7, seed=4, blocks=BLOCKS, anchored=anchored, checkpoint_dir=folder):
        epochs.append(epoch)
        if len(epochs) == most:
            break
    return epochs


def test_l2_sp_and_layer_decay_go_on_bit_identically(network: Network, split: Split, tmp_path: Path) -> None:
    whole = network()
    expected = tune(whole, split, None)
    plain = network()
    assert told(run(plain, split, None, recipe=PLAIN)) != told(expected)
    for most in (1, 3, len(expected) - 1, len(expected)):
        folder = tmp_path / str(most)
        tune(network(), split, folder, most)
        resumed = network()
        assert told(tune(resumed, split, folder)) == told(expected)
        torch.testing.assert_close(state_of(resumed), state_of(whole), rtol=0, atol=0)


def test_l2_sp_goes_on_from_the_first_weights_only(network: Network, split: Split, tmp_path: Path) -> None:
    last = network()
    for _ in zip(range(2), fit(last, split, TUNED, epochs=7, seed=4, blocks=BLOCKS, anchored=["0.weight"],
                               checkpoint_dir=tmp_path), strict=False):  # fmt: skip
        pass
    message = "began with other weights, to which l2_sp draws back, so .* Give the network its first weights"
    with pytest.raises(TrainingError, match=message):
        tune(last, split, tmp_path)
    with pytest.raises(TrainingError, match=r"drawn back was 1 parameters, \w+ and is now 2 parameters, \w+"):
        tune(network(), split, tmp_path, anchored=("0.weight", "6.weight"))
    tune(network(), split, tmp_path)


def test_a_checkpoint_of_other_tuning_is_refused(network: Network, split: Split, tmp_path: Path) -> None:
    tune(network(), split, tmp_path, 2)
    with pytest.raises(TrainingError, match=r"optimizer\.l2_sp was 0\.5 and is now not set"):
        run(network(), split, tmp_path, recipe=PLAIN)
    one = Blocks("stage", (Block("both", ("0", "1"), "1"),), ("6",))
    with pytest.raises(TrainingError, match=r"blocks was 2 at level stage, \w+ and is now 1 at level stage, \w+"):
        list(fit(network(), split, TUNED, epochs=7, seed=4, blocks=one, anchored=["0.weight"], checkpoint_dir=tmp_path))


def test_a_checkpoint_from_before_these_settings_is_of_the_same_training(
    network: Network, split: Split, tmp_path: Path
) -> None:
    run(network(), split, tmp_path, 2)
    content = (tmp_path / LAST).read_bytes().split(b"\n", 2)[2]
    settings = torch.load(io.BytesIO(content), weights_only=True)["settings"]
    assert "optimizer.clip_norm" in settings
    assert not {"optimizer.layer_decay", "optimizer.l2_sp", "blocks", "drawn back"} & set(settings)


def test_adapters_go_on_bit_identically(split: Split, tmp_path: Path) -> None:
    def adapted() -> nn.Module:
        model = create_model("test_vit", classes=3, channels=1, image_size=16)
        return add_lora_(model, blocks_of(model), rank=2, seed=5)

    recipe = Recipe(batch_size=32, optimizer=Optimizer(learning_rate=1e-2), monitor="accuracy", validate_every=1)
    whole, resumed = adapted(), adapted()
    expected = list(fit(whole, split, recipe, steps=4))
    for epoch in fit(adapted(), split, recipe, steps=4, checkpoint_dir=tmp_path):
        if epoch.step == 2:
            break
    assert told(list(fit(resumed, split, recipe, steps=4, checkpoint_dir=tmp_path))) == told(expected)
    torch.testing.assert_close(state_of(resumed), state_of(whole), rtol=0, atol=0)
    start = state_of(adapted())
    moved = {name for name, tensor in state_of(whole).items() if not torch.equal(tensor, start[name])}
    assert moved
    assert all("lora_" in name or name.startswith("head.") for name in moved)


@pytest.mark.parametrize("lengths", [(6,), (2, 8)])
def test_a_longer_training_goes_on_from_a_shorter_one(
    tmp_path: Path, network: Network, split: Split, lengths: tuple[int, ...]
) -> None:
    whole, grown = network(), network()
    expected = list(fit(whole, split, RECIPE, steps=14, seed=4))
    for steps in lengths:
        list(fit(network(), split, RECIPE, steps=steps, seed=4, checkpoint_dir=tmp_path))
    epochs = list(fit(grown, split, RECIPE, steps=14, seed=4, checkpoint_dir=tmp_path))
    assert told(epochs) == [dataclasses.replace(epoch, repeated=epoch.step <= lengths[-1]) for epoch in told(expected)]
    assert [epoch.repeated for epoch in epochs] == [epoch.step <= lengths[-1] for epoch in epochs]
    assert all(torch.equal(a, b) for a, b in zip(state_of(grown).values(), state_of(whole).values(), strict=True))


def test_one_that_ended_where_the_longer_one_does_not_validate_is_begun_anew(
    tmp_path: Path, network: Network, split: Split
) -> None:
    whole, anew = network(), network()
    expected = list(fit(whole, split, RECIPE, steps=14, seed=4))
    list(fit(network(), split, RECIPE, steps=5, seed=4, checkpoint_dir=tmp_path))
    epochs = list(fit(anew, split, RECIPE, steps=14, seed=4, checkpoint_dir=tmp_path))
    assert told(epochs) == told(expected)
    assert not any(epoch.repeated for epoch in epochs)
    assert all(torch.equal(a, b) for a, b in zip(state_of(anew).values(), state_of(whole).values(), strict=True))


def test_a_longer_training_of_one_that_had_stopped_stays_stopped(
    tmp_path: Path, network: Network, split: Split
) -> None:
    recipe = dataclasses.replace(RECIPE, stopping=Stopping(patience=1), optimizer=Optimizer(learning_rate=1e-12))
    short = list(fit(network(), split, recipe, steps=8, seed=4, checkpoint_dir=tmp_path))
    assert "no better accuracy" in str(short[-1].stop_reason)
    longer = list(fit(network(), split, recipe, steps=14, seed=4, checkpoint_dir=tmp_path))
    assert told(longer) == [dataclasses.replace(epoch, repeated=True) for epoch in told(short)]


def test_a_shorter_training_cannot_go_on_from_a_longer_one(tmp_path: Path, network: Network, split: Split) -> None:
    list(fit(network(), split, RECIPE, steps=6, seed=4, checkpoint_dir=tmp_path))
    with pytest.raises(TrainingError, match="total steps was 6 and is now 4"):
        list(fit(network(), split, RECIPE, steps=4, seed=4, checkpoint_dir=tmp_path))
