"""The page's script is made once a machine, and a cache that cannot be used costs time alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from transfuse.report.bundle import vega_bundle


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TRANSFUSE_CACHE", str(tmp_path / "cache"))
    vega_bundle.cache_clear()
    return tmp_path / "cache"


def test_the_script_is_read_from_the_cache_the_second_time(fresh: Path) -> None:
    made = vega_bundle()
    (kept,) = fresh.iterdir()
    assert kept.read_text(encoding="utf-8") == made
    assert "vegaEmbed" in made
    assert "</script" not in made
    kept.write_text("read", encoding="utf-8")
    vega_bundle.cache_clear()
    assert vega_bundle() == "read"
    vega_bundle.cache_clear()


def test_a_cache_that_cannot_be_made_is_done_without(fresh: Path) -> None:
    fresh.write_text("a file where the folder should be", encoding="utf-8")
    assert "vegaEmbed" in vega_bundle()
    vega_bundle.cache_clear()
