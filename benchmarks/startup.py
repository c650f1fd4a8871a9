"""How long a command takes to answer: `--help`, `status`, against starting Python alone. Wall seconds, median of 15."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from machine import machine

RESULTS = Path(__file__).parent / "results" / "startup.csv"
PYTHON = [sys.executable, "-c"]
TRANSFUSE = "from transfuse.cli import main; main()"
COMMANDS = {
    "python alone": [*PYTHON, "pass"],
    "transfuse --help": [*PYTHON, TRANSFUSE, "--help"],
    "transfuse run --help": [*PYTHON, TRANSFUSE, "run", "--help"],
    "transfuse --version": [*PYTHON, TRANSFUSE, "--version"],
    "import transfuse": [*PYTHON, "import transfuse"],
    "import torch (for comparison)": [*PYTHON, "import torch"],
}


def main() -> None:
    rows = []
    for name, command in COMMANDS.items():
        seconds = []
        for _ in range(16):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
        kept = seconds[1:]  # the first fills the file cache
        rows.append(
            {"command": name, "median_s": statistics.median(kept), "min_s": min(kept), "max_s": max(kept), **machine()}
        )
    frame = pd.DataFrame(rows).round(3)
    frame.to_csv(RESULTS, index=False)
    print(frame.to_string(index=False))


if __name__ == "__main__":
    main()
