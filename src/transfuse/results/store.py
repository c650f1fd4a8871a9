"""Where runs live on disk: one folder a run, written once, readable as tables by anything downstream.

::

    OUT/runs/<run_id>/   spec.json            what decides the run's numbers, and the names it goes by
                         initial.safetensors  the weights before the first step
                         best.safetensors     the weights at the best validation
                         steps/*.safetensors  the weights after some steps, where the study asks for snapshots
                         checkpoints/         what an exact resume needs; removed when the run has finished
                         history.parquet      validation and training values by step
                         predictions.parquet  one row a sample, with its patient
                         environment.json     versions and machine
                         record.json          written last: finished or diverged
    OUT/attempts/<run_id>/  of runs that have not ended: see `transfuse.results.attempts`
    OUT/analyses/<id>/   spec.json, measurements.parquet, arrays.safetensors (pictures), record.json
    OUT/studies/<name>/  plan.json (the study and its runs), tables/*.parquet, report.html: derived, rebuildable
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transfuse.errors import StoreError, nearest
from transfuse.results.attempts import Attempt, claim, is_claimed, left_behind

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

RECORD_VERSION = 1


@dataclass(frozen=True)
class RunRecord:
    """What a run leaves behind; nothing else says that it has ended.

    Attributes:
        run_id: the run.
        status: `finished`, or `diverged` (an answer too: the same spec would diverge again).
        reason: why it stopped.
        facts: scalars for the `runs` table: parameters, best_step, train_seconds, ...
        metrics: test metrics by name; None where the metric is undefined.
        notes: sentences about the data that a report must show.
        transfer: rows of where each block's parameters came from.
        files: sizes in bytes of the files of the run, to notice a truncated one.
        version: of this record's layout.
    """

    run_id: str
    status: str
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    transfer: tuple[dict[str, Any], ...] = ()
    files: dict[str, int] = field(default_factory=dict)
    version: int = RECORD_VERSION


class Tables(NamedTuple):
    """The tables that statistics and report read."""

    runs: pd.DataFrame
    history: pd.DataFrame
    predictions: pd.DataFrame
    measurements: pd.DataFrame


class Store:
    """The folder of results.

    Args:
        root: the folder; made when first written to.
        kind: what it is looked through for: `runs`, or `analyses`, which are kept in the same way.
    """

    def __init__(self, root: str | Path, kind: str = "runs") -> None:
        self.root, self.kind = Path(root), kind

    @property
    def analyses(self) -> Store:
        """The same folder, for the analyses in it."""
        return Store(self.root, "analyses")

    def run_folder(self, run_id: str) -> Path:
        """Where the files of this run, or of this analysis, are once it has ended."""
        return self.root / self.kind / run_id

    def attempts(self, run_id: str) -> Path:
        """Where the attempts at it are until then."""
        return self.root / "attempts" / run_id

    def study_folder(self, name: str) -> Path:
        """Where this study's derived files are."""
        return self.root / "studies" / name

    def studies(self) -> list[str]:
        """Names of the studies begun here."""
        return sorted(path.parent.name for path in (self.root / "studies").glob("*/plan.json"))

    def plan_file(self, name: str) -> Path:
        """The file that holds the study and its runs as it was last started.

        Raises:
            StoreError: no study of this name was begun here.
        """
        path = self.study_folder(name) / "plan.json"
        if not path.exists():
            names = self.studies()
            hint = (
                nearest(name, names) if names else "no study was begun there; start one with: transfuse run STUDY.yaml"
            )
            raise StoreError(f"there is no study {name!r} in {str(self.root)!r}; {hint}")
        return path

    def record(self, run_id: str) -> RunRecord | None:
        """The run's record, or None when it has not ended.

        Raises:
            StoreError: the record, or a file it lists, is damaged.
        """
        return self.record_in(self.run_folder(run_id))

    def record_in(self, folder: Path) -> RunRecord | None:
        """The record in a folder, as `record` gives it."""
        try:
            content = json.loads((folder / "record.json").read_text(encoding="utf-8"))
            if content["version"] > RECORD_VERSION:
                raise StoreError(
                    f"{folder / 'record.json'} was written by a newer transfuse (layout {content['version']}, this one "
                    f"knows {RECORD_VERSION}); update transfuse, or choose another folder with --out"
                )
            record = RunRecord(**{**content, "notes": tuple(content["notes"]), "transfer": tuple(content["transfer"])})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{folder / 'record.json'} is damaged ({error}); {_again(folder)}") from None
        for name, size in record.files.items():
            path = folder / name
            found = path.stat().st_size if path.exists() else None
            if found != size:
                state = "is missing" if found is None else f"has {found} bytes instead of {size}"
                raise StoreError(f"{path} {state}; {_again(folder)}")
        return record

    @contextlib.contextmanager
    def alone(self, run_id: str, waiting: Callable[[], None]) -> Iterator[Attempt]:
        """Hold the run for this process; `waiting` is called once if another process has it.

        Raises:
            StoreError: the folder cannot be written.
        """
        home = self.attempts(run_id)
        try:
            attempt = claim(home, waiting)
            self._adopt(run_id, attempt)
        except OSError as error:
            raise _store_error(home, error) from error
        try:
            yield attempt
        finally:
            attempt.release()

    def _adopt(self, run_id: str, attempt: Attempt) -> None:
        """Go on in the folder of a run that did not end, where an earlier version of this package left one."""
        folder = self.run_folder(run_id)
        if folder.is_dir() and not (folder / "record.json").exists() and not any(attempt.folder.iterdir()):
            attempt.folder.rmdir()
            os.rename(folder, attempt.folder)

    def is_running(self, run_id: str) -> bool:
        """Whether some process is at this run now."""
        return is_claimed(self.attempts(run_id))

    def unfinished(self, run_id: str) -> Path | None:
        """The folder of an attempt that did not come to its end, or None."""
        return left_behind(self.attempts(run_id))

    def failure(self, run_id: str) -> dict[str, Any] | None:
        """What went wrong at the last attempt, or None."""
        try:
            return json.loads((self.attempts(run_id) / "failure.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def fail(self, run_id: str, title: str, message: str, traceback: str = "") -> None:
        """Write down what went wrong; the run is tried again at the next start."""
        write_json(self.attempts(run_id) / "failure.json", {"title": title, "message": message, "traceback": traceback})

    def finish(self, record: RunRecord, outputs: Sequence[str], folder: Path | None = None) -> RunRecord:
        """Write the record, last of all; `outputs` are the files it vouches for.

        Args:
            record: what there is to say.
            outputs: names of files in the folder.
            folder: of the attempt, to be published; None: that of the run itself.
        """
        folder = self.run_folder(record.run_id) if folder is None else folder
        sizes = {name: (folder / name).stat().st_size for name in outputs}
        record = RunRecord(**{**asdict(record), "files": sizes})
        write_json(folder / "record.json", asdict(record))
        return record

    def history(self, run_id: str) -> pd.DataFrame:
        """Values by step: `step, epoch, split, quantity, value, seconds`."""
        return _read_table(self.run_folder(run_id) / "history.parquet")

    def predictions(self, run_id: str) -> pd.DataFrame:
        """One row a sample: `part, sample_id, patient_id, target, scores`."""
        return _read_table(self.run_folder(run_id) / "predictions.parquet")

    def measurements(self, row: Mapping[str, Any]) -> pd.DataFrame | None:
        """What an analysis found, a row a number, with the names that the study gives the analysis; None if not done.

        Args:
            row: the names: `analysis_id, analysis, model, run_id, arm, seed, state, other_run_id, ...`.
        """
        kept = self.analyses
        if kept.record(row["analysis_id"]) is None:
            return None
        frame = _read_table(kept.run_folder(row["analysis_id"]) / "measurements.parquet")
        frame = frame.assign(**{name: value for name, value in row.items() if name not in frame.columns})
        return frame[[*row, *(name for name in frame.columns if name not in row)]]

    def pictures(self, row: Mapping[str, Any]) -> list[tuple[str, np.ndarray]]:
        """The pictures of an analysis that was done, as (caption, uint8 array), in their order."""
        record = self.analyses.record(row["analysis_id"])
        if record is None or "arrays.safetensors" not in record.files:
            return []
        from safetensors.numpy import load_file

        arrays = load_file(self.analyses.run_folder(row["analysis_id"]) / "arrays.safetensors")
        captions = record.facts.get("captions", {})
        return [(captions.get(key, key), arrays[key]) for key in sorted(arrays)]

    def tables(self, rows: Sequence[Mapping[str, Any]], analyses: Sequence[Mapping[str, Any]] = ()) -> Tables:
        """Collect the runs and analyses of a study.

        Args:
            rows: what the study calls its runs: `run_id, model, arm, seed, role, ...`, one row a run.
            analyses: what it calls its analyses, one row each, as `measurements` takes them.

        Returns:
            The runs that have ended, one row a name; history and predictions, keyed by `run_id`; what the analyses
            measured.
        """
        import pandas as pd

        runs, histories, predictions = [], [], []
        seen: set[str] = set()
        for row in rows:
            record = self.record(row["run_id"])
            if record is None:
                continue
            tests = {f"test_{name}": value for name, value in record.metrics.items()}
            runs.append({**row, "status": record.status, "reason": record.reason, **record.facts, **tests})
            if row["run_id"] in seen:
                continue  # arms that came to the same run share its history and predictions
            seen.add(row["run_id"])
            histories.append(self.history(row["run_id"]).assign(run_id=row["run_id"]))
            if record.status == "finished":
                predictions.append(self.predictions(row["run_id"]).assign(run_id=row["run_id"]))
        measured = [found for row in analyses if (found := self.measurements(row)) is not None and len(found)]
        empty = pd.DataFrame(columns=["run_id", "model", "arm", "seed", "role", "status", "reason"])
        return Tables(
            pd.DataFrame(runs) if runs else empty,
            pd.concat(histories, ignore_index=True) if histories else empty,
            pd.concat(predictions, ignore_index=True) if predictions else empty,
            pd.concat(measured, ignore_index=True) if measured else pd.DataFrame(),
        )


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN is refused, since no other program could read it."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as Parquet, atomically."""
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    from safetensors.torch import save

    with replacing(path) as temporary:
        temporary.write_bytes(save(dict(tensors)))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path that takes the place of `path` when the block ends, or leaves nothing behind.

    Raises:
        StoreError: the disk is full or the folder cannot be written; what was there before is intact.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _store_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _store_error(path: Path, error: OSError) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"no space left while writing {path}; earlier results are intact: free some space, or choose another "
            "folder with --out, and start the same command again"
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return StoreError(f"cannot write {path}: {error.strerror}; choose a folder of your own with --out")
    return StoreError(f"cannot write {path}: {error}")


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}); {_again(path.parent)}") from None


def _again(folder: Path) -> str:
    return f"delete the folder {folder} and start the study again: only this run is repeated"
