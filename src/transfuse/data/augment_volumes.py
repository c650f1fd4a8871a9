"""Augmentation of volumes: float `(n, C, D, H, W)` in [0, 1] in, the same shape and range out; see `augment`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

DEGREES = 10.0  # of rotation, about any axis
SHIFT = 0.05  # of the side, along each axis
SCALE = 0.05
INTENSITY = 0.1


def move(volumes: Tensor, matrices: Tensor, shifts: Tensor, mode: str = "bilinear") -> Tensor:
    """Turn, mirror, stretch and shift each volume about its centre in one step.

    Args:
        volumes: `(n, C, D, H, W)`.
        matrices: `(n, 3, 3)`: where in the volume a place of the result is taken from; places are (x, y, z) = along
            (W, H, D), in half sides from the centre.
        shifts: `(n, 3)` added to these places. What lies outside is the nearest edge.
        mode: "bilinear" (which is trilinear here), or "nearest" for masks.
    """
    import torch
    from torch.nn import functional

    count, _, *sides = volumes.shape
    depth, height, width = (
        (2 * torch.arange(side, device=volumes.device, dtype=volumes.dtype) + 1) / side - 1 for side in sides
    )
    grid = torch.empty((count, *sides, 3), dtype=volumes.dtype, device=volumes.device)
    # As affine_grid, several times faster: the sum of three short axes.
    for row in range(3):
        x, y, z = (matrices[:, row, column].view(-1, 1, 1, 1) for column in range(3))
        plane = y * height.view(1, 1, -1, 1) + z * depth.view(1, -1, 1, 1) + shifts[:, row].view(-1, 1, 1, 1)
        torch.add(plane, x * width.view(1, 1, 1, -1), out=grid[..., row])
    moved = functional.grid_sample(volumes, grid, mode=mode, padding_mode="border", align_corners=False)
    return moved.clamp_(0, 1) if mode == "bilinear" else moved


def rotations(axes: Tensor, degrees: Tensor) -> Tensor:
    """Rotation matrices `(n, 3, 3)` about axes `(n, 3)` of any length, by Rodrigues' formula.

    >>> import torch
    >>> rotations(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([90.0])).round().int().tolist()
    [[[0, -1, 0], [1, 0, 0], [0, 0, 1]]]
    """
    import torch

    x, y, z = (axes / axes.norm(dim=1, keepdim=True)).unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
    angle = torch.deg2rad(degrees).view(-1, 1, 1)
    return torch.eye(3, device=axes.device) + torch.sin(angle) * cross + (1 - torch.cos(angle)) * (cross @ cross)


def draw_moves(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Random matrices `(count, 3, 3)` and shifts `(count, 3)` for `move`, by the numbers at the head of this file."""
    import torch

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        values = torch.rand((count, *shape), generator=generator, device=generator.device)
        return low + (high - low) * values

    axes = torch.randn((count, 3), generator=generator, device=generator.device)
    mirrors = 1 - 2 * (uniform(0, 1, 3) < 0.5).to(torch.float32)
    matrices = rotations(axes, uniform(-DEGREES, DEGREES)) * mirrors.unsqueeze(1)
    return matrices * uniform(1 - SCALE, 1 + SCALE).view(-1, 1, 1), uniform(-2 * SHIFT, 2 * SHIFT, 3)


def vary_intensity(volumes: Tensor, generator: Generator) -> Tensor:
    """Contrast times 0.9-1.1 about each volume's mean, and brightness +-0.1 times its spread; clipped to [0, 1]."""
    import torch

    random = torch.rand((2, len(volumes)), generator=generator, device=generator.device).to(volumes.device)
    each = (-1, *(1,) * (volumes.ndim - 1))
    mean, spread = volumes.mean((1, 2, 3, 4), keepdim=True), volumes.std((1, 2, 3, 4), keepdim=True)
    contrast, brightness = 1 + INTENSITY * (2 * random[0] - 1), INTENSITY * (2 * random[1] - 1)
    return ((volumes - mean) * contrast.view(each)).add_(mean).add_(brightness.view(each) * spread).clamp_(0, 1)
