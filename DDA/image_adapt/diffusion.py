"""The diffusion process: schedules, respacing, noising, and the reading of a network's output.

One convention holds for an *index* everywhere. ``index`` in 0..T-1 counts the steps of the
(respaced) process, and ``alphas_cumprod[index]`` is the signal that remains after ``index + 1``
noising steps. ``timestep_map[index]`` is the timestep of the original process that the network
was trained on. Tables are float64 numpy arrays; images are torch tensors in [-1, 1].

Ho et al., "Denoising Diffusion Probabilistic Models" (arXiv:2006.11239); Nichol & Dhariwal,
"Improved DDPM" (arXiv:2102.09672).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from DDA.image_adapt.choices import FIXED_VARIANCES, NOISE_SCHEDULES


def named_betas(noise_schedule: str, steps: int) -> np.ndarray:
    """Return beta_t of a named schedule, float64 of shape (steps,).

    ``linear`` goes from 1e-4 to 2e-2, scaled by 1000/steps. ``cosine`` is that of improved DDPM,
    equation 17. Raises ValueError for another name.
    """
    if noise_schedule == "linear":
        return np.linspace(1e-4, 2e-2, steps, dtype=np.float64) * (1000 / steps)
    if noise_schedule == "cosine":

        def signal(u: float) -> float:
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        return np.array(
            [min(1 - signal((i + 1) / steps) / signal(i / steps), 0.999) for i in range(steps)]
        )
    raise ValueError(
        f"noise_schedule {noise_schedule!r} is unknown; use one of {', '.join(NOISE_SCHEDULES)}"
    )


def respaced_timesteps(steps: int, respacing: str) -> list[int]:
    """Return the original timesteps that a respaced process keeps, in ascending order.

    ``""`` keeps all of them. ``"100"`` spreads 100 over the whole range and includes both ends.
    ``"10,20,30"`` cuts the range into sections of equal length (the first ones take the
    remainder) and keeps so many in each. ``"ddim25"`` uses the integer stride that gives exactly
    25. Raises ValueError for counts that do not fit.
    """
    respacing = str(respacing).strip()
    if not respacing:
        return list(range(steps))
    if respacing.startswith("ddim"):
        count = _count(respacing[4:], respacing)
        for stride in range(1, steps + 1):
            if len(range(0, steps, stride)) == count:
                return list(range(0, steps, stride))
        raise ValueError(
            f"`timestep_respacing` {respacing!r}: no whole stride through {steps} steps gives "
            f"{count} timesteps"
        )
    counts = [_count(part, respacing) for part in respacing.split(",")]
    length, remainder = divmod(steps, len(counts))
    kept: list[int] = []
    first = 0
    for section, count in enumerate(counts):
        size = length + (section < remainder)
        if count > size:
            raise ValueError(
                f"`timestep_respacing` {respacing!r} wants {count} timesteps of a section that has "
                f"{size}"
            )
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        # accumulated, not multiplied: the published lists depend on the rounding of the sum
        position = 0.0
        for _ in range(count):
            kept.append(first + round(position))
            position += stride
        first += size
    return kept


def _count(text: str, respacing: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise ValueError(
            f'`timestep_respacing` {respacing!r} is not a form like "100", "10,20,30" or "ddim25"'
        )
    return int(text)


Model = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Prediction(NamedTuple):
    """The network's reading of x_t: the clean image (B,3,H,W), the step's log variance."""

    x0: torch.Tensor
    log_variance: torch.Tensor | float


class Diffusion:
    """A respaced Gaussian diffusion: float64 tables, and the reading of a network's output.

    steps: length of the original process. timestep_respacing: see `respaced_timesteps`.
    learn_sigma: the network returns 6 channels, of which the second half interpolates the log
    variance (improved DDPM, equation 15). fixed_variance, without learn_sigma: "large" is beta_t
    (and posterior_variance[1] at index 0), "small" is the posterior variance. rescale_timesteps:
    the network was trained on times scaled to 0..1000. predict_xstart: the network predicts x_0
    instead of the noise.

    Raises ValueError for an unknown schedule, variance or respacing.
    """

    def __init__(
        self,
        *,
        steps: int = 1000,
        noise_schedule: str = "linear",
        timestep_respacing: str = "",
        learn_sigma: bool = False,
        fixed_variance: str = "large",
        rescale_timesteps: bool = False,
        predict_xstart: bool = False,
    ):
        if steps < 2:
            raise ValueError(f"a diffusion needs at least 2 steps, not {steps}")
        if fixed_variance not in FIXED_VARIANCES:
            raise ValueError(
                f"fixed_variance {fixed_variance!r} is unknown; use one of "
                f"{', '.join(FIXED_VARIANCES)}"
            )
        self.original_steps = steps
        self.learn_sigma = learn_sigma
        self.rescale_timesteps = rescale_timesteps
        self.predict_xstart = predict_xstart
        self.fixed_variance = fixed_variance
        self.timestep_map = respaced_timesteps(steps, timestep_respacing)
        betas = named_betas(noise_schedule, steps)
        if len(self.timestep_map) < steps:
            kept = np.cumprod(1 - betas)[self.timestep_map]
            betas = 1 - kept / np.append(1.0, kept[:-1])
        self._make_tables(betas)

    def _make_tables(self, betas: np.ndarray) -> None:
        alphas = 1 - betas
        self.betas = betas
        self.alphas_cumprod = np.cumprod(alphas)
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])
        noise = 1 - self.alphas_cumprod  # the variance of the noise in x_t
        noise_prev = 1 - self.alphas_cumprod_prev
        # q(x_{t-1} | x_t, x_0): DDPM, eq. 6 and 7
        self.posterior_variance = betas * noise_prev / noise
        # the variance at index 0 is 0: its log takes the value of index 1 (of beta, in a process
        # of one step)
        second = self.posterior_variance[1] if len(betas) > 1 else betas[0]
        self.posterior_log_variance_clipped = np.log(np.append(second, self.posterior_variance[1:]))
        large = np.append(second, betas[1:])
        self._fixed_log_variance = (
            np.log(large) if self.fixed_variance == "large" else self.posterior_log_variance_clipped
        )
        self.posterior_mean_coef1 = betas * np.sqrt(self.alphas_cumprod_prev) / noise
        self.posterior_mean_coef2 = noise_prev * np.sqrt(alphas) / noise

    def __len__(self) -> int:
        return len(self.betas)

    def first(self, count: int, steps: int | None = None) -> Diffusion:
        """Return the process of ``steps`` indices, evenly spread over 0..count-1 with both ends.

        Without steps all indices stay. The last index of the result has the same signal as index
        count-1 here. Raises ValueError where steps is not in 1..count.
        """
        steps = count if steps is None else steps
        if not 1 <= steps <= count <= len(self):
            raise ValueError(f"steps {steps} is outside 1..{count}, the indices from N-1 down to 0")
        # one step alone goes from the last index straight to the clean image
        kept = np.linspace(count - 1, 0, steps).round().astype(int)[::-1]
        part = copy.copy(self)
        part.timestep_map = [self.timestep_map[index] for index in kept]
        signal = self.alphas_cumprod[kept]
        part._make_tables(
            self.betas[:count] if steps == count else 1 - signal / np.append(1.0, signal[:-1])
        )
        return part

    def q_sample(self, x0: torch.Tensor, index: int, noise: torch.Tensor) -> torch.Tensor:
        """Return x_t ~ q(x_t | x_0) after ``index + 1`` noising steps (DDPM, equation 4).

        x0, noise: (B,3,H,W).
        """
        signal = float(self.alphas_cumprod[index])
        return math.sqrt(signal) * x0 + math.sqrt(1 - signal) * noise

    def predict(
        self, model: Model, x_t: torch.Tensor, index: int, *, clip: bool = True
    ) -> Prediction:
        """Run the network once on x_t (B,3,H,W). clip: clamp the clean image to [-1, 1]."""
        output = model(x_t, self._model_times(index, x_t))
        output, log_variance = self._split(output, x_t.shape[1], index)
        if self.predict_xstart:
            x0 = output
        else:
            signal = float(self.alphas_cumprod[index])
            x0 = math.sqrt(1 / signal) * x_t - math.sqrt(1 / signal - 1) * output
        return Prediction(x0.clamp(-1, 1) if clip else x0, log_variance)

    def posterior_mean(self, x0: torch.Tensor, x_t: torch.Tensor, index: int) -> torch.Tensor:
        """Return the mean of q(x_{t-1} | x_t, x_0) (DDPM, equation 7)."""
        return (
            float(self.posterior_mean_coef1[index]) * x0
            + float(self.posterior_mean_coef2[index]) * x_t
        )

    def _model_times(self, index: int, x_t: torch.Tensor) -> torch.Tensor:
        time = self.timestep_map[index]
        if self.rescale_timesteps:
            return torch.full(
                (x_t.shape[0],), time * (1000 / self.original_steps), device=x_t.device
            )
        return torch.full((x_t.shape[0],), time, device=x_t.device)

    def _split(self, output: torch.Tensor, channels: int, index: int):
        wanted = 2 * channels if self.learn_sigma else channels
        if output.shape[1] != wanted:
            raise ValueError(
                f"the network returns {output.shape[1]} channels, but learn_sigma "
                f"{self.learn_sigma} expects {wanted}"
            )
        if not self.learn_sigma:
            return output, float(self._fixed_log_variance[index])
        output, fraction = output.split(channels, dim=1)
        low = float(self.posterior_log_variance_clipped[index])
        high = float(np.log(self.betas[index]))
        fraction = (fraction + 1) / 2
        return output, fraction * high + (1 - fraction) * low


# Step rules: x_{index-1} from x_index. ``last`` is the prediction of the step before, None at the
# first; at index 0 each rule returns the clean image, without noise.


def ddpm_step(
    diffusion: Diffusion,
    x_t: torch.Tensor,
    prediction: Prediction,
    index: int,
    noise: torch.Tensor | None,
    last: Prediction | None = None,
) -> torch.Tensor:
    """Take one ancestral step (DDPM, algorithm 2)."""
    mean = diffusion.posterior_mean(prediction.x0, x_t, index)
    if index == 0:
        return mean
    half = prediction.log_variance / 2
    return mean + (half.exp() if isinstance(half, torch.Tensor) else math.exp(half)) * noise


def ddim_step(
    diffusion: Diffusion,
    x_t: torch.Tensor,
    prediction: Prediction,
    index: int,
    noise: torch.Tensor | None,
    last: Prediction | None = None,
    *,
    eta: float = 0.0,
) -> torch.Tensor:
    """Take one step of DDIM (arXiv:2010.02502, equations 12 and 16).

    eta: 0 is deterministic, 1 is as noisy as DDPM with small variances.
    """
    signal = float(diffusion.alphas_cumprod[index])
    after = float(diffusion.alphas_cumprod_prev[index])
    if index == 0:
        return prediction.x0
    sigma = eta * math.sqrt((1 - after) / (1 - signal) * (1 - signal / after))
    eps = (x_t - math.sqrt(signal) * prediction.x0) / math.sqrt(1 - signal)
    x = math.sqrt(after) * prediction.x0 + math.sqrt(1 - after - sigma**2) * eps
    return x + sigma * noise if sigma else x


def dpmpp2m_step(
    diffusion: Diffusion,
    x_t: torch.Tensor,
    prediction: Prediction,
    index: int,
    noise: torch.Tensor | None,
    last: Prediction | None = None,
) -> torch.Tensor:
    """Take one step of DPM-Solver++(2M) (arXiv:2211.01095, algorithm 2).

    The first and the last step are of order 1.
    """
    if index == 0:
        return prediction.x0
    alpha, sigma = np.sqrt(diffusion.alphas_cumprod), np.sqrt(1 - diffusion.alphas_cumprod)
    lam = np.log(alpha / sigma)
    h = lam[index - 1] - lam[index]
    x0 = prediction.x0
    # the jump in log-SNR to index 0 is too long to extrapolate over
    if last is not None and index > 1:
        r = (lam[index] - lam[index + 1]) / h
        x0 = x0 + (x0 - last.x0) / float(2 * r)
    return (
        float(sigma[index - 1] / sigma[index]) * x_t - float(alpha[index - 1] * np.expm1(-h)) * x0
    )
