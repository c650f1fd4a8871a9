"""Networks of other people: a function of an importable module, named `package.module:function`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
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


def source_files(name: str) -> dict[str, Path]:
    """The source files that the network `package.module:function` is made of, by the names of their modules.

    That is its own module and, followed from import to import, those of the same package (of the same folder, for a
    module that is in none). An installed one is its own module alone.
    """
    first = name.partition(":")[0]
    file = _file(first)
    if file is None:
        return {}
    package = _file(first.partition(".")[0])
    folder = package.parent if package is not None and package.name == "__init__.py" else file.parent
    found = {first: file}
    waiting = [] if {"site-packages", "dist-packages"} & set(file.parts) else [first]
    while waiting:
        module = waiting.pop()
        for other in _imports(module, found[module]):
            top = None if other in found else _file(other.partition(".")[0])  # before what is below, which imports it
            path = _file(other) if top is not None and top.is_relative_to(folder) else None
            if path is not None and path.is_relative_to(folder):
                found[other] = path
                waiting.append(other)
    return dict(sorted(found.items()))


def _imports(module: str, file: Path) -> list[str]:
    """The modules, and the names that may be modules, that a source file imports."""
    if file.suffix != ".py":
        return []
    names = []
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def _file(module: str) -> Path | None:
    """Where the source of a module is; None for one that has no file, or that there is not."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin).resolve() if spec is not None and spec.origin and Path(spec.origin).is_file() else None


def _callables(module: object) -> list[str]:
    """The public functions and classes of a module, its own before those that it imports."""
    names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    own = getattr(module, "__name__", "")
    return sorted(names, key=lambda name: getattr(getattr(module, name), "__module__", "") != own)
