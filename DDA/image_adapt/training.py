"""Training a prior: the losses of DDPM and of improved DDPM, and the loop.

Everything random in a step (which images, times, noise and flips) is drawn for the whole batch from the seed and the step's
number, and each rank takes its part of it: a run that was interrupted, or that has more ranks, follows the same path.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from DDA.image_adapt.diffusion import Diffusion


def training_losses(
    model: nn.Module, diffusion: Diffusion, x0: torch.Tensor, index: torch.Tensor, noise: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The losses of a batch, each (B,): ``mse`` of the noise (DDPM, eq. 14), ``vb`` of learned variances, ``loss`` to minimise.

    x0, noise: (B,3,H,W); index: (B,) of the process. With learn_sigma this is the hybrid loss of improved DDPM (eq. 16):
    ``vb`` in bits a dimension trains the variances alone and is weighted with steps/1000, as their code does.
    """
    tables = _tables(diffusion, x0.device)
    signal = tables["alphas_cumprod"][index][:, None, None, None]
    x_t = signal.sqrt() * x0 + (1 - signal).sqrt() * noise
    times = torch.as_tensor(diffusion.timestep_map, device=x0.device)[index]
    if diffusion.rescale_timesteps:
        times = times * (1000 / diffusion.original_steps)
    output = model(x_t, times)
    wanted = x0 if diffusion.predict_xstart else noise
    if not diffusion.learn_sigma:
        mse = (output.float() - wanted).square().mean((1, 2, 3))
        return {"loss": mse, "mse": mse}
    output, fraction = output.float().chunk(2, dim=1)
    mse = (output - wanted).square().mean((1, 2, 3))
    vb = _bound(diffusion, tables, x0, x_t, index, output.detach(), fraction)
    return {"loss": mse + vb * len(diffusion) / 1000, "mse": mse, "vb": vb}


