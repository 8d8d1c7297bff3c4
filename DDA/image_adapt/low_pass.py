"""The published low-pass operator: cubic resize down by D and up again (DDA, after ILVR), written as one matrix.

Both resizes are linear and separable, so the operator is ``M_H x M_W^T`` for one small matrix a side. The cubic kernel has
a = -0.5 and spans 4 pixels, stretched by D when it shrinks. Its weights are normalised over all taps, those outside the image
included, and these read zero: rows near the border sum to less than 1 and pull the border towards grey. The operator is not
idempotent.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch


def low_pass(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Low frequencies of x (B,C,H,W), same shape, computed in float32 or wider.

    factor: how far the image is shrunk, D in the paper; a whole number that divides H and W. Raises ValueError otherwise.
    """
    rows = _matrix(x.shape[-2], factor, x.device, x.dtype)
    columns = _matrix(x.shape[-1], factor, x.device, x.dtype)
    return rows @ x @ columns.T


def check_factor(size: int, factor: int) -> None:
    """Raise ValueError unless ``factor`` is a whole number of at least 1 that divides ``size``."""
    if factor < 1 or size % factor:
        fitting = ", ".join(str(d) for d in range(1, size + 1) if size % d == 0)
        raise ValueError(f"D {factor} does not divide the image size {size}; D may be {fitting}")


@lru_cache(maxsize=64)
def _matrix(size: int, factor: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    check_factor(size, factor)
    small = size // factor
    matrix = resize_matrix(small, size) @ resize_matrix(size, small)
    return torch.from_numpy(matrix).to(device=device, dtype=dtype)


def resize_matrix(size_in: int, size_out: int) -> np.ndarray:
    """The 1-D cubic resize as a float64 matrix (size_out, size_in), antialiased when it shrinks."""
    ratio = size_out / size_in
    shrink = min(ratio, 1.0)
    width = 4 / shrink
    # centres of the output pixels in input coordinates: both grids share their middle
    centre = np.arange(size_out) / ratio + (size_in - 1) / 2 - (size_out - 1) / (2 * ratio)
    first = np.ceil(centre - width / 2 - np.finfo(np.float32).eps).astype(int)
    taps = first[:, None] + np.arange(int(np.ceil(width)))
    weights = _cubic((centre[:, None] - taps) * shrink)
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((size_out, size_in))
    inside = (taps >= 0) & (taps < size_in)
    matrix[np.nonzero(inside)[0], taps[inside]] = weights[inside]
    return matrix


def _cubic(u: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5."""
    u = np.abs(u)
    near = 1.5 * u**3 - 2.5 * u**2 + 1
    far = -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2
    return np.where(u <= 1, near, np.where(u <= 2, far, 0.0))
