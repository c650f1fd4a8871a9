"""How one tensor is filled: at random, or from the values of the source's tensor."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from transfuse.errors import TransferError

Scheme = Callable[[Tensor, Tensor | None, torch.Generator], Tensor]

PIECE = 30_000  # elements; torch splits sums over threads, which changes their last bits, from 32,768 on


def he_fan_out_(tensor: Tensor, source: Tensor | None, generator: torch.Generator) -> Tensor:
    """N(0, 2 / fan_out) with fan_out = out x kernel area: the default of ResNets in torchvision and timm (INIT-1)."""
    return nn.init.kaiming_normal_(tensor, mode="fan_out", nonlinearity="relu", generator=generator)


def glorot_normal_(tensor: Tensor, source: Tensor | None, generator: torch.Generator) -> Tensor:
    """N(0, 2 / (fan_in + fan_out)), as V quotes it (INIT-1; V, section 4; METHODS 2.1 item 6)."""
    return nn.init.xavier_normal_(tensor, generator=generator)


def trunc_normal_(tensor: Tensor, source: Tensor | None, generator: torch.Generator) -> Tensor:
    """N(0, 0.02^2) truncated at +-2: the default of vision transformers in timm (INIT-1; the code of M)."""
    return nn.init.trunc_normal_(tensor, std=0.02, generator=generator)


def kaiming_uniform_(tensor: Tensor, source: Tensor | None, generator: torch.Generator) -> Tensor:
    """Uniform +-1/sqrt(fan_in), which is He's with a = sqrt(5): the default of torch's own layers (INIT-15)."""
    return nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)


def mean_var_(tensor: Tensor, source: Tensor | None, generator: torch.Generator) -> Tensor:
    """Mean Var: each element iid from N(mean, var) of the source tensor (INIT-3; T appendix F, V 4.1, M appendix H).

    One mean and one unbiased variance a tensor, not a channel; a tensor of one element keeps its value.

    >>> generator = torch.Generator().manual_seed(0)
    >>> mean_var_(torch.empty(3), torch.full((3,), 2.0), generator)
    tensor([2., 2., 2.])
    """
    mean, deviation = _moments(given(source).flatten())
    return tensor.normal_(generator=generator).mul_(deviation).add_(mean)


def sampled_(tensor: Tensor, source: Tensor | None, generator: torch.Generator) -> Tensor:
    """Sampling Init: each element drawn with replacement from the source tensor's elements (INIT-4; T appendix F.2)."""
    values = given(source).flatten()
    drawn = torch.randint(len(values), (tensor.numel(),), generator=generator, dtype=_index(values))
    return _pick_(tensor, values, drawn)


def shuffled_(tensor: Tensor, source: Tensor | None, generator: torch.Generator) -> Tensor:
    """Shuffled Init: a random permutation of all elements of the source tensor (INIT-5; T appendix F.2)."""
    values = given(source).flatten()
    return _pick_(tensor, values, torch.randperm(len(values), generator=generator, dtype=_index(values)))


RANDOM: dict[str, Scheme | None] = {
    "default": None,  # depends on the kind of layer and on the family, see `initialise_`
    "he_fan_out": he_fan_out_,
    "glorot_normal": glorot_normal_,
    "trunc_normal": trunc_normal_,
    "kaiming_uniform": kaiming_uniform_,
}
RESAMPLED: dict[str, Scheme] = {"mean_var": mean_var_, "sampled": sampled_, "shuffled": shuffled_}
REST = ("random", *RESAMPLED)
NORM = ("identity", "mean_var", "transfer", "recalibrate")
HEAD = ("fresh", "source")
BIASES = ("rest", "random")
EMBEDDINGS = ("keep", "resample")
GABOR_SCALES = ("std", "max_abs", "l2")


def described() -> tuple[tuple[str, str, str], ...]:
    """What each option of `initialise_` takes: (option, value, what it means), in the order in which to read them.

    >>> described()[0][:2]
    ('rest', 'random')
    """
    return (
        ("rest", "random", "the blocks above start at random, see `random`"),
        ("rest", "mean_var", "each tensor from N(mean, variance) of the source's tensor (Mean Var; ST)"),
        ("rest", "sampled", "each element drawn from the source tensor's elements, with replacement"),
        ("rest", "shuffled", "a random permutation of the source tensor's elements"),
        (
            "random",
            "default",
            "trunc_normal for ViT, DeiT, Swin and ConvNeXt, otherwise he_fan_out and torch's nn.Linear",
        ),
        ("random", "he_fan_out", "N(0, 2 / fan_out)"),
        ("random", "glorot_normal", "N(0, 2 / (fan_in + fan_out))"),
        ("random", "trunc_normal", "N(0, 0.02^2), truncated"),
        ("random", "kaiming_uniform", "uniform +-1/sqrt(fan_in), weights and biases: torch's own layers"),
        ("norm", "identity", "scale 1, shift 0, mean 0, variance 1; layer scales as the network was created"),
        ("norm", "mean_var", "each vector resampled from its mean and variance in the source"),
        ("norm", "transfer", "copied from the source"),
        ("norm", "recalibrate", "identity above, then all batch-norm statistics measured on training images"),
        ("biases", "rest", "biases above start as the weights do"),
        ("biases", "random", "biases above start as the random start has them, weights alone are resampled"),
        ("embeddings", "keep", "tokens, positions and relative-position biases above are the source's"),
        ("embeddings", "resample", "they start as the weights above do"),
        ("head", "fresh", "a new classifier, the same for all arms of a seed"),
        ("head", "source", "the source's classifier"),
        ("overrides", "transfer", "a block, module or parameter from the source"),
        ("overrides", "gabor", "synthetic Gabor filters, for the first convolution"),
        ("overrides", "...", "or any value of `rest` and `random`; for normalisation layers any of `norm` but one"),
        ("gabor_scale", "std", "Gabor filters get the standard deviation of the filters that they replace"),
        ("gabor_scale", "max_abs", "their largest magnitude"),
        ("gabor_scale", "l2", "their length"),
    )


def given(source: Tensor | None) -> Tensor:
    """The source tensor; raises TransferError if there is none."""
    if source is None:
        raise TransferError("This scheme draws from source weights, and there are none: give a source.")
    return source


def _moments(values: Tensor) -> tuple[float, float]:
    """Mean and unbiased standard deviation in double precision, by pieces that stay in the processor's cache."""
    count = values.numel()
    about = float(values[:PIECE].double().mean())  # differences from nearly the mean lose no digits
    total = squares = 0.0
    for piece in values.split(PIECE):
        away = piece.double().sub_(about) if piece.dtype != torch.float64 else piece - about
        total += float(away.sum())
        squares += float(away.square_().sum())
    variance = (squares - total * total / count) / (count - 1) if count > 1 else 0.0
    return about + total / count, math.sqrt(max(0.0, variance))


def _index(values: Tensor) -> torch.dtype:
    """The smallest type that counts the values: half the memory of int64, and the same draws."""
    return torch.int32 if values.numel() < 2**31 else torch.int64


def _pick_(tensor: Tensor, values: Tensor, index: Tensor) -> Tensor:
    """Fills a tensor with `values[index]`, without a copy between them where memory allows."""
    apart = tensor.untyped_storage().data_ptr() != values.untyped_storage().data_ptr()
    if apart and tensor.is_contiguous() and (tensor.dtype, tensor.device) == (values.dtype, values.device):
        torch.index_select(values, 0, index, out=tensor.view(-1))
        return tensor
    return tensor.copy_(values.index_select(0, index).reshape(tensor.shape))
