"""Training a prior: the losses of DDPM and of improved DDPM, and the batch of every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from DDA.ahead import prepared
from DDA.image_adapt.diffusion import Diffusion
from DDA.training.loop import Recipe, seed_of
from DDA.training.task import Moment, Task


def training_losses(
    model: nn.Module,
    diffusion: Diffusion,
    x0: torch.Tensor,
    index: torch.Tensor,
    noise: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Return the losses of a batch, each (B,).

    ``loss`` is minimised. ``mse`` is the mean square error of the noise (DDPM, eq. 14). With
    learn_sigma there is also ``vb``, the variational bound in bits a dimension, and ``loss`` is the
    hybrid loss of improved DDPM (eq. 16). ``vb`` trains the variances alone. It is weighted with
    steps/1000, as in the authors' code.

    x0, noise: (B,3,H,W); x0 in [-1,1]. index: (B,), the time of each image in the process.
    """
    at = _tables(diffusion, index)
    x_t = at["alphas_cumprod"].sqrt() * x0 + (1 - at["alphas_cumprod"]).sqrt() * noise
    times = torch.as_tensor(diffusion.timestep_map, device=x0.device)[index]
    if diffusion.rescale_timesteps:
        times = times * (1000 / diffusion.original_steps)
    output, *fraction = model(x_t, times).float().chunk(2 if diffusion.learn_sigma else 1, dim=1)
    mse = (output - (x0 if diffusion.predict_xstart else noise)).square().mean((1, 2, 3))
    if not fraction:
        return {"loss": mse, "mse": mse}
    vb = _bound(diffusion, at, x0, x_t, index, output.detach(), *fraction)
    return {"loss": mse + vb * len(diffusion) / 1000, "mse": mse, "vb": vb}


def _tables(diffusion: Diffusion, index: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tables of the process at the time of each image, each (B,1,1,1)."""
    names = (
        "betas",
        "alphas_cumprod",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
    )
    values = {}
    for name in names:
        table = torch.as_tensor(getattr(diffusion, name), dtype=torch.float32, device=index.device)
        values[name] = table[index][:, None, None, None]
    return values


def _bound(
    diffusion: Diffusion,
    at: dict[str, torch.Tensor],
    x0: torch.Tensor,
    x_t: torch.Tensor,
    index: torch.Tensor,
    output: torch.Tensor,
    fraction: torch.Tensor,
) -> torch.Tensor:
    """Return the term of the variational bound at the time of each image, (B,).

    The unit is bits a dimension (improved DDPM, eq. 4 to 7 and 15). at: the tables of `_tables`.
    output: the noise, or x0, that the network predicts. fraction: its prediction of the variance,
    -1 for the lower bound and 1 for the upper one.
    """
    fraction = (fraction + 1) / 2
    true_log_variance = at["posterior_log_variance_clipped"]
    log_variance = fraction * at["betas"].log() + (1 - fraction) * true_log_variance
    if not diffusion.predict_xstart:
        output = (x_t - (1 - at["alphas_cumprod"]).sqrt() * output) / at["alphas_cumprod"].sqrt()
    mean = at["posterior_mean_coef1"] * output + at["posterior_mean_coef2"] * x_t
    true_mean = at["posterior_mean_coef1"] * x0 + at["posterior_mean_coef2"] * x_t
    divergence = 0.5 * (
        log_variance
        - true_log_variance
        - 1
        + (true_log_variance - log_variance).exp()
        + (true_mean - mean).square() * (-log_variance).exp()
    )
    decoder = -_log_likelihood_of_levels(x0, mean, log_variance / 2)
    bits = torch.where(index[:, None, None, None] == 0, decoder, divergence) / math.log(2)
    return bits.mean((1, 2, 3))


def _log_likelihood_of_levels(
    x: torch.Tensor, mean: torch.Tensor, log_deviation: torch.Tensor
) -> torch.Tensor:
    """Return the log-probability of grey levels under a Gaussian (DDPM, eq. 13).

    x: one of 256 levels in [-1,1]. The lowest and the highest level include the tails.
    """
    gap, scale = x - mean, (-log_deviation).exp()
    upper = torch.special.ndtr((gap + 1 / 255) * scale).masked_fill(x > 0.999, 1)
    lower = torch.special.ndtr((gap - 1 / 255) * scale).masked_fill(x < -0.999, 0)
    return (upper - lower).clamp(min=1e-12).log()


class PriorTask(Task):
    """A U-Net that learns to predict the noise in images, by the losses of `training_losses`."""

    def __init__(self, model: nn.Module, diffusion: Diffusion):
        super().__init__()
        self.model = model
        self._diffusion = diffusion

    def forward(self, batch: PriorBatch, moment: Moment) -> dict[str, torch.Tensor]:
        """Return the mean losses of a part of a batch."""
        x0, noise = batch.x0(), batch.noise()
        losses = training_losses(self.model, self._diffusion, x0, batch.index, noise)
        return {name: loss.mean() for name, loss in losses.items()}


@dataclass(frozen=True)
class PriorBatch:
    """A part of the batch of a step.

    The noise is drawn for the whole batch, and the part takes its share. So the noise of an image
    is the same for any number of ranks and parts.
    """

    pixels: torch.Tensor  # uint8 (b,S,S,3)
    index: torch.Tensor  # (b,), the time of each image in the process
    flips: torch.Tensor  # (b,), whether to mirror each image
    noise_seed: int
    first: int  # place of the part's first image in the whole batch
    total: int  # images in the whole batch

    def to(self, device: torch.device) -> PriorBatch:
        """Return the part with its tensors on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("pixels", "index", "flips")}
        return replace(self, **moved)

    def x0(self) -> torch.Tensor:
        """Return the images, mirrored where they are to be, (b,3,S,S) in [-1,1]."""
        x0 = self.pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        return torch.where(self.flips[:, None, None, None], x0.flip(3), x0)

    def noise(self) -> torch.Tensor:
        """Return standard normal noise, (b,3,S,S)."""
        device, side = self.pixels.device, self.pixels.shape[1]
        generator = torch.Generator(device).manual_seed(self.noise_seed)
        noise = torch.randn((self.total, 3, side, side), generator=generator, device=device)
        return noise[self.first : self.first + len(self.pixels)]


