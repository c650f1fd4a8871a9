"""Groups of label columns by name: CheXpert's findings that a network tells by low-level or by high-level features.

Peng et al. 2023 (app. C.2) pretrain on labels that are told by contrast alone ("low"), on labels that are told by
shapes too ("high") and on all of them. Their Table 4 and their code disagree about Edema, Atelectasis, Pneumothorax and
No Finding, so there are two presets, `table4` and `code`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transfuse.errors import SpecError, nearest

CHEXPERT = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The label columns of CheXpert's `train.csv`, in their order there (Irvin et al. 2019)."""

_TABLE4_LOW = ("Lung Opacity", "Consolidation", "Pneumonia", "Pneumothorax", "Pleural Effusion", "Pleural Other")
# Table 4 ticks only contrast for Edema and calls it "low and high" nevertheless; its words count here, not its ticks.
_TABLE4_HIGH = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Edema", "Atelectasis", "Fracture"),
    "Support Devices",
)
_CODE_LOW, _CODE_HIGH = (3, 5, 6, 7, 8, 10, 11), (0, 1, 2, 4, 9, 12, 13)

LABEL_GROUPS: dict[str, tuple[str, ...]] = {
    "chexpert-low:table4": _TABLE4_LOW,  # Peng et al. 2023, Table 4: "low"
    "chexpert-high:table4": _TABLE4_HIGH,  # the same: "low and high"
    # The text's "13 types of diseases": No Finding is in neither group.
    "chexpert-full:table4": tuple(name for name in CHEXPERT if name in (*_TABLE4_LOW, *_TABLE4_HIGH)),
    "chexpert-low:code": tuple(CHEXPERT[index] for index in _CODE_LOW),  # utils/CheXpert.py of sun-umn/TTL
    "chexpert-high:code": tuple(CHEXPERT[index] for index in _CODE_HIGH),  # the same
    "chexpert-full:code": CHEXPERT,
}
"""Label columns by the name of the group, `GROUP:PRESET`, and where each is from."""


def named_columns(names: str | Sequence[str], there: Iterable[str]) -> tuple[str, ...]:
    """Label columns as a study names them, with those of a group in the place of its name.

    Args:
        names: a column or a group of `LABEL_GROUPS`, or several.
        there: the columns of the table; one that is called like a group is meant itself.

    Raises:
        SpecError: a name that is meant for a group and is none, a group of which the table lacks columns, or a column
            that is named twice.

    >>> named_columns("chexpert-low:code", CHEXPERT)[:2]
    ('Lung Opacity', 'Edema')
    >>> named_columns(["Sex", "Age"], ["Sex", "Age", "Path"])
    ('Sex', 'Age')
    """
    columns = list(there)
    found: list[str] = []
    for name in (names,) if isinstance(names, str) else names:
        if name in columns or not (name in LABEL_GROUPS or name.lower().startswith("chexpert")):
            found.append(name)
            continue
        if name not in LABEL_GROUPS:
            raise SpecError(f"label_columns: {name!r} is neither a column nor a group; {nearest(name, LABEL_GROUPS)}")
        missing = [column for column in LABEL_GROUPS[name] if column not in columns]
        if missing:
            raise SpecError(
                f"label_columns: {name!r} is {len(LABEL_GROUPS[name])} columns of CheXpert, of which the table lacks "
                f"{', '.join(map(repr, missing))} ({nearest(missing[0], columns, most=40)}). Cure: CheXpert's own "
                "names for the columns, or a list of the table's columns in the place of the group."
            )
        found += LABEL_GROUPS[name]
    twice = [name for name in dict.fromkeys(found) if found.count(name) > 1]
    if twice:
        raise SpecError(f"label_columns: {', '.join(map(repr, twice))} named more than once; expected each once")
    return tuple(found)
