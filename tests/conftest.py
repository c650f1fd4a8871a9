"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images and weights, where the environment names one."""
    folder = os.environ.get("TRANSFUSE_DATA")
    if not folder:
        pytest.skip("needs real images and weights: set TRANSFUSE_DATA to their folder")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.skip(f"TRANSFUSE_DATA names {path}, which is no folder")
    return path


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never read or fill the user's cache of decoded images."""
    os.environ["TRANSFUSE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
