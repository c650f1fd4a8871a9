"""The weights that a run keeps along its training: at which steps, where, and whether a run that is done has them."""

from __future__ import annotations

from collections.abc import Sequence

from transfuse.results.store import RunRecord

LOG = "log"


def snapshot_steps(wanted: str | Sequence[int], total: int) -> tuple[int, ...]:
    """The steps whose weights are kept: those that are asked for, or powers of two and the last (`log`).

    >>> snapshot_steps("log", 20), snapshot_steps([5, 500], 20)
    ((1, 2, 4, 8, 16, 20), (5,))
    """
    if wanted == LOG:
        return tuple(sorted({*(2**power for power in range(total.bit_length()) if 2**power < total), total}))
    return tuple(sorted(step for step in wanted if isinstance(step, int) and step <= total))


def snapshot_file(step: int) -> str:
    """Where in a run's folder the weights after a step are."""
    return f"steps/{step:08d}.safetensors"


def has_snapshots(record: RunRecord, wanted: str | Sequence[int]) -> bool:
    """Whether a run that is done kept the weights that are asked for now, as far as it trained.

    Snapshots change no number, so they are no part of a run's identity: a run that lacks some is done again for them.
    """
    last = int(record.facts.get("steps") or 0)
    steps = snapshot_steps(wanted, last)
    if wanted == LOG:  # the last step of a training that stopped early was not known to be the last
        steps = tuple(step for step in steps if step < last or step & (step - 1) == 0)
    return record.status != "finished" or all(snapshot_file(step) in record.files for step in steps)
