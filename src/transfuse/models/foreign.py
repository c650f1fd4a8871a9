"""Networks of other people: a function of an importable module, named `package.module:function`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from transfuse.errors import SpecError, nearest


def foreign_network(
    name: str, *, classes: int, channels: int, spatial_dims: int, image_size: int | None
) -> Callable[[], nn.Module]:
    """What builds the network of a function `package.module:function`; maps (N, channels, ...) to (N, classes).

    The function is called with `classes` and `channels`, with `spatial_dims` if it has such an argument, and with
    `image_size` if it has such an argument and a size is known. Raises SpecError if the module cannot be imported, has
    no such function, the function does not take these arguments, or returns no `nn.Module`.
    """
    module_name, _, function_name = name.partition(":")
    form = f"a network of your own is named 'package.module:function', {name!r} is not"
    if not all(part.isidentifier() for part in (*module_name.split("."), *function_name.split("."))):
        raise SpecError(f"{form}.")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise SpecError(
            f"The network {name!r}: its module cannot be imported ({error}). Install it, or start Python where it lies "
            "with PYTHONPATH=. before the command."
        ) from error
    for part in function_name.split("."):
        if not hasattr(found, part):
            raise SpecError(
                f"The network {name!r}: {module_name!r} has no {part!r}, {nearest(part, _callables(found))}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise SpecError(
            f"The network {name!r} is a {type(found).__name__}; expected a function that returns a network, "
            "def function(classes, channels)."
        )
    return lambda: _call(name, found, classes, channels, spatial_dims, image_size)


def _call(
    name: str, function: Callable[..., object], classes: int, channels: int, spatial_dims: int, image_size: int | None
) -> nn.Module:
    signature = inspect.signature(function)
    arguments = {"classes": classes, "channels": channels}
    if "spatial_dims" in signature.parameters:
        arguments["spatial_dims"] = spatial_dims
    if "image_size" in signature.parameters and image_size is not None:
        arguments["image_size"] = image_size
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise SpecError(
            f"The network {name!r}: it is called with classes={classes}, channels={channels} and takes {signature} "
            f"({error}). Give it these two arguments, and defaults for all others."
        ) from None
    model = function(**arguments)
    if not isinstance(model, nn.Module):
        raise SpecError(f"The network {name!r} returned a {type(model).__name__}; expected a torch.nn.Module.")
    return model


def _callables(module: object) -> list[str]:
    """The public functions and classes of a module, its own before those that it imports."""
    names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    own = getattr(module, "__name__", "")
    return sorted(names, key=lambda name: getattr(getattr(module, name), "__module__", "") != own)
