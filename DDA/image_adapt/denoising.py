"""The measurement of a prior: its error by noise level, beside those of a filter and of nothing.

A prior that is trained denoises far better than a Gaussian filter. One that does not beat it has
learned next to nothing of its images, and what it makes of others is not to be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, NamedTuple, TypedDict

import numpy as np
import torch

from DDA import images
from DDA.image_adapt.diffusion import Diffusion
from DDA.image_adapt.noise import NoiseStreams
from DDA.image_adapt.unet import UNet

# the noise levels that are measured, as shares of the timesteps that a prior was trained for
SHARES = (0.02, 0.07, 0.15, 0.3, 0.5, 0.75)
MOST = 128  # images that are measured
BATCH = 16  # images at once
SIGMAS = 20  # widths of the Gaussian filter that are tried
UNIT = "root mean square error of the clean image, in grey levels of 0 to 255"

Error = Annotated[float, (0, 1e9)]
Denoise = Callable[[torch.Tensor], torch.Tensor]


class Level(TypedDict):
    """The errors at one noise level, in grey levels of 0 to 255.

    timestep: of the prior's process. noise: the standard deviation of the noise, in grey levels of
    the image. sigma: of the Gaussian filter, in pixels.
    """

    timestep: Annotated[int, (0, 100_000)]
    noise: Error
    prior: Error
    gaussian: Error
    sigma: Error
    identity: Error


class Denoising(TypedDict):
    """The measurement of a prior. held_out: whether it was never trained on the images."""

    error: str
    images: Annotated[int, (1, 1e12)]
    held_out: bool
    levels: list[Level]


class Pictures(NamedTuple):
    """Images uint8 (N,S,S,3), and their keys, which seed their noise."""

    keys: Sequence[str]
    pixels: np.ndarray


def timesteps(last: int) -> list[int]:
    """Return the timesteps at which a prior is measured that was trained for 0 to ``last``.

    >>> timesteps(999), timesteps(200)
    ([20, 70, 150, 300, 500, 749], [4, 14, 30, 60, 100, 150])
    """
    return sorted({round(share * last) for share in SHARES})


@torch.no_grad()
def measure(
    model: UNet, process: Diffusion, shown: Pictures, tuning: Pictures, levels: Iterable[int]
) -> list[Level]:
    """Return the errors of a prior at some noise levels, and those of two that know no images.

    A noised image comes to all three with the scale of the clean one, and what they return is
    clamped to its range. The identity returns it as it is. The Gaussian filter has the width that
    is best at this level on ``tuning``.

    process: that of the prior, with all its timesteps. shown: the images that are measured.
    tuning: others, by which the filter is chosen.
    """
    device, side = next(model.parameters()).device, shown.pixels.shape[1]
    sigmas = np.geomspace(0.25, max(1, side / 2), SIGMAS).tolist()
    filters = [_filter(sigma, side, device) for sigma in sigmas]
    rows: list[Level] = []
    for timestep in levels:
        signal = float(process.alphas_cumprod[timestep])
        scale = 1 / math.sqrt(signal)

        def predicted(x_t: torch.Tensor, timestep=timestep) -> torch.Tensor:
            return process.predict(model, x_t, timestep).x0

        blurs = [_blur(matrix, scale) for matrix in filters]
        tried = _errors(_noised(tuning, process, timestep, device), blurs)
        best = int(np.argmin(tried))
        ours = [predicted, blurs[best], lambda x_t, scale=scale: scale * x_t]
        errors = _errors(_noised(shown, process, timestep, device), ours)
        names = ("prior", "gaussian", "identity")
        row = {name: round(error, 4) for name, error in zip(names, errors, strict=True)}
        noise = round(127.5 * math.sqrt(1 / signal - 1), 4)
        rows.append(Level(timestep=timestep, noise=noise, sigma=round(sigmas[best], 4), **row))
    return rows


def _filter(sigma: float, side: int, device: torch.device) -> torch.Tensor:
    """Return the matrix (S,S) that filters a line of pixels; at its ends the weights are scaled."""
    places = torch.arange(side, dtype=torch.float32, device=device)
    weights = torch.exp(-((places[:, None] - places) ** 2) / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)


def _blur(matrix: torch.Tensor, scale: float) -> Denoise:
    """Return a function that filters scaled images (B,3,S,S) along both sides."""
    return lambda x_t: matrix @ (scale * x_t) @ matrix.T


def noised(
    pictures: Pictures, process: Diffusion, timestep: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (B,3,S,S) in [-1,1], clean and noised up to a timestep.

    The noise of an image depends on its key and the timestep alone.
    """
    x0 = torch.from_numpy(images.to_model(pictures.pixels)).to(device)
    noise = NoiseStreams(pictures.keys, seed=0, shape=tuple(x0.shape[1:]))(timestep).to(device)
    return x0, process.q_sample(x0, timestep, noise)


def _noised(
    pictures: Pictures, process: Diffusion, timestep: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of clean and noised images."""
    for first in range(0, len(pictures.keys), BATCH):
        part = slice(first, first + BATCH)
        batch = Pictures(pictures.keys[part], pictures.pixels[part])
        yield noised(batch, process, timestep, device)


def _errors(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]], denoisers: Sequence[Denoise]
) -> list[float]:
    """Return the error of each denoiser, in grey levels."""
    sums, count = np.zeros(len(denoisers)), 0
    for x0, x_t in batches:
        for place, denoise in enumerate(denoisers):
            error = denoise(x_t).clamp(-1, 1) - x0
            sums[place] += float(error.double().square().sum())
        count += x0.numel()
    return (127.5 * np.sqrt(sums / count)).tolist()


def shortfall(levels: Sequence[Level], called: Sequence[int]) -> str | None:
    """Return in words where a prior does not beat a filter or nothing; None where it does.

    called: the timesteps at which the prior is used; only the levels between them count, or the
    nearest one.
    """
    low, high = min(called), max(called)
    inside = [level for level in levels if low <= level["timestep"] <= high]
    near = inside or sorted(levels, key=lambda level: abs(level["timestep"] - high))[:1]
    weak = [level for level in near if level["prior"] >= _least(level)]
    if not weak:
        return None
    worst = max(weak, key=lambda level: level["prior"] / max(_least(level), 1e-9))
    other = "a Gaussian filter" if worst["gaussian"] < worst["identity"] else "no change at all"
    return (
        f"the prior denoises no better than {other} at noise of {worst['noise']:.0f} grey levels: "
        f"its error is {worst['prior']:.1f}, against {_least(worst):.1f}"
    )


def _least(level: Level) -> float:
    """Return the lower error of those that know no images."""
    return min(level["gaussian"], level["identity"])


def table(levels: Sequence[Level]) -> list[str]:
    """Return the errors as the lines of a table."""
    lines = [f"{'timestep':>8} {'noise':>8} {'prior':>8} {'Gaussian filter':>20} {'identity':>9}"]
    for level in levels:
        blur = f"{level['gaussian']:.1f} (sigma {level['sigma']:.2g})"
        numbers = f"{level['timestep']:>8} {level['noise']:>8.1f} {level['prior']:>8.1f}"
        lines.append(f"{numbers} {blur:>20} {level['identity']:>9.1f}")
    return lines
