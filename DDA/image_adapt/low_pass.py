"""Linear low-pass operators, each written as one small matrix for each side: ``M_H x M_W^T``.

``published``, the operator of DDA (after ILVR), resizes down by D and up again with a cubic
kernel. It is not idempotent. The others are projections: applying one twice changes nothing, so
data consistency has a closed form. ``cubic`` projects on the space that the first half of the
published operator keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch


def low_pass(x: torch.Tensor, factor: int, kind: str = "published") -> torch.Tensor:
    """Return the low frequencies of x (B,C,H,W), of the same shape, computed in x's dtype.

    factor: how far the image is shrunk, D in the paper; a whole number that divides H and W.
    kind: one of FILTERS. Raises ValueError otherwise.
    """
    rows = _matrix(kind, x.shape[-2], factor, x.device, x.dtype)
    columns = _matrix(kind, x.shape[-1], factor, x.device, x.dtype)
    return rows @ x @ columns.T


def check_factor(size: int, factor: int) -> None:
    """Raise ValueError unless ``factor`` is a whole number of at least 1 that divides ``size``."""
    if factor < 1 or size % factor:
        fitting = ", ".join(str(d) for d in range(1, size + 1) if size % d == 0)
        raise ValueError(f"D {factor} does not divide the image size {size}; D may be {fitting}")


@lru_cache(maxsize=16)  # of a long image they are large
def _matrix(
    kind: str, size: int, factor: int, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    check_factor(size, factor)
    if kind not in FILTERS:
        raise ValueError(f"low-pass filter {kind!r} is unknown; use one of {', '.join(FILTERS)}")
    return torch.from_numpy(FILTERS[kind](size, size // factor)).to(device=device, dtype=dtype)


# each makes the float64 matrix (size, size) of the operator that keeps about ``kept`` of ``size``
# values a row


def _published(size: int, kept: int) -> np.ndarray:
    return resize_matrix(kept, size) @ resize_matrix(size, kept)


def _block(size: int, kept: int) -> np.ndarray:
    """Return the operator that takes the mean of each block of size/kept pixels."""
    return np.kron(np.eye(kept), np.full((size // kept, size // kept), kept / size))


def _dct(size: int, kept: int) -> np.ndarray:
    """Return the operator that keeps the lowest cosines (DCT-II); it never wraps around."""
    k, i = np.arange(kept)[:, None], np.arange(size)
    basis = np.cos(np.pi * k * (2 * i + 1) / (2 * size)) * np.sqrt(np.where(k == 0, 1, 2) / size)
    return basis.T @ basis


def _fft(size: int, kept: int) -> np.ndarray:
    """Return the operator that keeps the Fourier frequencies below kept/2, also negative ones."""
    frequencies = np.arange(1, (kept + 1) // 2)[:, None, None]
    distance = np.arange(size)[:, None] - np.arange(size)
    return (1 + 2 * np.cos(2 * np.pi * frequencies * distance / size).sum(0)) / size


def _cubic(size: int, kept: int) -> np.ndarray:
    """Return the projection on the row space of the published shrinking A: A^+ A."""
    down = resize_matrix(size, kept)
    return np.linalg.pinv(down) @ down


FILTERS: dict[str, Callable[[int, int], np.ndarray]] = {
    "published": _published,
    "block": _block,
    "dct": _dct,
    "fft": _fft,
    "cubic": _cubic,
}
PROJECTIONS = tuple(kind for kind in FILTERS if kind != "published")


def resize_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Return the 1-D cubic resize as a float64 matrix (size_out, size_in).

    The kernel is that of Keys with a = -0.5. It spans 4 pixels, and more when the image shrinks,
    which is the antialiasing. Weights are normalised over all taps, those outside the image
    included, and these read zero: rows near the border sum to less than 1 and pull the border
    towards grey.
    """
    ratio = size_out / size_in
    shrink = min(ratio, 1.0)
    width = 4 / shrink
    # centres of the output pixels in input coordinates: both grids share their middle
    centre = np.arange(size_out) / ratio + (size_in - 1) / 2 - (size_out - 1) / (2 * ratio)
    first = np.ceil(centre - width / 2 - np.finfo(np.float32).eps).astype(int)
    taps = first[:, None] + np.arange(int(np.ceil(width)))
    weights = _keys((centre[:, None] - taps) * shrink)
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((size_out, size_in))
    inside = (taps >= 0) & (taps < size_in)
    matrix[np.nonzero(inside)[0], taps[inside]] = weights[inside]
    return matrix


def _keys(u: np.ndarray) -> np.ndarray:
    """Evaluate Keys' kernel with a = -0.5."""
    u = np.abs(u)
    near = 1.5 * u**3 - 2.5 * u**2 + 1
    far = -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2
    return np.where(u <= 1, near, np.where(u <= 2, far, 0.0))
