"""On what a benchmark ran: columns that every row of results carries."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


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
