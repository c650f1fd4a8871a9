"""A trained network as something to give away: its weights, and a model card beside them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfuse.errors import StoreError, nearest
from transfuse.results import phrases
from transfuse.results.card import model_card
from transfuse.results.cut_search import Search
from transfuse.results.loading import read_facts
from transfuse.results.store import RunRecord, Store, replacing

CARD = "README.md"


def export(
    run_folder: str | Path, destination: str | Path, *, licence: str | None = None, search: Search | None = None
) -> list[Path]:
    """Copy the weights of a finished run, byte for byte, and write a model card beside them.

    Args:
        run_folder: `OUT/runs/<run_id>`.
        destination: a folder that is new or empty.
        licence: identifier of the licence that the weights are to have, for example `cc-by-4.0`; None says that none
            was chosen, except for synthetic data, whose own it takes.
        search: the search that chose the network, for the card to tell of.

    Returns:
        The files written: `<network>.<data>-<size>.safetensors` and `README.md`.

    Raises:
        StoreError: no such run, one that is unfinished, diverged or damaged, a destination that is not empty, or one
            that cannot be written.
    """
    folder, target = Path(run_folder), Path(destination)
    record = _finished(folder)
    check_destination(target)
    spec, environment = (_read_json(folder / name) for name in ("spec.json", "environment.json"))
    data = json.loads(record.facts["data"])
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{spec['names']['network']}.{data['dataset']}-{data['image_size']}")
    weights, source = target / f"{name}.safetensors", folder / "best.safetensors"
    predictions = Store(folder.parent.parent).predictions(folder.name)
    facts = replace(read_facts(source), name=weights.name)
    card = model_card(record, spec, environment, predictions, facts, licence=licence, search=search)
    with replacing(weights) as temporary:
        shutil.copyfile(source, temporary)
    with replacing(target / CARD) as temporary:
        temporary.write_text(card, encoding="utf-8")
    return [weights, target / CARD]


def check_destination(target: Path) -> None:
    """Raise StoreError for a folder that is neither new nor empty."""
    held = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    if held or (target.exists() and not target.is_dir()):
        what = f"already holds {phrases.listed(held[:5])}" if held else "is a file"
        raise StoreError(f"{target} {what}; name a folder that is new or empty")


def _finished(folder: Path) -> RunRecord:
    """The record of a run that has weights to give away."""
    store = Store(folder.parent.parent)
    begun = store.attempts(folder.name).exists()
    if folder.parent.name != "runs" or not (folder.is_dir() or begun):
        near = sorted(path.parent.name for path in folder.parent.glob("*/spec.json"))
        hint = f"; {nearest(folder.name, near)}" if near else ""
        raise StoreError(
            f"{folder} is no run; expected OUT/runs/<run_id>, with an id that `transfuse status` lists{hint}"
        )
    record = store.record(folder.name)
    if record is None:
        failure = store.failure(folder.name)
        why = f": it failed ({failure.get('message', '')})" if failure else ""
        raise StoreError(f"the run {folder.name} has not finished{why}; start its study again, which goes on with it")
    if record.status != "finished":
        raise StoreError(
            f"the run {folder.name} {record.status} ({record.reason}), so it has no weights to export; train it with "
            "another recipe, for example a smaller learning rate"
        )
    return record


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}); delete its folder and start the study again") from None
