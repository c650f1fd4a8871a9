"""On what a benchmark ran, columns that every row of results carries; and the file of results."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine() -> dict[str, str]:
    """Processor, cores, Python and the versions that decide speed."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        processor = platform.processor()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy"))
    return {
        "machine": f"{processor or platform.machine()}, {os.cpu_count()} cores",
        "versions": f"Python {platform.python_version()}, {packages}",
    }


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the results: a row for each mapping, with the columns of the first."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