def _tables(diffusion: Diffusion, device: torch.device) -> dict[str, torch.Tensor]:
    names = ("betas", "alphas_cumprod", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2")
    return {name: torch.as_tensor(getattr(diffusion, name), dtype=torch.float32, device=device) for name in names}


def _bound(diffusion, tables, x0, x_t, index, output, fraction) -> torch.Tensor:
    """The term of the variational bound at each image's time, in bits a dimension (improved DDPM, eq. 4 to 7), (B,)."""
    at = {name: table[index][:, None, None, None] for name, table in tables.items()}
    fraction = (fraction + 1) / 2
    log_variance = fraction * at["betas"].log() + (1 - fraction) * at["posterior_log_variance_clipped"]
    if not diffusion.predict_xstart:
        output = (x_t - (1 - at["alphas_cumprod"]).sqrt() * output) / at["alphas_cumprod"].sqrt()
    mean = at["posterior_mean_coef1"] * output + at["posterior_mean_coef2"] * x_t
    true_mean = at["posterior_mean_coef1"] * x0 + at["posterior_mean_coef2"] * x_t
    true_log_variance = at["posterior_log_variance_clipped"]
    divergence = 0.5 * (
        log_variance - true_log_variance - 1 + (true_log_variance - log_variance).exp()
        + (true_mean - mean).square() * (-log_variance).exp()
    )  # fmt: skip
    decoder = -_log_likelihood_of_levels(x0, mean, log_variance / 2)
    bits = torch.where(index[:, None, None, None] == 0, decoder, divergence) / math.log(2)
    return bits.mean((1, 2, 3))


def _log_likelihood_of_levels(x: torch.Tensor, mean: torch.Tensor, log_deviation: torch.Tensor) -> torch.Tensor:
    """log P of the grey level x, one of 256 in [-1,1], under a Gaussian; the outermost levels take the tails (DDPM, eq. 13)."""
    gap, scale = x - mean, (-log_deviation).exp()
    upper = torch.special.ndtr((gap + 1 / 255) * scale)
    lower = torch.special.ndtr((gap - 1 / 255) * scale)
    upper = torch.where(x > 0.999, torch.ones_like(upper), upper)
    lower = torch.where(x < -0.999, torch.zeros_like(lower), lower)
    return (upper - lower).clamp(min=1e-12).log()


@dataclass(frozen=True)
class Recipe:
    """How to train. batch_size: images a step over all ranks, in ``accumulate`` parts; the learning rate rises linearly over
    ``warmup`` steps and falls linearly to 0 at the end of the budget, or at ``anneal_steps``; 0 of either: not at all."""

    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    accumulate: int = 1
    lr: float = 1e-4
    weight_decay: float = 0.0
    warmup: int = 0
    anneal: bool = True
    anneal_steps: int | None = None
    clip_norm: float = 1.0
    ema: float = 0.9999
    flip: bool = False
    seed: int = 0
    autocast: torch.dtype | None = None


@dataclass
class State:
    """All that a run needs to go on: resumed from it, the next step is the one that would have come."""

    model: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0  # of training, for the budget in minutes
    losses: list[float] = field(default_factory=list)  # one a step, mean over the whole batch

    def as_dict(self) -> dict:
        return {
            "model": self.model.state_dict(), "ema": self.ema.state_dict(), "optimizer": self.optimizer.state_dict(),
            "step": self.step, "seconds": self.seconds, "losses": torch.tensor(self.losses, dtype=torch.float64),
        }  # fmt: skip

    def load(self, saved: dict) -> None:
        self.model.load_state_dict(saved["model"])
        self.ema.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds, self.losses = saved["step"], saved["seconds"], saved["losses"].tolist()


def start(model: nn.Module, recipe: Recipe) -> State:
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    return State(model, copy.deepcopy(model).requires_grad_(False).eval(), optimizer)


def progress(recipe: Recipe, state: State) -> float:
    """The share of the budget that is spent, 0..1."""
    shares = [state.step / recipe.steps] if recipe.steps else []
    shares += [state.seconds / (60 * recipe.minutes)] if recipe.minutes else []
    return min(1.0, max(shares))


def learning_rate(recipe: Recipe, state: State) -> float:
    rate = recipe.lr * min(1.0, (state.step + 1) / recipe.warmup) if recipe.warmup else recipe.lr
    if not recipe.anneal:
        return rate
    spent = state.step / recipe.anneal_steps if recipe.anneal_steps else progress(recipe, state)
    return rate * max(0.0, 1 - spent)


def train(
    state: State,
    diffusion: Diffusion,
    load: Callable[[np.ndarray], torch.Tensor],
    count: int,
    recipe: Recipe,
    *,
    rank: int = 0,
    ranks: int = 1,
    network: nn.Module | None = None,
    agree: Callable[[list[float]], list[float]] = lambda values: values,
    after_step: Callable[[State], bool] = lambda state: False,
) -> None:
    """Train until the budget is spent or ``after_step`` returns True.

    load(indices) gives images (b,3,H,W) in [-1,1], of ``count`` in all, on the network's device. network: ``state.model``, or
    what wraps it to average gradients over ranks; agree: means of numbers over ranks. Raises FloatingPointError for a loss
    that is not finite.
    """
    network = network or state.model
    device = next(state.model.parameters()).device
    parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    averaged, fresh = list(state.ema.parameters()), list(state.model.parameters())
    each = recipe.batch_size // ranks // recipe.accumulate
    state.model.train()
    while progress(recipe, state) < 1:
        begun = time.perf_counter()
        draws = _draw(recipe, state.step, count, len(diffusion))
        noise_seed = _seed(recipe.seed, state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, state)
        total = 0.0
        for part in range(recipe.accumulate):
            first = (rank * recipe.accumulate + part) * each
            mine = slice(first, first + each)
            x0 = load(draws["rows"][mine])
            flips = torch.from_numpy(draws["flips"][mine]).to(device)
            x0 = torch.where(flips[:, None, None, None], x0.flip(3), x0) if recipe.flip else x0
            # the noise of the whole batch, of which this is a part: the same for any number of ranks
            torch.manual_seed(noise_seed)
            generator = torch.Generator(device).manual_seed(noise_seed)
            noise = torch.randn((recipe.batch_size, *x0.shape[1:]), generator=generator, device=device)[mine]
            index = torch.from_numpy(draws["index"][mine]).to(device)
            with torch.autocast(device.type, recipe.autocast or torch.bfloat16, enabled=recipe.autocast is not None):
                losses = training_losses(network, diffusion, x0, index, noise)
            loss = losses["loss"].mean() / recipe.accumulate
            loss.backward()
            total += float(losses["mse"].mean().detach()) / recipe.accumulate
        total, seconds = agree([total, time.perf_counter() - begun])
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss at step {state.step} is {total}")
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        decay = min(recipe.ema, (1 + state.step) / (10 + state.step))  # the first steps are forgotten faster
        with torch.no_grad():
            torch._foreach_lerp_(averaged, fresh, 1 - decay)
        state.step += 1
        state.losses.append(total)
        state.seconds += seconds
        if after_step(state):
            return


def _seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, 1, epoch]).permutation(count)


def _draw(recipe: Recipe, step: int, count: int, times: int) -> dict[str, np.ndarray]:
    """Rows, times and flips of a step's whole batch. Each epoch is a permutation; a batch may span two of them."""
    places = np.arange(step * recipe.batch_size, (step + 1) * recipe.batch_size)
    rows = np.empty(recipe.batch_size, dtype=np.int64)
    for epoch in np.unique(places // count):
        order = _order(recipe.seed, int(epoch), count)
        rows[places // count == epoch] = order[places[places // count == epoch] % count]
    rng = np.random.default_rng([recipe.seed, 2, step])
    return {"rows": rows, "index": rng.integers(0, times, recipe.batch_size), "flips": rng.random(recipe.batch_size) < 0.5}
