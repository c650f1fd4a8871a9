"""Two processes that share each batch take the step that one process takes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from transfuse.data import Split
from transfuse.training import Optimizer, Recipe, fit

RECIPE = Recipe(optimizer=Optimizer(name="sgd", learning_rate=0.1, clip_norm=1.0), batch_size=25, validate_every=2)

SCRIPT = textwrap.dedent("""
    import sys
    import torch
    from transfuse.training import fit
    model, split, recipe = torch.load(sys.argv[1], weights_only=False)
    epochs = list(fit(model, split, recipe, steps=6, device="cpu", checkpoint_dir=sys.argv[2]))
    torch.save((model.state_dict(), [(e.step, e.train_loss, e.validation) for e in epochs]), sys.argv[3])
    torch.distributed.destroy_process_group()
""")


@pytest.mark.slow
def test_two_processes_train_as_one(network: Callable[..., nn.Module], split: Split, tmp_path: Path) -> None:
    alone = network(norm=False, dropout=0.0)
    epochs = list(fit(alone, split, RECIPE, steps=6))
    torch.save((network(norm=False, dropout=0.0), split, RECIPE), tmp_path / "arguments.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        environment = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        arguments = [tmp_path / "arguments.pt", tmp_path / "checkpoints", tmp_path / f"end{rank}.pt"]
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, *map(str, arguments)],
                env=os.environ | environment,
                stderr=subprocess.PIPE,
            )
        )
    for child in children:
        _, stderr = child.communicate(timeout=120)
        assert child.returncode == 0, stderr.decode()
    ends = [torch.load(tmp_path / f"end{rank}.pt", weights_only=True) for rank in range(2)]
    assert ends[0][1] == ends[1][1]
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=0, atol=0)
    torch.testing.assert_close(ends[0][0], dict(alone.state_dict()), rtol=1e-5, atol=1e-6)
    for (step, train_loss, validation), epoch in zip(ends[0][1], epochs, strict=True):
        assert step == epoch.step
        assert train_loss == pytest.approx(epoch.train_loss, rel=1e-5)
        assert validation == pytest.approx(epoch.validation, rel=1e-5)
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
