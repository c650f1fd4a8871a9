"""`transfuse show`: the networks, blocks, initialisations, protocols and studies that there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from transfuse.cli.text import say

if TYPE_CHECKING:
    from rich.table import Table

show = App(name="show", help="Look at networks, blocks, initialisations, protocols, analyses and shipped studies.")


@show.command(name=["models", "networks"])
def show_models(pattern: str = "", *, spatial_dims: int = 2, all: bool = False) -> int:
    """List the networks that `models:` of a study takes, of images or of volumes.

    Parameters
    ----------
    pattern
        Only names like this, for example 'resnet*'; searches all of timm's too.
    spatial_dims
        2, or 3 for networks of volumes.
    all
        Every network of timm, not only those of the papers.
    """
    from rich.console import Console

    from transfuse.models import PUBLISHED_NETWORKS, list_models

    console = Console()
    if pattern or all:
        for name in list_models(pattern or "*", spatial_dims):
            say(console, name)
        return 0
    table = _table(None, "networks", "levels", "what")
    for row in (row for row in PUBLISHED_NETWORKS if spatial_dims in (2, row.spatial_dims)):
        volumes = "; for volumes" if row.spatial_dims == 3 else ""
        table.add_row(", ".join(row.names), ", ".join(row.levels), f"{row.text}{volumes}")
    console.print(table)
    say(
        console,
        "\nEvery other network of timm works by its name too (transfuse show models --all), and your own as "
        "package.module:function.\n"
        "T: Raghu et al. 2019, Transfusion; V: its first version, arXiv 1902.07208v1; M: Matsoukas et al. 2022; "
        "P: Peng et al. 2023.",
    )
    return 0


@show.command(name="blocks")
def show_blocks(
    network: str,
    /,
    *,
    level: str = "stage",
    classes: int = 2,
    channels: int = 3,
    size: int | None = None,
    spatial_dims: int = 2,
) -> int:
    """List the blocks of a network: the names that `depth`, `freeze`, `truncate` and `slim` take.

    Parameters
    ----------
    network
        A name such as resnet50, deit_small_patch16_224 or cbr_small.
    level
        What counts as a block: stage, block, layer or wt-st.
    classes
        Outputs of the head.
    channels
        Channels of the images.
    size
        Side of the images in pixels; default: the network's own.
    spatial_dims
        2, or 3 for volumes.
    """
    from rich.console import Console

    from transfuse.models import blocks_of, create_model
    from transfuse.models.truncate_unet import decoder_needs, ends_of_stages, is_unet

    model = create_model(network, classes, channels, spatial_dims, image_size=size, device="meta")
    blocks = blocks_of(model, level)
    ends = ends_of_stages(model, blocks) if is_unet(model) else {}
    needs = decoder_needs(model, blocks) if ends else {}
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    table = _table(f"{network}, level {level}", "depth", "block", "parameters", "up to here", "")
    for column in (0, 2, 3):
        table.columns[column].justify = "right"
    total = 0
    for number, block in enumerate(blocks, start=1):
        own = sum(count for name, count in counts.items() if block.owns(name))
        total += own
        note = "stays when cut below" if block.stays else "" if block.cut or number in ends else "no cut here"
        if block.name in needs:
            note = f"goes with {blocks[needs[block.name] - 1].name}"
        table.add_row(str(number), block.name, f"{own:,}", f"{total:,}", note)
    everything = sum(counts.values())
    table.add_row("", "head", f"{everything - total:,}", f"{everything:,}", "", style="dim")
    console = Console()
    console.print(table)
    if ends:
        say(console, "goes with: truncate cuts a U-Net after a block of its encoder, and the decoder's blocks with it")
    elif any(not block.cut and not block.stays for block in blocks):
        say(console, "no cut here: truncate cannot end at this block; depth and freeze can")
    return 0


@show.command(name="inits")
def show_inits() -> int:
    """List the initialisations: what `random`, `rest`, `norm` and `overrides` of an arm take."""
    from rich.console import Console

    from transfuse.inits import described

    table = _table(None, "key", "value", "what")
    before = ""
    for key, value, text in described():
        table.add_row(key if key != before else "", value, text)
        before = key
    Console().print(table)
    return 0


@show.command(name="protocols")
def show_protocols() -> int:
    """List the published initialisations and protocols, each as lines of a study file."""
    from rich.console import Console

    from transfuse.study.protocols import PROTOCOLS

    console = Console()
    for protocol in PROTOCOLS:
        say(console, f"# {protocol.name} ({protocol.source})", style="dim", soft_wrap=True)
        say(console, protocol.lines, soft_wrap=True)
    return 0


@show.command(name="analyses")
def show_analyses() -> int:
    """List what `analyses:` of a study takes: how to look inside the networks."""
    from rich.console import Console

    from transfuse.report.explanations import EXPLANATIONS
    from transfuse.specs.analyses import ANALYSES, PAIRS

    console = Console()
    table = _table(None, "analysis", "of", "question")
    for name in ANALYSES:
        of = "two networks" if name in PAIRS else "one network"
        table.add_row(name, of, EXPLANATIONS[name].title)
    console.print(table)
    say(console, "\nIn a study file: analyses: [cka, {what: knn, k: 100}]. Every setting: docs/analyses.md.")
    return 0


@show.command(name="studies")
def show_studies() -> int:
    """List the shipped study files."""
    from rich.console import Console

    from transfuse.specs import load_study

    console = Console()
    for path in sorted(shipped("demo").parent.glob("*.yaml")):
        say(console, str(path), style="bold")
        say(console, f"    {load_study(path).title}")
    return 0


def shipped(name: str) -> Path:
    """The path of a study file that comes with the package."""
    from importlib import resources

    return Path(str(resources.files("transfuse") / "studies" / f"{name}.yaml"))


def _table(title: str | None, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
