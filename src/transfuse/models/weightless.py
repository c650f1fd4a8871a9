"""Forward passes without memory or values (on the meta device), which tell shapes and the order of things."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from transfuse.errors import BlocksError
from transfuse.models.architectures.tokens import image_size_of

SIDES = {1: 1024, 2: 224, 3: 96}  # of an image, by its dimensions, where a network says nothing
_PERHAPS = "It may need another image_size."
_SIZES = {1: "(L,)", 2: "(H, W)", 3: "(D, H, W)"}
CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}

Operation = Callable[[Any, tuple[Any, ...], Any], None]


class Call(NamedTuple):
    """One module's part in a forward pass: when it starts and ends, how many arguments it gets, what goes in and out.

    A module that runs twice starts with its first run and ends with its last.
    """

    start: int
    end: int
    arguments: int
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]


def example_images(model: nn.Module, image_size: int | tuple[int, ...] | None = None) -> Tensor:
    """Two images without memory, (2, C, *sides), as a network takes them.

    C and the type are those of the first convolution (or the features of a first linear layer). The sides are
    `image_size`, one number for all or (H, W) or (D, H, W); or those for which a transformer is built, or timm's
    default for the network, or else 224 pixels (96 for volumes).

    Raises BlocksError for sides that are no whole numbers of at least 1, and for another number of them.

    >>> example_images(nn.Conv3d(1, 8, 3)).shape, example_images(nn.Conv3d(1, 8, 3), (16, 64, 64)).shape
    (torch.Size([2, 1, 96, 96, 96]), torch.Size([2, 1, 16, 64, 64]))
    """
    first = next((module for module in model.modules() if isinstance(module, (*CONVOLUTIONS, nn.Linear))), None)
    parameters = [] if first is None else first.parameters()
    dtype = next((one.dtype for one in parameters if one.dtype.is_floating_point), torch.float32)
    if isinstance(first, nn.Linear):
        return torch.zeros(2, first.in_features, device="meta", dtype=dtype)
    dims = next((dims for kind, dims in CONVOLUTIONS.items() if isinstance(first, kind)), 2)
    channels = getattr(first, "in_channels", 3)
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, *[SIDES[dims]] * dims))[1:]
    size = image_size_of(model) or size
    if image_size is not None:
        size = image_size if isinstance(image_size, tuple) else (image_size,) * dims
        if len(size) != dims or any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in size):
            raise BlocksError(
                f"Images of size {image_size!r} for this {type(model).__name__}: expected one side or {_SIZES[dims]}, "
                "in whole numbers of at least 1."
            )
    return torch.zeros(2, channels, *size, device="meta", dtype=dtype)


@contextmanager
def naming_the_smallest(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Adds to a BlocksError about images that do not pass the smallest ones that do, if images are too small.

    Args:
        model: the network.
        images: (N, C, *sides), of which the size is tried.
    """
    try:
        yield
    except BlocksError as error:
        if smallest := _smallest_side(model, images):
            what = {1: "signals", 2: "images", 3: "volumes"}[images.ndim - 2]
            sides = " x ".join([str(smallest)] * (images.ndim - 2))
            why = str(error).removesuffix(_PERHAPS)
            raise BlocksError(f"{why}They are too small: the smallest {what} that pass are {sides}.") from error
        raise


def _smallest_side(model: nn.Module, images: Tensor) -> int | None:
    """The smallest equal sides that pass, found by halving; None where these pass or those of its own size do not."""
    tensors = weightless_tensors(model)

    def passes(side: int) -> bool:
        try:
            run_weightless(model, images.new_zeros(*images.shape[:2], *[side] * (images.ndim - 2)), tensors)
        except BlocksError:
            return False
        return True

    if images.ndim < 3:
        return None
    below, above = min(images.shape[2:]), max(example_images(model).shape[2:])
    if below >= above or passes(below) or not passes(above):
        return None
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if passes(middle) else (middle, above)
    return above


def weightless_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a network by name, as tensors without memory.

    Each module is listed under its first name alone; a tensor that several modules share is one here too.
    """
    found: dict[Tensor, Tensor] = {}
    tensors = {}
    for path, module in model.named_modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                if tensor not in found:
                    found[tensor] = tensor.detach().to("meta")
                tensors[f"{path}.{leaf}".lstrip(".")] = found[tensor]
    return tensors


def run_weightless(model: nn.Module, images: Tensor, tensors: dict[str, Tensor] | None = None) -> Any:
    """The output of a network in eval mode, without values; the network's tensors and modes are as before.

    Raises BlocksError, naming torch's own complaint, where the images do not pass.
    """
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        module.training = False  # not .eval(): a frozen module answers it in its own way
    try:
        with torch.no_grad():
            # Tied weights are listed one by one: torch, left to tie them, would swap a module of two names twice, and
            # leave it without its values.
            given = tensors or weightless_tensors(model)
            return torch.func.functional_call(model, given, (images,), tie_weights=False)
    except BlocksError:
        raise
    except Exception as error:
        size = " x ".join(str(side) for side in images.shape[2:])
        raise BlocksError(
            f"A forward pass without data through this {type(model).__name__} fails for images of {size} pixels and "
            f"{images.shape[1]} channels ({type(error).__name__}: {str(error)[:200]}). {_PERHAPS}"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def trace_modules(model: nn.Module, images: Tensor) -> dict[str, Call]:
    """What each module that runs does in a forward pass, by name, parents before children."""
    calls: dict[str, Call] = {}
    clock = iter(range(10**9))
    handles = []
    for name, module in model.named_modules():

        def enter(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            now = next(clock)
            first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            shape = tuple(first.shape) if first is not None else ()
            if name not in calls:
                calls[name] = Call(now, now, len(args) + len(kwargs), shape, ())

        def leave(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            shape = tuple(output.shape) if isinstance(output, Tensor) else ()
            calls[name] = calls[name]._replace(end=next(clock), shape_out=shape)

        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave))
    try:
        run_weightless(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: calls[name] for name, _ in model.named_modules() if name in calls}


class Watch(TorchDispatchMode):
    """Shows every operation of torch that runs while it is active to a function: `seen(operation, inputs, output)`."""

    def __init__(self, seen: Operation) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Runs the operation, then shows it."""
        output = func(*args, **(kwargs or {}))
        self.seen(func, args, output)
        return output


@contextmanager
def hooked(*handles: Any) -> Iterator[None]:
    """Removes hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
