"""Orthogonal Procrustes similarity: how well one representation is a rotation of the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from transfuse.analysis.cca import pair_of_rows, warn_of_few
from transfuse.analysis.moments import Matrix, Moments
from transfuse.analysis.similarity import Similarity
from transfuse.errors import AnalysisError

__all__ = ["procrustes"]


def procrustes(x: Matrix, y: Matrix) -> Similarity:
    """Nuclear norm of `x' y`, both centred and scaled to Frobenius norm 1 (Williams et al. 2021; Ding et al. 2021).

    With the best rotation Q the distance is `|x - y Q|^2 = 2 - 2 value`, and the disparity of
    `scipy.spatial.procrustes` is `1 - value^2`. Invariant to rotations, to a common scale and to shifts, but not to
    scaling single neurons: unlike CCA it heeds how much variance a direction has. Of different widths the narrower is
    taken as filled up with zeros.

    Args:
        x: (N, D) array or tensor of any floating type, N samples in rows.
        y: (N, E), the same samples in the same order.

    Returns:
        Similarity: value in [0, 1], `rank` the widths that vary, no coefficients. `independent` is for Gaussian
        features of the same two spectra, drawn with a fixed seed, to about 1 % (2 % where both are narrow).

    Raises AnalysisError for other shapes, numbers of samples that differ, NaN or infinite values, and features that
    are all constant. Warns (AnalysisWarning) of fewer than 10 samples a neuron.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(500, 8))
    >>> rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    >>> round(procrustes(x, 3 * x @ rotation + 1).value, 6)
    1.0
    """
    a, b = pair_of_rows(x, y)
    warn_of_few(len(a), max(a.shape[1], b.shape[1]), "too few samples", stacklevel=2)
    moments = Moments()
    moments.add({"x": a, "y": b})
    spectra = [_spectrum(moments, name) for name in ("x", "y")]
    (left, unit_x), (right, unit_y) = spectra
    cross = moments.cross("x", "y") / unit_x / unit_y
    value = min(1.0, float(torch.linalg.svdvals(cross).sum()))
    ranks = (len(left), len(right))
    return Similarity(value, "procrustes", len(a), ranks, independent=_independent(left, right, len(a)))


def _spectrum(moments: Moments, name: str) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the covariance that are not 0, of sum 1, and the Frobenius norm over sqrt(N)."""
    covariance = moments.covariance(name)
    noise = 2 * moments.rounding(name) * moments.mean(name).abs()
    if not bool((covariance.diagonal().clamp_min(0).sqrt() > noise).any()):
        raise AnalysisError(
            f"{name} is constant: none of its {len(covariance)} columns varies over {moments.samples} samples, so it "
            "cannot be scaled. Look for dead units or one image repeated."
        )
    unit = covariance.diagonal().sum().sqrt()
    values = torch.linalg.eigvalsh(covariance / unit / unit)
    present = values[values > 1e-12 * values[-1]]
    return present[-(moments.samples - 1) :].cpu(), unit


def _independent(left: Tensor, right: Tensor, samples: int) -> float:
    """Of Gaussian features with these eigenvalues: only the cosines between two random spaces are drawn."""
    rng, n = np.random.default_rng(0), samples - 1
    few, many = sorted((left.sqrt(), right.sqrt()), key=len)
    repeats = max(1, min(256, 2048 // len(many)))  # one draw of wide features varies little
    found = []
    for _ in range(repeats):
        if n > 8 * (len(few) + len(many)):
            cosines = rng.standard_normal((len(many), len(few))) / np.sqrt(n)
        else:
            cosines = np.linalg.qr(rng.standard_normal((n, len(few))))[0][: len(many)]
        found.append(float(torch.linalg.svdvals(many[:, None] * torch.from_numpy(cosines) * few).sum()))
    return min(1.0, float(np.mean(found)))