class PriorBatches:
    """The batches of a prior's training.

    Rows, times, flips and noise are drawn for the whole batch of a step, and each rank takes its
    part. load: returns the images of some rows, uint8 (b,S,S,3). count: the number of images.
    times: the number of steps of the process. threads: threads that load images ahead.
    """

    def __init__(
        self,
        load: Callable[[np.ndarray], np.ndarray],
        count: int,
        times: int,
        recipe: Recipe,
        *,
        flip: bool = False,
        rank: int = 0,
        ranks: int = 1,
        threads: int = 0,
    ):
        self._load, self._count, self._times = load, count, times
        self._recipe, self._flip, self._rank, self._threads = recipe, flip, rank, threads
        self._each = recipe.batch_size // ranks // recipe.accumulate
        self.per_epoch = max(1, count // recipe.batch_size)

    def stream(self, first: int, last: int) -> Iterator[list[PriorBatch]]:
        """Return an iterator over this rank's batches of the steps first..last-1."""
        return prepared(self._parts, range(first, last), threads=self._threads)

    def _parts(self, step: int) -> list[PriorBatch]:
        """Return this rank's parts of the batch of a step."""
        recipe = self._recipe
        rng = np.random.default_rng([recipe.seed, 2, step])
        index = torch.from_numpy(rng.integers(0, self._times, recipe.batch_size))
        flips = torch.from_numpy((rng.random(recipe.batch_size) < 0.5) & self._flip)
        rows, seed = self._rows(step), seed_of(recipe.seed, step)
        parts = []
        for part in range(recipe.accumulate):
            first = (self._rank * recipe.accumulate + part) * self._each
            own = slice(first, first + self._each)
            pixels = torch.from_numpy(self._load(rows[own]))
            place = {"noise_seed": seed, "first": first, "total": recipe.batch_size}
            parts.append(PriorBatch(pixels, index[own], flips[own], **place))
        return parts

    def _rows(self, step: int) -> np.ndarray:
        """Return the rows of the whole batch of a step.

        Each epoch is a permutation of all rows. A batch may span two epochs.
        """
        size = self._recipe.batch_size
        places = np.arange(step * size, (step + 1) * size)
        rows = np.empty(size, dtype=np.int64)
        for epoch in np.unique(places // self._count):
            order = _order(self._recipe.seed, int(epoch), self._count)
            inside = places // self._count == epoch
            rows[inside] = order[places[inside] % self._count]
        return rows


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the permutation of the rows in an epoch."""
    return np.random.default_rng([seed, 1, epoch]).permutation(count)
