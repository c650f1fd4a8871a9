"""What a forward pass spends, block by block: whatever can be read off while it runs, a counter or a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from transfuse.models.blocks import Blocks, is_under
from transfuse.models.weightless import hooked

HEAD = "head"


@contextmanager
def by_block(model: nn.Module, blocks: Blocks, reading: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Within it a forward pass is taken apart: by how much `reading` grows in each block, and in "head".

    What a network does by itself between two blocks, outside of their modules, is part of the block before it, and what
    it does before the first one is part of that one. So the parts always sum to the whole.

    Args:
        model: the network; it has hooks only inside the context.
        blocks: its blocks.
        reading: a number that never falls, such as a counter of operations or a clock.

    >>> from transfuse.models.create import create_model
    >>> from transfuse.models.blocks import blocks_of
    >>> model, calls = create_model("cbr_tiny", classes=5, device="meta"), iter(range(100))
    >>> with by_block(model, blocks_of(model), lambda: next(calls)) as spent:
    ...     _ = model(next(model.parameters()).new_zeros(1, 3, 32, 32))
    >>> list(spent), sum(spent.values()) == next(calls) - 1
    (['layer1', 'layer2', 'layer3', 'layer4', 'head'], True)
    """
    spent: dict[str, float] = dict.fromkeys((*blocks.names, HEAD), 0)
    since = reading()

    def leave(owner: str) -> None:
        nonlocal since
        value = reading()
        spent[owner] += value - since
        since = value

    with at_borders(model, blocks, leave):
        yield spent


@contextmanager
def at_borders(model: nn.Module, blocks: Blocks, leave: Callable[[str], None]) -> Iterator[None]:
    """Within it `leave(name)` is called at each border of a forward pass, with the block, or "head", up to there.

    At its end the last one is left. A block is left and entered as often as its modules begin and end; see `by_block`.
    """
    now = blocks.names[0] if blocks.names else HEAD

    def enter(owner: str) -> None:
        nonlocal now
        leave(now)
        now = owner

    handles = []
    for owner, path in _outermost(model, blocks):
        module = model.get_submodule(path)

        def border(module: nn.Module, args: Any, output: Any = None, owner: str = owner) -> None:
            enter(owner)

        handles += [module.register_forward_pre_hook(border), module.register_forward_hook(border)]
    with hooked(*handles):
        yield
    leave(now)


def _outermost(model: nn.Module, blocks: Blocks) -> Iterator[tuple[str, str]]:
    """The owner and the name of each module that belongs to a block or to the head, and lies in no other such."""
    found: list[str] = []
    for path, _ in model.named_modules():
        if any(is_under(path, other) for other in found):
            continue
        owner = next((block.name for block in blocks if block.owns(path)), "")
        if not owner and any(is_under(path, head) for head in blocks.head):
            owner = HEAD
        if owner:
            found.append(path)
            yield owner, path
